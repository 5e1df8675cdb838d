"""The pool that a context uses where none is named: whose it is, who sees it, and what goes by it."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import penstock
import pytest
from penstock import DispatchPool, Semaphore

from .conftest import Gate


def thread_name() -> str:
    return threading.current_thread().name


@pytest.fixture
def named() -> Iterator[DispatchPool]:
    with DispatchPool(threads=1, name_prefix="named-") as pool:
        yield pool


@pytest.fixture(autouse=True)
def nothing_is_left_registered() -> Iterator[None]:
    yield
    assert penstock.registered() is None


def test_nothing_is_registered_until_somebody_registers(named: DispatchPool) -> None:
    assert penstock.registered() is None
    assert penstock.register(named) is None
    assert penstock.registered() is named
    with DispatchPool(threads=1) as other:
        assert penstock.register(other) is named
        assert penstock.registered() is other
        assert penstock.register(None) is other


@pytest.mark.parametrize("other", ["pool", DispatchPool, penstock.Dispatch()])
def test_what_is_no_pool_is_not_registered(named: DispatchPool, other: Any) -> None:
    penstock.register(named)
    with pytest.raises(TypeError, match="takes a DispatchPool, or None"):
        penstock.register(other)
    assert penstock.register(None) is named


@pytest.mark.asyncio
async def test_a_task_registers_for_itself_and_for_what_it_starts_afterwards(named: DispatchPool) -> None:
    async def see() -> DispatchPool | None:
        return penstock.registered()

    async def register() -> tuple[DispatchPool | None, DispatchPool | None]:
        before = asyncio.create_task(see())
        penstock.register(named)
        return await before, await asyncio.create_task(see())

    assert await asyncio.create_task(register()) == (None, named)
    assert penstock.registered() is None


def test_a_thread_registers_for_itself(named: DispatchPool) -> None:
    penstock.register(named)
    seen: list[DispatchPool | None] = []
    thread = threading.Thread(target=lambda: seen.append(penstock.registered()))
    thread.start()
    thread.join()
    assert seen == [None]
    penstock.register(None)


@pytest.mark.asyncio
async def test_a_job_sees_the_registration_of_whoever_submitted_it(named: DispatchPool) -> None:
    penstock.register(named)
    with DispatchPool(threads=1) as other:
        assert await other.run(penstock.registered) is named
        assert await asyncio.wrap_future(other.submit(penstock.registered)) is None
        assert await other.run(penstock.register, None) is named
    assert penstock.register(None) is named


@pytest.mark.asyncio
async def test_a_job_may_register_and_dispatch(named: DispatchPool) -> None:
    names: list[str] = []

    def job() -> None:
        penstock.register(named)
        penstock.dispatch(lambda: names.append(thread_name()))

    await named.run(job)
    await named.join()
    assert names == ["named-0"]


@pytest.mark.asyncio
async def test_run_blocking_goes_by_the_registration_unless_a_policy_is_named(
    named: DispatchPool, pool: DispatchPool
) -> None:
    default = penstock.default_pool().name_prefix
    assert (await penstock.run_blocking(thread_name)).startswith(default)
    penstock.register(named)
    assert await penstock.run_blocking(thread_name) == "named-0"
    assert (await penstock.run_blocking(thread_name, policy=penstock.Dispatch(pool))).startswith(pool.name_prefix)
    assert (await penstock.run_blocking(thread_name, policy=penstock.Dispatch())).startswith(default)
    penstock.register(None)
    assert (await penstock.run_blocking(thread_name)).startswith(default)


@pytest.mark.asyncio
async def test_dispatch_goes_by_the_registration(named: DispatchPool) -> None:
    names: list[str] = []
    ran = threading.Event()

    def job(*, last: bool) -> None:
        names.append(thread_name())
        if last:
            ran.set()

    penstock.register(named)
    penstock.dispatch(job, last=False)
    await named.join()
    penstock.register(None)
    penstock.dispatch(job, last=True)
    assert await asyncio.to_thread(ran.wait, 10)
    assert names[0] == "named-0"
    assert names[1].startswith(penstock.default_pool().name_prefix)


@pytest.mark.asyncio
async def test_a_closed_pool_that_is_registered_says_so(named: DispatchPool) -> None:
    penstock.register(named)
    named.close()
    for call in (penstock.dispatch, penstock.run_blocking):
        with pytest.raises(penstock.PoolClosed):
            call(int)
    penstock.register(None)


@pytest.mark.asyncio
async def test_bodies_go_by_their_policy_and_not_by_the_registration(named: DispatchPool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield bytes(100_000)

    penstock.register(named)
    named.close()
    image = await penstock.collect(pieces(), penstock.Tunables(max_body_ram=1000))
    assert image.state == "file"
    assert len(await image.read()) == 100_000
    penstock.register(None)


@pytest.mark.asyncio
async def test_dispatch_or_permit_leaves_the_semaphore_alone_where_a_pool_is_registered(named: DispatchPool) -> None:
    semaphore = Semaphore(1)
    penstock.register(named)
    async with semaphore:
        assert await penstock.dispatch_or_permit(semaphore, thread_name) == "named-0"
    penstock.register(None)


@pytest.mark.asyncio
async def test_dispatch_or_permit_takes_a_permit_where_none_is(gate: Gate) -> None:
    semaphore = Semaphore(1)
    first = penstock.dispatch_or_permit(semaphore, gate)
    await asyncio.to_thread(gate.wait_entered)
    second = penstock.dispatch_or_permit(semaphore, int, "7")
    assert (semaphore.free, semaphore.waiting) == (0, 1)
    gate.open.set()
    assert [await first, await second] == [None, 7]
    assert semaphore.free == 1


@pytest.mark.asyncio
async def test_dispatch_or_permit_cancelled_gives_back_its_place_in_either_queue(
    named: DispatchPool, gate: Gate
) -> None:
    semaphore = Semaphore(1)
    async with semaphore:
        waiting = penstock.dispatch_or_permit(semaphore, int)
        waiting.cancel()
        assert semaphore.waiting == 0
    assert semaphore.free == 1
    penstock.register(named)
    running = penstock.dispatch_or_permit(semaphore, gate)
    gate.wait_entered()
    queued = penstock.dispatch_or_permit(semaphore, int)
    queued.cancel()
    assert named.stats()["queued"] == 0
    gate.open.set()
    await running
    penstock.register(None)


@pytest.mark.asyncio
async def test_dispatch_or_permit_raises_what_the_function_or_the_semaphore_does(named: DispatchPool) -> None:
    semaphore = Semaphore(1)
    semaphore.close()
    with pytest.raises(penstock.SemaphoreClosed):
        await penstock.dispatch_or_permit(semaphore, int)
    penstock.register(named)
    with pytest.raises(ValueError, match="invalid literal"):
        await penstock.dispatch_or_permit(semaphore, int, "x")
    penstock.register(None)


def test_a_registration_keeps_its_pool_alive_and_its_end_closes_nothing() -> None:
    pool = DispatchPool(threads=1)
    dead = weakref.ref(pool)
    penstock.register(pool)
    del pool
    gc.collect()
    kept = penstock.register(None)
    assert kept is not None
    assert kept is dead()
    assert kept.submit(int).result(10) == 0
    kept.close()
