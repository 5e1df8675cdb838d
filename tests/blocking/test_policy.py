"""What is particular to `Permit`; what all policies have in common is in tests/conformance."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from penstock import Direct, Dispatch, DispatchPool, Permit, Policy, Semaphore, _native
from penstock.errors import PoolClosed, PoolFull, SemaphoreClosed

from .conftest import Gate


@pytest.mark.asyncio
async def test_no_more_run_than_there_are_permits(pool: DispatchPool) -> None:
    lock, inside, most = threading.Lock(), 0, 0
    both = threading.Barrier(2, timeout=20)

    def job() -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        both.wait()
        with lock:
            inside -= 1

    semaphore = Semaphore(2)
    policy = Permit(semaphore, pool=pool)
    await asyncio.gather(*[policy.run(job) for _ in range(30)])
    assert (most, semaphore.free) == (2, 2)


@pytest.mark.asyncio
async def test_a_permit_is_held_until_the_function_returns_though_nobody_waits(pool: DispatchPool, gate: Gate) -> None:
    semaphore = Semaphore(1)
    policy = Permit(semaphore, pool=pool)
    running = policy.run(gate)
    gate.wait_entered()
    running.cancel()
    assert semaphore.free == 0
    following = policy.run(int)
    gate.open.set()
    assert await following == 0
    await pool.aclose()
    assert semaphore.free == 1


@pytest.mark.asyncio
async def test_cancelled_before_its_permit_or_before_its_thread_it_holds_nothing(
    pool: DispatchPool, gate: Gate
) -> None:
    semaphore = Semaphore(1)
    policy = Permit(semaphore, pool=pool)
    assert semaphore.try_acquire()
    waiting = policy.run(int)
    assert semaphore.waiting == 1
    waiting.cancel()
    assert semaphore.waiting == 0
    semaphore.release()
    for _ in range(4):
        pool.dispatch(gate)
    gate.wait_entered(4)
    queued = policy.run(int)
    assert (semaphore.free, pool.stats()["queued"]) == (0, 1)
    queued.cancel()
    assert (semaphore.free, pool.stats()["queued"]) == (1, 0)
    gate.open.set()


@pytest.mark.asyncio
async def test_a_closed_semaphore_or_pool_fails_the_run(pool: DispatchPool) -> None:
    semaphore = Semaphore(1)
    policy = Permit(semaphore, pool=pool)
    assert semaphore.try_acquire()
    waiting = policy.run(int)
    semaphore.close()
    with pytest.raises(SemaphoreClosed):
        await waiting
    with pytest.raises(SemaphoreClosed):
        policy.run(int)
    semaphore = Semaphore(1)
    policy = Permit(semaphore, pool=pool)
    assert semaphore.try_acquire()
    waiting = policy.run(int)
    await pool.aclose()
    semaphore.release()
    with pytest.raises(PoolClosed):
        await waiting
    assert semaphore.free == 1


@pytest.mark.asyncio
async def test_a_refused_call_that_is_cancelled_before_it_is_told_leaves_the_queue_as_it_is(gate: Gate) -> None:
    async with DispatchPool(threads=1, queue_length=1, overflow="refuse") as pool:
        semaphore = Semaphore(100)
        policy = Permit(semaphore, pool=pool)
        pool.dispatch(gate)
        gate.wait_entered()
        queued = pool.run(int)
        refused = [policy.run(int) for _ in range(70)]
        for each in refused[1:]:
            each.cancel()
        assert pool.stats()["queued"] == 1
        with pytest.raises(PoolFull):
            pool.run(int)
        joining = pool.join()
        gate.open.set()
        await joining
        assert queued.done()
        with pytest.raises(PoolFull):
            await refused[0]
        assert semaphore.free == 100


@pytest.mark.parametrize("make", [Dispatch, lambda pool: Permit(Semaphore(1), pool=pool)], ids=["Dispatch", "Permit"])
def test_a_pool_that_has_a_policy_of_its_own_is_collected(make: Callable[[DispatchPool], Policy]) -> None:
    class Owner(DispatchPool):
        policy: Policy

    pool = Owner(threads=1)
    pool.policy = make(pool)
    pool.close()
    dead = weakref.ref(pool)
    del pool
    gc.collect()
    assert dead() is None


@pytest.mark.parametrize("made", [Direct, Permit, Dispatch, Semaphore, _native.DispatchPool])
def test_help_explains_what_users_call(made: type) -> None:
    called = {name: value for name, value in vars(made).items() if callable(value) and not name.startswith("_")}
    assert {"stats"} <= called.keys()
    assert [name for name, value in called.items() if not value.__doc__] == []


def test_a_call_in_place_whose_loop_ended_before_it_began_is_collected_with_what_it_refers_to() -> None:
    class Owner:
        def job(self) -> None:
            """Never runs."""

    owners = weakref.WeakSet[Owner]()
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)

    def begin() -> None:
        owner: Any = Owner()
        owner.waiting = Permit(Semaphore(1), on_unsupported="direct").run(owner.job)
        owners.add(owner)
        loop.stop()

    loop.call_soon(begin)
    loop.run_forever()
    loop.close()
    assert len(owners) == 1
    with pytest.warns(RuntimeWarning, match="never awaited"):
        gc.collect()
    assert not owners
