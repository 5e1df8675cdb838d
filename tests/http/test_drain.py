"""The hand-over of a socket to the draining worker and back: not a byte lost or stolen, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import gc
import hashlib
from collections.abc import Callable
from typing import Any

import penstock
import pytest

from tests.http.conftest import Storing
from tests.http.serving import CLOSE, HANG, RESET, TURN, Script, chunked, cut, head, response, serve, until

pytestmark = pytest.mark.asyncio

BODY = bytes(i * i >> 3 & 255 for i in range(700_001))


@pytest.fixture
def drained(storing_by: Callable[[str], Storing]) -> Storing:
    return storing_by("drained")


def draining(storing: Storing) -> int:
    return int(storing.pool.stats()["draining"])


async def test_a_connection_is_used_again_after_draining(drained: Storing) -> None:
    scripts: list[Script] = []
    for size in (65_536, 262_144, 262_145, 300_000, 700_001):
        scripts.append([response(BODY[:size])])
        scripts.append([head("Transfer-Encoding: chunked") + chunked(BODY[:size], 8192)])
        scripts.append([head("Transfer-Encoding: chunked"), *cut(chunked(BODY[:size], 50_000), 1000, 60_000)])
    async with serve(*scripts) as server, drained.client() as client:
        for script in scripts:
            answer = await client.get(server.url)
            sent = sum(len(step) for step in script if isinstance(step, bytes))
            assert len(answer.body) <= sent
            assert await answer.read() == BODY[: len(answer.body)]
            assert answer.body.state == "file"
        assert server.connections == 1
        assert drained.pool.stats()["drain_threads"] == 1


async def test_the_hand_over_takes_along_what_came_before_it(drained: Storing) -> None:
    more = asyncio.Event()
    script = [head(f"Content-Length: {len(BODY)}") + BODY[:1000], more, BODY[1000:]]
    async with serve(script) as server, drained.client() as client:
        for _ in range(3):
            asking = asyncio.create_task(client.get(server.url))
            await until(lambda: draining(drained) == 1)
            more.set()
            assert await (await asking).read() == BODY
            await until(lambda: draining(drained) == 0)
            more.clear()
        assert server.connections == 1


@pytest.mark.parametrize("parts", [1, 2, 7])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_bytes_behind_a_drained_body_are_nobodys(drained: Storing, framing: str, parts: int) -> None:
    wire = response(BODY) if framing == "length" else head("Transfer-Encoding: chunked") + chunked(BODY, 8192)
    wire += response(b"stolen")
    step = -(-len(wire) // parts)
    scripts = [cut(wire, *range(step, len(wire), step)), [response(b"own")]]
    async with serve(*scripts) as server, drained.client() as client:
        assert await (await client.get(server.url)).read() == BODY
        assert await (await client.get(server.url)).read() == b"own"
        assert server.connections == 2


async def test_more_bodies_than_workers(drained: Storing) -> None:
    expected = hashlib.sha256(BODY).hexdigest()
    tunables = drained.tunables.replace(digests=("sha256",))
    pieces: list[Any] = [head(f"Content-Length: {len(BODY)}")]
    for start in range(0, len(BODY), 100_000):
        pieces += [BODY[start : start + 100_000], TURN]
    async with serve(pieces) as server, drained.client(tunables=tunables) as client:
        answers = await asyncio.gather(*[client.get(server.url) for _ in range(40)])
        assert {answer.body.digests["sha256"] for answer in answers} == {expected}
        assert await answers[7].read() == BODY
        assert (server.connections, drained.pool.stats()["drain_threads"]) == (40, 1)
        await asyncio.gather(*[client.get(server.url) for _ in range(40)])
        assert server.connections == 40


async def test_as_many_drain_threads_as_the_pool_was_made_with(drained: Storing) -> None:
    async with penstock.DispatchPool(threads=1, drain_threads=3) as pool:
        more = asyncio.Event()
        script = [head(f"Content-Length: {len(BODY)}"), BODY[:100], more, BODY[100:]]
        async with serve(script) as server, drained.client(policy=penstock.Dispatch(pool)) as client:
            asking = [asyncio.create_task(client.get(server.url)) for _ in range(6)]
            await until(lambda: pool.stats()["draining"] == 6)
            assert pool.stats()["drain_threads"] == 3
            more.set()
            for answer in await asyncio.gather(*asking):
                assert len(answer.body) == len(BODY)


@pytest.mark.parametrize("end", [CLOSE, RESET])
async def test_an_end_while_drained_is_told_with_what_came(drained: Storing, end: Any) -> None:
    script = [head(f"Content-Length: {len(BODY) + 1}"), BODY[:1000], 0.05, BODY[1000:], 0.05, end]
    async with serve(script) as server, drained.client() as client:
        with pytest.raises(penstock.Truncated) as caught:
            await client.get(server.url)
        assert await caught.value.partial.read() == BODY
        assert draining(drained) == 0


async def test_a_body_that_grows_too_long_while_drained_keeps_what_fits(drained: Storing) -> None:
    tunables = drained.tunables.replace(max_body=300_000)
    script = [head("Transfer-Encoding: chunked"), chunked(BODY, 5000)]
    async with serve(script) as server, drained.client(tunables=tunables) as client:
        with pytest.raises(penstock.BodyTooLong) as caught:
            await client.get(server.url)
        assert await caught.value.partial.read() == BODY[:300_000]


@pytest.mark.parametrize("stage", ["before a byte of the body", "in the body", "with nothing to come"])
async def test_cancelled_the_worker_lets_go(drained: Storing, stage: str) -> None:
    come: list[Any] = {
        "before a byte of the body": [],
        "in the body": [BODY[:300_000]],
        "with nothing to come": [BODY[:-1]],
    }[stage]
    script = [head(f"Content-Length: {len(BODY)}"), *come, HANG]
    async with serve(script, [response(b"next")]) as server, drained.client() as client:
        asking = asyncio.create_task(client.get(server.url))
        await until(lambda: draining(drained) == 1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await until(lambda: draining(drained) == 0)
        await until(lambda: client.stats()["open"] == 0)
        assert await (await client.get(server.url)).read() == b"next"


async def test_without_drain_threads_the_loop_receives(storing_by: Callable[[str], Storing]) -> None:
    storing = storing_by("windows")
    async with serve([response(BODY)]) as server, storing.client() as client:
        assert await (await client.get(server.url)).read() == BODY
        assert storing.pool.stats()["drain_threads"] == 0


async def test_without_a_descriptor_for_the_worker_the_loop_receives(drained: Storing) -> None:
    # One descriptor in all: the body's file has it, and none is left for the worker's copy of the socket's.
    budget = penstock.Budget(files=1)
    script = [head("Transfer-Encoding: chunked"), chunked(BODY, 5000)]
    async with serve(script) as server, drained.client(budget=budget, timeout=penstock.Timeouts(budget=5)) as client:
        first = await client.get(server.url)
        assert await first.read() == BODY
        assert drained.pool.stats()["drain_threads"] == 0


async def test_a_slow_disk_stalls_no_loop(drained: Storing, slow_disk: Callable[[float], None]) -> None:
    slow_disk(0.05)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    ticker = asyncio.create_task(tick())
    timeout = penstock.Timeouts(idle=0.1)
    async with serve([response(BODY)]) as server, drained.client(timeout=timeout) as client:
        # Several bodies share the worker, and each waits for the others' writes: not the server's fault.
        answers = await asyncio.gather(*[client.get(server.url) for _ in range(4)])
        while_slow = ticks
        ticker.cancel()
        slow_disk(0)
        for answer in answers:
            assert await answer.read() == BODY
    # One after the other there are 12 writes of 50 ms at least. A loop that stood still for each would have ticked once
    # between two, and a few times besides.
    assert while_slow > 100


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_a_loop_that_is_closed_lets_go_of_what_is_drained_from_a_silent_peer(
    drained: Storing, caplog: pytest.LogCaptureFixture
) -> None:
    # Of the task that nobody cancels, asyncio tells.
    caplog.set_level("CRITICAL", logger="asyncio")
    new_event_loop = type(asyncio.get_running_loop())
    silent: Script = [head(f"Content-Length: {len(BODY)}"), BODY[:300_000], HANG]
    async with serve(silent) as server:

        def leave_it_draining() -> None:
            event_loop = new_event_loop()
            event_loop.create_task(drained.client().get(server.url))
            event_loop.run_until_complete(until(lambda: draining(drained) == 1))
            event_loop.close()

        await drained.pool.run(leave_it_draining)
        await until(lambda: draining(drained) == 0)
        # What is left of the client is a cycle.
        gc.collect()
