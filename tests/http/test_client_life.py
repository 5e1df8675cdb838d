"""A client belongs to one loop, and after `aclose` nothing of it is left."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import Any
from unittest import mock

import penstock
import pytest

from tests.http.conftest import NOTHING, Storing, at_hand, lent
from tests.http.serving import HANG, TURN, head, response, serve, until

pytestmark = pytest.mark.asyncio

BODY = bytes(400_000)


def sockets() -> int:
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except OSError:
            continue
    return found


STAGES: dict[str, list[Any]] = {
    "before the head": [HANG],
    "in the head": [b"HTTP/1.1 200 OK\r\nA", HANG],
    "in the body": [head(f"Content-Length: {len(BODY)}"), BODY[:100_000], HANG],
    "at the body's last byte": [head(f"Content-Length: {len(BODY)}"), BODY[:-1], HANG],
}


@pytest.mark.parametrize("stage", STAGES)
async def test_aclose_fails_what_is_in_flight_and_leaves_nothing(storing: Storing, stage: str) -> None:
    before = sockets(), lent(), asyncio.all_tasks()
    async with serve(STAGES[stage]) as server:
        serving = sockets() - before[0]
        client = storing.client()
        asking = [asyncio.create_task(client.get(server.url)) for _ in range(3)]
        await until(lambda: len(server.requests) == 3)
        for _ in range(20):
            await asyncio.sleep(0.001)
        await client.aclose()
        for task in asking:
            with pytest.raises(penstock.ClientClosed):
                await task
        assert at_hand(client) == NOTHING
        await until(lambda: server.closed == 3)
        await until(lambda: sockets() == before[0] + serving)
        await until(lambda: storing.pool.stats()["draining"] == 0)
        await until(lambda: lent() <= before[1])
    assert asyncio.all_tasks() <= before[2]


async def test_aclose_closes_idle_connections_at_once() -> None:
    before = lent()
    async with serve([response(b"x")]) as server:
        client = penstock.Client()
        assert repr(client) == "<Client>"
        await asyncio.gather(*[client.get(server.url) for _ in range(5)])
        open_sockets = sockets()
        await client.aclose()
        assert sockets() == open_sockets - 5
        assert lent() == before
        await client.aclose()
        assert repr(client) == "<Client closed>"


async def test_aclose_ends_the_wait_for_a_connection() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as listener:
        # Accepted by the kernel, answered by nobody; the second request waits for the first one's connection.
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        client = penstock.Client(limits=penstock.Limits(connections=1))
        asking = [asyncio.create_task(client.get(url)) for _ in range(3)]
        await until(lambda: client.stats()["waiting"] == 2)
        await client.aclose()
        for task in asking:
            with pytest.raises(penstock.ClientClosed):
                await task


async def test_aclose_ends_a_connecting_request() -> None:
    with socket.socket() as listener, socket.socket() as one, socket.socket() as two:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for filler in (one, two):
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        client = penstock.Client()
        asking = asyncio.create_task(client.get(f"http://127.0.0.1:{listener.getsockname()[1]}/"))
        await asyncio.sleep(0.05)
        assert not asking.done()
        await client.aclose()
        with pytest.raises(penstock.ClientClosed):
            await asking


async def test_aclose_at_any_turn_of_a_connecting_request() -> None:
    async with serve([response(b"x")]) as server:
        for turns in range(12):
            client = penstock.Client()
            asking = asyncio.create_task(client.get(server.url))
            for _ in range(turns):
                await asyncio.sleep(0)
            async with asyncio.timeout(5):
                await client.aclose()
                with contextlib.suppress(penstock.ClientClosed):
                    await asking
            assert client.stats()["open"] == 0
        await until(lambda: server.closed == server.connections)


async def test_aclose_does_not_wait_for_a_busy_pool(storing_by: Callable[[str], Storing]) -> None:
    storing = storing_by("windows")
    naps = [penstock._native._nap(storing.pool, 0.5) for _ in range(2)]
    async with serve(STAGES["in the body"], [head("Content-Length: 9"), b"x", TURN, HANG]) as server:
        client = storing.client(timeout=penstock.Timeouts(idle=0.1))
        asking = asyncio.create_task(client.get(server.url))
        await until(lambda: len(server.requests) == 1)
        await asyncio.sleep(0.01)
        await client.aclose()
        with pytest.raises(penstock.ClientClosed):
            await asking
        assert not any(nap.done() for nap in naps)
    for nap in naps:
        await nap


async def test_aclose_lets_what_is_in_flight_end_if_it_may() -> None:
    limits = penstock.Limits(connections=2)
    async with serve([0.05, response(BODY)]) as server:
        client = penstock.Client(limits=limits)
        asking = [asyncio.create_task(client.get(server.url)) for _ in range(4)]
        await until(lambda: len(server.requests) == 2)
        closing = asyncio.create_task(client.aclose(drain=10))
        await asyncio.sleep(0)
        with pytest.raises(penstock.ClientClosed, match="is being closed"):
            await client.get(server.url)
        await closing
        for task in asking:
            assert len((await task).body) == len(BODY)
        assert at_hand(client) == NOTHING


@pytest.mark.parametrize("cancelled", [False, True])
async def test_aclose_ends_what_has_not_ended_in_time(cancelled: bool) -> None:
    async with serve([HANG]) as server:
        client = penstock.Client()
        asking = asyncio.create_task(client.get(server.url))
        await until(lambda: len(server.requests) == 1)
        closing = asyncio.create_task(client.aclose(drain=0.1 if not cancelled else 10))
        if cancelled:
            await asyncio.sleep(0.01)
            closing.cancel()
        await asyncio.wait([closing])
        assert closing.cancelled() == cancelled
        with pytest.raises(penstock.ClientClosed):
            await asking
        await client.aclose()
        assert at_hand(client) == NOTHING


async def test_all_who_let_it_drain_end_when_it_has() -> None:
    answer = asyncio.Event()
    async with serve([answer, response(b"ok")]) as server:
        client = penstock.Client()
        asking = asyncio.create_task(client.get(server.url))
        await until(lambda: len(server.requests) == 1)
        closing = [asyncio.create_task(client.aclose(drain=30)) for _ in range(3)]
        await asyncio.sleep(0)
        answer.set()
        async with asyncio.timeout(5):
            await asyncio.gather(*closing)
        assert (await asking).status == 200
        assert at_hand(client) == NOTHING


async def _stream(client: penstock.Client, url: str) -> None:
    async with client.stream("GET", url):
        pass


async def _get(client: penstock.Client, url: str) -> None:
    await client.get(url)


async def _step(asking: Coroutine[Any, Any, object], there: Callable[[], object]) -> None:
    """Has a coroutine go on, as a task would, until it is there and waits."""
    waits_for: Any = None
    while not there():
        if waits_for is None or waits_for.done():
            waits_for = asking.send(None)
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("ask", [_get, _stream])
async def test_a_coroutine_that_is_closed_while_it_waits_leaves_nothing(ask: Callable[..., Any]) -> None:
    async with serve([HANG]) as server, penstock.Client() as client:
        asking = ask(client, server.url)
        await _step(asking, lambda: server.requests)
        asking.close()
        assert (client.stats()["active"], client.stats()["failed"]) == (0, 1)
        await until(lambda: at_hand(client) == NOTHING)


async def test_a_coroutine_that_is_closed_while_it_reads_a_stream_leaves_nothing() -> None:
    begun: list[int] = []
    failed: list[object] = []

    async def read(client: penstock.Client, url: str) -> None:
        async with client.stream("GET", url) as answer:
            begun.append(answer.status)
            await answer.read()

    hooks = penstock.Hooks(failed=lambda *told: failed.append(told))
    async with (
        serve([head("Content-Length: 100"), b"part", HANG]) as server,
        penstock.Client(hooks=hooks) as client,
    ):
        reading = read(client, server.url)
        await _step(reading, lambda: begun)
        reading.close()
        assert (client.stats()["active"], client.stats()["failed"]) == (0, 1)
        await until(lambda: at_hand(client) == NOTHING)
    assert failed == []


async def test_what_stream_gives_is_entered_once() -> None:
    async with serve([response(b"x")]) as server, penstock.Client() as client:
        streamed = client.stream("GET", server.url)
        async with streamed as answer:
            assert await answer.read() == b"x"
        with pytest.raises(RuntimeError, match="entered once"):
            async with streamed:
                pass


@pytest.mark.parametrize("drain", [0.05, None])
async def test_whoever_closes_ends_the_wait_of_those_who_let_it_drain(drain: float | None) -> None:
    async with serve([head("Content-Length: 1"), HANG]) as server:
        client = penstock.Client()
        async with client.stream("GET", server.url):
            first = asyncio.create_task(client.aclose(drain=30))
            await asyncio.sleep(0)
            async with asyncio.timeout(5):
                await client.aclose(drain=drain)
                await first
        assert at_hand(client) == NOTHING


@pytest.mark.parametrize("drain", ["5", True, -1, float("nan")])
async def test_aclose_that_is_told_no_seconds_ends_nothing(drain: Any) -> None:
    answer = asyncio.Event()
    async with serve([answer, response(b"ok")]) as server, penstock.Client() as client:
        asking = asyncio.create_task(client.get(server.url))
        await until(lambda: len(server.requests) == 1)
        with pytest.raises((TypeError, ValueError), match=f"^drain={drain!r}: "):
            await client.aclose(drain=drain)
        answer.set()
        assert (await asking).status == 200


async def test_aclose_with_nothing_in_flight_does_not_wait() -> None:
    async with serve([response(b"x")]) as server, penstock.Client() as client:
        await client.get(server.url)
        async with asyncio.timeout(1):
            await client.aclose(drain=10)


async def test_a_closed_client_says_so() -> None:
    client = penstock.Client()
    await client.aclose()
    with pytest.raises(penstock.ClientClosed, match="is closed"):
        await client.get("http://127.0.0.1:1/")
    with pytest.raises(penstock.ClientClosed):
        async with client:
            pass


async def test_a_client_of_another_loop_says_so() -> None:
    def elsewhere() -> None:
        async def ask() -> None:
            await client.get("http://127.0.0.1:1/")

        asyncio.run(ask())

    async with penstock.Client() as client:
        with pytest.raises(penstock.ClientClosed, match="another event loop"):
            await asyncio.to_thread(elsewhere)


async def test_a_client_is_closed_by_its_own_loop_only() -> None:
    def elsewhere() -> None:
        async def close() -> None:
            async with asyncio.timeout(5):
                await client.aclose()

        asyncio.run(close())

    async with serve([response(b"x")]) as server:
        client = penstock.Client()
        # Nobody's yet.
        await asyncio.to_thread(elsewhere)
        client = penstock.Client()
        await client.get(server.url)
        with pytest.raises(penstock.ClientClosed, match="close it there"):
            await asyncio.to_thread(elsewhere)
        await client.get(server.url)
        assert server.connections == 1
        await client.aclose()
        # Once more does no harm, wherever.
        await asyncio.to_thread(elsewhere)


@pytest.mark.parametrize("method", ["get", "head", "options", "delete", "post", "put", "patch"])
async def test_a_method_is_an_asynchronous_function_to_doubles_and_to_who_asks(method: str) -> None:
    # As libraries ask that repeat a call, or run it on a thread if it isn't.
    asks = inspect.iscoroutinefunction if sys.version_info >= (3, 12) else asyncio.iscoroutinefunction
    assert asks(getattr(penstock.Client, method))
    double = mock.AsyncMock(spec=penstock.Client)
    getattr(double, method).return_value = answer = mock.AsyncMock(spec=penstock.Response)
    answer.read.return_value = b"body"
    assert await (await getattr(double, method)("http://a/")).read() == b"body"


async def test_a_forgotten_client_warns() -> None:
    async with serve([response(b"x")]) as server:
        client = penstock.Client()
        await client.get(server.url)
        with pytest.warns(ResourceWarning, match="was not closed"):
            client.__del__()
        await client.aclose()


async def test_bodies_stay_good_after_the_client(storing: Storing) -> None:
    async with serve([response(BODY)]) as server, storing.client() as client:
        answer = await client.get(server.url)
    assert await answer.read() == BODY
