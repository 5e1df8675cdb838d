"""Bodies that are read while they arrive: in bounded memory, with what came before an error, nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import http.cookiejar
import os
import pickle
import random
import weakref
import zlib
from typing import Any

import penstock
import pytest

from tests.conftest import uncollected
from tests.http.conftest import NOTHING, Storing, at_hand, lent
from tests.http.serving import CLOSE, HANG, RESET, TURN, chunked, head, response, serve, until
from tests.http.test_redirects import redirect

pytestmark = pytest.mark.asyncio

BODY = (bytes(i * 23 >> 1 & 255 for i in range(512)) * 3907)[:2_000_003]

WHOLE = {
    "length": response(BODY),
    "chunked": head("Transfer-Encoding: chunked") + chunked(BODY, 5000),
    "gzip": response(gzip.compress(BODY, 1), "Content-Encoding: gzip"),
    "small": response(b"x"),
    "empty": response(b""),
}


async def all_of(answer: Any, size: int = 65536) -> bytes:
    parts = []
    async for view in answer.stream(size):
        assert 0 < len(view) <= size
        parts.append(bytes(view))
    return b"".join(parts)


@pytest.mark.parametrize("what", WHOLE)
@pytest.mark.parametrize("size", [1000, 65536, 1 << 20])
async def test_a_body_comes_in_pieces_of_at_most_the_asked_size(storing: Storing, what: str, size: int) -> None:
    expected = {"small": b"x", "empty": b""}.get(what, BODY)
    async with serve([WHOLE[what]]) as server, storing.client() as client:
        for _ in range(2):
            async with client.stream("GET", server.url) as answer:
                assert answer.status == 200
                assert await all_of(answer, size) == expected
                assert answer.decoded == (("gzip",) if what == "gzip" else ())
        assert server.connections == 1
        assert at_hand(client) == NOTHING | {"open": 1, "idle": 1}


async def test_the_head_is_there_before_the_body(storing: Storing) -> None:
    more = asyncio.Event()
    async with serve([head("Content-Length: 6", "A: b"), b"abc", more, b"def"]) as server, storing.client() as client:
        async with client.stream("GET", server.url) as answer:
            assert (answer.headers["a"], client.stats()["active"]) == ("b", 1)
            pieces = answer.stream()
            assert bytes(await anext(pieces)) == b"abc"
            more.set()
            assert bytes(await anext(pieces)) == b"def"
            with pytest.raises(StopAsyncIteration):
                await anext(pieces)
        assert client.stats()["active"] == 0


async def test_read_text_and_json_take_the_rest() -> None:
    async with serve([response(b'{"a": 1}'), TURN]) as server, penstock.Client() as client:
        async with client.stream("GET", server.url) as answer:
            assert await answer.json() == {"a": 1}
            assert await answer.read() == b""
        async with client.stream("GET", server.url) as answer:
            assert (await answer.read(3), await answer.text()) == (b'{"a', '": 1}')


@pytest.mark.parametrize("size", [0, -1])
async def test_a_size_of_less_than_a_byte_is_refused(size: int) -> None:
    async with (
        serve([response(b"abc")]) as server,
        penstock.Client() as client,
        client.stream("GET", server.url) as answer,
    ):
        with pytest.raises(ValueError, match="at least one byte"):
            await anext(answer.stream(size))
        assert await answer.read() == b"abc"


@pytest.mark.parametrize("how", ["read", "text"])
async def test_a_read_that_was_cancelled_loses_nothing(how: str) -> None:
    more = asyncio.Event()
    async with (
        serve([head("Content-Length: 7"), b"abcd", more, b"efg"]) as server,
        penstock.Client() as client,
        client.stream("GET", server.url) as answer,
    ):
        assert await answer.read(1) == b"a"
        for _ in range(2):
            # It takes what is here, and waits for more.
            reading = asyncio.create_task(getattr(answer, how)())
            await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait([reading])
            assert reading.cancelled()
        more.set()
        assert await answer.read() == b"bcdefg"


async def test_a_text_that_was_cancelled_while_it_was_decoded_loses_nothing() -> None:
    async with serve([response(BODY)]) as server, penstock.Client() as client:
        for turns in range(1, 100):
            async with client.stream("GET", server.url) as answer:
                assert await answer.read(1) == BODY[:1]
                reading = asyncio.create_task(answer.text())
                for _ in range(turns):
                    await asyncio.sleep(0)
                if reading.done():
                    break
                reading.cancel()
                await asyncio.wait([reading])
                assert reading.cancelled()
                assert await answer.read() == BODY[1:]


async def test_a_second_task_that_reads_meanwhile_is_refused_and_the_first_goes_on() -> None:
    more = asyncio.Event()
    async with (
        asyncio.timeout(5),
        serve([head("Content-Length: 7"), b"abcd", more, b"efg"]) as server,
        penstock.Client() as client,
        client.stream("GET", server.url) as answer,
    ):
        assert await answer.read(4) == b"abcd"
        first = asyncio.create_task(answer.read())
        await asyncio.sleep(0)
        for second in (answer.read(), answer.text(), anext(answer.stream())):
            with pytest.raises(RuntimeError, match="another task"):
                await second
        more.set()
        assert await first == b"efg"
        assert await answer.read() == b""


async def test_trailers_are_there_at_the_end() -> None:
    wire = head("Transfer-Encoding: chunked") + chunked(b"abc", 2, trailers=["X-End: yes"])
    async with serve([wire]) as server, penstock.Client() as client, client.stream("GET", server.url) as answer:
        await answer.read()
        assert answer.trailers == ((b"X-End", b"yes"),)


async def test_no_more_is_received_than_is_read(storing: Storing) -> None:
    body = bytes(40 << 20)
    before = lent()
    timeout = penstock.Timeouts(idle=0.2, min_rate=(1000, 0.2))
    async with (
        serve([response(body)]) as server,
        storing.client(timeout=timeout) as client,
        client.stream("GET", server.url) as answer,
    ):
        await asyncio.sleep(0.5)
        # What the kernel's buffers hold is sent, too.
        assert server.sent < 16 << 20
        assert lent() - before < 4 << 20
        total = 0
        async for view in answer.stream():
            total += len(view)
            del view
            assert lent() - before < 6 << 20
        assert total == len(body)


async def test_no_more_pieces_are_received_than_are_read_however_small() -> None:
    start, drip = head("Content-Length: 3000"), [step for _ in range(3000) for step in (b"x", TURN)]
    async with (
        serve([start, *drip]) as server,
        penstock.Client() as client,
        client.stream("GET", server.url) as answer,
    ):
        await until(lambda: server.sent == len(start) + 3000)
        await asyncio.sleep(0.05)
        # Each takes some hundreds of bytes besides its own.
        assert len(answer._incoming._pieces) < 1100
        assert await answer.read() == b"x" * 3000


async def test_while_nobody_reads_no_time_counts_though_little_came() -> None:
    more, timeout = asyncio.Event(), penstock.Timeouts(idle=0.1, min_rate=(1000, 0.1))
    script: list[Any] = [head("Content-Length: 6"), b"abc", more, b"def"]
    async with (
        serve(script) as server,
        penstock.Client(timeout=timeout) as client,
        client.stream("GET", server.url) as answer,
    ):
        assert await answer.read(1) == b"a"
        await asyncio.sleep(0.5)
        more.set()
        await until(lambda: client.stats()["idle"] == 1)
        assert await answer.read() == b"bcdef"


async def test_no_more_is_decoded_than_is_read(storing: Storing) -> None:
    body = bytes(40 << 20)
    before = lent()
    async with (
        serve([response(gzip.compress(body, 1), "Content-Encoding: gzip")]) as server,
        storing.client() as client,
        client.stream("GET", server.url) as answer,
    ):
        await asyncio.sleep(0.5)
        total = 0
        async for view in answer.stream():
            assert lent() - before < 6 << 20
            total += len(view)
            del view
        assert total == len(body)


class Packer:
    """Chunks of a body in gzip, each with all that is needed to decode it."""

    def __init__(self) -> None:
        self.head = head("Transfer-Encoding: chunked", "Content-Encoding: gzip")
        self._coder = zlib.compressobj(wbits=31)

    def chunk(self, data: bytes) -> bytes:
        coded = self._coder.compress(data) + self._coder.flush(zlib.Z_SYNC_FLUSH)
        return b"%x\r\n%s\r\n" % (len(coded), coded)


async def test_a_coded_body_is_given_as_it_comes(storing: Storing) -> None:
    packer, noise = Packer(), os.urandom(70_000)
    script: list[Any] = [packer.head + packer.chunk(noise), 0.1, packer.chunk(b"event"), HANG]
    coded = response(gzip.compress(noise[:50_000]), "Content-Encoding: gzip")
    async with serve(script, [coded[:25_000], HANG]) as server, storing.client() as client, asyncio.timeout(5):
        async with client.stream("GET", server.url) as answer:
            assert await answer.read(70_005) == noise + b"event"
        async with client.stream("GET", server.url) as answer:
            assert await answer.read(10_000) == noise[:10_000]


async def test_what_came_of_a_coded_body_before_it_was_cut_is_read_before_that_is_raised() -> None:
    packer, noise, events = Packer(), os.urandom(70_000), [b"one", b"two", b"three"]
    script: list[Any] = [packer.head + packer.chunk(noise)]
    for event in events:
        script += [TURN, packer.chunk(event)]
    semaphore = penstock.Semaphore(1)
    assert semaphore.try_acquire(1)
    received = bytearray()
    async with serve([*script, TURN, CLOSE]) as server, penstock.Client(policy=penstock.Permit(semaphore)) as client:

        async def read() -> None:
            async with client.stream("GET", server.url) as answer:
                async for view in answer.stream():
                    received.extend(view)

        reading = asyncio.create_task(read())
        await until(lambda: server.closed == 1)
        await asyncio.sleep(0.05)
        # Its first turn of decoding begins only now.
        assert not received
        semaphore.release(1)
        with pytest.raises(penstock.Truncated):
            await reading
        assert received == noise + b"".join(events)
        assert at_hand(client) == NOTHING


async def test_all_that_came_of_a_cut_coded_body_is_read_however_much_it_is() -> None:
    # More than is decoded on the loop, and some turns of a decoder.
    body = os.urandom(40_000) + bytes(6 << 20)
    sent = gzip.compress(body, 1)
    script = [head(f"Content-Length: {len(sent) + 1}", "Content-Encoding: gzip") + sent, TURN, CLOSE]
    semaphore = penstock.Semaphore(1)
    assert semaphore.try_acquire(1)
    received = bytearray()
    before = lent()
    async with serve(script) as server, penstock.Client(policy=penstock.Permit(semaphore)) as client:

        async def read() -> None:
            async with client.stream("GET", server.url) as answer:
                async for view in answer.stream():
                    assert lent() - before < 6 << 20
                    received.extend(view)
                    del view

        reading = asyncio.create_task(read())
        await until(lambda: server.closed == 1)
        await asyncio.sleep(0.05)
        semaphore.release(1)
        with pytest.raises(penstock.Truncated):
            await reading
        assert bytes(received) == body
        await until(lambda: at_hand(client) == NOTHING)


async def test_a_cut_stream_that_is_left_reports_nothing() -> None:
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    packer, semaphore = Packer(), penstock.Semaphore(1)
    assert semaphore.try_acquire(1)
    script = [packer.head + packer.chunk(os.urandom(70_000)), TURN, CLOSE]
    async with serve(script) as server, penstock.Client(policy=penstock.Permit(semaphore)) as client:
        async with client.stream("GET", server.url):
            await until(lambda: server.closed == 1)
            # The connection has failed, and its decoding waits for the permit.
            await asyncio.sleep(0.05)
        semaphore.release(1)
        await until(lambda: at_hand(client) == NOTHING)
    gc.collect()
    assert not told


async def test_a_stream_that_is_read_at_once_needs_little_memory(storing: Storing) -> None:
    body = bytes(8 << 20)
    async with (
        serve([response(body)]) as server,
        storing.client(budget=penstock.Budget(ram="1MiB")) as client,
        client.stream("GET", server.url) as answer,
    ):
        assert await answer.read() == body


@pytest.mark.parametrize("end", [CLOSE, RESET])
async def test_what_came_before_an_error_is_read_before_it_is_raised(end: Any) -> None:
    script = [head(f"Content-Length: {len(BODY)}"), BODY[:700_000], 0.05, end]
    async with serve(script) as server, penstock.Client() as client:
        received = bytearray()

        async def read() -> None:
            async with client.stream("GET", server.url) as answer:
                async for view in answer.stream():
                    received.extend(view)

        with pytest.raises(penstock.Truncated) as caught:
            await read()
        assert received == BODY[:700_000]
        assert caught.value.url == server.url
        assert at_hand(client) == NOTHING


FAILING: dict[str, tuple[str, bytes, bytes, Any]] = {
    "too long": ("X-Coding: none", b"0123456789ABCDEF", b"0123456789ABCDE", penstock.BodyTooLong),
    "decoded too long": ("Content-Encoding: deflate", zlib.compress(bytes(16)), bytes(15), penstock.DecodedTooLong),
    "cut": ("Content-Encoding: deflate", zlib.compress(b"01234")[:-2], b"01234", penstock.Truncated),
    "followed by more": ("Content-Encoding: deflate", zlib.compress(b"01234") + b"5", b"01234", penstock.DecodeError),
}


@pytest.mark.parametrize("what", FAILING)
@pytest.mark.parametrize("apart", [True, False])
async def test_a_body_that_comes_with_its_head_and_fails_is_begun_and_gives_what_came(what: str, apart: bool) -> None:
    field, body, given, error = FAILING[what]
    tunables = penstock.Tunables(max_body=15)
    begin, rest = head("Transfer-Encoding: chunked", field), chunked(body, 1000)
    script: list[Any] = [begin, TURN, rest] if apart else [begin + rest]
    told: list[Any] = []
    hooks = penstock.Hooks(
        head=lambda request, status: told.append(status),
        done=lambda response: told.append("done"),
        failed=lambda request, error: told.append(type(error)),
    )
    async with serve(script) as server, penstock.Client(tunables=tunables, hooks=hooks) as client:
        received = bytearray()

        async def read() -> None:
            async for view in answer.stream(4):
                received.extend(view)

        async with client.stream("GET", server.url) as answer:
            assert answer.status == 200
            with pytest.raises(error):
                await read()
        assert received == given
        async with client.stream("GET", server.url) as answer:
            with pytest.raises(error) as caught:
                await answer.read()
        assert await caught.value.partial.read() == given
        with pytest.raises(error):
            await client.get(server.url)
        assert told == [200, "done", error, 200, "done", error, 200, error]
        assert at_hand(client) == NOTHING


@pytest.mark.parametrize("fault", [b"zz\r\n", b"0\r\nno trailer\r\n\r\n", b"0\r\nA: " + bytes(99_999)])
@pytest.mark.parametrize("apart", [True, False])
async def test_a_fault_of_framing_that_comes_with_the_head_is_told_when_the_body_is_read(
    fault: bytes, apart: bool
) -> None:
    begin, rest = head("Transfer-Encoding: chunked"), b"5\r\n01234\r\n" + fault
    script: list[Any] = [begin, TURN, rest, CLOSE] if apart else [begin + rest, CLOSE]
    told: list[Any] = []
    hooks = penstock.Hooks(
        head=lambda request, status: told.append(status), failed=lambda request, error: told.append(type(error))
    )
    error = penstock.HeadTooLong if fault[-1:] == b"\0" else penstock.ProtocolError
    async with serve(script) as server, penstock.Client(hooks=hooks) as client:
        received = bytearray()

        async def read() -> None:
            async for view in answer.stream():
                received.extend(view)

        async with client.stream("GET", server.url) as answer:
            assert answer.status == 200
            with pytest.raises(error):
                await read()
        assert received == b"01234"
        with pytest.raises(error):
            await client.get(server.url)
        assert told == [200, error, 200, error]
        assert at_hand(client) == NOTHING


@pytest.mark.parametrize("how", ["read", "text"])
async def test_what_a_read_had_before_it_failed_is_the_errors_partial(how: str) -> None:
    script = [head("Content-Length: 9"), b"abc", TURN, b"def", TURN, CLOSE]
    async with serve(script) as server, penstock.Client() as client:
        async with client.stream("GET", server.url) as answer:
            assert await answer.read(1) == b"a"
            with pytest.raises(penstock.Truncated) as caught:
                await getattr(answer, how)()
        assert await caught.value.partial.read() == b"bcdef"


async def test_limits_and_deadlines_hold() -> None:
    tunables = penstock.Tunables(max_body=100_000)
    timeout = penstock.Timeouts(idle=0.1, first_byte=0.1)
    wire = head("Transfer-Encoding: chunked") + chunked(BODY, 5000)
    idle: list[Any] = [head("Content-Length: 5"), b"abc", HANG]
    scripts: list[Any] = [[wire], [response(BODY)], idle, [HANG], [b"nonsense\r\n"]]
    errors = [
        penstock.BodyTooLong,
        penstock.ContentLengthTooLong,
        penstock.IdleTimeout,
        penstock.FirstByteTimeout,
        penstock.ProtocolError,
    ]
    async with serve(*scripts) as server, penstock.Client(tunables=tunables, timeout=timeout) as client:
        for error in errors:
            with pytest.raises(error) as caught:
                async with client.stream("GET", server.url) as answer:
                    await answer.read()
            assert caught.value.url == server.url
        await until(lambda: at_hand(client) == NOTHING)


WINDOW = 256 << 10


def ram(budget: penstock.Budget) -> dict[str, Any]:
    return budget.stats()["ram"]


@pytest.mark.parametrize("coding", ["plain", "gzip"])
async def test_without_budget_a_stream_is_received_window_by_window(storing: Storing, coding: str) -> None:
    body = random.Random(1).randbytes(2 << 20)
    sent, fields = (gzip.compress(body, 1), ["Content-Encoding: gzip"]) if coding == "gzip" else (body, [])
    budget = penstock.Budget(ram="1KiB")
    in_parts: list[Any] = [head(f"Content-Length: {len(sent)}", *fields), TURN, sent[:100], TURN, sent[100:]]
    chunks = [head("Transfer-Encoding: chunked", *fields), chunked(sent, 5000)]
    async with serve([response(sent, *fields)], in_parts, chunks) as server, storing.client(budget=budget) as client:
        for _ in range(3):
            async with asyncio.timeout(10), client.stream("GET", server.url) as answer:
                assert await answer.read() == body
    await until(lambda: ram(budget)["used"] == 0)
    # One that is received into, and one that is read.
    assert ram(budget)["peak"] <= 2 * WINDOW + (128 << 10)
    assert budget.stats()["files"]["peak"] == 0


@pytest.mark.parametrize("coding", ["plain", "gzip"])
async def test_what_is_unread_counts_until_it_is_read_or_left(storing: Storing, coding: str) -> None:
    body = random.Random(2).randbytes(4 << 20)
    sent, fields = (gzip.compress(body, 1), ["Content-Encoding: gzip"]) if coding == "gzip" else (body, [])
    budget = penstock.Budget(ram="64MiB")
    async with serve([response(sent, *fields)]) as server, storing.client(budget=budget) as client:
        async with client.stream("GET", server.url) as read:
            await until(lambda: ram(budget)["used"] > 512 << 10)
            assert await read.read() == body
        await until(lambda: ram(budget)["used"] == 0)
        async with client.stream("GET", server.url) as closed:
            await until(lambda: ram(budget)["used"] > 512 << 10)
            assert await closed.read(10) == body[:10]
        # It is kept, and what it had isn't.
        await until(lambda: ram(budget)["used"] == 0)
        assert closed.status == 200

        async def leave() -> None:
            async with client.stream("GET", server.url):
                await asyncio.Event().wait()

        cancelled = asyncio.create_task(leave())
        await until(lambda: ram(budget)["used"] > 512 << 10)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        del cancelled
        await until(lambda: ram(budget)["used"] == 0)


async def test_what_came_before_an_error_counts_until_it_is_read() -> None:
    budget = penstock.Budget(ram="64MiB")
    script = [head(f"Content-Length: {len(BODY)}"), BODY[:400_000], 0.05, RESET]
    async with serve(script) as server, penstock.Client(budget=budget) as client:
        async with client.stream("GET", server.url) as answer:
            await until(lambda: server.closed == 1 and ram(budget)["used"] == 400_000)
            with pytest.raises(penstock.Truncated):
                await answer.read()
        await until(lambda: ram(budget)["used"] == 0)


async def test_streams_that_share_a_small_budget_go_on_in_any_order(storing: Storing) -> None:
    bodies = [random.Random(seed).randbytes(3 << 20) for seed in range(4)]
    packed = gzip.compress(bodies[3], 1)
    scripts = [[response(body)] for body in bodies[:3]] + [[response(packed, "Content-Encoding: gzip")]]
    budget = penstock.Budget(ram="600KiB")
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(serve(*scripts))
        client = await stack.enter_async_context(storing.client(budget=budget))
        answers = [await stack.enter_async_context(client.stream("GET", server.url)) for _ in scripts]
        await until(lambda: ram(budget)["used"] > 600 << 10)
        received = [bytearray() for _ in scripts]
        async with asyncio.timeout(20):
            # One to its end while the others hold what they have, then two by turns.
            received[0] += await answers[0].read()
            streams = [answer.stream() for answer in answers[1:3]]
            while any(len(each) < len(bodies[0]) for each in received[1:3]):
                for each, stream in zip(received[1:3], streams, strict=True):
                    each += await anext(stream, b"")
            received[3] += await answers[3].read()
        assert received == bodies
        assert ram(budget)["peak"] <= (600 << 10) + len(scripts) * 2 * WINDOW
    await until(lambda: ram(budget)["used"] == 0)


async def test_streams_that_nobody_reads_hold_a_window_each_when_the_budget_is_used_up(storing: Storing) -> None:
    body = bytes(4 << 20)
    budget = penstock.Budget(ram="1KiB")
    async with (
        serve([response(body)]) as server,
        storing.client(budget=budget) as client,
        contextlib.AsyncExitStack() as stack,
    ):
        for _ in range(8):
            await stack.enter_async_context(client.stream("GET", server.url))
        await asyncio.sleep(0.1)
        assert ram(budget)["used"] <= 8 * WINDOW
    await until(lambda: ram(budget)["used"] == 0)


async def test_left_early_its_connection_is_closed() -> None:
    async with serve([response(BODY)]) as server, penstock.Client() as client:
        async with client.stream("GET", server.url) as answer:
            assert bytes(await anext(answer.stream(100))) == BODY[:100]
        await until(lambda: at_hand(client) == NOTHING)
        async with client.stream("GET", server.url):
            pass
        await until(lambda: server.closed == 2)


async def test_one_that_is_still_open_when_the_loop_ends_is_ended_without_an_error() -> None:
    told: list[Any] = []
    left: list[Any] = []

    async def leave_open(url: str) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        async with penstock.Client() as client:
            left.append(client.stream("GET", url))
            await left[0].__aenter__()

    async with serve([response(BODY)]) as server:
        await asyncio.to_thread(asyncio.run, leave_open(server.url))
        await until(lambda: server.closed == 1)
    assert not told


class FailingJar(http.cookiejar.CookieJar):
    def extract_cookies(self, response: Any, request: Any) -> None:
        raise OSError("the disk is full")


@pytest.mark.parametrize(
    ("field", "options", "error"),
    [
        ("Location: ftp://example.com/", {}, penstock.InvalidURL),
        ("A: b", {"hooks": penstock.Hooks(done=lambda answer: 1 / 0)}, ZeroDivisionError),
        ("Set-Cookie: a=b", {"cookies": FailingJar()}, OSError),
    ],
)
async def test_a_stream_that_cannot_be_given_gives_its_connection_back(
    field: str, options: dict[str, Any], error: type[Exception]
) -> None:
    status = "302 Found" if field.startswith("Location") else "200 OK"
    script = [response(bytes(8_000_000), field, status=status)]
    async with serve(script) as server, penstock.Client(**options) as client:
        with pytest.raises(error):
            async with client.stream("GET", server.url):
                pass
        await until(lambda: at_hand(client) == NOTHING)


async def test_redirects_are_followed_and_bodies_sent() -> None:
    async with serve(redirect(307, "/there"), [response(BODY)]) as server, penstock.Client() as client:
        async with client.stream("POST", server.url, content=b"body") as answer:
            assert len(await answer.read()) == len(BODY)
            assert [old.status for old in answer.history] == [307]
        assert server.bodies == [b"body"] * 2


async def test_a_closing_client_ends_a_stream() -> None:
    async with serve([head("Content-Length: 9"), b"abc", HANG]) as server:
        client = penstock.Client()
        async with client.stream("GET", server.url) as answer:
            reading = asyncio.create_task(answer.read())
            await until(lambda: server.sent > 3)
            await client.aclose()
            with pytest.raises(penstock.ClientClosed):
                await reading


async def test_a_stream_cancelled_at_any_turn_leaves_nothing(storing: Storing) -> None:
    wire = head("Transfer-Encoding: chunked") + chunked(BODY, 50_000)
    slowly: list[Any] = [TURN]
    for start in range(0, len(wire), 200_000):
        slowly += [wire[start : start + 200_000], TURN]
    before = lent()
    async with serve(slowly) as server, storing.client() as client:

        async def read() -> int:
            async with client.stream("GET", server.url) as answer:
                return len(await answer.read())

        for turns in range(80):
            reading = asyncio.create_task(read())
            for _ in range(turns):
                await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait([reading])
            assert reading.cancelled() or reading.result() == len(BODY)
            del reading
        assert await read() == len(BODY)
        await until(lambda: at_hand(client)["open"] == at_hand(client)["idle"])
        await until(lambda: lent() <= before + (256 << 10))


@pytest.mark.parametrize("where", ["in the head", "in the body"])
async def test_the_failure_of_a_stream_is_in_no_cycle(where: str) -> None:
    sent = b"HTTP/1.1 200 OK\r\n" if where == "in the head" else head("Content-Length: 9") + b"abc"

    async def fail(client: penstock.Client, url: str) -> weakref.ref[penstock.PenstockError]:
        try:
            async with client.stream("GET", url) as answer:
                await answer.read()
        except penstock.PenstockError as error:
            return weakref.ref(error)
        raise AssertionError("nothing was wrong")

    async with serve([sent, CLOSE]) as server, penstock.Client() as client:
        with uncollected():
            failure = await fail(client, server.url)
            await until(lambda: failure() is None)


async def test_nothing_can_be_read_after_a_failure_or_the_end_of_the_block() -> None:
    scripts = [head("Content-Length: 9") + b"abc", CLOSE], [response(BODY)]
    async with serve(*scripts) as server, penstock.Client() as client:
        async with client.stream("GET", server.url) as answer:
            with pytest.raises(penstock.Truncated):
                await answer.read()
            with pytest.raises(penstock.RequestError, match="it failed, Truncated"):
                await answer.read()
        async with client.stream("GET", server.url) as answer:
            assert await answer.read(10) == BODY[:10]
        with pytest.raises(penstock.RequestError, match="it was closed"):
            await answer.read()


@pytest.mark.parametrize("stored", [False, True])
async def test_what_was_left_in_the_block_is_not_given_behind_it_be_it_ever_so_little(stored: bool) -> None:
    budget = penstock.Budget(ram="64MiB")
    async with serve([response(b"all of it")]) as server, penstock.Client() as client:
        dialog = await client.record("GET", server.url)
        transport = penstock.Replay([dialog]) if stored else None
        async with penstock.Client(budget=budget, transport=transport) as other:
            for taken in (0, 3, 9):
                async with other.stream("GET", server.url) as answer:
                    # Its connection is free again when all has come.
                    await until(lambda: stored or other.stats()["idle"] == 1)
                    assert await answer.read(taken) == b"all of it"[:taken]
                with pytest.raises(penstock.RequestError, match="it was closed"):
                    await answer.read()
                await answer.aclose()
                assert (answer.status, answer.headers["content-length"]) == (200, "9")
                await until(lambda: ram(budget)["used"] == 0)


async def test_a_task_that_still_reads_when_the_block_is_left_is_told_and_not_cancelled() -> None:
    async with serve([head("Content-Length: 9"), b"abc", HANG]) as server, penstock.Client() as client:
        async with client.stream("GET", server.url) as answer:
            assert await answer.read(3) == b"abc"
            reading = asyncio.create_task(answer.read())
            await asyncio.sleep(0)
        with pytest.raises(penstock.RequestError, match="it was closed"):
            await reading
        await until(lambda: at_hand(client) == NOTHING)


async def test_errors_that_have_a_stream_pickle_with_its_head() -> None:
    scripts = [response(b"gone", "X-Reason: moved away", status="410 Gone")], redirect(302, "/again")
    async with serve(*scripts) as server, penstock.Client(max_redirects=1) as client:
        with pytest.raises(penstock.HTTPStatusError) as refused:
            async with client.stream("GET", server.url) as answer:
                answer.raise_for_status()
        copy = pickle.loads(pickle.dumps(refused.value)).response
        assert (copy.status, copy.url, copy.headers["x-reason"]) == (410, server.url, "moved away")
        with pytest.raises(penstock.RequestError, match="it is a copy, without the body"):
            await copy.read()
        await copy.aclose()
        with pytest.raises(penstock.TooManyRedirects) as lost:
            async with client.stream("GET", server.url):
                pass
        assert [old.status for old in pickle.loads(pickle.dumps(lost.value)).history] == [302, 302]
