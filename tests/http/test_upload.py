"""What requests send: every kind of body, whole and framed, however slowly the peer takes it."""

from __future__ import annotations

import asyncio
import email.parser
import email.policy
import json
import os
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock.http.writer import Writer

from tests.http.conftest import Storing, lent
from tests.http.serving import BODY, CLOSE, HANG, RESET, TURN, UNREAD, head, response, serve, until

pytestmark = pytest.mark.asyncio

LARGE = (bytes(i * 17 >> 3 & 255 for i in range(2048)) * 2442)[:5_000_001]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that waits for a server's word however busy the machine is."""
    monkeypatch.setattr("penstock.http.connection.CONTINUE", 20)


def fields(request: bytes) -> dict[str, str]:
    lines = request.decode("latin-1").split("\r\n")[1:]
    return dict(line.lower().split(": ", 1) for line in lines)


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        await asyncio.sleep(0)
        yield part


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete", "get", "options"])
async def test_each_method_sends_a_body_with_its_length(method: str) -> None:
    async with serve([response(b"ok")]) as server, penstock.Client() as client:
        answer = await getattr(client, method)(server.url, content=b"body")
        assert answer.status == 200
        assert server.requests[0].startswith(method.upper().encode() + b" / HTTP/1.1\r\n")
        assert (fields(server.requests[0])["content-length"], server.bodies) == ("4", [b"body"])


@pytest.mark.parametrize(("method", "length"), [("post", "0"), ("put", "0"), ("get", None), ("delete", None)])
async def test_no_body_is_said_where_one_is_usual(method: str, length: str | None) -> None:
    async with serve([response(b"ok")]) as server, penstock.Client() as client:
        await getattr(client, method)(server.url)
        assert fields(server.requests[0]).get("content-length") == length


@pytest.mark.parametrize("method", ["post", "put", "patch", "get"])
async def test_a_length_of_nothing_that_is_given_is_said_once(method: str) -> None:
    async with serve([response(b"ok")]) as server, penstock.Client() as client:
        await getattr(client, method)(server.url, headers={"Content-Length": "0"})
        assert server.requests[0].lower().count(b"content-length: 0") == 1


CONTENTS: dict[str, tuple[dict[str, Any], bytes, str | None]] = {
    "bytes": ({"content": b"\x00\xff"}, b"\x00\xff", None),
    "no bytes": ({"content": b""}, b"", None),
    "a bytearray": ({"content": bytearray(b"abc")}, b"abc", None),
    "a view": ({"content": memoryview(b"abcd")[1:3]}, b"bc", None),
    "text": ({"content": "grün"}, "grün".encode(), "text/plain; charset=utf-8"),
    "json": ({"json": {"a": [1, None, "ü"]}}, '{"a":[1,null,"ü"]}'.encode(), "application/json"),
    "a form": ({"form": {"a": "1 2", "b": ["x", "y"]}}, b"a=1+2&b=x&b=y", "application/x-www-form-urlencoded"),
    "pairs": ({"form": [("a", 1), ("a", 2)]}, b"a=1&a=2", "application/x-www-form-urlencoded"),
    "another type": ({"json": 1, "headers": {"Content-Type": "application/x"}}, b"1", "application/x"),
}


@pytest.mark.parametrize("what", CONTENTS)
async def test_kinds_of_content(what: str) -> None:
    options, body, kind = CONTENTS[what]
    async with serve([response(b"ok")]) as server, penstock.Client() as client:
        await client.post(server.url, **options)
        sent = fields(server.requests[0])
        assert server.bodies == [body]
        assert (sent["content-length"], sent.get("content-type")) == (str(len(body)), kind)


async def test_images_and_files_are_sent_from_where_they_are(storing: Storing, tmp_path: Path) -> None:
    path = tmp_path / "body"
    path.write_bytes(LARGE)
    in_file = penstock.BodyImage.from_path(path, offset=5, trusted=True)
    contents: list[tuple[Any, bytes]] = [
        (LARGE, LARGE),
        (in_file, LARGE[5:]),
        (await in_file.to_mmap(), LARGE[5:]),
        (await in_file.to_ram(), LARGE[5:]),
        (path, LARGE),
        (await penstock.collect(pieces(LARGE, LARGE), storing.tunables), LARGE + LARGE),
        (penstock.BodyImage.from_bytes(b""), b""),
    ]
    async with serve([response(b"ok")]) as server, storing.client() as client:
        for content, body in contents:
            assert (await client.put(server.url, content=content)).status == 200
            assert server.bodies.pop() == body
            assert fields(server.requests[-1])["content-length"] == str(len(body))
        assert server.connections == 1


async def test_pieces_go_in_chunks_as_they_come() -> None:
    async with serve([response(b"ok")]) as server, penstock.Client() as client:
        await client.post(server.url, content=pieces(b"a", b"", b"bcd", LARGE))
        assert server.bodies == [b"abcd" + LARGE]
        sent = fields(server.requests[0])
        assert sent["transfer-encoding"] == "chunked"
        assert "content-length" not in sent
        # Nothing of it is left on the connection.
        await client.get(server.url)
        assert server.connections == 1


async def test_a_body_does_not_wait_for_the_peer_to_acknowledge_its_head(tmp_path: Path) -> None:
    path = tmp_path / "body"
    path.write_bytes(b"abcd")
    contents: list[Callable[[], Any]] = [lambda: pieces(b"ab", b"cd"), lambda: penstock.BodyImage.from_path(path)]
    async with serve([response(b"ok")]) as server, penstock.Client() as client:
        for content in contents:
            took = []
            for _ in range(5):
                began = time.perf_counter()
                await client.post(server.url, content=content())
                took.append(time.perf_counter() - began)
            # Linux puts it off for 40 ms, unless there is something to send.
            assert min(took) < 0.03
        assert server.bodies == [b"abcd"] * 10


async def test_pieces_of_a_known_length_go_without_chunks() -> None:
    async with serve([response(b"ok")]) as server, penstock.Client() as client:
        await client.post(server.url, content=pieces(b"ab", b"cd"), headers={"Content-Length": "4"})
        assert server.bodies == [b"abcd"]
        assert "transfer-encoding" not in fields(server.requests[0])
        await client.get(server.url)
        assert server.connections == 1


@pytest.mark.parametrize("length", [3, 5])
async def test_pieces_of_another_length_than_said_are_an_error(length: int) -> None:
    async with serve([response(b"ok")]) as server, penstock.Client() as client:
        with pytest.raises(ValueError, match=f"{length}"):
            await client.post(server.url, content=pieces(b"ab", b"cd"), headers={"content-length": str(length)})
        await until(lambda: client.stats()["open"] == 0)


# A source may lose a connection of its own.
@pytest.mark.parametrize("error", [ZeroDivisionError, ConnectionResetError, penstock.ConnectionLost])
async def test_what_the_pieces_raise_is_raised_and_they_are_closed(error: type[Exception]) -> None:
    closed = []

    async def failing() -> AsyncIterator[bytes]:
        try:
            yield b"abc"
            raise error("here")
        finally:
            closed.append(True)

    async with serve([response(b"ok")]) as server, penstock.Client() as client:
        async with asyncio.timeout(5):
            with pytest.raises(error, match="here"):
                await client.post(server.url, content=failing())
        assert closed == [True]
        await until(lambda: client.stats()["open"] == 0)
        assert (await client.get(server.url)).status == 200


@pytest.mark.parametrize("recorded", [False, True])
async def test_a_piece_that_is_not_bytes_is_told_of(recorded: bool) -> None:
    async def pieces() -> AsyncIterator[Any]:
        yield b"abc"
        yield "text"

    async with serve([response(b"ok")]) as server, penstock.Client() as client:
        ask = client.record if recorded else client.request
        with pytest.raises(TypeError, match="content= gave a piece that is str: each is bytes"):
            await ask("POST", server.url, content=pieces())


async def test_trace_has_no_content() -> None:
    async with serve([response(b"ok")]) as server, penstock.Client() as client:
        with pytest.raises(ValueError, match="'TRACE': is sent without content"):
            await client.request("TRACE", server.url, content=b"x")
        assert (await client.request("TRACE", server.url)).status == 200
    assert b"content-length" not in server.requests[0]


async def test_an_error_of_a_request_that_the_pieces_come_from_is_about_that_one() -> None:
    async with serve([CLOSE]) as gone, serve([response(b"ok")]) as server, penstock.Client() as client:

        async def relayed() -> AsyncIterator[bytes]:
            yield b"first"
            yield await (await client.get(gone.url)).read()

        with pytest.raises(penstock.ConnectionLost) as caught:
            await client.post(server.url, content=relayed())
        assert (caught.value.request, caught.value.url) == ("GET", gone.url)


async def test_pieces_that_were_cancelled_fail_their_request() -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b"first"
        # As who awaits a task that was cancelled.
        raise asyncio.CancelledError

    async with serve([UNREAD, 0.05, response(b"ok"), HANG]) as server, penstock.Client() as client:
        with pytest.raises(penstock.RequestError, match="content= was cancelled"):
            await client.post(server.url, content=source())
        # The next request would be taken for the rest of this one.
        await until(lambda: client.stats()["open"] == 0)


async def test_a_form_with_files_is_what_a_parser_reads(storing: Storing, tmp_path: Path) -> None:
    path = tmp_path / 'na"me.txt'
    path.write_bytes(b"from a path")
    image = await penstock.collect(pieces(LARGE), storing.tunables)
    files: dict[str, Any] = {
        "text": "grün",
        "path": path,
        "image": ("image.bin", image, "image/x"),
        "bytes": ("b", b"\r\n--x"),
        "plain": (None, b"1", "application/json"),
        "nameless": b"n",
    }
    async with serve([response(b"ok")]) as server, storing.client() as client:
        await client.post(server.url, files=files)
        sent, body = fields(server.requests[0]), server.bodies[0]
        assert int(sent["content-length"]) == len(body)
        # The field's case matters here: the boundary is in it.
        kind = next(line for line in server.requests[0].split(b"\r\n") if line.lower().startswith(b"content-type"))
        message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(kind + b"\r\n\r\n" + body)
        found = {}
        for part in message.iter_parts():
            name = part.get_param("name", header="content-disposition")
            found[name] = part.get_filename(), part.get("content-type"), part.get_payload(decode=True)
        assert found == {
            "text": (None, None, "grün".encode()),
            "path": ("na%22me.txt", "application/octet-stream", b"from a path"),
            "image": ("image.bin", "image/x", LARGE),
            "bytes": ("b", "application/octet-stream", b"\r\n--x"),
            "plain": (None, "application/json", b"1"),
            "nameless": ("file", "application/octet-stream", b"n"),
        }


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "two bodies": ({"content": b"", "json": 1}, "content and json: a request has one body"),
    "a list": ({"content": [b"x"]}, "content=list"),
    "a number in a form": ({"files": {"a": 1}}, r"files\['a'\]=int"),
    "a list in a form": (
        {"files": {"a": [b"x", b"y"]}},
        r"files\['a'\]=list: .*files=\[\(name, one\), \(name, another\)\]",
    ),
    "a part's headers": ({"files": {"a": ("n", b"x", "text/plain", {"X-Own": "1"})}}, r"files\['a'\]: a tuple of 4"),
    "a part's type": ({"files": {"a": ("n", b"x", "text/plain\0")}}, r"files\['a'\]: .* isn't printable ASCII"),
    "a part's name alone": ({"files": {"a": ("n",)}}, r"files\['a'\]: a tuple of 1"),
    "a length that is wrong": ({"content": b"abc", "headers": {"content-length": "4"}}, "for a body of 3 bytes"),
    "a length that is none": ({"content": pieces(), "headers": {"content-length": "+4"}}, "not a number"),
    "a framing": ({"headers": {"Transfer-Encoding": "chunked"}}, "transfer-encoding"),
    "a line in a header": ({"headers": {"a": "b\r\nc: d"}}, "line break"),
    "a type without the boundary": (
        {"files": {"a": b""}, "headers": {"Content-Type": "multipart/form-data"}},
        "content-type follows from files",
    ),
    "a file's name in bytes of its own": ({"files": {"a": Path("\udce9.txt")}}, r"the name '\\udce9\.txt' isn't UTF-8"),
    "a line in a type": ({"files": {"a": ("a", b"", "x\r\ny")}}, "printable ASCII"),
    "not a number": ({"json": float("nan")}, "JSON"),
    "an option that isn't": ({"contents": b""}, "there is no option contents"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_cannot_be_sent_is_refused_before_anything_is_sent(what: str) -> None:
    options, message = REFUSED[what]
    async with serve([response(b"ok")]) as server, penstock.Client() as client:
        with pytest.raises((TypeError, ValueError), match=message):
            await client.post(server.url, **options)
        assert server.connections == 0
        assert client.stats()["active"] == 0


async def test_a_peer_that_takes_nothing_is_waited_for_in_bounded_memory_then_given_up(storing: Storing) -> None:
    given = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal given
        while True:
            given += 100_000
            yield bytes(100_000)

    timeout = penstock.Timeouts(write=0.3)
    before = lent()
    async with serve([UNREAD, 5.0]) as server, storing.client(timeout=timeout) as client:
        with pytest.raises(penstock.WriteTimeout, match=r"Timeouts\.write") as caught:
            await client.post(server.url, content=endless())
        assert given < 12 << 20
        assert caught.value.retryable
        assert caught.value.elapsed >= 0.3
        assert lent() <= before


async def test_a_file_that_the_peer_does_not_take_times_out(storing: Storing) -> None:
    image = await penstock.collect(pieces(*[LARGE] * 4), storing.tunables)
    async with (
        serve([UNREAD, 5.0]) as server,
        storing.client(timeout=penstock.Timeouts(write=0.2)) as client,
    ):
        with pytest.raises(penstock.WriteTimeout):
            await client.post(server.url, content=image)


@pytest.mark.parametrize("framing", ["content", "files"])
async def test_a_file_cut_short_is_told_to_be_the_requests_and_has_nothing_of_the_response(
    monkeypatch: pytest.MonkeyPatch, storing: Storing, tmp_path: Path, framing: str
) -> None:
    # It is looked at when the response has begun.
    monkeypatch.setattr("penstock.http.connection.CONTINUE", 0.05)
    (path := tmp_path / "body").write_bytes(LARGE)
    image = penstock.BodyImage.from_path(path)
    os.truncate(path, 1000)
    options: dict[str, Any] = {framing: image if framing == "content" else {"a": image}}
    async with serve([UNREAD, head("Content-Length: 10"), b"ab", HANG]) as server, storing.client() as client:
        with pytest.raises(penstock.Truncated, match=f"^the request's body .* 1000 bytes of {len(LARGE)}$") as caught:
            await client.put(server.url, headers={"expect": "100-continue"}, **options)
        assert (caught.value.received, caught.value.partial) == (1000, None)
        await until(lambda: client.stats()["open"] == 0)


async def test_a_slow_source_is_not_the_peers_fault() -> None:
    async def slow() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"x"
            await asyncio.sleep(0.1)

    timeout = penstock.Timeouts(write=0.2, first_byte=0.2, idle=0.2)
    async with serve([response(b"ok")]) as server, penstock.Client(timeout=timeout) as client:
        assert (await client.post(server.url, content=slow())).status == 200
        assert server.bodies == [b"xxxxx"]


@pytest.mark.parametrize("timeout", [{"idle": 0.3}, {"min_rate": (1000, 0.3)}])
async def test_a_head_that_comes_early_does_not_time_the_sending(timeout: dict[str, Any]) -> None:
    async def slow() -> AsyncIterator[bytes]:
        for _ in range(6):
            yield b"x"
            await asyncio.sleep(0.1)

    script = [head("Content-Length: 2"), BODY, b"ok"]
    async with serve(script) as server, penstock.Client(timeout=penstock.Timeouts(**timeout)) as client:
        answer = await client.post(server.url, content=slow())
        assert (await answer.read(), server.bodies) == (b"ok", [b"xxxxxx"])


async def test_a_body_is_idle_though_its_request_has_a_source_that_does_not_end() -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.Event().wait()

    script = [BODY, head("Content-Length: 2"), HANG]
    async with serve(script) as server, penstock.Client(timeout=penstock.Timeouts(idle=0.1)) as client:
        async with asyncio.timeout(5):
            with pytest.raises(penstock.IdleTimeout):
                await client.post(server.url, content=source(), headers={"content-length": "5"})
        assert server.bodies == [b"first"]


async def test_a_head_is_late_though_its_request_has_a_source_that_does_not_end() -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.Event().wait()

    async with serve([HANG]) as server, penstock.Client(timeout=penstock.Timeouts(first_byte=0.1)) as client:
        async with asyncio.timeout(5):
            with pytest.raises(penstock.FirstByteTimeout):
                await client.post(server.url, content=source(), headers={"content-length": "5"})
        assert server.bodies == [b"first"]


async def test_an_answer_that_comes_early_ends_the_sending(storing: Storing) -> None:
    image = await penstock.collect(pieces(*[LARGE] * 4), storing.tunables)
    refusal = response(b"too large", status="413 Content Too Large")
    async with serve([UNREAD, refusal, HANG], [response(b"ok")]) as server, storing.client() as client:
        answer = await client.post(server.url, content=image)
        assert (answer.status, await answer.read()) == (413, b"too large")
        # What is left of the body would be taken for a request.
        assert (await client.get(server.url)).status == 200
        assert server.connections == 2


async def test_an_answer_that_comes_before_all_of_a_small_body_is_sent_ends_the_connection() -> None:
    ok, refusal = response(b"ok"), response(b"no", status="413 Content Too Large")
    async with serve([ok], [UNREAD, refusal, HANG], [ok]) as server, penstock.Client() as client:
        server._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await client.get(server.url)
        [connection] = client._supply.pool._open
        with socket.socket(fileno=os.dup(connection._fd)) as narrow:
            narrow.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        async with asyncio.timeout(5):
            # It goes with its head, and most of it is still here when the answer is.
            assert (await client.post(server.url, content=bytes(64 << 10))).status == 413
            await until(lambda: client.stats()["open"] == 0)
            assert (await client.get(server.url)).status == 200
        assert server.connections == 2


async def test_an_early_answer_does_not_wait_for_pieces_of_a_known_length() -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.Event().wait()

    refusal = response(b"no", status="413 Content Too Large")
    async with serve([UNREAD, 0.02, refusal, HANG]) as server, penstock.Client() as client:
        async with asyncio.timeout(5):
            answer = await client.put(server.url, content=source(), headers={"content-length": "10"})
        assert answer.status == 413
        await until(lambda: client.stats()["open"] == 0)


async def test_an_answer_does_not_wait_for_the_end_of_pieces_that_are_all_there() -> None:
    left: list[bool] = []

    async def source() -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            left.append(True)

    async with serve([response(b"ok")]) as server, penstock.Client() as client:
        for _ in range(2):
            async with asyncio.timeout(5):
                answer = await client.put(server.url, content=source(), headers={"content-length": "5"})
            assert answer.status == 200
        # All of it was sent: the connection is used again.
        assert (server.bodies, server.connections) == ([b"first"] * 2, 1)
        await until(lambda: len(left) == 2)


@pytest.mark.parametrize("end", [CLOSE, RESET])
async def test_a_peer_that_goes_in_the_middle_is_a_connection_lost(storing: Storing, end: Any) -> None:
    image = await penstock.collect(pieces(*[LARGE] * 4), storing.tunables)
    async with serve([UNREAD, 0.05, end]) as server, storing.client() as client:
        with pytest.raises(penstock.ConnectionLost):
            await client.post(server.url, content=image)
        assert client.stats()["open"] == 0


@pytest.mark.parametrize("framing", ["length", "until the end"])
@pytest.mark.parametrize("size", [None, 2, 30_000])
async def test_a_reset_ends_the_reading_of_a_source_and_loses_no_answer(
    storing: Storing, size: int | None, framing: str
) -> None:
    gone, given = threading.Event(), 0
    body = None if size is None else LARGE[:size]
    fields = [f"Content-Length: {size}"] if framing == "length" else []

    def refuse(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer:
            peer.recv(10)
            if body is not None:
                peer.sendall(head(*fields, status="413 Content Too Large") + body)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.set()

    async def source() -> AsyncIterator[bytes]:
        nonlocal given
        yield b"x"
        # The loop stands still on purpose: it is to write before it looks at the socket.
        assert gone.wait(4)
        for _ in range(20_000):
            given += 1
            yield bytes(100)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        refusing = threading.Thread(target=refuse, args=(listener,))
        refusing.start()
        async with storing.client() as client:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
            if body is None:
                with pytest.raises(penstock.ConnectionLost):
                    await client.post(url, content=source())
            elif framing == "until the end":
                # It all came, which nobody knows.
                with pytest.raises(penstock.Truncated) as caught:
                    await client.post(url, content=source())
                assert await caught.value.partial.read() == body
            else:
                answer = await client.post(url, content=source())
                assert (answer.status, await answer.read()) == (413, body)
            await until(lambda: client.stats()["open"] == 0)
        refusing.join()
    # uvloop has some in hand before it writes.
    assert given < 2000


async def test_a_reset_that_only_sendfile_hears_of_completes_no_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = asyncio.Event()

    async def reset(*args: object) -> int:
        told.set()
        raise ConnectionResetError

    monkeypatch.setattr("penstock.http.writer.perform", reset)
    (path := tmp_path / "body").write_bytes(LARGE)
    async with serve([UNREAD, head(), b"ab", told, CLOSE]) as server, penstock.Client() as client:
        with pytest.raises(penstock.Truncated) as caught:
            await client.put(server.url, content=path)
        assert await caught.value.partial.read() == b"ab"


async def test_a_reset_that_only_the_sending_hears_of_completes_no_answer(
    storing_by: Callable[[str], Storing], slow_disk: Callable[[float], None]
) -> None:
    drained, going, gone = storing_by("drained"), threading.Event(), threading.Event()

    def answer(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer:
            peer.recv(10)
            peer.sendall(head() + LARGE[:1000])
            assert going.wait(10)
            peer.sendall(LARGE[1000:30_000])
            # The draining worker is at the disk by then.
            time.sleep(0.1)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.set()

    async def source() -> AsyncIterator[bytes]:
        yield b"x"
        await until(lambda: drained.pool.stats()["draining"] == 1)
        going.set()
        assert gone.wait(10)
        for _ in range(2000):
            yield bytes(100)

    slow_disk(0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        answering = threading.Thread(target=answer, args=(listener,))
        answering.start()
        async with drained.client() as client:
            with pytest.raises(penstock.Truncated) as caught:
                await client.post(f"http://127.0.0.1:{listener.getsockname()[1]}/", content=source())
            assert LARGE.startswith(await caught.value.partial.read())
        answering.join()


@pytest.mark.usefixtures("patient")
async def test_a_body_waits_for_the_servers_word_where_asked() -> None:
    said = asyncio.Event()
    script = [UNREAD, said, b"HTTP/1.1 100 Continue\r\n\r\n", BODY, response(b"ok")]
    async with serve(script) as server, penstock.Client() as client:
        posting = asyncio.create_task(client.post(server.url, content=b"body", headers={"Expect": "100-continue"}))
        await until(lambda: len(server.requests) == 1)
        await asyncio.sleep(0.05)
        assert fields(server.requests[0])["expect"] == "100-continue"
        assert server.bodies == []
        said.set()
        assert (await posting).status == 200
        assert server.bodies == [b"body"]
        await client.get(server.url)
        assert server.connections == 1


async def test_a_body_that_nobody_asks_for_goes_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.http.connection.CONTINUE", 0.05)
    async with serve([response(b"ok")]) as server, penstock.Client() as client:
        await client.post(server.url, content=b"body", headers={"Expect": "100-continue"})
        assert server.bodies == [b"body"]


@pytest.mark.usefixtures("patient")
async def test_a_refusal_in_place_of_the_word_spares_the_body() -> None:
    refusal = response(b"no", status="401 Unauthorized")
    async with serve([UNREAD, refusal], [response(b"ok")]) as server, penstock.Client() as client:
        answer = await client.post(server.url, content=LARGE, headers={"Expect": "100-continue"})
        assert answer.status == 401
        assert server.bodies == []
        await client.get(server.url)
        assert server.connections == 2


@pytest.mark.usefixtures("patient")
async def test_a_server_that_knows_no_expectations_is_asked_without() -> None:
    refusal = response(b"", status="417 Expectation Failed")
    async with serve([UNREAD, refusal], [response(b"ok")]) as server, penstock.Client() as client:
        answer = await client.post(server.url, content=b"body", headers={"Expect": "100-continue"})
        assert answer.status == 200
        assert "expect" not in fields(server.requests[1])
        assert server.bodies == [b"body"]


@pytest.mark.parametrize("recorded", [False, True])
async def test_a_late_417_gets_no_rest_of_an_iterator(monkeypatch: pytest.MonkeyPatch, recorded: bool) -> None:
    monkeypatch.setattr("penstock.http.connection.CONTINUE", 0.05)

    async def source() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.sleep(1)
        yield b"second"

    refusal = response(b"", status="417 Expectation Failed")
    async with serve([UNREAD, 0.3, refusal, HANG], [response(b"ok")]) as server, penstock.Client() as client:
        ask = client.record if recorded else client.request
        with pytest.raises(penstock.RequestError, match="417 wants the body once more, and an iterator"):
            await ask("POST", server.url, content=source(), headers={"expect": "100-continue"})
        assert (len(server.requests), server.bodies) == (1, [])


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("status", ["417 Expectation Failed", "307 Elsewhere"])
async def test_an_iterator_that_nobody_wanted_yet_can_be_sent_to_the_next(status: str) -> None:
    refusal = response(b"", "Location: /there", status=status)
    granted = [UNREAD, b"HTTP/1.1 100 Continue\r\n\r\n", BODY, response(b"ok")]
    async with serve([UNREAD, refusal], granted) as server, penstock.Client() as client:
        answer = await client.put(server.url, content=pieces(b"bo", b"dy"), headers={"expect": "100-continue"})
        assert (answer.status, server.bodies) == (200, [b"body"])


async def test_an_upload_cancelled_at_any_turn_leaves_nothing(storing: Storing) -> None:
    image = await penstock.collect(pieces(LARGE), storing.tunables)
    async with serve([response(b"ok")]) as server, storing.client() as client:
        await client.post(server.url, content=image)
        for turns in range(60):
            posting = asyncio.create_task(client.post(server.url, content=image if turns % 2 else pieces(LARGE, LARGE)))
            for _ in range(turns):
                await asyncio.sleep(0.0005 if turns > 20 else 0)
            posting.cancel()
            await asyncio.wait([posting])
            assert posting.cancelled() or posting.result().status == 200
        assert (await client.post(server.url, content=image)).status == 200
        assert server.bodies[-1] == LARGE
        await until(lambda: client.stats()["open"] == client.stats()["idle"])


@pytest.mark.parametrize(("size", "writes"), [(1, 11), (64 << 10, 11), ((64 << 10) + 1, 31)])
async def test_a_small_piece_is_one_write(monkeypatch: pytest.MonkeyPatch, size: int, writes: int) -> None:
    async def source() -> AsyncIterator[bytes]:
        for number in range(10):
            yield bytes([number]) * size

    count = 0

    def counted(self: Writer, data: bytes | memoryview) -> None:
        nonlocal count
        count += 1
        write(self, data)

    write = Writer._write
    monkeypatch.setattr(Writer, "_write", counted)
    async with serve([response(b"")]) as server, penstock.Client() as client:
        await client.post(server.url, content=source())
        assert server.bodies == [b"".join(bytes([number]) * size for number in range(10))]
    assert count == writes


async def test_a_put_on_a_stale_connection_is_sent_once_more_but_not_from_an_iterator() -> None:
    image = penstock.BodyImage.from_bytes(LARGE)
    scripts = [[response(b"")], [UNREAD, TURN, CLOSE], [response(b"ok")]]
    async with serve(*scripts) as server, penstock.Client() as client:
        await client.get(server.url)
        assert (await client.put(server.url, content=image)).status == 200
        assert server.bodies == [LARGE]
    async with serve(*scripts) as server, penstock.Client() as client:
        await client.get(server.url)
        with pytest.raises(penstock.ConnectionLost):
            await client.put(server.url, content=pieces(b"x"))
        assert client.stats()["retried"] == 0


@pytest.mark.parametrize("name", ["ä", "cut: \ud83d"])
async def test_json_round_trips(name: str) -> None:
    value = {"name": name, "list": [1, 2.5, True, None]}
    async with serve([response(json.dumps(value).encode(), "Content-Type: application/json")]) as server:
        async with penstock.Client() as client:
            answer = await client.post(server.url, json=value)
            assert await answer.json() == value
        assert json.loads(server.bodies[0]) == value
