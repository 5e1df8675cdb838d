"""Archives for tasks, cancelled at every turn of the loop: no record is half there, no lock and no place is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock import barc
from penstock._native import _delay_writes

from tests.barc.conftest import STRATEGIES, make_dialog, urls
from tests.cancellation.conftest import Held, cancel_everywhere

pytestmark = pytest.mark.asyncio


@pytest.fixture(params=["direct", "permit", "dispatch"])
def policy(request: pytest.FixtureRequest, pool: penstock.DispatchPool) -> Any:
    if request.param == "permit":
        return penstock.Permit(penstock.Semaphore(1), pool=pool)
    return penstock.Direct() if request.param == "direct" else penstock.Dispatch(pool)


async def nap() -> None:
    await asyncio.sleep(0.001)


@pytest.mark.parametrize("kind", STRATEGIES)
async def test_an_append_is_whole_or_not_there(
    kind: str, policy: Any, pool: penstock.DispatchPool, tmp_path: Path
) -> None:
    path = tmp_path / "x.barc"
    body = bytes(range(256)) * 2000
    async with barc.AsyncArchive(path, "a", policy=policy, strategy=STRATEGIES[kind]) as archive:
        await archive.append(make_dialog(0, body))
        before = Held(pool)

        async def append() -> None:
            async with asyncio.TaskGroup() as group:
                for number in range(3):
                    group.create_task(archive.append(make_dialog(number, body)))

        await cancel_everywhere(append, before.is_given_back, step=nap)
        # Whatever was cancelled, the next one finds its turn.
        offset = await archive.append(make_dialog(7, body))
        entries = [entry async for entry in archive.entries()]
        assert entries[-1].offset == offset
        assert entries[-1].end == path.stat().st_size
        async for record in archive:
            assert await record.res_body.read() == body


async def test_an_iteration_goes_on_where_it_was(policy: Any, pool: penstock.DispatchPool, tmp_path: Path) -> None:
    path = tmp_path / "x.barc"
    async with barc.AsyncArchive(path, "a", policy=policy) as archive:
        for number in range(200):
            await archive.append(make_dialog(number, bytes(30_000)))
        seen: list[str] = []
        records = archive.records()
        for turns in range(10_000):

            async def take() -> bool:
                record = await anext(records, None)
                if record is not None:
                    seen.append(record.meta["url"])
                return record is not None

            taking = asyncio.create_task(take())
            for _ in range(turns % 4):
                await asyncio.sleep(0)
            taking.cancel()
            await asyncio.wait([taking])
            if not taking.cancelled() and not taking.result():
                break
            if turns % 50 == 49:
                await take()
    assert seen == [f"http://sample.test/{number}" for number in range(200)]


async def test_a_read_leaves_nothing(policy: Any, pool: penstock.DispatchPool, tmp_path: Path) -> None:
    path = tmp_path / "x.barc"
    tunables = penstock.Tunables(temp_dir=tmp_path)
    async with barc.AsyncArchive(path, "a", policy=policy, tunables=tunables) as archive:
        await archive.append(make_dialog(0, bytes(2_000_000)), strategy=STRATEGIES["gzip"])
        before = Held(pool)

        async def read() -> None:
            record = await archive.read(0)
            assert record is not None
            assert len(record.res_body) == 2_000_000

        await cancel_everywhere(read, before.is_given_back, step=nap)


async def test_an_opening_or_closing_gives_the_lock_back(
    policy: Any, pool: penstock.DispatchPool, tmp_path: Path
) -> None:
    path = tmp_path / "x.barc"
    async with barc.AsyncArchive(path, "a", policy=policy) as archive:
        await archive.append(make_dialog())
    before = Held(pool)

    async def use() -> None:
        async with barc.AsyncArchive(path, "a", policy=policy) as archive:
            await archive.append(make_dialog())

    async def after() -> None:
        await before.is_given_back()
        async with asyncio.timeout(10):
            while True:
                try:
                    async with barc.AsyncArchive(path, "a", policy=penstock.Direct()):
                        return
                except BlockingIOError:
                    # What had begun runs to its end.
                    await asyncio.sleep(0.001)

    await cancel_everywhere(use, after, step=nap)
    found = await asyncio.to_thread(urls, path)
    assert found == ["http://sample.test/0"] * len(found)


async def test_a_cancelled_append_that_was_being_written_is_there_in_the_end(
    pool: penstock.DispatchPool, tmp_path: Path
) -> None:
    path = tmp_path / "x.barc"
    async with barc.AsyncArchive(path, "a", policy=penstock.Dispatch(pool)) as archive:
        taken = pool.stats()["taken"]
        _delay_writes(0.1)
        try:
            first = asyncio.create_task(archive.append(make_dialog(0)))
            while pool.stats()["taken"] == taken:
                await asyncio.sleep(0.001)
            second = asyncio.create_task(archive.append(make_dialog(1)))
            await asyncio.sleep(0)
            first.cancel()
            second.cancel()
            await asyncio.wait([first, second])
            assert first.cancelled()
            assert second.cancelled()
            await archive.append(make_dialog(2))
        finally:
            _delay_writes(0)
    assert await asyncio.to_thread(urls, path) == ["http://sample.test/0", "http://sample.test/2"]
