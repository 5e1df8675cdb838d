"""AsyncBodySink: BodySink's rules on a loop, whatever the policy, and what a cancellation leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import penstock
import pytest

from tests.conftest import uncollected

from .conftest import small_files

MakeTunables = Callable[..., penstock.Tunables]
Settles = Callable[[Callable[[], bool]], bool]

pytestmark = pytest.mark.asyncio

# What a sink that was prepared or closed raises.
USED_UP = (RuntimeError, ValueError)


async def test_it_stays_in_ram_up_to_max_body_ram(tunables: MakeTunables, policy: Any) -> None:
    async with penstock.AsyncBodySink(tunables(max_body_ram=8), policy=policy) as sink:
        await sink.write(b"abcd")
        await sink.write(b"efgh")
        image = await sink.prepare()
    assert (image.state, await image.read()) == ("ram", b"abcdefgh")


async def test_it_moves_to_a_file_above_max_body_ram(tunables: MakeTunables, policy: Any) -> None:
    async with penstock.AsyncBodySink(tunables(max_body_ram=8), policy=policy) as sink:
        for piece in (b"abcd", b"efgh", b"i"):
            await sink.write(piece)
        image = await sink.prepare()
    assert (image.state, await image.read()) == ("file", b"abcdefghi")


async def test_the_write_that_passes_max_body_raises_with_what_was_received(
    tunables: MakeTunables, policy: Any
) -> None:
    async with penstock.AsyncBodySink(tunables(max_body_ram=4, max_body=10), policy=policy) as sink:
        for piece in (b"abcd", b"e", b"fghij"):
            await sink.write(piece)
        with pytest.raises(penstock.BodyTooLong) as caught:
            await sink.write(b"k")
    assert (caught.value.seen, caught.value.limit) == (11, 10)
    assert caught.value.partial.state == "file"
    assert await caught.value.partial.read() == b"abcdefghij"


async def test_an_empty_write_is_ignored(tunables: MakeTunables) -> None:
    async with penstock.AsyncBodySink(tunables(max_body_ram=0)) as sink:
        await sink.write(b"")
        image = await sink.prepare()
    assert (len(image), image.state) == (0, "ram")


async def test_every_policy_stores_the_same_body(tunables: MakeTunables, policy: Any, body: bytes) -> None:
    options = tunables(max_body_ram=20_000, digests=("sha256",))
    async with penstock.AsyncBodySink(options, policy=policy) as sink:
        for start in range(0, len(body), 7001):
            await sink.write(body[start : start + 7001])
        image = await sink.prepare()
    assert (image.state, len(image)) == ("file", len(body))
    assert await image.read() == body
    assert image.digests == {"sha256": hashlib.sha256(body).hexdigest()}


async def test_without_a_policy_the_default_pool_writes(tunables: MakeTunables, body: bytes) -> None:
    async with penstock.AsyncBodySink(tunables(max_body_ram=0)) as sink:
        await sink.write(body)
        image = await sink.prepare()
    assert await image.read() == body


async def test_without_tunables_the_defaults_hold(body: bytes) -> None:
    async with penstock.AsyncBodySink() as sink:
        await sink.write(body)
        image = await sink.prepare()
    assert image.state == "ram"
    assert await image.read() == body


async def test_prepare_gives_all_that_was_written(tunables: MakeTunables, policy: Any, body: bytes) -> None:
    for size in (1, 4097, len(body)):
        async with penstock.AsyncBodySink(tunables(max_body_ram=1), policy=policy) as sink:
            await sink.write(body[:-size])
            await sink.write(body[-size:])
            image = await sink.prepare()
        assert await image.read() == body


async def test_a_written_buffer_may_be_used_again_at_once(tunables: MakeTunables, policy: Any) -> None:
    buffer = bytearray(8192)
    async with penstock.AsyncBodySink(tunables(max_body_ram=10_000), policy=policy) as sink:
        for value in range(64):
            buffer[:] = bytes([value]) * len(buffer)
            await sink.write(buffer)
            buffer[:] = b"!" * len(buffer)
        image = await sink.prepare()
    assert await image.read() == b"".join(bytes([value]) * 8192 for value in range(64))


async def test_writes_keep_their_order_on_many_threads(
    tunables: MakeTunables, pool: penstock.DispatchPool, body: bytes
) -> None:
    pieces = [body[index * 500 : (index + 1) * 500] for index in range(200)]

    async def run() -> bool:
        async with penstock.AsyncBodySink(tunables(max_body_ram=1), policy=penstock.Dispatch(pool)) as sink:
            for piece in pieces:
                await sink.write(piece)
            image = await sink.prepare()
        return await image.read() == b"".join(pieces)

    assert all(await asyncio.gather(*(run() for _ in range(20))))


async def test_a_body_in_ram_never_waits_for_the_pool(tunables: MakeTunables, body: bytes) -> None:
    gate = threading.Event()
    with penstock.DispatchPool(threads=1) as busy:
        blocker = busy.submit(gate.wait)
        try:
            async with asyncio.timeout(5):
                async with penstock.AsyncBodySink(tunables(), policy=penstock.Dispatch(busy)) as sink:
                    await sink.write(body)
                    image = await sink.prepare()
                assert await image.read() == body
        finally:
            gate.set()
        blocker.result()


async def test_each_write_to_a_file_waits_for_a_permit(tunables: MakeTunables, body: bytes) -> None:
    semaphore = penstock.Semaphore(1)
    async with penstock.AsyncBodySink(tunables(max_body_ram=0), policy=penstock.Permit(semaphore)) as sink:
        async with semaphore:
            await sink.write(body * 4)
            preparing = asyncio.create_task(sink.prepare())
            await asyncio.sleep(0.05)
            assert not preparing.done()
        image = await preparing
    assert (image.state, await image.read()) == ("file", body * 4)
    assert semaphore.try_acquire()


async def test_a_body_in_ram_takes_no_permit(tunables: MakeTunables, body: bytes) -> None:
    semaphore = penstock.Semaphore(1)
    async with semaphore, asyncio.timeout(5):
        async with penstock.AsyncBodySink(tunables(), policy=penstock.Permit(semaphore)) as sink:
            await sink.write(body)
            image = await sink.prepare()
        assert await image.read() == body


async def test_a_closed_semaphore_fails_the_write_and_gives_all_back(
    tunables: MakeTunables, body: bytes, descriptors: Callable[[], int]
) -> None:
    semaphore = penstock.Semaphore(1)
    semaphore.close()
    await penstock.run_blocking(int)  # what the pool keeps for this loop is there now
    before = descriptors()
    async with penstock.AsyncBodySink(tunables(max_body_ram=0), policy=penstock.Permit(semaphore)) as sink:
        await sink.write(body)
        with pytest.raises(penstock.SemaphoreClosed):
            await sink.prepare()
    assert descriptors() == before


async def test_writing_is_held_up_while_the_pool_is_busy(tunables: MakeTunables) -> None:
    """One sink's bytes don't pile up: a write waits for the pool, and goes on after it."""
    gate = threading.Event()
    piece = bytes(1 << 20)
    written = 0
    with penstock.DispatchPool(threads=1) as busy:
        blocker = busy.submit(gate.wait)
        try:
            async with penstock.AsyncBodySink(tunables(max_body_ram=0), policy=penstock.Dispatch(busy)) as sink:

                async def flood() -> None:
                    nonlocal written
                    for _ in range(64):
                        await sink.write(piece)
                        written += 1

                task = asyncio.create_task(flood())
                await asyncio.sleep(0.1)
                assert not task.done()
                assert written < 40
                gate.set()
                await task
                image = await sink.prepare()
        finally:
            gate.set()
        blocker.result()
    assert len(image) == 64 << 20


async def test_what_all_sinks_have_not_written_together_is_bounded(tunables: MakeTunables) -> None:
    """Above 32 MiB a sink has what is being written, and one piece more."""
    gate = threading.Event()
    sinks, pieces, piece = 64, 6, bytes(256 << 10)
    before = penstock.stats()["slabs"]["unwritten"]
    with penstock.DispatchPool(threads=1) as busy:
        blocker = busy.submit(gate.wait)

        async def flood() -> int:
            async with penstock.AsyncBodySink(tunables(max_body_ram=0), policy=penstock.Dispatch(busy)) as sink:
                for _ in range(pieces):
                    await sink.write(piece)
                return len(await sink.prepare())

        try:
            floods = [asyncio.create_task(flood()) for _ in range(sinks)]
            await asyncio.sleep(0.1)
            assert penstock.stats()["slabs"]["unwritten"] - before <= (32 << 20) + sinks * 2 * len(piece)
            gate.set()
            assert set(await asyncio.gather(*floods)) == {pieces * len(piece)}
        finally:
            gate.set()
        blocker.result()


async def test_a_cancelled_write_gives_everything_back(
    tunables: MakeTunables, descriptors: Callable[[], int], settles: Settles
) -> None:
    gate = threading.Event()
    with penstock.DispatchPool(threads=1) as busy:
        await busy.run(int)  # what the pool keeps for this loop is there now
        before = descriptors()
        blocker = busy.submit(gate.wait)
        try:
            async with penstock.AsyncBodySink(tunables(max_body_ram=0), policy=penstock.Dispatch(busy)) as sink:

                async def flood() -> None:
                    for _ in range(64):
                        await sink.write(bytes(1 << 20))

                task = asyncio.create_task(flood())
                await asyncio.sleep(0.05)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                gate.set()
                await sink.aclose()
        finally:
            gate.set()
        blocker.result()
        assert await asyncio.to_thread(settles, lambda: descriptors() <= before)


async def test_prepare_cancelled_gives_everything_back(
    tunables: MakeTunables, body: bytes, descriptors: Callable[[], int], settles: Settles
) -> None:
    gate = threading.Event()
    with penstock.DispatchPool(threads=1) as busy:
        await busy.run(int)
        before = descriptors()
        blocker = busy.submit(gate.wait)
        sink = penstock.AsyncBodySink(tunables(max_body_ram=0), policy=penstock.Dispatch(busy))

        async def collect() -> None:
            async with sink:
                await sink.write(body)
                await sink.prepare()

        task = asyncio.create_task(collect())
        await asyncio.sleep(0.05)
        assert not task.done()
        task.cancel()
        await asyncio.sleep(0)
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        blocker.result()
        assert await asyncio.to_thread(settles, lambda: descriptors() <= before)


async def test_a_sink_is_prepared_once(tunables: MakeTunables, policy: Any) -> None:
    async with penstock.AsyncBodySink(tunables(), policy=policy) as sink:
        await sink.write(b"abc")
        image = await sink.prepare()
        with pytest.raises(USED_UP, match="prepared"):
            await sink.prepare()
        with pytest.raises(USED_UP, match="prepared"):
            await sink.write(b"d")
    assert await image.read() == b"abc"


async def test_a_closed_sink_takes_no_more(tunables: MakeTunables, policy: Any) -> None:
    sink = penstock.AsyncBodySink(tunables(), policy=policy)
    await sink.write(b"abc")
    await sink.aclose()
    await sink.aclose()
    with pytest.raises(USED_UP, match="closed"):
        await sink.write(b"d")
    with pytest.raises(USED_UP, match="closed"):
        await sink.prepare()


async def test_closed_while_another_task_waits_to_write_it_tells_that_task(tunables: MakeTunables) -> None:
    gate = threading.Event()
    with penstock.DispatchPool(threads=1) as busy:
        blocker = busy.submit(gate.wait)
        try:
            sink = penstock.AsyncBodySink(tunables(max_body_ram=0), policy=penstock.Dispatch(busy))

            async def flood() -> None:
                while True:
                    await sink.write(bytes(1 << 20))

            writing = asyncio.create_task(flood())
            await asyncio.sleep(0.05)
            closing = asyncio.create_task(sink.aclose())
            await asyncio.sleep(0.05)
            assert not writing.done()
            assert not closing.done()
            gate.set()
            await closing
            with pytest.raises(ValueError, match="closed"):
                await writing
        finally:
            gate.set()
        blocker.result()


async def test_leaving_the_block_by_an_error_gives_the_file_back(
    tunables: MakeTunables, body: bytes, descriptors: Callable[[], int], settles: Settles
) -> None:
    async def fail() -> None:
        async with penstock.AsyncBodySink(tunables(max_body_ram=0), policy=penstock.Direct()) as sink:
            await sink.write(body)
            raise KeyError

    before = descriptors()
    with pytest.raises(KeyError):
        await fail()
    assert await asyncio.to_thread(settles, lambda: descriptors() <= before)


async def test_a_missing_temp_dir_comes_through_every_policy(
    tunables: MakeTunables, tmp_path: Path, policy: Any
) -> None:
    async def collect() -> None:
        async with penstock.AsyncBodySink(
            tunables(temp_dir=tmp_path / "missing", max_body_ram=4), policy=policy
        ) as sink:
            await sink.write(b"abcde")
            await sink.prepare()

    with pytest.raises(FileNotFoundError, match="missing"):
        await collect()


async def test_a_write_that_failed_is_tried_again_by_the_policy(tunables: MakeTunables, body: bytes) -> None:
    semaphore = penstock.Semaphore(1)
    async with penstock.AsyncBodySink(tunables(max_body_ram=0), policy=penstock.Permit(semaphore)) as sink:
        await sink.write(body)
        await sink.write_back()
        await sink.write(body)
        with small_files(len(body)), pytest.raises(penstock.StorageFull):
            await sink.write_back()
        async with semaphore:
            preparing = asyncio.create_task(sink.prepare())
            await asyncio.sleep(0.05)
            assert not preparing.done()
        image = await preparing
    assert await image.read() == body * 2


async def test_what_a_write_failed_with_is_told_though_it_was_over_before_the_next_piece_came(
    tunables: MakeTunables, policy: Any
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield bytes(400_000)
        while True:
            await asyncio.sleep(0.01)
            yield b"x"

    with small_files(100_000), pytest.raises(penstock.StorageFull):
        await penstock.collect(pieces(), tunables(max_body_ram=0), policy=policy)


async def test_a_sink_that_has_told_of_its_failure_takes_no_more_and_keeps_each_byte_once(
    tunables: MakeTunables, policy: Any
) -> None:
    async def fill(sink: penstock.AsyncBodySink) -> None:
        await sink.write(b"a" * 400_000)
        while len(sink) < 500_000:
            await asyncio.sleep(0.01)
            await sink.write(b"b")

    async with penstock.AsyncBodySink(tunables(max_body_ram=0), policy=policy) as sink:
        with small_files(100_000), pytest.raises(penstock.StorageFull):
            await fill(sink)
        taken = len(sink)
        with pytest.raises(OSError, match="takes no more"):
            await sink.write(b"c")
        image = await sink.prepare()
    assert await image.read() == b"a" * 400_000 + b"b" * (taken - 400_000)


@pytest.mark.parametrize("how", ["write", "prepare"])
async def test_a_sink_that_failed_is_gone_when_its_error_is(tunables: MakeTunables, policy: Any, how: str) -> None:
    async def fail() -> weakref.ref[penstock.AsyncBodySink]:
        budget = penstock.Budget(files=0)
        async with penstock.AsyncBodySink(tunables(max_body_ram=0), policy=policy, budget=budget) as sink:
            with contextlib.suppress(penstock.BudgetExceeded):
                await sink.write(bytes(400_000))
                # Until what it has begun is over.
                await asyncio.sleep(0.05)
                await (sink.write(b"") if how == "write" else sink.prepare())
            return weakref.ref(sink)

    with uncollected():
        assert (await fail())() is None


async def test_a_budget_out_of_ram_moves_it_to_a_file(tunables: MakeTunables, body: bytes) -> None:
    budget = penstock.Budget(ram="64KiB")
    async with penstock.AsyncBodySink(tunables(max_body_ram="1MiB"), budget=budget) as sink:
        await sink.write(body)
        image = await sink.prepare()
    assert image.state == "file"
    assert await image.read() == body
