"""`client.record`: all of a request and its answer, as they went over the wire."""

from __future__ import annotations

import asyncio
import datetime
import gzip
import pickle
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock import barc

from tests.http.conftest import NOTHING, Storing, at_hand
from tests.http.serving import CLOSE, HANG, RESET, TURN, UNREAD, chunked, head, response, serve, until
from tests.http.test_tls import serve_tls, trusting

pytestmark = pytest.mark.asyncio

LARGE = bytes(i * 17 >> 3 & 255 for i in range(700_001))


async def pieces(*parts: Any) -> AsyncIterator[Any]:
    for part in parts:
        yield part


class Again:
    """An asynchronous iterable that can be gone through more than once."""

    def __init__(self, *parts: bytes) -> None:
        self._parts = parts

    def __aiter__(self) -> AsyncIterator[bytes]:
        return pieces(*self._parts)


async def test_both_heads_are_those_that_went_over_the_wire() -> None:
    answer = b"HTTP/1.1 200 Fine\r\nX-Two:  1 \r\nx-two: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
    wire = answer + b"3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n"
    async with serve([TURN, wire]) as server, penstock.Client(headers={"X-A": "1"}) as client:
        url, port = server.url, server.port
        before = datetime.datetime.now(datetime.UTC)
        dialog = await client.record("get", server.url, params={"q": "1"}, auth=("u", "p"))
        after = datetime.datetime.now(datetime.UTC)
        assert dialog.trace.req_head == server.requests[0] + b"\r\n\r\n"
    assert (dialog.method, dialog.url) == ("GET", url + "?q=1")
    sent = [line.split(b": ", 1) for line in server.requests[0].split(b"\r\n")[1:]]
    assert sorted(dialog.req_headers.raw) == sorted((name, value) for name, value in sent)
    assert {"host", "x-a", "authorization", "accept-encoding"} <= set(dialog.req_headers)
    assert (dialog.status, dialog.version, len(dialog.req_body)) == (200, "HTTP/1.1", 0)
    assert dialog.res_headers.get_all("x-two") == ["1", "2"]
    assert (await dialog.res_body.read(), dialog.res_decoded) == (b"abc", ("chunked", "identity"))
    trace = dialog.trace
    assert (trace.res_head, trace.trailers, trace.history) == (answer, ((b"X-Sum", b"7"),), ())
    assert trace.peer == ("127.0.0.1", port)
    assert trace.started is not None
    assert before <= trace.started <= after
    assert trace.sent is not None
    assert trace.first_byte is not None
    assert trace.done is not None
    assert 0 <= trace.sent <= trace.first_byte <= trace.done


BODIES: dict[str, tuple[dict[str, Any], bytes]] = {
    "bytes": ({"content": b"\x00\xff"}, b"\x00\xff"),
    "no bytes": ({"content": b""}, b""),
    "text": ({"content": "grün"}, "grün".encode()),
    "json": ({"json": {"a": None}}, b'{"a":null}'),
    "form": ({"form": {"a": "1 2"}}, b"a=1+2"),
}


@pytest.mark.parametrize("what", BODIES)
async def test_a_body_at_hand_is_recorded_and_sent_as_without_recording(what: str) -> None:
    options, body = BODIES[what]
    async with serve([response(b"ok")]) as server, penstock.Client() as client:
        dialog = await client.record("POST", server.url, **options)
        await client.post(server.url, **options)
        assert (server.bodies, server.requests[0]) == ([body, body], server.requests[1])
    assert await dialog.req_body.read() == body


async def test_images_are_shared_and_what_is_sent_in_pieces_is_collected(storing: Storing, tmp_path: Path) -> None:
    image = await penstock.collect(pieces(LARGE), storing.tunables)
    path = tmp_path / "file"
    path.write_bytes(LARGE)
    async with serve([response(b"ok")]) as server, storing.client() as client:
        shared = await client.record("PUT", server.url, content=image)
        assert shared.req_body is image
        views = pieces(LARGE, memoryview(b"abc"), b"", bytearray(b"d"))
        streamed = await client.record("PUT", server.url, content=views)
        assert await streamed.req_body.read() == LARGE + b"abcd" == server.bodies[1]
        assert streamed.req_body.state == storing.state(LARGE)
        assert streamed.req_headers["transfer-encoding"] == "chunked"
        form = await client.record("POST", server.url, files={"a": "1", "b": path, "c": image})
        assert await form.req_body.read() == server.bodies[2]
        assert form.req_headers["content-length"] == str(len(form.req_body))
        assert server.bodies[2].count(LARGE) == 2
        assert server.connections == 1


async def test_a_collected_body_has_the_limits_of_the_tunables() -> None:
    tunables = penstock.Tunables(max_body_ram=1000, max_body=2000)
    async with serve([response(b"ok")]) as server, penstock.Client(tunables=tunables) as client:
        spilled = await client.record("PUT", server.url, content=pieces(b"x" * 1500))
        assert spilled.req_body.state == "file"
        with pytest.raises(penstock.BodyTooLong) as caught:
            await client.record("PUT", server.url, content=pieces(b"x" * 1500, b"y" * 600))
        assert caught.value.partial is not None
        assert await caught.value.partial.read() == b"x" * 1500
        await until(lambda: client.stats()["open"] == 0)


async def test_redirects_are_dialogs_of_their_own() -> None:
    scripts = [
        [head("Location: /two", "Content-Length: 4", status="307 Moved") + b"gone"],
        [head("Location: /three", "Content-Length: 0", status="303 See")],
        [response(b"here")],
    ]
    async with serve(*scripts) as server, penstock.Client() as client:
        last = await client.record("POST", server.url, content=Again(b"ab", b"cd"))
        url = server.url
        assert server.bodies == [b"abcd", b"abcd"]
        heads = [request + b"\r\n\r\n" for request in server.requests]
    first, second = last.trace.history
    assert [(dialog.method, dialog.status) for dialog in (first, second, last)] == [
        ("POST", 307),
        ("POST", 303),
        ("GET", 200),
    ]
    assert [dialog.trace.req_head for dialog in (first, second, last)] == heads
    assert (await first.res_body.read(), await first.req_body.read()) == (b"gone", b"abcd")
    assert (await second.req_body.read(), len(last.req_body), last.url) == (b"abcd", 0, url + "three")
    answer = last.response()
    assert [(answer.status, answer.url) for answer in answer.history] == [(307, url), (303, url + "two")]
    async with serve(scripts[0]) as server, penstock.Client(follow_redirects=False) as client:
        assert (await client.record("GET", server.url)).status == 307


async def test_a_request_that_met_a_stale_connection_is_recorded_once() -> None:
    async with serve([response(b"a"), CLOSE], [response(b"b")]) as server, penstock.Client() as client:
        await client.get(server.url)
        dialog = await client.record("PUT", server.url, content=Again(b"body"))
        assert server.bodies == [b"body"]
    assert (await dialog.req_body.read(), await dialog.res_body.read(), dialog.trace.history) == (b"body", b"b", ())


async def test_codings_that_were_taken_off_are_named() -> None:
    zipped = gzip.compress(b"text")
    async with serve([response(zipped, "Content-Encoding: gzip")]) as server, penstock.Client() as client:
        for decode, body, decoded in ((True, b"text", True), ("after", b"text", True), (False, zipped, False)):
            dialog = await client.record("GET", server.url, decode=decode)  # type: ignore[arg-type]
            assert await dialog.res_body.read() == body
            assert dialog.res_decoded == (("gzip", "identity") if decoded else ())
            assert dialog.res_headers["content-encoding"] == "gzip"
            assert dialog.response().decoded == (("gzip",) if decoded else ())


async def test_an_answer_that_comes_early_has_what_was_sent_by_then() -> None:
    async def slowly() -> AsyncIterator[bytes]:
        yield b"first"
        await until(lambda: client.stats()["active"] == 0 or server.sent > 0)
        yield b"never"

    script = [UNREAD, 0.02, response(b"no", status="403 No")]
    async with serve(script) as server, penstock.Client() as client:
        dialog = await client.record("PUT", server.url, content=slowly())
        assert (dialog.status, (await dialog.req_body.read())[:5]) == (403, b"first")
        assert dialog.trace.sent is not None
        assert dialog.trace.first_byte is not None
        # It went on until the answer came, which took the server so long.
        assert 0.015 < dialog.trace.sent <= dialog.trace.first_byte


async def test_budget_for_what_is_sent_is_waited_for_as_for_what_is_received(tmp_path: Path) -> None:
    tunables = penstock.Tunables(max_body_ram=0, temp_dir=tmp_path)
    budget = penstock.Budget(files=1)
    kept = penstock.BodySink(tunables, budget=budget)
    kept.write(b"the only file")
    await penstock.run_blocking(kept.write_back)
    options: dict[str, Any] = {"tunables": tunables, "budget": budget}
    async with serve([response(b"")], [response(b"")]) as server, penstock.Client(**options) as client:
        with pytest.raises(penstock.BudgetExceeded):
            await client.record("PUT", server.url, content=pieces(LARGE, LARGE), timeout=penstock.Timeouts(budget=0.1))
        recording = asyncio.create_task(client.record("PUT", server.url, content=pieces(LARGE, LARGE)))
        await asyncio.sleep(0.1)
        assert not recording.done()
        kept.close()
        async with asyncio.timeout(10):
            dialog = await recording
        assert await dialog.req_body.read() == LARGE + LARGE
        del dialog, recording


async def test_what_was_too_long_to_send_is_what_its_error_has(tmp_path: Path) -> None:
    answered = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"sent"
        await answered.wait()
        yield LARGE

    tunables = penstock.Tunables(max_body=len(LARGE))
    script = [UNREAD, head("Content-Length: 100"), b"received", answered.set, HANG]
    async with serve(script) as server, penstock.Client(tunables=tunables) as client:
        with pytest.raises(penstock.BodyTooLong) as caught:
            await client.record("PUT", server.url, content=body())
    assert caught.value.partial is not None
    assert await caught.value.partial.read() == b"sent"


async def test_the_total_time_holds_while_what_was_sent_is_written(
    tmp_path: Path, slow_disk: Callable[[float], None]
) -> None:
    slow_disk(1)
    tunables = penstock.Tunables(max_body_ram=0, temp_dir=tmp_path)
    async with serve([response(b"")]) as server, penstock.Client(tunables=tunables) as client:
        with pytest.raises(penstock.TotalTimeout) as caught:
            await client.record("PUT", server.url, content=pieces(b"sent"), timeout=penstock.Timeouts(total=0.2))
        assert (caught.value.request, caught.value.url) == ("PUT", server.url)


async def test_it_fails_as_a_request_does_and_drops_what_it_collected(storing: Storing) -> None:
    def body() -> AsyncIterator[bytes]:
        return pieces(LARGE, LARGE)

    async def broken() -> AsyncIterator[bytes]:
        yield LARGE
        raise KeyError("of the source")

    scripts = [[RESET], [response(LARGE)[:1000], CLOSE], [response(b"ok")]]
    async with serve(*scripts) as server, storing.client() as client:
        with pytest.raises(penstock.ConnectionLost) as lost:
            await client.record("PUT", server.url, content=body())
        assert (lost.value.request, lost.value.url) == ("PUT", server.url)
        with pytest.raises(penstock.Truncated) as cut:
            await client.record("PUT", server.url, content=body())
        assert cut.value.partial is not None
        with pytest.raises(KeyError):
            await client.record("PUT", server.url, content=broken())
        assert (await client.record("PUT", server.url, content=body())).status == 200
        assert client.stats()["failed"] == 3
        await client.aclose()
        assert at_hand(client) == NOTHING


async def test_a_dialog_pickles_and_an_archive_keeps_its_times_and_peer(tmp_path: Path) -> None:
    wire = head("Transfer-Encoding: chunked", "X-A: \xe4") + chunked(b"body", 2)
    async with serve([wire]) as server, penstock.Client() as client:
        dialog = await client.record("POST", server.url, content=pieces(b"sent"))
    for protocol in (4, 5):
        copy = pickle.loads(pickle.dumps(dialog, protocol))
        assert (copy.trace, copy.req_headers.raw, copy.res_headers.raw) == (
            dialog.trace,
            dialog.req_headers.raw,
            dialog.res_headers.raw,
        )
        assert (await copy.req_body.read(), await copy.res_body.read()) == (b"sent", b"body")
    async with barc.AsyncArchive(tmp_path / "a.barc", "a") as archive:
        offset = await archive.append(dialog)
        record = await archive.read(offset)
    assert record is not None
    read = record.dialog()
    trace = dialog.trace
    assert read.trace == penstock.Trace(
        started=trace.started, sent=trace.sent, first_byte=trace.first_byte, done=trace.done, peer=trace.peer
    )
    assert read.replace(req_body=dialog.req_body, res_body=dialog.res_body) == dialog


async def test_a_dialog_gives_its_response_back() -> None:
    wire = b"HTTP/1.1 404 Nothing here\r\nContent-Length: 2\r\nX-A: 1\r\n\r\nno"
    async with serve([wire]) as server, penstock.Client() as client:
        dialog = await client.record("GET", server.url)
    answer = dialog.response()
    assert (answer.status, answer.reason, answer.url, answer.elapsed) == (
        404,
        "Nothing here",
        dialog.url,
        dialog.trace.done,
    )
    assert answer.body is dialog.res_body
    assert answer.headers.raw == ((b"Content-Length", b"2"), (b"X-A", b"1"))
    again = penstock.RequestRecord(dialog.prolog).answered(answer)
    assert (again, again.trace.res_head) == (dialog, dialog.trace.res_head)
    changed = dialog.replace(status=299, req_headers=[])
    assert (changed.trace.res_head, changed.trace.req_head) == (b"", b"")
    assert (changed.response().status, changed.response().reason) == (299, "")
    assert dialog.replace(version="HTTP/2.0").response().version == "HTTP/1.1"
    with pytest.raises(penstock.HTTPStatusError, match="404 Nothing here"):
        answer.raise_for_status()


async def test_the_peer_is_whom_the_connection_is_with(certificate: Path, tmp_path: Path) -> None:
    async with serve([response(b"by proxy")]) as proxy, penstock.Client(proxy=proxy.url) as client:
        dialog = await client.record("GET", "http://elsewhere.test/x")
        assert (dialog.url, dialog.trace.peer) == ("http://elsewhere.test/x", ("127.0.0.1", proxy.port))
        assert dialog.trace.req_head.startswith(b"GET http://elsewhere.test/x HTTP/1.1\r\n")
    async with (
        serve_tls(certificate, response(b"by TLS")) as url,
        penstock.Client(ssl_context=trusting(certificate)) as client,
    ):
        dialog = await client.record("GET", f"{url}0")
        assert (await dialog.res_body.read(), dialog.trace.peer is not None) == (b"by TLS", True)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response(b"by a Unix socket"))
        await reader.read()
        writer.close()

    path = str(tmp_path / "socket")
    server = await asyncio.start_unix_server(answer, path)
    async with penstock.Client(uds=path) as client:
        dialog = await client.record("GET", "http://any.host/")
        assert (await dialog.res_body.read(), dialog.trace.peer) == (b"by a Unix socket", None)
    server.close()


async def test_what_no_record_could_hold_is_not_sent() -> None:
    fields = {f"x-{number}": "1" for number in range(129)}
    async with serve([response(b"")]) as server, penstock.Client() as client:
        with pytest.raises(penstock.HeadTooLong, match="128"):
            await client.record("GET", server.url, headers=fields)
        assert (server.requests, at_hand(client)) == ([], NOTHING)
