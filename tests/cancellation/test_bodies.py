"""Sinks, `collect` and images, cancelled at every turn of the loop, for each store and policy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import penstock
import pytest

from tests.cancellation.conftest import Held, cancel_everywhere
from tests.http.conftest import STORINGS, Storing

pytestmark = pytest.mark.asyncio

PIECE = bytes(range(256)) * 600
PIECES = 12


@pytest.fixture(params=[name for name in STORINGS if name != "drained"])
def storing(request: pytest.FixtureRequest, storing_by: Callable[[str], Storing]) -> Storing:
    return storing_by(request.param)


async def nap() -> None:
    await asyncio.sleep(0.001)


async def warm(storing: Storing) -> Held:
    """What is held once the pool and the loop have what they keep."""
    sink = penstock.AsyncBodySink(storing.tunables, policy=storing.policy)
    await sink.write(PIECE)
    await sink.write_back()
    await (await sink.prepare()).read()
    del sink
    held = Held(storing.pool, semaphore=storing.semaphore)
    await held.is_given_back()
    return Held(storing.pool, semaphore=storing.semaphore)


class Source:
    """Pieces with a turn of the loop between them; tells whether it was closed."""

    def __init__(self) -> None:
        self.open = 0

    async def pieces(self) -> AsyncIterator[bytes]:
        self.open += 1
        try:
            for _ in range(PIECES):
                await asyncio.sleep(0)
                yield PIECE
        finally:
            self.open -= 1


async def test_collect(storing: Storing) -> None:
    before = await warm(storing)
    source = Source()

    async def collect() -> None:
        image = await penstock.collect(source.pieces(), storing.tunables, policy=storing.policy)
        assert len(image) == PIECES * len(PIECE)

    async def after() -> None:
        assert source.open == 0
        await before.is_given_back()

    assert await cancel_everywhere(collect, after, step=nap) > PIECES


async def test_a_sink_goes_on_after_a_cancelled_write_or_prepare(storing: Storing) -> None:
    before = await warm(storing)
    for turns in range(30):
        async with penstock.AsyncBodySink(storing.tunables, policy=storing.policy) as sink:
            taken = 0
            for _ in range(PIECES):
                writing = asyncio.create_task(sink.write(PIECE))
                for _ in range(turns % 5):
                    await asyncio.sleep(0)
                writing.cancel()
                await asyncio.wait([writing])
                # Cancelled before its first step it has taken nothing; after that, all of the piece.
                taken += len(PIECE)
                if len(sink) < taken:
                    taken -= len(PIECE)
            preparing = asyncio.create_task(sink.prepare())
            for _ in range(turns):
                await asyncio.sleep(0)
            preparing.cancel()
            await asyncio.wait([preparing])
            image = preparing.result() if not preparing.cancelled() else await sink.prepare()
            data = await image.read()
            assert data == PIECE * (taken // len(PIECE))
            del image, preparing, writing
        await before.is_given_back()


async def test_a_sink_closed_at_any_turn(storing: Storing) -> None:
    before = await warm(storing)

    async def use() -> None:
        async with penstock.AsyncBodySink(storing.tunables, policy=storing.policy) as sink:
            for _ in range(PIECES):
                await sink.write(PIECE)
            if storing.in_file:
                await sink.write_back()

    await cancel_everywhere(use, before.is_given_back, step=nap)


READS: dict[str, Callable[[penstock.BodyImage, Path], Any]] = {
    "read": lambda image, path: image.read(),
    "to_ram": lambda image, path: image.to_ram(),
    "to_mmap": lambda image, path: image.to_mmap(),
    "save": lambda image, path: image.save(path / "saved", overwrite=True),
    "stream": lambda image, path: everything(image),
}


async def everything(image: penstock.BodyImage) -> None:
    total = 0
    async for view in image.stream(50_000, yield_between=True):
        total += len(view)
    assert total == len(image)


@pytest.mark.parametrize("call", READS)
async def test_an_image_is_as_it_was_after_a_cancelled_call(storing: Storing, call: str, tmp_path: Path) -> None:
    image = await penstock.collect(Source().pieces(), storing.tunables, policy=storing.policy)
    assert image.state == storing.state(PIECE)
    await as_it_was(image, call, storing, tmp_path)


@pytest.mark.parametrize("call", READS)
@pytest.mark.parametrize("name", ["direct", "permit", "windows"])
async def test_a_mapped_image_is_as_it_was_after_a_cancelled_call(
    storing_by: Callable[[str], Storing],
    name: str,
    call: str,
    tmp_path: Path,
) -> None:
    storing = storing_by(name)
    image = await penstock.collect(Source().pieces(), storing.tunables, policy=storing.policy)
    image = await image.to_mmap()
    assert image.state == "mmap"
    await as_it_was(image, call, storing, tmp_path)


async def as_it_was(image: penstock.BodyImage, call: str, storing: Storing, tmp_path: Path) -> None:
    await READS[call](image, tmp_path)
    await asyncio.sleep(0)
    before = Held(storing.pool, semaphore=storing.semaphore)

    async def use() -> None:
        await READS[call](image, tmp_path)

    async def after() -> None:
        await before.is_given_back()
        # What had begun runs to its end; then no draft is left.
        async with asyncio.timeout(10):
            while any(found.name.startswith(".") for found in tmp_path.iterdir()):
                await asyncio.sleep(0.001)

    await cancel_everywhere(use, after, step=nap)
    assert await image.read() == PIECE * PIECES
