"""Nothing piles up: what can't be written isn't received."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import Callable, Iterator
from typing import Any

import penstock
import pytest

from tests.http.conftest import Storing
from tests.http.serving import chunked, head, response, serve

pytestmark = pytest.mark.asyncio

MIB = 1 << 20


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    gate = threading.Event()
    yield gate
    gate.set()


def unwritten() -> int:
    return int(penstock.stats()["slabs"]["unwritten"])


async def still(value: Callable[[], int]) -> int:
    """What it is once it hasn't changed for a while."""
    last, since = value(), asyncio.get_running_loop().time()
    async with asyncio.timeout(15):
        while asyncio.get_running_loop().time() - since < 0.15:
            await asyncio.sleep(0.01)
            if value() != last:
                last, since = value(), asyncio.get_running_loop().time()
    return last


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("name", ["windows", "permit"])
async def test_a_body_whose_writes_must_wait_is_not_received(
    storing_by: Callable[[str], Storing], gate: threading.Event, name: str, framing: str
) -> None:
    storing = storing_by(name)
    body = bytes(range(256)) * (24 * 4096)
    wire = response(body) if framing == "length" else head("Transfer-Encoding: chunked") + chunked(body, 8192)
    before = penstock.stats()["slabs"]["lent"]
    async with serve([wire]) as server, storing.client(timeout=penstock.Timeouts(idle=0.3)) as client:
        if name == "permit":
            assert storing.policy.semaphore.try_acquire(2)
        blocked = [storing.pool.run(gate.wait, 20) for _ in range(2)]
        asking = asyncio.create_task(client.get(server.url))
        await asyncio.sleep(0)
        sent = await still(lambda: server.sent)
        # The kernel's buffers on both sides, and a few windows here.
        assert sent < len(wire)
        assert unwritten() < 4 * MIB
        assert penstock.stats()["slabs"]["lent"] - before < 8 * MIB
        # That is our fault, not the server's: no deadline passes.
        assert not asking.done()
        gate.set()
        await asyncio.gather(*blocked)
        if name == "permit":
            storing.policy.semaphore.release(2)
        answer = await asking
        assert await answer.read() == body
        assert server.sent == len(wire)
    assert unwritten() == 0


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_with_a_free_permit_a_body_is_written_where_it_is_received(
    storing_by: Callable[[str], Storing], framing: str
) -> None:
    storing = storing_by("permit")
    body = bytes(range(256)) * (4 * 4096)
    wire = response(body) if framing == "length" else head("Transfer-Encoding: chunked") + chunked(body, 8192)
    async with serve([wire]) as server, storing.client() as client:
        answer = await client.get(server.url)
        assert storing.policy.stats()["run"]["count"] > 1
        assert storing.pool.stats()["taken"] == 0
        assert storing.policy.semaphore.stats() == {"permits": 2, "free": 2, "waiting": 0, "waits": 0, "hand_overs": 0}
        assert await answer.read() == body


@pytest.mark.parametrize("work", ["decoding", "a spill"])
async def test_what_would_take_long_is_done_on_the_pool_whatever_permits_are_free(
    storing_by: Callable[[str], Storing], work: str
) -> None:
    storing = storing_by("permit")
    body = bytes(range(256)) * (16 * 4096)
    fields = ["Transfer-Encoding: chunked"] + ["Content-Encoding: gzip"] * (work == "decoding")
    wire = head(*fields) + chunked(gzip.compress(body, 1) if work == "decoding" else body, 65536)
    limits = storing.tunables if work == "decoding" else storing.tunables.replace(max_body_ram="12MiB")
    async with serve([wire]) as server, storing.client(tunables=limits) as client:
        answer = await client.get(server.url)
        assert storing.pool.stats()["taken"] > 0
        assert storing.policy.semaphore.free == 2
        assert (answer.body.state, await answer.read()) == ("file", body)


async def test_a_body_that_gets_no_permit_is_written_once_it_does(storing_by: Callable[[str], Storing]) -> None:
    storing = storing_by("permit")
    semaphore = storing.policy.semaphore
    body = bytes(range(256)) * (4 * 4096)
    async with serve([response(body)]) as server, storing.client() as client:
        async with asyncio.timeout(10):
            assert semaphore.try_acquire(2)
            asking = asyncio.create_task(client.get(server.url))
            while not semaphore.waiting:
                await asyncio.sleep(0.001)
            semaphore.release(2)
            answer = await asking
        assert await answer.read() == body
        assert (semaphore.free, semaphore.stats()["waits"] > 0) == (2, True)


async def test_a_closed_semaphore_fails_the_request_that_needs_a_permit(
    storing_by: Callable[[str], Storing],
) -> None:
    storing = storing_by("permit")
    storing.policy.semaphore.close()
    async with serve([response(bytes(MIB))]) as server, storing.client() as client:
        with pytest.raises(penstock.SemaphoreClosed):
            await client.get(server.url)


async def test_the_unwritten_bytes_of_all_bodies_together_are_bounded(
    storing_by: Callable[[str], Storing], gate: threading.Event
) -> None:
    storing = storing_by("windows")
    count, body = 60, bytes(2 * MIB)
    go = asyncio.Event()
    script: list[Any] = [head(f"Content-Length: {len(body)}"), go, body]
    async with serve(script) as server, storing.client() as client:
        blocked = [storing.pool.run(gate.wait, 20) for _ in range(2)]
        asking = [asyncio.create_task(client.get(server.url)) for _ in range(count)]
        while len(server.requests) < count:
            await asyncio.sleep(0.001)
        go.set()
        await still(lambda: server.sent)
        # The cap of 32 MiB, and one window for each body that came to it.
        assert unwritten() <= 34 * MIB + count * (256 << 10)
        gate.set()
        await asyncio.gather(*blocked)
        for answer in await asyncio.gather(*asking):
            assert len(answer.body) == len(body)
            assert answer.body.state == "file"
    assert unwritten() == 0
