"""Which connections serve another request, and which are closed."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import select
import socket
import weakref
from typing import Any

import penstock
import pytest

from tests.http.conftest import NOTHING, Storing, at_hand
from tests.http.serving import CLOSE, TURN, Script, Server, chunked, head, response, serve, until

pytestmark = pytest.mark.asyncio

BODY = bytes(range(251)) * 1200


async def test_one_connection_serves_requests_in_turn(storing: Storing) -> None:
    scripts: list[Script] = [
        [response(BODY)],
        [head("Transfer-Encoding: chunked") + chunked(BODY, 8192)],
        [response(b"")],
        [head(status="204 No Content")],
        [response(b"x", "Connection: keep-alive", version="HTTP/1.0")],
    ]
    async with serve(*scripts) as server, storing.client() as client:
        for expected in (BODY, BODY, b"", b"", b"x"):
            assert await (await client.get(server.url)).read() == expected
        assert server.connections == 1
        assert at_hand(client) == NOTHING | {"open": 1, "idle": 1}
        figures = client.stats()
        assert (figures["requests"], figures["connected"], figures["reused"]) == (5, 1, 4)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_connection_keeps_nothing_of_the_contexts_of_its_requests(storing: Storing, streamed: bool) -> None:
    span: contextvars.ContextVar[Any] = contextvars.ContextVar("span")

    class Span:
        pass

    async def ask(url: str) -> weakref.ref[Span]:
        own = Span()
        span.set(own)
        if streamed:
            async with client.stream("GET", url) as response:
                async for _ in response.stream():
                    await asyncio.sleep(0)
        else:
            await client.get(url)
        return weakref.ref(own)

    # A timer that is cancelled stays with asyncio's loop until it would have been due.
    patient = penstock.Timeouts(connect=None)
    async with serve([response(bytes(3_000_000))]) as server, storing.client(timeout=patient) as client:
        spans = [await asyncio.create_task(ask(server.url)) for _ in range(3)]
        await until(lambda: gc.collect() >= 0 and not any(own() for own in spans))
        assert (server.connections, client.stats()["idle"]) == (1, 1)


async def test_requests_at_the_same_time_have_a_connection_each(storing: Storing) -> None:
    async with serve([response(BODY)]) as server, storing.client() as client:
        answers = await asyncio.gather(*[client.get(server.url) for _ in range(20)])
        for answer in answers:
            assert await answer.read() == BODY
        assert server.connections == 20
        assert client.stats()["idle"] == 20


ENDS: dict[str, tuple[bytes, list[Any]]] = {
    "Connection: close": (response(BODY, "Connection: close"), []),
    "HTTP/1.0": (response(BODY, version="HTTP/1.0"), []),
    "until the end": (head() + BODY, [CLOSE]),
    "bytes behind it": (response(BODY) + b"HTTP/1.1 200 OK\r\n", []),
    "a whole response behind it": (response(BODY) + response(b"stolen"), []),
    "a response behind chunks": (
        head("Transfer-Encoding: chunked") + chunked(BODY, 8192) + response(b"stolen"),
        [],
    ),
    "the end behind it": (response(BODY), [CLOSE]),
}


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("parts", [1, 2])
async def test_a_connection_that_cannot_be_used_again_is_closed_and_another_made(
    storing: Storing, how: str, parts: int
) -> None:
    wire, end = ENDS[how]
    half = len(wire) // parts
    first: list[Any] = [*([wire[:half], TURN] if parts > 1 else []), wire[half:] if parts > 1 else wire, *end]
    async with serve(first, [response(b"second")]) as server, storing.client() as client:
        assert await (await client.get(server.url)).read() == BODY
        assert await (await client.get(server.url)).read() == b"second"
        assert server.connections == 2
        await until(lambda: server.closed == 1)
        assert client.stats()["open"] == 1


async def test_bytes_on_an_idle_connection_close_it() -> None:
    late = asyncio.Event()
    script: Script = [response(b"first"), late, response(b"stolen")]
    async with serve(script, [response(b"second")]) as server, penstock.Client() as client:
        assert await (await client.get(server.url)).read() == b"first"
        assert client.stats()["idle"] == 1
        late.set()
        await until(lambda: client.stats()["open"] == 0)
        assert client.stats()["idle"] == 0
        await until(lambda: server.closed == 1)
        assert await (await client.get(server.url)).read() == b"second"


def say(server: Server, client: penstock.Client, what: bytes) -> None:
    """Sends something on the only connection, or with nothing ends it. The loop doesn't turn meanwhile: it has heard
    nothing of what lies in the client's socket then."""
    [peer], [connection] = server.peers, client._supply.pool._open
    if what:
        peer.sendall(what)
    else:
        peer.shutdown(socket.SHUT_WR)
    assert select.select([connection._fd], [], [], 10)[0]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("what", [response(b"stolen"), b""], ids=["a response", "the end"])
async def test_what_came_since_the_loop_looked_closes_an_idle_connection_that_is_asked_for(
    method: str, what: bytes
) -> None:
    async with serve([response(b"first")], [response(b"second")]) as server, penstock.Client() as client:
        await client.get(server.url)
        say(server, client, what)
        assert await (await client.request(method, server.url)).read() == b"second"
        assert (server.connections, len(server.requests), client.stats()["retried"]) == (2, 2, 0)


@pytest.mark.parametrize("limits", [penstock.Limits(connections=1), penstock.Limits(per_host=1)], ids=["all", "host"])
@pytest.mark.parametrize("what", [response(b"stolen"), b""], ids=["a response", "the end"])
async def test_what_comes_before_a_waiter_wakes_is_no_answer_for_it(limits: penstock.Limits, what: bytes) -> None:
    go = asyncio.Event()

    async def first(server: Server, client: penstock.Client) -> None:
        await client.get(f"{server.url}0")
        # The first of those who wait has been given the connection, and hasn't woken yet.
        assert at_hand(client) == NOTHING | {"active": 3, "waiting": 3, "open": 1}
        say(server, client, what)

    scripts: list[Script] = [[go, response(b"first")], [response(b"second")]]
    async with serve(*scripts) as server, penstock.Client(limits=limits) as client:
        async with asyncio.TaskGroup() as group:
            group.create_task(first(server, client))
            await until(lambda: len(server.requests) == 1)
            waiting = [group.create_task(client.post(f"{server.url}{number}")) for number in (1, 2, 3)]
            await until(lambda: client.stats()["waiting"] == 3)
            go.set()
        assert [await task.result().read() for task in waiting] == [b"second"] * 3
        assert [int(request.split(b" ")[1][1:]) for request in server.requests] == [0, 1, 2, 3]
        assert (server.connections, client.stats()["retried"]) == (2, 0)


async def test_an_idle_connection_that_the_server_closes_goes_unnoticed() -> None:
    async with serve([response(b"first"), CLOSE], [response(b"second")]) as server, penstock.Client() as client:
        assert await (await client.get(server.url)).read() == b"first"
        await until(lambda: client.stats()["open"] == 0)
        assert await (await client.get(server.url)).read() == b"second"
        assert len(server.requests) == 2


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_a_request_on_a_stale_connection_is_asked_once_more_if_that_is_safe(method: str) -> None:
    # The server takes the request and closes without an answer, as one does whose own idle timeout has just passed.
    scripts: list[Script] = [[response(b"")], [CLOSE], [head("Content-Length: 0")]]
    async with serve(*scripts) as server, penstock.Client() as client:
        await client.get(server.url)
        if method == "POST":
            with pytest.raises(penstock.ConnectionLost):
                await client.request(method, server.url)
            assert len(server.requests) == 2
        else:
            assert (await client.request(method, server.url)).status == 200
            assert (len(server.requests), server.connections) == (3, 2)


async def test_it_is_asked_no_more_than_once_more() -> None:
    async with serve(*[[response(b"")]] * 3, [CLOSE]) as server, penstock.Client() as client:
        await asyncio.gather(*[client.get(server.url) for _ in range(3)])
        assert client.stats()["idle"] == 3
        with pytest.raises(penstock.ConnectionLost):
            await client.get(server.url)
        assert len(server.requests) == 3 + 2


async def test_it_is_not_asked_again_once_a_byte_came() -> None:
    async with serve([response(b"")], [b"H", TURN, CLOSE]) as server, penstock.Client() as client:
        await client.get(server.url)
        with pytest.raises(penstock.ConnectionLost):
            await client.get(server.url)
        assert len(server.requests) == 2


async def test_an_unused_connection_is_closed_when_its_time_is_over() -> None:
    limits = penstock.Limits(idle_seconds=0.05)
    async with serve([response(b"")]) as server, penstock.Client(limits=limits) as client:
        await asyncio.gather(*[client.get(server.url) for _ in range(3)])
        assert client.stats()["idle"] == 3
        await until(lambda: server.closed == 3)
        assert at_hand(client) == NOTHING
        assert client.stats()["aged"] == 3
        await client.get(server.url)


async def test_no_more_connections_than_the_limit_and_those_who_wait_go_in_turn() -> None:
    limits = penstock.Limits(connections=2)
    done: list[int] = []

    async def ask(client: penstock.Client, server: Server, number: int) -> None:
        await client.get(f"{server.url}{number}")
        done.append(number)

    async with serve([TURN, response(b"")]) as server, penstock.Client(limits=limits) as client:
        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(ask(client, server, number))
            await asyncio.sleep(0)
            await until(lambda: client.stats()["waiting"] == 18 or bool(done))
        assert server.connections == 2
        asked = [int(request.split(b" ")[1][1:]) for request in server.requests]
        # The first two connect meanwhile, and one of them may take its time.
        assert sorted(asked) == list(range(20))
        assert [number for number in asked if number > 1] == list(range(2, 20))


async def test_an_idle_connection_gives_way_to_one_to_another_origin() -> None:
    limits = penstock.Limits(connections=1)
    async with serve([response(b"1")]) as one, serve([response(b"2")]) as two, penstock.Client(limits=limits) as client:
        for _ in range(3):
            assert await (await client.get(one.url)).read() == b"1"
            assert await (await client.get(two.url)).read() == b"2"
        assert client.stats()["open"] == 1
        assert (one.connections, two.connections) == (3, 3)


@pytest.mark.parametrize("option", ["close", "Keep-Alive, Close", " close ,x"])
@pytest.mark.parametrize("whose", ["the request's", "the client's"])
async def test_a_connection_that_was_asked_to_be_closed_is_not_used_again(option: str, whose: str) -> None:
    headers = {"Connection": option}
    own, shared = (headers, None) if whose == "the request's" else (None, headers)
    async with serve([response(b"a")], [response(b"b")]) as server, penstock.Client(headers=shared) as client:
        await client.get(server.url, headers=own)
        assert client.stats()["idle"] == 0
        await client.get(server.url)
        assert server.connections == 2


async def test_a_connection_that_was_asked_to_be_kept_is_used_again() -> None:
    async with serve([response(b"ok")]) as server, penstock.Client() as client:
        for option in ("keep-alive", "closed", ""):
            await client.get(server.url, headers={"Connection": option})
        assert server.connections == 1


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("reused", [False, True])
async def test_a_request_that_cannot_be_begun_gives_its_connection_back(
    monkeypatch: pytest.MonkeyPatch, streamed: bool, reused: bool
) -> None:
    def fail(*args: object) -> None:
        raise ZeroDivisionError

    # Nothing else is to end it.
    timeout = penstock.Timeouts(first_byte=None, idle=None, write=None, min_rate=None)
    async with serve([response(b"ok")]) as server, penstock.Client(timeout=timeout) as client:
        if reused:
            await client.get(server.url)
        with monkeypatch.context() as broken:
            broken.setattr("penstock.http.watch.Watch.begin", fail)
            with pytest.raises(ZeroDivisionError):
                await (client.stream("GET", server.url).__aenter__() if streamed else client.get(server.url))
        await until(lambda: client.stats()["open"] == 0)
        assert (await client.get(server.url)).status == 200
        assert at_hand(client) == NOTHING | {"open": 1, "idle": 1}
