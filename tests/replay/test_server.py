"""`ReplayServer`: recorded answers over HTTP, for any client."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import os
import re
import resource
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import penstock
import pytest
from penstock import barc
from penstock.replay import ReplayServer, messages, serving
from penstock.replay import server as server_module

from tests.http.serving import serve
from tests.replay.test_transport import LARGE, recorded

SITE = "https://site.test"


def running() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


async def say(server: ReplayServer, *parts: bytes) -> bytes:
    """All that is answered to what is said, until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        for part in parts:
            writer.write(part)
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.mark.asyncio
async def test_the_recorded_head_is_sent_byte_for_byte_but_for_its_framing() -> None:
    wire = (
        b"HTTP/1.0 404 Not Here\r\nSERVER:  old \r\nx-One: 1\r\nX-ONE: \xe4\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n"
        b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s"
    )
    zipped = gzip.compress(b"text")
    async with serve([wire % (len(zipped), zipped)]) as live, penstock.Client() as client:
        decoded = await client.record("GET", live.url)
        coded = await client.record("GET", live.url, decode=False)
    async with ReplayServer([decoded, coded]) as server:
        request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert await say(server, request) == (
            b"HTTP/1.1 404 Not Here\r\nSERVER:  old \r\nx-One: 1\r\nX-ONE: \xe4\r\n"
            b"content-length: 4\r\nconnection: close\r\n\r\ntext"
        )
        assert await say(server, request) == (
            b"HTTP/1.1 404 Not Here\r\nSERVER:  old \r\nx-One: 1\r\nX-ONE: \xe4\r\nContent-Encoding: gzip\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n%s" % (len(zipped), zipped)
        )


@pytest.mark.asyncio
async def test_of_a_body_that_was_decoded_in_part_the_codings_that_are_left_are_named() -> None:
    dialog = recorded(f"{SITE}/a", gzip.compress(b"text"))
    fields = {"content-encoding": "gzip, br", "transfer-encoding": "chunked"}
    dialog = dialog.replace(res_headers=fields, res_decoded=("chunked", "br"))
    async with ReplayServer([dialog]) as server, penstock.Client() as client:
        answer = await client.get(server.url + "/a")
        assert (answer.headers.get_all("content-encoding"), await answer.text()) == (["gzip"], "text")


@pytest.mark.asyncio
async def test_a_server_without_descriptors_takes_who_waits_when_there_are_some(
    caplog: pytest.LogCaptureFixture,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    async with ReplayServer([recorded(f"{SITE}/a", b"1")]) as server:
        asker = socket.socket()
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 50, hard))
            with pytest.raises(OSError, match="open files"):  # noqa: PT012
                while True:
                    taken.append(os.open("/dev/null", os.O_RDONLY))
            asker.connect(("127.0.0.1", server.port))
            await asyncio.sleep(0.1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for each in taken:
                os.close(each)
        reader, writer = await asyncio.open_connection(sock=asker)
        writer.write(b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).endswith(b"\r\n\r\n1")
        writer.close()
        await writer.wait_closed()
    # Once, and not for as long as it lasts.
    assert [record.getMessage()[:38] for record in caplog.records] == ["accepts no connections for a second: ["]


@pytest.mark.asyncio
async def test_a_path_is_answered_whichever_host_it_was_recorded_from(tmp_path: Path) -> None:
    path = tmp_path / "site.barc"
    async with barc.AsyncArchive(path, "a", strategy=barc.Strategy.gzip()) as archive:
        for dialog in (
            recorded(f"{SITE}/a?b=1", b"1", res_headers=[("X-A", "1"), ("Set-Cookie", "a"), ("Set-Cookie", "b")]),
            recorded(f"{SITE}/large", LARGE),
            recorded("http://other.test/a?b=1", b"other"),
            recorded(f"{SITE}/none", status=204),
        ):
            await archive.append(dialog)
    told: list[Any] = []
    async with ReplayServer(path, on_answer=lambda *what: told.append(what)) as server, penstock.Client() as client:
        assert server.recorded == 4
        first = await client.get(server.url + "/a?b=1")
        assert (await first.read(), first.headers.get_all("set-cookie")) == (b"1", ["a", "b"])
        assert await (await client.get(server.url + "/large")).read() == LARGE
        named = await client.get(server.url + "/a?b=1", headers={"Host": "other.test"})
        assert await named.read() == b"other"
        empty = await client.get(server.url + "/none")
        assert (empty.status, empty.headers.get("content-length")) == (204, None)
        assert client.stats()["connected"] == 1
        async with penstock.Client(proxy=server.url) as proxied:
            assert await (await proxied.get("http://other.test/a?b=1")).read() == b"other"
        missing = await client.get(server.url + "/lark")
        assert missing.status == 404
        assert await missing.text() == (
            f"nothing is recorded for GET {server.url}/lark; the nearest of 4 is GET https://site.test/large\n"
        )
        assert (server.answered, server.missed) == (5, 1)
    assert told[0] == ("GET", f"{server_url(told)}/a?b=1", 200)
    assert told[-1][2] == 404


@pytest.mark.asyncio
async def test_the_host_that_is_named_answers_whichever_scheme_it_was_recorded_by() -> None:
    dialogs = [
        recorded("http://query.test?x=/a", b"query"),
        recorded("https://one.test/a", b"1"),
        recorded("https://TWO.test:443/a", b"2"),
    ]
    async with ReplayServer(dialogs) as server, penstock.Client() as client:
        for host in ("two.test", "two.test:80"):
            named = await client.get(server.url + "/a", headers={"Host": host})
            assert await named.read() == b"2"
        assert await (await client.get(server.url + "/a")).read() == b"1"
        assert await (await client.get(server.url + "/?x=/a")).read() == b"query"
        async with penstock.Client(proxy=server.url) as proxied:
            assert (await proxied.get("http://two.test/a")).status == 404
        whole = b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert (await say(server, whole % b"https://two.test/a")).endswith(b"\r\n\r\n2")
        # What a client would refuse to ask for may have been recorded by another.
        assert b" 404 " in await say(server, whole % b"ftp://two.test/\xe4")
    async with ReplayServer([recorded("http://odd.test/\xe4", b"odd")]) as server:
        assert (await say(server, whole % b"/\xe4")).endswith(b"\r\n\r\nodd")


@pytest.mark.asyncio
@pytest.mark.parametrize("whole", [False, True])
async def test_a_url_is_found_as_other_programs_escape_it(whole: bool) -> None:
    spelt = ("/a|b?x[]=%7e1%c3%80&y={}", "/a%7Cb?x%5B%5D=~1%C3%80&y=%7B%7D")
    request = "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    for path in spelt:
        async with ReplayServer([recorded(SITE + path, b"found"), recorded(f"{SITE}/a%2Fb", b"other")]) as server:
            for asked in spelt:
                said = await say(server, (request % (SITE + asked if whole else asked)).encode())
                assert said.endswith(b"\r\n\r\nfound")
            # What is reserved has another meaning when it is escaped.
            assert b" 404 " in await say(server, (request % (SITE + "/a/b" if whole else "/a/b")).encode())


@pytest.mark.asyncio
async def test_a_recorded_answer_that_is_none_by_itself_is_not_waited_for() -> None:
    switching = recorded(SITE, status=101, res_headers=[("Upgrade", "websocket")])
    async with ReplayServer([switching]) as server, penstock.Client() as client:
        answer = await client.get(server.url)
        assert answer.status == 501
        assert await answer.text() == "what was recorded is a 101, which is no answer by itself\n"


@pytest.mark.asyncio
async def test_who_says_more_than_is_read_has_the_answer_all_the_same() -> None:
    def post(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as peer:
            peer.sendall(b"POST /p HTTP/1.1\r\nContent-Length: 16777216\r\n\r\n" + b"x" * 16777216)
            return b"".join(iter(lambda: peer.recv(65536), b""))

    async with ReplayServer([recorded(SITE)], tunables=penstock.Tunables(max_body=10)) as server:
        said = await asyncio.to_thread(post, server.port)
    assert said.startswith(b"HTTP/1.1 400 ")
    assert b"max_body" in said


@pytest.mark.asyncio
async def test_a_peer_that_stays_behind_its_last_answer_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "LINGER", 0.05)
    async with ReplayServer([recorded(f"{SITE}/a", b"1")]) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /a HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).endswith(b"\r\n\r\n1")
        while server._conversations:
            await asyncio.sleep(0.01)
        writer.close()
        await writer.wait_closed()


@pytest.mark.asyncio
@pytest.mark.parametrize("last", ["Connection: close\r\nConnection: TE", "Connection: TE , Close"])
async def test_any_connection_line_may_say_that_it_is_the_last_request(last: str) -> None:
    asking = "GET /a HTTP/1.1\r\nHost: x\r\nConnection: %s\r\n\r\n"
    async with ReplayServer([recorded(f"{SITE}/a", b"1")]) as server:
        said = await say(
            server, (asking % "close-x").encode(), f"GET /a HTTP/1.1\r\nHost: x\r\n{last}\r\n\r\n".encode()
        )
    assert said.count(b"\r\n\r\n1") == 2
    assert said.count(b"connection: close") == 1


def server_url(told: list[Any]) -> str:
    return str(told[0][1]).partition("/a?")[0]


@pytest.mark.asyncio
async def test_head_has_the_length_of_the_get_or_the_recorded_one() -> None:
    head_only = recorded(f"{SITE}/h", method="HEAD", res_headers=[("Content-Length", "7")])
    async with ReplayServer([head_only, recorded(f"{SITE}/g", b"body")]) as server, penstock.Client() as client:
        for name, length in (("h", "7"), ("g", "4")):
            answer = await client.head(f"{server.url}/{name}")
            assert (answer.status, answer.headers["content-length"], len(answer.body)) == (200, length, 0)
        assert (await client.head(server.url + "/none")).status == 404
        assert client.stats()["connected"] == 1


@pytest.mark.asyncio
async def test_bodies_of_requests_are_read_however_they_are_framed() -> None:
    def key(prolog: penstock.Prolog) -> Any:
        return prolog.method, bytes(prolog.req_body)

    def sent(body: bytes, answer: bytes) -> penstock.Dialog:
        return recorded(f"{SITE}/q", answer, method="POST", req_body=penstock.BodyImage.from_bytes(body))

    async def pieces() -> AsyncIterator[bytes]:
        yield b"t"
        yield b"wo"

    options: Any = {"key": key, "tunables": penstock.Tunables(max_body=10)}
    async with ReplayServer([sent(b"one", b"1"), sent(b"two", b"2")], **options) as server, penstock.Client() as client:
        url = server.url + "/q"
        assert await (await client.post(url, content=b"one")).read() == b"1"
        assert await (await client.post(url, content=pieces())).read() == b"2"
        waiting = await client.post(url, content=b"two", headers={"Expect": "100-continue"})
        assert await waiting.read() == b"2"
        assert client.stats()["connected"] == 1
        long = await client.post(url, content=b"x" * 11)
        assert (long.status, "max_body" in await long.text()) == (400, True)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("first", "more", "times"),
    [
        (b"POST /q HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", 150_000),
        (b"", b"GET /q HTTP/1.1\r\n\r\n", 15_000),
    ],
    ids=["chunks", "requests"],
)
async def test_a_peer_that_never_stops_talking_does_not_keep_the_loop(first: bytes, more: bytes, times: int) -> None:
    async with ReplayServer([recorded(f"{SITE}/q", b"1")]) as server:

        def talk() -> None:
            with socket.create_connection(("127.0.0.1", server.port)) as peer, contextlib.suppress(OSError):
                listener = threading.Thread(target=lambda: all(iter(lambda: peer.recv(1 << 20), b"")))
                listener.start()
                peer.sendall(first + more * times)
                peer.shutdown(socket.SHUT_WR)
                listener.join()

        talking = asyncio.create_task(asyncio.to_thread(talk))
        turns = 0
        while not talking.done():
            turns += 1
            await asyncio.sleep(0.001)
        await talking
    assert turns > 50


@pytest.mark.asyncio
async def test_a_line_end_behind_a_body_is_no_request() -> None:
    dialogs = [recorded(f"{SITE}/p", b"posted", method="POST"), recorded(f"{SITE}/g", b"got")]
    async with ReplayServer(dialogs) as server:
        posted = b"POST /p HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc\r\n"
        told = await say(server, posted, b"GET /g HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert (told.count(b"HTTP/1.1 200 OK\r\n"), told.endswith(b"\r\n\r\ngot")) == (2, True)


@pytest.mark.asyncio
async def test_a_client_of_http_1_0_gets_nothing_before_its_answer() -> None:
    async with ReplayServer([recorded(f"{SITE}/p", b"posted", method="POST")]) as server:
        told = await say(server, b"POST /p HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc")
    assert (told.startswith(b"HTTP/1.1 200 OK\r\n"), told.endswith(b"\r\n\r\nposted")) == (True, True)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (b"GET\r\n\r\n", "is no request line"),
        (b"GET / HTTP/2\r\n\r\n", "is no request line"),
        (b"GET /\x1b]0;x\x07 HTTP/1.1\r\n\r\n", "has control characters"),
        (b"GET /a\n200 HTTP/1.1\r\n\r\n", "has control characters"),
        (b"GET http://a.test/\x9b HTTP/1.1\r\n\r\n", "has control characters"),
        (b"GET / HTTP/1.1\r\nHost: a\x9b31m\r\n\r\n", "has control characters"),
        (b"G\x1bT / HTTP/1.1\r\n\r\n", "has control characters"),
        (b"GET / HTTP/1.1\r\n folded\r\n\r\n", "is no header line"),
        (b"GET / HTTP/1.1\r\nA : 1\r\n\r\n", "is no header line"),
        (b"CONNECT a:443 HTTP/1.1\r\n\r\n", "tunnels to https"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1x\r\n\r\n", "not a number"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "two lines of content-length"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", "without a content-length"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", "transfer-encoding is chunked"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1%s\r\n\r\n" % (b"0" * 18), "not a number"),
        *(
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n" % size, "no chunk size")
            for size in (b"zz", b"-5", b"+5", b"0x10", b"1_0", b" 5", b"", b"1" * 17)
        ),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: 1\r\n" * 20_000, "trailers are over"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", "longer than its size"),
        (b"GET / HTTP/1.1\r\n" + b"A: 1\r\n" * 20_000 + b"\r\n", "limit"),
        (b"GET / HTTP/1.1\r\n" + b"A: 1\r\n" * 200 + b"\r\n", "128"),
    ],
)
async def test_what_is_no_request_is_refused_with_the_reason(request_: bytes, why: str) -> None:
    async with ReplayServer([]) as server:
        head, _, body = (await say(server, request_)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert why in body.decode()


def test_an_empty_host_is_no_address() -> None:
    with pytest.raises(ValueError, match="host=''"):
        ReplayServer([], host="")
    with pytest.raises(TypeError, match="host=None: takes an address as a str"):
        ReplayServer([], host=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("port", "error"), [("80", TypeError), (True, TypeError), (-1, ValueError), (65536, ValueError)]
)
def test_what_is_no_port_is_refused_where_it_is_given(port: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^port={port!r}: not "):
        ReplayServer([], port=port)


@pytest.mark.asyncio
async def test_a_peer_that_goes_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ReplayServer([recorded(f"{SITE}/large", LARGE * 20)]) as server:
        for part in (
            b"",
            b"GET / HT",
            b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab",
            b"GET /large HTTP/1.1\r\n\r\n",
        ):
            connection = socket.create_connection(("127.0.0.1", server.port))
            connection.sendall(part)
            connection.close()
        monkeypatch.setattr(messages, "IDLE", 0.05)
        assert await say(server, b"GET / HT") == b""
        async with asyncio.timeout(10):
            while server._conversations:
                await asyncio.sleep(0.001)
    # Left while somebody is served, it closes the connection.
    async with ReplayServer([recorded(f"{SITE}/large", LARGE * 20)]) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /large HTTP/1.1\r\n\r\n")
        await reader.readexactly(10)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(len(LARGE) * 20)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


@pytest.mark.asyncio
async def test_no_more_connections_are_open_than_the_bound_and_the_next_has_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "CONNECTIONS", 2)
    request = b"GET /a HTTP/1.1\r\nHost: site.test\r\n\r\n"
    async with ReplayServer([recorded(f"{SITE}/a", b"1")]) as server, asyncio.timeout(10):
        taken = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(2)]
        for reader, writer in taken:
            writer.write(request)
            await reader.readuntil(b"\r\n\r\n1")
        asking = asyncio.create_task(say(server, request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")))
        # Those that are open go on meanwhile.
        for reader, writer in taken:
            writer.write(request)
            await reader.readuntil(b"\r\n\r\n1")
        assert (server.answered, len(server._conversations)) == (4, 2)
        taken[0][1].close()
        assert (await asking).endswith(b"\r\n\r\n1")
        taken[1][1].close()
        for _, writer in taken:
            await writer.wait_closed()


@pytest.mark.asyncio
async def test_a_peer_has_an_answer_for_as_long_as_it_takes_some_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    body = LARGE[:100_000]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for end in (ours, theirs):
            end.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        peer, taken = messages.Peer(ours), b""
        monkeypatch.setattr(messages, "IDLE", 1)
        sending = asyncio.create_task(peer.send(body))
        while not sending.done():
            # All together it takes longer than a second.
            await asyncio.sleep(0.1)
            with contextlib.suppress(BlockingIOError):
                taken += theirs.recv(8192)
        await sending
        monkeypatch.setattr(messages, "IDLE", 0.05)
        with pytest.raises(TimeoutError):
            await peer.send(body)
        ours.close()
        taken += b"".join(iter(lambda: theirs.recv(8192), b""))
    assert taken.startswith(body)


@pytest.mark.asyncio
async def test_an_archive_that_cannot_be_read_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        async with ReplayServer(tmp_path / "none"):
            pass
    (tmp_path / "bad").write_bytes(b"no archive at all" * 10)
    with pytest.raises(penstock.ArchiveError):
        async with ReplayServer(tmp_path / "bad"):
            pass


@pytest.mark.asyncio
async def test_a_body_that_is_cut_while_it_is_sent_ends_early_and_is_told_in_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.barc"
    async with barc.AsyncArchive(path, "a") as archive:
        for number in range(2):
            await archive.append(recorded(f"http://a/{number}", bytes(30_000_000)))
    async with ReplayServer(path) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /0 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        os.truncate(path, 25_000_000)
        async with asyncio.timeout(10):
            assert 0 < len(await reader.read()) < 25_000_000
        writer.close()
        await writer.wait_closed()
        (told,) = caplog.records
        assert re.match(r"GET http://a/0: Truncated\('body ended after \d+ bytes of 30000000'", told.getMessage())
        assert told.exc_info is None
        # One that begins is known not to be there.
        os.truncate(path, 55_000_000)
        answer = await say(server, b"GET /1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 500 ")


@pytest.mark.asyncio
async def test_one_that_breaks_meanwhile_is_a_500_as_is_a_key_that_raises(tmp_path: Path) -> None:
    path = tmp_path / "a.barc"
    options: Any = {"key": lambda prolog: prolog.req_headers["x-user"]}
    async with ReplayServer([], **options) as server, penstock.Client() as client:
        answer = await client.get(server.url + "/a")
        assert (answer.status, await answer.text()) == (500, "KeyError: 'x-user'\n")
    async with barc.AsyncArchive(path, "a") as archive:
        await archive.append(recorded(f"{SITE}/a", b"1"))
    async with ReplayServer(path) as server, penstock.Client() as client:
        for content in (b"x" * path.stat().st_size, b""):
            path.write_bytes(content)
            answer = await client.get(server.url + "/a")
            assert answer.status == 500
            assert (await answer.text()).startswith("ArchiveError: record at byte 0 of ")


def test_a_thread_serves_programs_without_asyncio(tmp_path: Path) -> None:
    with serving([recorded(f"{SITE}/a", b"1")]) as server:
        assert "penstock-replay" in running()
        with urllib.request.urlopen(server.url + "/a") as answer:
            assert answer.read() == b"1"
        with pytest.raises(urllib.error.HTTPError, match="404") as refused:
            urllib.request.urlopen(server.url + "/b")
        refused.value.close()
        with httpx.Client(base_url=server.url) as client:
            assert client.get("/a").content == b"1"
        curl = subprocess.run(["curl", "-sS", server.url + "/a"], capture_output=True, text=True, check=False)
        assert (curl.stdout, curl.stderr) == ("1", "")
    assert "penstock-replay" not in running()
    with pytest.raises(FileNotFoundError), serving(tmp_path / "none"):
        pass


def test_a_thread_is_stopped_when_whoever_waits_for_its_start_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    main = threading.get_ident()
    left: list[str] = []

    async def starting(self: ReplayServer) -> ReplayServer:
        try:
            while True:
                # Python doesn't hear one that comes at the very moment when its thread begins to wait.
                signal.pthread_kill(main, signal.SIGINT)
                await asyncio.sleep(5)
        finally:
            left.append("stopped")
        return self

    monkeypatch.setattr(ReplayServer, "__aenter__", starting)
    with pytest.raises(KeyboardInterrupt), serving([]):
        pass
    assert left == ["stopped"]
    assert "penstock-replay" not in running()


@pytest.mark.parametrize("error", [pytest.fail.Exception, SystemExit])
def test_what_ends_the_start_of_a_thread_is_raised_also_if_it_is_no_exception(error: type[BaseException]) -> None:
    def key(prolog: penstock.Prolog) -> str:
        raise error("by the key")

    with pytest.raises(error, match="by the key"), serving([recorded(f"{SITE}/a", b"1")], key=key):
        pass
    assert "penstock-replay" not in running()


def test_a_thread_that_begins_after_its_start_was_interrupted_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def start(self: threading.Thread) -> None:
        threads.append(self)
        # As while Python waits for the thread to begin.
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(KeyboardInterrupt), serving([]):
            pass
    (thread,) = threads
    # What it raised would fail this test.
    thread.start()
    thread.join()


def test_a_thread_that_cannot_be_had_is_told_of_and_leaves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    before = threading.stack_size(1 << 47)
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"), serving([]):
            pass
    finally:
        threading.stack_size(before)
    gc.collect()
    assert caplog.messages == []
    with serving([recorded(f"{SITE}/a", b"1")]) as server, urllib.request.urlopen(server.url + "/a") as answer:
        assert answer.read() == b"1"
