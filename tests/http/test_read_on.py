"""Receiving more than the transport hands over: fewer turns of the loop, and nothing else that a caller could see."""

from __future__ import annotations

import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import penstock
import pytest
from penstock.http.connection import Connection

from tests.http.conftest import Storing, at_hand
from tests.http.serving import until
from tests.http.test_tls import serve_tls, trusting

pytestmark = [pytest.mark.asyncio, pytest.mark.skipif(sys.platform != "linux", reason="only Linux reads on")]

BODY = bytes(range(256)) * (40 << 10)
WINDOW = 256 << 10
READING_ON = ("ram", "direct", "permit", "windows")


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How much a transport handed over each time."""
    hands: list[int] = []
    take = Connection.buffer_updated

    def counting(self: Connection, nbytes: int) -> None:
        hands.append(nbytes)
        take(self, nbytes)

    monkeypatch.setattr(Connection, "buffer_updated", counting)
    return hands


@pytest.fixture
def serve_at_once() -> Iterator[Callable[..., str]]:
    """Starts a thread that answers each request on one connection with all of some bytes, as fast as they are taken; it
    closes after the last, by a reset if told to."""
    listeners, threads = [], []

    def start(*answers: bytes, reset: bool = False) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.settimeout(10)

        def answer() -> None:
            peer, _ = listener.accept()
            peer.settimeout(10)
            with peer:
                for data in answers:
                    peer.recv(1 << 16)
                    try:
                        peer.sendall(data)
                    except ConnectionError:
                        return
                if reset:
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        threads.append(threading.Thread(target=answer))
        threads[-1].start()
        listeners.append(listener)
        return f"http://127.0.0.1:{listener.getsockname()[1]}/"

    yield start
    for thread in threads:
        thread.join()
    for listener in listeners:
        listener.close()


def length(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@pytest.mark.parametrize("store", READING_ON)
async def test_a_turn_of_the_loop_takes_several_windows(
    store: str, storing_by: Callable[[str], Storing], serve_at_once: Callable[..., str], hands: list[int]
) -> None:
    url = serve_at_once(length(BODY), length(BODY))
    async with storing_by(store).client() as client:
        for _ in range(2):
            answer = await client.get(url)
            assert await answer.read() == BODY
    # Each was a window at most, and together they were less than all.
    assert max(hands) <= WINDOW
    assert sum(hands) < 2 * len(BODY)


async def test_who_is_slow_does_not_read_on(
    storing_by: Callable[[str], Storing],
    serve_at_once: Callable[..., str],
    hands: list[int],
    slow_disk: Callable[[float], None],
) -> None:
    slow_disk(0.005)
    async with storing_by("direct").client() as client:
        answer = await client.get(serve_at_once(length(BODY)))
        assert await answer.read() == BODY
    # Each hand-over is followed by one window more, as that takes up the time.
    assert sum(hands) > len(BODY) // 4


async def test_a_transport_that_decrypts_hands_over_all(hands: list[int], certificate: Path) -> None:
    async with (
        serve_tls(certificate, length(BODY)) as url,
        penstock.Client(ssl_context=trusting(certificate)) as client,
    ):
        assert await (await client.get(url + "0")).read() == BODY
    assert sum(hands) == len(length(BODY))


@pytest.mark.parametrize("store", READING_ON)
async def test_a_reset_that_only_reading_on_meets_ends_no_body(
    store: str, storing_by: Callable[[str], Storing], serve_at_once: Callable[..., str]
) -> None:
    # Nothing but the connection's end says where this body ends.
    storing = storing_by(store)
    async with storing.client() as client:
        for _ in range(10):
            url = serve_at_once(b"HTTP/1.1 200 OK\r\n\r\n" + BODY, reset=True)
            with pytest.raises(penstock.PenstockError) as raised:
                await client.get(url)
            assert isinstance(raised.value, penstock.ConnectionLost | penstock.Truncated)


@pytest.mark.parametrize("store", READING_ON)
async def test_an_end_that_only_reading_on_meets_ends_the_body(
    store: str, storing_by: Callable[[str], Storing], serve_at_once: Callable[..., str]
) -> None:
    async with storing_by(store).client() as client:
        for _ in range(10):
            answer = await client.get(serve_at_once(b"HTTP/1.1 200 OK\r\n\r\n" + BODY))
            assert await answer.read() == BODY


@pytest.mark.parametrize("store", READING_ON)
async def test_what_comes_behind_a_body_closes_its_connection(
    store: str, storing_by: Callable[[str], Storing], serve_at_once: Callable[..., str]
) -> None:
    async with storing_by(store).client() as client:
        answer = await client.get(serve_at_once(length(BODY) + length(b"of nobody's asking")))
        assert await answer.read() == BODY
        await until(lambda: at_hand(client)["open"] == 0)
