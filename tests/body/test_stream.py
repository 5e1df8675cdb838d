"""image.stream(): pieces for asyncio, in each state and with each policy."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import io
import mmap
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import penstock
import pytest

from tests.calls import Calls

MakeImage = Callable[..., penstock.BodyImage]

pytestmark = pytest.mark.asyncio


async def sizes(stream: AsyncIterator[memoryview]) -> list[int]:
    return [len(view) async for view in stream]


async def test_pieces_are_of_the_asked_size_but_the_last(
    image_in: MakeImage, store: str, policy: Any, body: bytes
) -> None:
    image = await asyncio.to_thread(image_in, body[:40], store)
    pieces = [bytes(view) async for view in image.stream(17, policy=policy)]
    assert [len(piece) for piece in pieces] == [17, 17, 6]
    assert b"".join(pieces) == body[:40]


async def test_a_body_in_a_file_is_read_in_pieces_of_buffer_size_fs(image_in: MakeImage, store: str) -> None:
    image = await asyncio.to_thread(image_in, bytes(100_000), store, buffer_size_fs=40_000)
    usual = {"file": [40_000, 40_000, 20_000]}.get(store, [65_536, 34_464])
    assert await sizes(image.stream()) == usual
    assert await asyncio.to_thread(lambda: [len(view) for view in image.chunks()]) == usual
    with image.open() as file:
        assert isinstance(file, io.BufferedReader)
        assert len(await asyncio.to_thread(file.peek)) == usual[0]


async def test_every_size_gives_the_whole_body(image: penstock.BodyImage, policy: Any, body: bytes) -> None:
    for size in (1000, 65536, 65537, len(body), 1 << 20):
        pieces = [bytes(view) async for view in image.stream(size, policy=policy)]
        assert b"".join(pieces) == body
        assert max(map(len, pieces)) <= size


async def test_scattered_pieces_are_cut_to_size(image_in: MakeImage, body: bytes) -> None:
    image = image_in(body, "ram", pieces=3)
    views = [view async for view in image.stream(10_000)]
    assert all(0 < len(view) <= 10_000 for view in views)
    assert b"".join(views) == body


async def test_no_piece_is_empty(image: penstock.BodyImage) -> None:
    assert min(await sizes(image.stream(4096))) > 0


async def test_an_empty_body_streams_nothing(policy: Any) -> None:
    image = penstock.BodyImage.from_bytes(b"")
    assert await sizes(image.stream(4096, policy=policy)) == []
    assert await sizes(image.stream(4096, policy=policy, yield_between=True)) == []


async def test_a_size_of_zero_is_refused(image: penstock.BodyImage) -> None:
    for size in (0, -1):
        with pytest.raises((ValueError, OverflowError)):
            await anext(aiter(image.stream(size)))


async def test_pieces_are_read_only_views(image: penstock.BodyImage) -> None:
    async for view in image.stream(4096):
        assert isinstance(view, memoryview)
        assert view.readonly
        assert (view.format, view.ndim) == ("B", 1)


async def test_pieces_outlive_stream_and_image(image_in: MakeImage, store: str, body: bytes) -> None:
    image = await asyncio.to_thread(image_in, body, store, pieces=4)
    views = [view async for view in image.stream(4096)]
    del image
    gc.collect()
    assert b"".join(views) == body


async def test_two_streams_of_one_image_do_not_meet(image: penstock.BodyImage, body: bytes) -> None:
    one, other = aiter(image.stream(30_000)), aiter(image.stream(7000))
    pieces = [bytes(await anext(one)), bytes(await anext(other)), bytes(await anext(one)), bytes(await anext(other))]
    assert body.startswith(pieces[0] + pieces[2])
    assert body.startswith(pieces[1] + pieces[3])


async def test_a_stream_left_early_gives_everything_back(
    image_in: MakeImage, store: str, body: bytes, descriptors: Callable[[], int]
) -> None:
    image = await asyncio.to_thread(image_in, body, store)
    assert len(await anext(aiter(image.stream(4096)))) == 4096
    before = descriptors()
    for _ in range(10):
        async for view in image.stream(4096):
            assert len(view) == 4096
            break
    del view
    gc.collect()
    await asyncio.sleep(0)
    assert descriptors() <= before


async def test_a_dispatched_stream_keeps_its_order(
    image_in: MakeImage, pool: penstock.DispatchPool, body: bytes
) -> None:
    image = await asyncio.to_thread(image_in, body, "file")
    policy = penstock.Dispatch(pool)

    async def joined() -> bytes:
        return b"".join([bytes(view) async for view in image.stream(500, policy=policy)])

    assert await asyncio.gather(*(joined() for _ in range(10))) == [body] * 10


async def test_a_body_in_ram_never_waits_for_the_pool(image_in: MakeImage, body: bytes) -> None:
    image = image_in(body, "ram", pieces=3)
    gate = threading.Event()
    with penstock.DispatchPool(threads=1) as busy:
        blocker = busy.submit(gate.wait)
        try:
            async with asyncio.timeout(5):
                assert sum(await sizes(image.stream(4096, policy=penstock.Dispatch(busy)))) == len(body)
        finally:
            gate.set()
        blocker.result()


async def test_a_body_in_ram_needs_no_permit(image_in: MakeImage, body: bytes) -> None:
    image = image_in(body, "ram", pieces=3)
    taken = penstock.Semaphore(1)
    async with taken, asyncio.timeout(5):
        assert sum(await sizes(image.stream(4096, policy=penstock.Permit(taken)))) == len(body)


def is_cold(path: Path) -> bool:
    """Whether the page cache has nothing of a file. Reading to find out could bring it in."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        pages = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
        place = ctypes.c_char.from_buffer(mapped)
        address, length = ctypes.c_void_p(ctypes.addressof(place)), ctypes.c_size_t(len(mapped))
        failed = ctypes.CDLL(None).mincore(address, length, pages)
        del place
    return failed == 0 and not any(page & 1 for page in pages)


@pytest.fixture
def chill(tmp_path: Path, body: bytes) -> Callable[[], penstock.BodyImage]:
    """Makes files of which the page cache has nothing. A fast disk may bring one in before it is waited for."""

    def make() -> penstock.BodyImage:
        path = tmp_path / "cold"
        path.write_bytes(body)
        with open(path, "rb") as file:
            try:
                os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
            except (OSError, AttributeError):
                pytest.skip("not on this platform: no reads from the page cache alone (RWF_NOWAIT)")
            os.fsync(file.fileno())
            for _ in range(100):
                # Pages that the kernel is just looking at stay, so it is asked more than once.
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                if is_cold(path):
                    return penstock.BodyImage.from_path(path)
                time.sleep(0.02)
        return pytest.skip("not on this platform: the page cache can't be emptied of a file")

    return make


@pytest.fixture
def cold(chill: Callable[[], penstock.BodyImage]) -> penstock.BodyImage:
    return chill()


async def test_a_cold_file_is_read_by_the_policy(cold: penstock.BodyImage, policy: Any, body: bytes) -> None:
    assert b"".join([bytes(view) async for view in cold.stream(5000, policy=policy)]) == body


async def test_a_cold_file_waits_for_the_pool(chill: Callable[[], penstock.BodyImage], body: bytes) -> None:
    gate = threading.Event()
    waited = False
    with penstock.DispatchPool(threads=1) as busy:
        blocker = busy.submit(gate.wait)
        try:
            for _ in range(20):
                stream = chill().stream(5000, policy=penstock.Dispatch(busy))
                first = asyncio.ensure_future(anext(stream))
                await asyncio.sleep(0.05)
                if waited := not first.done():
                    gate.set()
                assert await first == body[:5000]
                await stream.aclose()
                if waited:
                    break
        finally:
            gate.set()
        blocker.result()
    assert waited


async def test_a_piece_that_takes_long_to_copy_is_for_the_pool_though_it_is_at_hand(
    image_in: MakeImage, body: bytes
) -> None:
    large = body * 30
    image = await asyncio.to_thread(image_in, large, "file")
    gate = threading.Event()
    with penstock.DispatchPool(threads=1) as busy:
        blocker = busy.submit(gate.wait)
        try:
            stream = image.stream(2 << 20, policy=penstock.Dispatch(busy))
            first = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0.05)
            waited = not first.done()
            gate.set()
            assert bytes(await first) + b"".join([bytes(view) async for view in stream]) == large
            assert waited
        finally:
            gate.set()
        blocker.result()


async def test_a_cold_file_needs_a_permit(chill: Callable[[], penstock.BodyImage]) -> None:
    closed = penstock.Semaphore(1)
    closed.close()

    async def read_cold_files() -> None:
        for _ in range(20):
            await anext(chill().stream(5000, policy=penstock.Permit(closed)))

    with pytest.raises(penstock.SemaphoreClosed):
        await read_cold_files()


async def test_direct_adds_no_call_for_each_piece_of_a_cold_file(
    chill: Callable[[], penstock.BodyImage], tmp_path: Path, body: bytes
) -> None:
    async def calls(image: penstock.BodyImage, policy: penstock.Policy) -> int:
        with open(tmp_path / "cold", "rb") as file, Calls() as calls:
            async for _ in image.stream(5000, policy=policy):
                # What was read ahead is to be read again.
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return calls.count

    asked = 0
    for _ in range(20):
        image, policy = chill(), penstock.Direct()
        in_memory = await calls(penstock.BodyImage.from_bytes(body), policy)
        assert in_memory >= 21
        assert policy.stats()["count"] == 0
        assert await calls(image, policy) == in_memory
        if asked := policy.stats()["count"]:
            break
    assert asked


async def test_a_closed_semaphore_ends_what_must_wait_for_a_disk(tunables: Callable[..., Any], body: bytes) -> None:
    closed = penstock.Semaphore(1)
    closed.close()
    policy = penstock.Permit(closed)
    async with penstock.AsyncBodySink(tunables(max_body_ram=0)) as sink:
        await sink.write(body * 10)
        image = await sink.prepare()
    mine = penstock.BodyImage(image, policy)
    for ask in (mine.read, mine.to_mmap, mine.to_ram):
        with pytest.raises(penstock.SemaphoreClosed):
            await ask()
    assert await image.read() == body * 10


# Turns for others


async def log_of(stream: AsyncIterator[memoryview]) -> list[str]:
    """What happened in which order: the pieces that came, and the turns that another task got."""
    log: list[str] = []

    async def other() -> None:
        while True:
            log.append("other")
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    async for view in stream:
        log.append(str(len(view)))  # noqa: PERF401  (a comprehension would log them all at the end)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return log


async def test_yield_between_lets_others_run_after_each_piece() -> None:
    image = penstock.BodyImage.from_bytes(b"x" * 10)
    assert await log_of(image.stream(4, yield_between=True)) == ["4", "other", "4", "other", "2", "other"]


async def test_yield_between_adds_no_turn_before_the_first_piece() -> None:
    image = penstock.BodyImage.from_bytes(b"x" * 10)
    assert (await log_of(image.stream(4, yield_between=True)))[0] == "4"


async def test_without_it_a_body_in_ram_is_streamed_in_one_turn() -> None:
    image = penstock.BodyImage.from_bytes(b"x" * 10)
    assert [entry for entry in await log_of(image.stream(4)) if entry != "other"] == ["4", "4", "2"]
    assert (await log_of(image.stream(4)))[:3] == ["4", "4", "2"]


async def test_direct_lets_others_run_while_it_reads_a_cold_file(
    chill: Callable[[], penstock.BodyImage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.body.image.TURN", 20_000)
    image = chill()

    async def stays_cold() -> AsyncIterator[memoryview]:
        with open(tmp_path / "cold", "rb") as file:
            async for view in image.stream(5000, policy=penstock.Direct()):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                yield view

    log = await log_of(stays_cold())
    assert (len(log) - log.count("other"), log.count("other")) == (21, 5)


# Errors


async def test_a_file_cut_short_raises_truncated(tmp_path: Path, policy: Any, body: bytes) -> None:
    path = tmp_path / "body"
    path.write_bytes(body[:3000])
    image = await asyncio.to_thread(penstock.BodyImage.from_path, path)
    os.truncate(path, 1000)
    received = b""
    with pytest.raises(penstock.Truncated) as caught:  # noqa: PT012
        async for view in image.stream(500, policy=policy):
            received += view
    assert received == body[:1000]
    assert (caught.value.received, caught.value.expected) == (1000, 3000)
    with pytest.raises(penstock.Truncated):
        await image.read()


async def test_an_error_ends_the_stream(tmp_path: Path) -> None:
    path = tmp_path / "body"
    path.write_bytes(bytes(3000))
    image = await asyncio.to_thread(penstock.BodyImage.from_path, path)
    os.truncate(path, 0)
    stream = aiter(image.stream(500))
    with pytest.raises(penstock.Truncated):
        await anext(stream)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
