"""Archives for tasks: by each policy, on each loop, with appends from many tasks at once."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock import barc

from tests.barc.conftest import STRATEGIES, MakeDialog, urls

pytestmark = pytest.mark.asyncio


async def test_what_is_appended_is_read_by_every_policy(path: Path, policy: Any, dialog: MakeDialog) -> None:
    data = os.urandom(400_000)
    async with barc.AsyncArchive(path, "a", policy=policy, strategy=STRATEGIES["gzip"]) as archive:
        offsets = [await archive.append(dialog(number, data[: number * 200_000])) for number in range(3)]
        record = await archive.read(offsets[1])
        assert record is not None
        assert await record.res_body.read() == data[:200_000]
        assert await archive.read(path.stat().st_size) is None
    async with barc.AsyncArchive(path, policy=policy) as archive:
        assert [entry.offset async for entry in archive.entries()] == offsets
        metas = [(entry.offset, meta["url"]) async for entry, meta in archive.metas(offsets[1])]
        assert metas == [(offsets[1], "http://sample.test/1"), (offsets[2], "http://sample.test/2")]
        found = [record async for record in archive]
        assert [await record.res_body.read() for record in found] == [b"", data[:200_000], data]


async def test_concurrent_appends_are_made_in_order_and_none_is_lost(
    path: Path, policy: Any, dialog: MakeDialog
) -> None:
    async with barc.AsyncArchive(path, "a", policy=policy) as archive:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(archive.append(dialog(number, bytes(number * 50)))) for number in range(200)]
        offsets = [task.result() for task in tasks]
    assert offsets == sorted(set(offsets))
    assert await asyncio.to_thread(urls, path) == [f"http://sample.test/{number}" for number in range(200)]


async def test_appends_are_made_one_at_a_time_from_several_loops_too(path: Path, dialog: MakeDialog) -> None:
    async def append(loop: int) -> list[int]:
        return await asyncio.gather(*(archive.append(dialog(loop * 50 + number, bytes(500))) for number in range(50)))

    async with barc.AsyncArchive(path, "a") as archive:
        # One after the other, then two at once.
        offsets = await append(0) + await asyncio.to_thread(asyncio.run, append(1))
        both = [asyncio.to_thread(asyncio.run, append(loop)) for loop in (2, 3)]
        for appended in await asyncio.gather(*both):
            offsets += appended
    assert await asyncio.to_thread(urls, path) == [
        f"http://sample.test/{number}" for _, number in sorted(zip(offsets, range(200), strict=True))
    ]


async def test_it_is_read_while_it_is_written(path: Path, dialog: MakeDialog) -> None:
    async with barc.AsyncArchive(path, "a") as archive, barc.AsyncArchive(path) as reader:

        async def write() -> None:
            for number in range(100):
                await archive.append(dialog(number, bytes(number * 100)))

        writing = asyncio.create_task(write())
        seen: list[str] = []
        start = 0
        while len(seen) < 100:
            records = reader.records(start)
            seen += [record.meta["url"] async for record in records]
            start = records.offset
            await asyncio.sleep(0)
        await writing
    assert seen == [f"http://sample.test/{number}" for number in range(100)]


async def test_errors_are_those_of_the_archive_for_threads(
    path: Path, three: tuple[Path, list[int]], dialog: MakeDialog
) -> None:
    path, offsets = three
    async with barc.AsyncArchive(path, "a") as archive:
        with pytest.raises(BlockingIOError):
            await barc.AsyncArchive(path, "a").__aenter__()
        with pytest.raises(penstock.HeadTooLong):
            await archive.append(dialog(0, res_headers=[("x", "y")] * 200))
        with pytest.raises(penstock.ArchiveError):
            await archive.read(offsets[1] + 1)
    with pytest.raises(ValueError, match="not open"):
        await archive.append(dialog())
    with pytest.raises(FileNotFoundError):
        await barc.AsyncArchive(path.parent / "gone").__aenter__()
    with open(path, "r+b") as file:
        file.seek(offsets[1])
        file.write(b"XXXX")
    async with barc.AsyncArchive(path) as archive:
        records = archive.records()
        assert (await anext(records)).offset == 0
        for _ in range(2):
            with pytest.raises(penstock.ArchiveError) as raised:
                await anext(records)
            assert raised.value.offset == records.offset == offsets[1]
    async with barc.AsyncArchive(path, keep_going=True) as archive:
        assert [record.offset async for record in archive] == [offsets[0], offsets[2]]
        assert len(archive.damage) == 1


async def test_a_loop_is_needed_for_an_async_archive(three: tuple[Path, list[int]]) -> None:
    path, _ = three
    async with barc.AsyncArchive(path) as archive:
        with pytest.raises(TypeError, match="async for"):
            iter(archive.records())
        with pytest.raises(penstock.BlockingInLoop):
            next(archive.records())
