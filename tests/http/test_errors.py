"""What can go wrong with a response: each failure by its name, with what was received, and a request to tell it by."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import pickle
import socket
import subprocess
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import penstock
import pytest

from tests.conftest import uncollected
from tests.http.conftest import Storing, lent
from tests.http.serving import CLOSE, HANG, RESET, TURN, chunked, cut, head, response, serve, until

pytestmark = pytest.mark.asyncio

BODY = bytes(range(256)) * 400


async def check(error: Any, url: str) -> Any:
    """It says what it is about, and pickles with that."""
    assert (error.request, error.url) == ("GET", url)
    assert error.elapsed is not None
    assert error.elapsed >= 0
    # What was received may lie in a file, which is not read on a loop's thread.
    copy = await penstock.run_blocking(lambda: pickle.loads(pickle.dumps(error, 5)))
    assert type(copy) is type(error)
    assert (str(copy), copy.url, copy.request, copy.elapsed) == (str(error), url, "GET", error.elapsed)
    return copy


TRUNCATED: dict[str, Callable[[], list[Any]]] = {
    "length": lambda: [head(f"Content-Length: {len(BODY) + 7}"), BODY, TURN, CLOSE],
    "length, at once": lambda: [head(f"Content-Length: {len(BODY) + 7}") + BODY, CLOSE],
    "length, reset": lambda: [head(f"Content-Length: {len(BODY) + 7}"), BODY, 0.05, RESET],
    "chunked, in a chunk": lambda: [
        head("Transfer-Encoding: chunked"),
        chunked(BODY, 8192)[:-5],
        b"5\r\nabc",
        TURN,
        CLOSE,
    ],
    "chunked, before the last chunk": lambda: [
        head("Transfer-Encoding: chunked"),
        chunked(BODY, 8192)[:-5],
        TURN,
        CLOSE,
    ],
    "chunked, in the trailers": lambda: [
        head("Transfer-Encoding: chunked"),
        chunked(BODY, 8192, trailers=["a: b"])[:-4],
        TURN,
        CLOSE,
    ],
    "chunked, reset": lambda: [head("Transfer-Encoding: chunked"), chunked(BODY, 8192)[:-5], 0.05, RESET],
    "until the end, reset": lambda: [head("Connection: close"), BODY, 0.05, RESET],
}


@pytest.mark.parametrize("how", TRUNCATED)
async def test_a_body_that_ends_early_is_an_error_with_all_that_came(storing: Storing, how: str) -> None:
    expected = BODY + b"abc" if "in a chunk" in how else BODY
    async with serve(TRUNCATED[how]()) as server, storing.client() as client:
        with pytest.raises(penstock.Truncated) as caught:
            await client.get(server.url)
        error = caught.value
        assert await error.partial.read() == expected
        assert error.received == len(expected)
        assert error.expected == (len(BODY) + 7 if how.startswith("length") else None)
        assert client.stats()["open"] == 0
        copy = await check(error, server.url)
        assert await copy.partial.read() == expected


async def test_what_was_received_goes_with_its_error(storing: Storing) -> None:
    async with serve(TRUNCATED["length"]()) as server, storing.client() as client:
        with uncollected():
            with contextlib.suppress(penstock.Truncated):
                try:
                    await client.get(server.url)
                except penstock.Truncated as error:
                    partial = weakref.ref(error.partial)
                    raise
            await until(lambda: partial() is None)


class OwnError(Exception):
    """A program's own."""


def refuse(*_: object) -> None:
    raise OwnError


async def broken() -> AsyncIterator[bytes]:
    yield b"a piece"
    raise OwnError


@pytest.mark.parametrize("of", [lambda: {"hooks": penstock.Hooks(head=refuse)}, lambda: {"content": broken()}])
async def test_an_error_of_a_programs_own_is_in_no_cycle_with_the_request(of: Callable[[], dict[str, Any]]) -> None:
    async def fail(client: penstock.Client, url: str) -> weakref.ref[OwnError]:
        try:
            await client.post(url, **of())
        except OwnError as error:
            return weakref.ref(error)
        raise AssertionError("nothing was wrong")

    async with serve([response(BODY)]) as server, penstock.Client() as client:
        with uncollected():
            failure = await fail(client, server.url)
            await until(lambda: failure() is None)


async def test_a_connection_reset_while_a_write_is_in_flight_truncates(storing_by: Callable[[str], Storing]) -> None:
    storing = storing_by("windows")
    body = bytes(1 << 20)
    script = [head(f"Content-Length: {len(body) + 1}"), body, 0.05, RESET]
    async with serve(script) as server, storing.client() as client:
        naps = [penstock._native._nap(storing.pool, 0.3) for _ in range(2)]
        with pytest.raises(penstock.Truncated) as caught:
            await client.get(server.url)
        assert await caught.value.partial.read() == body
        for nap in naps:
            await nap


LOST: dict[str, list[Any]] = {
    "before a byte": [CLOSE],
    "before a byte, reset": [RESET],
    "inside the head": [b"HTTP/1.1 200 OK\r\nContent-", TURN, CLOSE],
    "after an informational head": [head(status="103 Early Hints"), TURN, CLOSE],
}


@pytest.mark.parametrize("how", LOST)
async def test_a_connection_lost_before_the_head_is_complete(how: str) -> None:
    async with serve(LOST[how]) as server, penstock.Client() as client:
        with pytest.raises(penstock.ConnectionLost) as caught:
            await client.get(server.url)
        await check(caught.value, server.url)
        assert caught.value.retryable
        assert isinstance(caught.value, ConnectionError)
        assert len(server.requests) == 1
        assert client.stats()["open"] == 0


@pytest.mark.parametrize("how", ["before a byte, reset", "before a byte"])
async def test_why_a_connection_was_lost_is_the_cause(how: str) -> None:
    async with serve(LOST[how]) as server, penstock.Client() as client:
        with pytest.raises(penstock.ConnectionLost) as caught:
            await client.get(server.url)
        cause = caught.value.__cause__
        assert isinstance(cause, ConnectionResetError) if "reset" in how else cause is None


async def test_a_post_that_was_read_and_not_answered_is_retryable_and_not_repeated() -> None:
    """Whether the server did what it asked for, nobody here knows."""
    async with serve([response(b"")], [CLOSE]) as server, penstock.Client() as client:
        await client.get(server.url)
        with pytest.raises(penstock.ConnectionLost) as caught:
            await client.post(server.url, content=b"paid")
        assert caught.value.retryable
        assert (server.bodies, client.stats()["retried"]) == ([b"paid"], 0)


REFUSED = {
    "not HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "another version": b"HTTP/2.0 200 OK\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 99 No\r\n\r\n",
    "two lengths": head("Content-Length: 3", "Content-Length: 4") + b"abc",
    "a negative length": head("Content-Length: -1"),
    "length and chunked": head("Content-Length: 3", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "a coding of the transfer that is none": head("Transfer-Encoding: br, chunked") + b"0\r\n\r\n",
    "a coding after chunked": head("Transfer-Encoding: chunked, gzip") + b"0\r\n\r\n",
    "a coding without chunked": head("Transfer-Encoding: gzip") + b"0\r\n\r\n",
    "a field without a colon": head("Content-Length 3") + b"abc",
    "a blank before the colon": head("Content-Length : 3") + b"abc",
    "a folded line": head("A: b", " c", "Content-Length: 0"),
    "a chunk size that is none": head("Transfer-Encoding: chunked") + b"x\r\n\r\n",
    "a chunk longer than its size": head("Transfer-Encoding: chunked") + b"1\r\nab\r\n0\r\n\r\n",
    "an unasked switch": head("Upgrade: h2c", status="101 Switching Protocols"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_is_not_http_is_refused_and_closes_the_connection(what: str) -> None:
    async with serve([REFUSED[what]]) as server, penstock.Client() as client:
        with pytest.raises(penstock.ProtocolError) as caught:
            await client.get(server.url)
        await check(caught.value, server.url)
        assert not caught.value.retryable
        assert client.stats()["open"] == 0


OK = head("Transfer-Encoding: chunked")
PLACES = {
    "the first byte": (b"SSH-2.0-OpenSSH_9.6\r\n", 0),
    "a line of the head": (head("A: b", "Content-Length 3"), len("HTTP/1.1 200 OK\r\nA: b\r\n")),
    "a line behind an informational head": (head(status="102 X") + head("A b"), len(head(status="102 X")) + 17),
    "the first chunk": (OK + b"x\r\n\r\n", len(OK)),
    "a later chunk": (OK + b"3\r\nabc\r\nx\r\n\r\n", len(OK) + 8),
}


@pytest.mark.parametrize("pieces", [1, 20])
@pytest.mark.parametrize("what", PLACES)
async def test_what_is_not_http_is_told_with_its_place_in_the_response(what: str, pieces: int) -> None:
    wire, at = PLACES[what]
    step = -(-len(wire) // pieces)
    async with serve(cut(wire, *range(step, len(wire), step))) as server, penstock.Client() as client:
        with pytest.raises(penstock.ProtocolError, match=rf"\(at byte {at} of the response\)$") as caught:
            await client.get(server.url)
        copy = await check(caught.value, server.url)
        assert caught.value.at == copy.at == at


async def test_many_bodies_with_faults_leave_the_client_as_good_as_new() -> None:
    wire = head("Transfer-Encoding: chunked") + chunked(bytes(60_000), 20_000)[:-5] + b"x"
    async with serve(*[[wire]] * 30, [response(BODY)]) as server, penstock.Client() as client:
        for _ in range(30):
            with pytest.raises(penstock.ProtocolError):
                await client.get(server.url)
        assert await (await client.get(server.url)).read() == BODY


def in_chunks(rest: bytes) -> bytes:
    return head("Transfer-Encoding: chunked") + rest


OVER: dict[str, tuple[Any, bytes, bytes]] = {
    "head_bytes": (100, head("A: " + "b" * 57, "Content-Length: 0"), head("A: " + "b" * 58, "Content-Length: 0")),
    "headers": (10, head(*["A: b"] * 9, "Content-Length: 0"), head(*["A: b"] * 10, "Content-Length: 0")),
    "informational": (
        3,
        head(status="102 Processing") * 3 + response(b""),
        head(status="102 Processing") * 4 + response(b""),
    ),
    "blank_lines": (2, b"\r\n" * 2 + response(b""), b"\r\n" * 3 + response(b"")),
    "chunk_size_digits": (3, in_chunks(b"001\r\na\r\n000\r\n\r\n"), in_chunks(b"0001\r\na\r\n0\r\n\r\n")),
    "chunk_extension_bytes": (
        4,
        in_chunks(b"1;a\r\na\r\n1;b\r\nb\r\n0\r\n\r\n"),
        in_chunks(b"1;a\r\na\r\n1;bc\r\nb\r\n0\r\n\r\n"),
    ),
    "trailer_bytes": (10, in_chunks(b"0\r\na: bcd\r\n\r\n"), in_chunks(b"0\r\na: bcde\r\n\r\n")),
    "trailers": (2, in_chunks(b"0\r\n" + b"a: b\r\n" * 2 + b"\r\n"), in_chunks(b"0\r\n" + b"a: b\r\n" * 3 + b"\r\n")),
}
"""A limit, what is just within it, and what is just over it."""


@pytest.mark.parametrize("name", OVER)
async def test_what_surrounds_a_body_has_limits_with_their_own_names(name: str) -> None:
    limit, within, over = OVER[name]
    limits = penstock.Limits(**{name: limit})
    async with serve([within], [over]) as server, penstock.Client(limits=limits) as client:
        assert (await client.get(server.url)).status == 200
        with pytest.raises(penstock.HeadTooLong, match=rf"\(Limits\.{name}\)$") as caught:
            await client.get(server.url)
        assert (caught.value.setting, caught.value.seen, caught.value.limit) == (f"Limits.{name}", limit + 1, limit)
        await check(caught.value, server.url)
        assert client.stats()["open"] == 0


async def test_the_limits_are_the_cores() -> None:
    defaults = {field.name for field in dataclasses.fields(penstock.Limits)}
    assert set(OVER) < defaults
    for name in OVER:
        least = 0 if name in ("blank_lines", "chunk_extension_bytes", "trailers") else 1
        with pytest.raises(ValueError, match=f"{least - 1}: must be at least {least}|-1: not between 0 and"):
            penstock.Limits(**{name: least - 1})
        with pytest.raises(ValueError, match=rf"Limits\.{name}={1 << 64}: not between 0 and"):
            penstock.Limits(**{name: 1 << 64})


@pytest.mark.parametrize("name", ["head_bytes", "chunk_extension_bytes", "trailer_bytes"])
async def test_a_size_that_is_none_is_refused_by_its_own_name(name: str) -> None:
    for wrong, error in (("64", ValueError), ("x", ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match=f"Limits.{name}="):
            penstock.Limits(**{name: wrong})
    assert getattr(penstock.Limits(**{name: "1KiB"}), name) == 1024


async def test_a_head_without_an_end_is_refused_at_its_limit() -> None:
    async with serve([b"HTTP/1.1 200 OK\r\nA: ", *[b"b" * 4096, TURN] * 40]) as server, penstock.Client() as client:
        with pytest.raises(penstock.HeadTooLong):
            await client.get(server.url)


async def test_a_length_over_the_limit_is_refused_before_the_body_comes(storing: Storing) -> None:
    tunables = storing.tunables.replace(max_body=1000, max_body_ram=0 if storing.in_file else 1000)
    async with serve([head("Content-Length: 1001"), HANG]) as server, storing.client(tunables=tunables) as client:
        with pytest.raises(penstock.ContentLengthTooLong) as caught:
            await client.get(server.url)
        assert (caught.value.seen, caught.value.limit) == (1001, 1000)
        await check(caught.value, server.url)
        assert client.stats()["open"] == 0


@pytest.mark.parametrize("recycled", [False, True])
async def test_an_announced_length_takes_no_room_before_its_bytes_come(
    storing: Storing, tmp_path: Path, recycled: bool
) -> None:
    budget = penstock.Budget(ram="2GiB", disk="2GiB")
    files = penstock.FilePool() if recycled else None
    end, before = asyncio.Event(), lent()
    script = [head("Content-Length: 1000000000"), b"abc", end, CLOSE]
    async with serve(script) as server, storing.client(budget=budget, file_pool=files) as client:
        asking = asyncio.create_task(client.get(server.url))
        await until(lambda: server.sent == len(script[0]) + 3)
        # Time to receive it. Too little would let a fault pass, and fail nothing.
        await asyncio.sleep(0.1)
        assert lent() - before <= 512 << 10
        assert all(blocks <= 1 << 20 for blocks in allocated(tmp_path))
        end.set()
        with pytest.raises(penstock.Truncated) as caught:
            await asking
        assert await caught.value.partial.read() == b"abc"
    peaks = {resource: figures["peak"] for resource, figures in budget.stats().items()}
    assert max(peaks["ram"] or 0, peaks["disk"] or 0) <= 1 << 20


def allocated(directory: Path) -> list[int]:
    """Bytes on the disk of this process's open files in a directory, which have no names."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        # The listing's own one is gone by now.
        with contextlib.suppress(OSError):
            if os.readlink(descriptor).startswith(str(directory)):
                found.append(descriptor.stat().st_blocks * 512)
    return found


async def test_the_length_that_head_tells_may_be_over_the_limit() -> None:
    tunables = penstock.Tunables(max_body=1000)
    async with serve([head("Content-Length: 1001")]) as server, penstock.Client(tunables=tunables) as client:
        assert len((await client.head(server.url)).body) == 0


@pytest.mark.parametrize("pieces", [1, 50])
async def test_a_body_that_grows_too_long_is_an_error_with_what_fits(storing: Storing, pieces: int) -> None:
    tunables = storing.tunables.replace(max_body=70_001, max_body_ram=0 if storing.in_file else 70_001)
    body = head("Transfer-Encoding: chunked") + chunked(BODY, 1000)
    step = -(-len(body) // pieces)
    async with (
        serve(cut(body, *range(step, len(body), step))) as server,
        storing.client(tunables=tunables) as client,
    ):
        with pytest.raises(penstock.BodyTooLong) as caught:
            await client.get(server.url)
        assert (caught.value.seen, caught.value.limit) == (70_002, 70_001)
        assert await caught.value.partial.read() == BODY[:70_001]
        await check(caught.value, server.url)


async def test_a_refused_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
    async with penstock.Client() as client:
        with pytest.raises(penstock.ConnectError) as caught:
            await client.get(url)
        await check(caught.value, url)
        assert caught.value.retryable
        assert (client.stats()["open"], client.stats()["connected"]) == (0, 0)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "a" * 64 + ".invalid"])
async def test_a_name_without_an_address(host: str) -> None:
    url = f"http://{host}/"
    async with penstock.Client() as client:
        for _ in range(2):  # the second by what is remembered
            with pytest.raises(penstock.DNSError) as caught:
                await client.get(url)
            await check(caught.value, url)
            # What can't be a name won't be one later.
            assert caught.value.retryable == (host == "no-such-host.invalid")


@pytest.mark.parametrize(
    "url",
    ["", "/path", "ftp://host/", "http://", "http://a b/", "http://h:99999/", "http://u@h/", f"http://{'a.' * 127}b/"],
)
async def test_what_is_not_a_url(url: str) -> None:
    async with penstock.Client() as client:
        with pytest.raises(penstock.InvalidURL) as caught:
            await client.get(url)
        await check(caught.value, url.replace("u@", "...@"))
        assert isinstance(caught.value, ValueError)


WITHOUT_THREADS = """
import asyncio, gzip, os, penstock, penstock.blocking

def refuse(**_):
    raise OSError("cannot start a thread")

async def main():
    zipped = gzip.compress(os.urandom(300_000))
    plain = b"HTTP/1.1 200 OK\\r\\ncontent-length: 2000\\r\\n\\r\\n"
    coded = b"HTTP/1.1 200 OK\\r\\ncontent-encoding: gzip\\r\\ncontent-length: %d\\r\\n\\r\\n" % len(zipped)
    answers = iter([plain + bytes(2000), coded + zipped, coded + zipped[:200_000]])

    async def answer(reader, writer):
        await reader.readuntil(b"\\r\\n\\r\\n")
        writer.write(next(answers))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1")
    url = "http://127.0.0.1:%d/" % server.sockets[0].getsockname()[1]
    penstock.blocking.DispatchPool = refuse
    async with server, penstock.Client(tunables=penstock.Tunables(max_body_ram=0)) as client:
        try:
            await client.get(url)
        except OSError as error:
            print(error)
        for _ in range(2):
            async with client.stream("GET", url) as response:
                try:
                    await response.read()
                except OSError as error:
                    print(error)

asyncio.run(main())
"""


async def test_a_default_pool_that_cannot_be_made_ends_the_request_with_its_error(
    script: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """Whether it is needed to store a body, or to take its coding off."""
    done = await asyncio.to_thread(script, WITHOUT_THREADS)
    assert (done.stdout, done.stderr) == ("cannot start a thread\n" * 3, "")


async def test_an_error_by_status_pickles_with_its_response() -> None:
    wire = response(b"gone", "X-Reason: moved away", status="410 Gone")
    async with serve([wire]) as server, penstock.Client() as client:
        answer = await client.get(server.url)
        with pytest.raises(penstock.HTTPStatusError) as caught:
            answer.raise_for_status()
    copy = pickle.loads(pickle.dumps(caught.value))
    assert copy.response.status == 410
    assert copy.response.headers["x-reason"] == "moved away"
    assert await copy.response.read() == b"gone"
