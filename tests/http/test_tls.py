"""TLS: bodies come through windows, whatever the policy, and the same rules hold."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import penstock
import pytest
from penstock.http.connection import Connection
from penstock.http.writer import Writer

from tests.http.conftest import Storing
from tests.http.serving import chunked, head, response, until

pytestmark = pytest.mark.asyncio

BODY = (bytes(i * 11 & 255 for i in range(256)) * 5860)[:1_500_001]


@contextlib.asynccontextmanager
async def serve_tls(certificate: Path, *answers: bytes, close: bool = False) -> AsyncIterator[str]:
    """Answers by the path: the number of the answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    tasks = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        tasks.add(task)
        try:
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(answers[int(request.split(b" ")[1][1:])])
                await writer.drain()
                if close:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(Exception):
                await writer.wait_closed()
            tasks.discard(task)

    server = await asyncio.start_server(converse, "127.0.0.1", 0, ssl=context)
    try:
        yield f"https://localhost:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()
        if tasks:
            await asyncio.wait(tasks, timeout=5)
        await server.wait_closed()


@contextlib.contextmanager
def closing_tls(certificate: Path, parts: Sequence[bytes], *, said: bool) -> Iterator[tuple[str, threading.Event]]:
    """Answers one request in parts, with a rest after each, and closes the connection without waiting for the client;
    with a word that this is the end (close_notify), or without."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    closed = threading.Event()

    def answer(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        peer.settimeout(10)
        with contextlib.suppress(OSError), context.wrap_socket(peer, server_side=True) as tls:
            tls.recv(65536)
            for part in parts:
                tls.sendall(part)
                time.sleep(0.05)
            if said:
                tls.settimeout(0.05)
                tls.unwrap()
        closed.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        answering = threading.Thread(target=answer, args=(listener,))
        answering.start()
        try:
            yield f"https://localhost:{listener.getsockname()[1]}/", closed
        finally:
            answering.join()


def trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate)


async def test_bodies_come_whole_over_one_connection(storing: Storing, certificate: Path) -> None:
    answers = [response(BODY), head("Transfer-Encoding: chunked") + chunked(BODY, 8192), response(b"small")]
    async with serve_tls(certificate, *answers) as url, storing.client(ssl_context=trusting(certificate)) as client:
        for _ in range(2):
            for number, body in enumerate((BODY, BODY, b"small")):
                answer = await client.get(f"{url}{number}")
                assert await answer.read() == body
                assert answer.body.state == storing.state(body)
        figures = client.stats()
        assert (figures["connected"], figures["tls"], figures["tls_bytes"]) == (1, 1, 256 << 10)
        # The socket isn't handed over: what it carries isn't the body.
        assert storing.pool.stats()["drain_threads"] == 0


async def test_many_at_once(storing: Storing, certificate: Path) -> None:
    async with (
        serve_tls(certificate, response(BODY)) as url,
        storing.client(ssl_context=trusting(certificate)) as client,
    ):
        answers = await asyncio.gather(*[client.get(f"{url}0") for _ in range(8)])
        for answer in answers:
            assert await answer.read() == BODY


async def test_a_body_cut_short_is_truncated(storing: Storing, certificate: Path) -> None:
    wire = head(f"Content-Length: {len(BODY) + 1}") + BODY
    async with (
        serve_tls(certificate, wire, close=True) as url,
        storing.client(ssl_context=trusting(certificate)) as client,
    ):
        with pytest.raises(penstock.Truncated) as caught:
            await client.get(f"{url}0")
        assert await caught.value.partial.read() == BODY


async def test_a_body_until_the_end(storing: Storing, certificate: Path) -> None:
    async with (
        serve_tls(certificate, head() + BODY, close=True) as url,
        storing.client(ssl_context=trusting(certificate)) as client,
    ):
        assert await (await client.get(f"{url}0")).read() == BODY


@pytest.mark.parametrize("said", [True, False])
async def test_a_body_until_the_end_is_complete_if_the_server_said_that_it_ends(
    storing: Storing, certificate: Path, said: bool
) -> None:
    with closing_tls(certificate, [head() + BODY], said=said) as (url, _):
        async with storing.client(ssl_context=trusting(certificate)) as client:
            if said:
                assert await (await client.get(url)).read() == BODY
            else:
                with pytest.raises(penstock.Truncated) as caught:
                    await client.get(url)
                assert await caught.value.partial.read() == BODY


@pytest.mark.parametrize("rest", [50_000, 260_000])
@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("framing", ["length", "until the end"])
async def test_a_reader_who_is_behind_gets_all_that_came_before_the_end(
    certificate: Path, framing: str, said: bool, rest: int, caplog: pytest.LogCaptureFixture
) -> None:
    body = BODY[: 530_000 + rest]
    fields = [f"Content-Length: {len(body)}"] if framing == "length" else []
    # With the third it is more than is received ahead; the rest is read by the loop's TLS, which has room for that and
    # the end. It fits into a window, or doesn't.
    parts = [head(*fields) + body[:250_000], body[250_000:500_000], body[500_000:530_000], body[530_000:]]
    with closing_tls(certificate, parts, said=said) as (url, closed):
        async with (
            penstock.Client(ssl_context=trusting(certificate)) as client,
            client.stream("GET", url) as answer,
        ):
            await until(closed.is_set)
            await asyncio.sleep(0.1)
            if framing == "length" or said:
                assert await answer.read() == body
            else:
                with pytest.raises(penstock.Truncated) as caught:
                    await answer.read()
                assert await caught.value.partial.read() == body
    # asyncio's TLS isn't closed while it is ending by itself.
    assert not caplog.records


async def test_a_server_that_wants_a_certificate_is_understood(certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.load_verify_locations(certificate)
    context.verify_mode = ssl.CERT_REQUIRED

    def refuse(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with context.wrap_socket(peer, server_side=True, do_handshake_on_connect=False) as tls:
            tls.setblocking(False)
            refused = False
            while not refused:
                try:
                    tls.do_handshake()
                except ssl.SSLWantReadError:
                    # By TLS 1.3 the client is through before it has been looked at, and asks.
                    time.sleep(0.2)
                except ssl.SSLError:
                    refused = True
            # Closed with something unread it would be reset.
            tls.settimeout(10)
            with contextlib.suppress(OSError):
                while socket.socket.recv(tls, 65536):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        refusing = threading.Thread(target=refuse, args=(listener,))
        refusing.start()
        async with penstock.Client(ssl_context=trusting(certificate)) as client:
            with pytest.raises(penstock.ConnectionLost) as caught:
                await client.get(f"https://localhost:{listener.getsockname()[1]}/")
        refusing.join()
    assert "certificate required" in str(caught.value.__cause__).lower()


async def test_bytes_behind_a_body_are_nobodys(certificate: Path) -> None:
    answers = [response(BODY) + response(b"stolen"), response(b"own")]
    async with (
        serve_tls(certificate, *answers) as url,
        penstock.Client(ssl_context=trusting(certificate)) as client,
    ):
        assert await (await client.get(f"{url}0")).read() == BODY
        assert await (await client.get(f"{url}1")).read() == b"own"
        assert client.stats()["connected"] == 2


async def test_a_certificate_that_nobody_vouches_for_is_refused(certificate: Path) -> None:
    async with serve_tls(certificate, response(b"x")) as url, penstock.Client() as client:
        with pytest.raises(penstock.TLSError) as caught:
            await client.get(f"{url}0")
        assert caught.value.url == f"{url}0"
        assert not caught.value.retryable
        assert client.stats()["open"] == 0


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_by_default_the_systems_trust_counts_and_the_name_does(
    host: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where OpenSSL looks for the system's authorities.
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with serve_tls(certificate, response(b"x")) as url, penstock.Client() as client:
        if host == "localhost":
            assert await (await client.get(f"{url}0")).read() == b"x"
        else:
            with pytest.raises(penstock.TLSError, match="IP address mismatch"):
                await client.get(f"{url}0".replace("localhost", host))


async def test_a_certificate_for_another_name_is_refused(certificate: Path) -> None:
    async with (
        serve_tls(certificate, response(b"x")) as url,
        penstock.Client(ssl_context=trusting(certificate)) as client,
    ):
        with pytest.raises(penstock.TLSError):
            await client.get(f"{url}0".replace("localhost", "127.0.0.1"))


async def test_a_server_without_tls_is_told() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server, penstock.Client() as client:
        with pytest.raises(penstock.ConnectError):
            await client.get(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")


async def test_an_end_amid_the_handshake_is_told() -> None:
    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.transport.abort()

    server = await asyncio.start_server(leave, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with penstock.Client() as client:
        with pytest.raises(penstock.ConnectError, match=r"cannot connect to .*: .*[a-z]") as caught:
            await client.get(url)
    assert caught.value.retryable
    server.close()


async def test_back_pressure_holds_through_tls(storing_by: Callable[[str], Storing], certificate: Path) -> None:
    storing = storing_by("windows")
    body = bytes(12 << 20)
    async with (
        serve_tls(certificate, response(body)) as url,
        storing.client(ssl_context=trusting(certificate), timeout=penstock.Timeouts(idle=0.2)) as client,
    ):
        naps = [penstock._native._nap(storing.pool, 0.6) for _ in range(2)]
        asking = asyncio.create_task(client.get(f"{url}0"))
        while not all(nap.done() for nap in naps):
            await asyncio.sleep(0.02)
            assert penstock.stats()["slabs"]["unwritten"] < 4 << 20
        assert len((await asking).body) == len(body)


async def test_a_connection_cancelled_at_any_turn_leaves_no_socket_to_asyncio(certificate: Path) -> None:
    async with serve_tls(certificate, response(b"x")) as url:
        for turns in range(60):
            async with penstock.Client(ssl_context=trusting(certificate)) as client:
                asking = asyncio.create_task(client.get(f"{url}0"))
                for _ in range(turns):
                    await asyncio.sleep(0)
                asking.cancel()
                await asyncio.wait([asking])
                # It has the descriptor that the other had.
                assert await (await client.get(f"{url}0")).read() == b"x"


@pytest.mark.parametrize("whole", [False, True])
async def test_a_reset_ends_the_sending_of_what_never_waits(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    gone, taken = threading.Event(), 0
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    write = Writer._write

    def refuse(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with context.wrap_socket(peer, server_side=True) as tls:
            tls.recv(10)
            tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.set()

    def count(writer: Writer, data: bytes | memoryview) -> None:
        nonlocal taken
        # The loop stands still on purpose: it is to write before it looks at the socket.
        assert gone.wait(10)
        write(writer, data)
        taken += len(data)

    async def source() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield bytes(1 << 20)

    monkeypatch.setattr(Writer, "_write", count)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        refusing = threading.Thread(target=refuse, args=(listener,))
        refusing.start()
        async with penstock.Client(ssl_context=trusting(certificate)) as client:
            url = f"https://localhost:{listener.getsockname()[1]}/"
            with pytest.raises(penstock.ConnectionLost):
                await client.put(url, content=bytes(64 << 20) if whole else source())
        refusing.join()
    # The loop has heard of it a turn or two after the first MiB.
    assert taken < 8 << 20


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("size", [2, 30_000])
async def test_a_reset_behind_an_answer_loses_none_of_it(
    certificate: Path, size: int, told: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if not told:
        # As asyncio does where the write that fails is one that the protocol does as it is resumed.
        lose = Connection.connection_lost
        monkeypatch.setattr(Connection, "connection_lost", lambda self, _: lose(self, None))
    sending, gone = threading.Event(), threading.Event()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def refuse(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        # What waits for an acknowledgement would go with the connection.
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(peer, server_side=True) as tls:
            tls.recv(10)
            assert sending.wait(10)
            tls.sendall(head(f"Content-Length: {size}", status="413 Content Too Large") + BODY[:size])
            tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.set()

    async def source() -> AsyncIterator[bytes]:
        yield b"x"
        sending.set()
        # The loop stands still on purpose: it is to write before it looks at the socket.
        assert gone.wait(10)
        for _ in range(20_000):
            yield bytes(100)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        refusing = threading.Thread(target=refuse, args=(listener,))
        refusing.start()
        async with penstock.Client(ssl_context=trusting(certificate)) as client:
            answer = await client.post(f"https://localhost:{listener.getsockname()[1]}/", content=source())
            assert (answer.status, await answer.read()) == (413, BODY[:size])
            await until(lambda: client.stats()["open"] == 0)
        refusing.join()
    assert not caplog.records
