"""collect(): any asynchronous iterable of bytes becomes an image, within the limits."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import penstock
import pytest

MakeTunables = Callable[..., penstock.Tunables]
Settles = Callable[[Callable[[], bool]], bool]

pytestmark = pytest.mark.asyncio


async def source(pieces: Iterable[Any]) -> AsyncIterator[Any]:
    for piece in pieces:
        await asyncio.sleep(0)
        yield piece


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


async def test_it_gathers_what_the_source_gives(tunables: MakeTunables, body: bytes) -> None:
    image = await penstock.collect(source(cut(body, 7001)), tunables())
    assert isinstance(image, penstock.BodyImage)
    assert image.state == "ram"
    assert await image.read() == body


async def test_it_needs_no_tunables(body: bytes) -> None:
    image = await penstock.collect(source(cut(body, 7001)))
    assert await image.read() == body


async def test_an_empty_source_gives_an_empty_image_in_ram(tunables: MakeTunables) -> None:
    for pieces in ([], [b""], [b"", b""]):
        image = await penstock.collect(source(pieces), tunables(max_body_ram=0))
        assert (len(image), image.state) == (0, "ram")


async def test_it_moves_to_a_file_above_max_body_ram(tunables: MakeTunables, body: bytes, policy: Any) -> None:
    image = await penstock.collect(source(cut(body, 7001)), tunables(max_body_ram=50_000), policy=policy)
    assert image.state == "file"
    assert await image.read() == body


async def test_every_policy_collects_the_same_body(tunables: MakeTunables, body: bytes, policy: Any) -> None:
    for max_body_ram in (0, 1 << 20):
        options = tunables(max_body_ram=max_body_ram, digests=("sha256",))
        image = await penstock.collect(source(cut(body, 999)), options, policy=policy)
        assert await image.read() == body
        assert image.digests == {"sha256": hashlib.sha256(body).hexdigest()}


async def test_exactly_at_a_limit_is_allowed(tunables: MakeTunables) -> None:
    limits = tunables(max_body_ram=8, max_body=10)
    for total, state in ((8, "ram"), (9, "file"), (10, "file")):
        image = await penstock.collect(source([b"x"] * total), limits)
        assert (len(image), image.state) == (total, state)


async def test_a_size_hint_chooses_the_file_and_refuses_nothing(tunables: MakeTunables, body: bytes) -> None:
    limits = tunables(max_body_ram="1MiB", max_body="2MiB")
    for hint, state in ((None, "ram"), (1000, "ram"), ((1 << 20) + 1, "file"), (1 << 40, "file"), (1 << 70, "file")):
        image = await penstock.collect(source([body]), limits, size_hint=hint)
        assert (image.state, await image.read()) == (state, body)


async def test_more_than_max_body_raises_with_what_was_received(tunables: MakeTunables, policy: Any) -> None:
    pieces = [b"abcd", b"e", b"fghij", b"k", b"never"]
    with pytest.raises(penstock.BodyTooLong) as caught:
        await penstock.collect(source(pieces), tunables(max_body_ram=4, max_body=10), policy=policy)
    assert (caught.value.seen, caught.value.limit) == (11, 10)
    assert await caught.value.partial.read() == b"abcdefghij"


async def test_an_endless_source_is_stopped_at_max_body(tunables: MakeTunables, policy: Any) -> None:
    given = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal given
        while True:
            given += 65536
            yield bytes(65536)

    for max_body_ram in (0, 1 << 20):
        given = 0
        with pytest.raises(penstock.BodyTooLong):
            await penstock.collect(endless(), tunables(max_body_ram=max_body_ram, max_body=1 << 20), policy=policy)
        assert given == (1 << 20) + 65536


async def test_the_source_is_closed_when_it_is_stopped(tunables: MakeTunables) -> None:
    closed = False

    async def watched() -> AsyncIterator[bytes]:
        nonlocal closed
        try:
            while True:
                yield b"xxxx"
        finally:
            closed = True

    with pytest.raises(penstock.BodyTooLong):
        await penstock.collect(watched(), tunables(max_body=10))
    assert closed


async def test_pieces_may_be_any_buffer_and_may_be_used_again(tunables: MakeTunables, policy: Any) -> None:
    async def reused() -> AsyncIterator[Any]:
        buffer = bytearray(8192)
        for value in range(40):
            buffer[:] = bytes([value]) * len(buffer)
            yield memoryview(buffer) if value % 2 else buffer
            buffer[:] = b"!" * len(buffer)

    for max_body_ram in (0, 10_000, 1 << 20):
        image = await penstock.collect(reused(), tunables(max_body_ram=max_body_ram), policy=policy)
        assert await image.read() == b"".join(bytes([value]) * 8192 for value in range(40))


@pytest.mark.parametrize("piece", ["text", 7, None])
async def test_a_piece_that_is_no_buffer_is_refused(tunables: MakeTunables, piece: Any) -> None:
    with pytest.raises(TypeError):
        await penstock.collect(source([b"abc", piece]), tunables())


async def test_an_iterable_that_is_not_asynchronous_is_refused() -> None:
    with pytest.raises(TypeError):
        await penstock.collect([b"abc"])  # type: ignore[arg-type]


async def test_an_error_of_the_source_comes_through_and_the_file_is_given_back(
    tunables: MakeTunables, body: bytes, descriptors: Callable[[], int], settles: Settles
) -> None:
    async def breaks() -> AsyncIterator[bytes]:
        yield body
        raise ConnectionResetError("gone")

    before = descriptors()
    with pytest.raises(ConnectionResetError, match="gone"):
        await penstock.collect(breaks(), tunables(max_body_ram=0), policy=penstock.Direct())
    assert await asyncio.to_thread(settles, lambda: descriptors() <= before)


async def test_cancelled_while_the_source_waits_it_gives_the_file_back(
    tunables: MakeTunables, body: bytes, descriptors: Callable[[], int], settles: Settles
) -> None:
    closed = False

    async def stalls() -> AsyncIterator[bytes]:
        nonlocal closed
        try:
            for _ in range(10):
                yield body  # enough for writing to begin
            await asyncio.Event().wait()
        finally:
            closed = True

    before = descriptors()
    task = asyncio.create_task(penstock.collect(stalls(), tunables(max_body_ram=0), policy=penstock.Direct()))
    await asyncio.sleep(0.02)
    assert descriptors() > before
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed
    assert await asyncio.to_thread(settles, lambda: descriptors() <= before)


async def test_no_file_is_left_behind(tunables: MakeTunables, tmp_path: Path, body: bytes) -> None:
    image = await penstock.collect(source(cut(body, 7001)), tunables(max_body_ram=0))
    assert image.state == "file"
    assert list(tmp_path.iterdir()) == []


async def test_many_bodies_at_once_keep_apart(tunables: MakeTunables, body: bytes) -> None:
    bodies = [body[index:] + body[:index] for index in range(32)]
    limits = tunables(max_body_ram=50_000)
    images = await asyncio.gather(*(penstock.collect(source(cut(each, 5000)), limits) for each in bodies))
    assert [await image.read() for image in images] == bodies
