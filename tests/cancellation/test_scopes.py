"""Every awaitable under anyio: a task group starts what gives one, and a cancel scope, which cancels again and again
until it is left, ends what waits and leaves nothing of it. The client has tests of its own, beside its others."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import penstock
import pytest
from penstock import barc, har

from tests.barc.conftest import make_dialog
from tests.cancellation.conftest import Held

pytestmark = pytest.mark.asyncio

PIECE = bytes(range(256)) * 4000


class Bench:
    """A pool with one thread and a semaphore with one permit, both of which can be held."""

    def __init__(self, pool: penstock.DispatchPool, directory: Path) -> None:
        self.pool = pool
        self.policy = penstock.Dispatch(pool)
        self.semaphore = penstock.Semaphore(1)
        self.directory = directory
        self.tunables = penstock.Tunables(max_body_ram=0, temp_dir=directory)
        self._gate = threading.Event()
        self._held = False

    def hold(self) -> None:
        self.pool.dispatch(self._gate.wait, 20)
        self._held = self.semaphore.try_acquire()

    def let_go(self) -> None:
        self._gate.set()
        self.semaphore.release()

    @property
    def is_waited_for(self) -> bool:
        return self._held and bool(self.pool.stats()["queued"] or self.semaphore.waiting)

    async def image(self) -> penstock.BodyImage:
        return await penstock.collect(pieces(), self.tunables, policy=self.policy)


async def pieces() -> AsyncIterator[bytes]:
    for _ in range(3):
        yield PIECE


WAITS: dict[str, Callable[[Bench], Awaitable[Any]]] = {}


def waits(fn: Callable[[Bench], Awaitable[Any]]) -> Callable[[Bench], Awaitable[Any]]:
    """What begins to hold the bench, and then waits for it."""
    WAITS[fn.__name__] = fn
    return fn


@waits
async def a_block(bench: Bench) -> None:
    bench.hold()
    async with bench.semaphore:
        pass


@waits
async def a_permit_to_block(bench: Bench) -> None:
    bench.hold()
    async with penstock.blocking_permit(bench.semaphore) as permit:
        permit.run(int)


@waits
async def a_permits_function(bench: Bench) -> None:
    bench.hold()
    await penstock.Permit(bench.semaphore, pool=bench.pool).run(int)


@waits
async def a_function(bench: Bench) -> None:
    bench.hold()
    await penstock.run_blocking(int, policy=bench.policy)


@waits
async def a_job(bench: Bench) -> None:
    bench.hold()
    await bench.pool.run(int)


@waits
async def many_jobs(bench: Bench) -> None:
    bench.hold()
    async for _ in bench.pool.map_unordered(int, "123"):
        pass


@waits
async def the_last_job(bench: Bench) -> None:
    bench.hold()
    bench.pool.dispatch(int)
    await bench.pool.join()


@waits
async def a_sink(bench: Bench) -> None:
    async with penstock.AsyncBodySink(bench.tunables, policy=bench.policy) as sink:
        bench.hold()
        async for piece in pieces():
            await sink.write(piece)


@waits
async def a_body(bench: Bench) -> None:
    bench.hold()
    await bench.image()


@waits
async def an_image_that_is_saved(bench: Bench) -> None:
    image = await bench.image()
    bench.hold()
    await image.save(bench.directory / "saved")


@waits
async def an_image_that_is_mapped(bench: Bench) -> None:
    image = await bench.image()
    bench.hold()
    await image.to_mmap()


@waits
async def an_image_that_is_coded(bench: Bench) -> None:
    image = await bench.image()
    bench.hold()
    await image.encode("gzip")


@waits
async def an_image_that_is_read(bench: Bench) -> None:
    image = await bench.image()
    bench.hold()
    await image.read()


@waits
async def an_archive_that_is_opened(bench: Bench) -> None:
    bench.hold()
    async with barc.AsyncArchive(bench.directory / "a.barc", "a", policy=bench.policy):
        pass


@waits
async def an_archive_that_is_appended_to(bench: Bench) -> None:
    async with barc.AsyncArchive(bench.directory / "a.barc", "a", policy=bench.policy) as archive:
        bench.hold()
        await archive.append(make_dialog(1))


@waits
async def an_archive_that_is_gone_through(bench: Bench) -> None:
    async with barc.AsyncArchive(bench.directory / "a.barc", "a", policy=bench.policy) as archive:
        await archive.append(make_dialog(1))
        bench.hold()
        async for _ in archive:
            pass


@waits
async def a_har(bench: Bench) -> None:
    bench.hold()
    await har.write(bench.directory / "a.har", [make_dialog(1)], policy=bench.policy)


@waits
async def a_replay(bench: Bench) -> None:
    path = bench.directory / "a.barc"
    async with barc.AsyncArchive(path, "a", policy=bench.policy) as archive:
        await archive.append(make_dialog(1))
    async with penstock.Replay(path, policy=bench.policy) as replay, penstock.Client(transport=replay) as client:
        bench.hold()
        await client.get("http://sample.test/1")


@pytest.mark.parametrize("name", WAITS)
async def test_a_scope_ends_what_waits_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    async with penstock.DispatchPool(threads=1, drain_threads=0) as pool:
        bench = Bench(pool, tmp_path)
        # What pool and loop keep from their first use on.
        await (await bench.image()).read()
        before = Held(pool, semaphore=bench.semaphore)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(WAITS[name], bench)
                while not bench.is_waited_for:
                    await anyio.sleep(0.001)
                group.cancel_scope.cancel()
            assert group.cancel_scope.cancelled_caught
            bench.let_go()
            await before.is_given_back()
        # The same again, as if nothing had been.
        assert await pool.run(int) == 0
        async with bench.semaphore:
            pass


async def test_a_write_that_fails_when_its_scope_was_left_is_told_to_nobody(
    pool: penstock.DispatchPool, tmp_path: Path
) -> None:
    gate, policy = threading.Event(), penstock.Dispatch(pool)
    tunables = penstock.Tunables(max_body_ram=0, temp_dir=tmp_path / "missing")
    for _ in range(pool.threads):
        pool.dispatch(gate.wait, 20)
    with anyio.fail_after(20):
        with anyio.move_on_after(0.05) as scope:
            await penstock.collect(pieces(), tunables, policy=policy)
        assert scope.cancelled_caught
        gate.set()
        await pool.join()
    # Else asyncio would log it, which fails the test.
    await anyio.wait_all_tasks_blocked()


async def test_a_task_group_starts_whatever_gives_an_awaitable(pool: penstock.DispatchPool, tmp_path: Path) -> None:
    semaphore, done = penstock.Semaphore(4), list[str]()
    image = penstock.BodyImage.from_bytes(PIECE)
    starts: list[tuple[Callable[..., Awaitable[Any]], *tuple[Any, ...]]] = [
        (pool.run, done.append, "pool"),
        (penstock.Direct().run, done.append, "direct"),
        (penstock.Permit(semaphore).run, done.append, "permit"),
        (penstock.Dispatch(pool).run, done.append, "dispatch"),
        (penstock.run_blocking, done.append, "default"),
        (penstock.dispatch_or_permit, semaphore, done.append, "either"),
        (semaphore.acquire,),
        (image.read,),
        (image.save, tmp_path / "saved"),
    ]
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for start in starts:
                group.start_soon(*start)
    assert sorted(done) == ["default", "direct", "dispatch", "either", "permit", "pool"]
    assert semaphore.free == 3
    assert (tmp_path / "saved").read_bytes() == PIECE
