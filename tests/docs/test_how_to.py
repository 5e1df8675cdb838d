"""What the first page, the how-to pages and their neighbours define does what they say, against a server of ours."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gzip
import hashlib
import re
import sqlite3
import string
import urllib.parse
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import penstock
import pytest
from penstock import barc
from starlette.responses import StreamingResponse

from tests.docs.test_recording import DOCS, page
from tests.http.serving import BODY, CLOSE, UNREAD, head, response, serve, until

pytestmark = pytest.mark.asyncio

LARGE = bytes(range(256)) * 2000


async def pieces(*given: bytes) -> AsyncIterator[bytes]:
    for piece in given:
        yield piece


async def test_the_first_page_saves_a_body_and_looks_through_another(tmp_path: Path) -> None:
    index = page("index.md")
    async with serve([response(LARGE)]) as server:
        await index["save"](server.url, tmp_path / "body")
    assert (tmp_path / "body").read_bytes() == LARGE
    assert await index["largest_byte"](pieces(b"a", LARGE, b"b")) == 255


async def test_a_get_that_fails_is_made_once_more() -> None:
    get = page("how-to/get.md")
    async with serve([CLOSE], [response(b"body")]) as server, get["bounded_client"]() as client:
        assert await (await get["once_more"](client, server.url)).read() == b"body"
        assert await (await get["fetch"](server.url)).read() == b"body"
        assert len(server.requests) == 3


async def test_a_url_beyond_ascii_is_encoded_as_the_page_says() -> None:
    recipe = re.search(r"`(urllib\.parse\.quote\([^`]*\))`", (DOCS / "how-to/get.md").read_text())
    assert recipe is not None
    async with serve([response(b"")]) as server, penstock.Client() as client:
        url = f"{server.url}straße a?q=ü%20&r=[1]"
        await client.get(eval(recipe[1], {"urllib": urllib, "string": string, "url": url}))
        assert server.requests[0].split(b" ")[1] == b"/stra%C3%9Fe%20a?q=%C3%BC%20&r=[1]"


async def test_bodies_of_each_kind_are_sent(tmp_path: Path) -> None:
    send, image = page("how-to/send.md"), penstock.BodyImage.from_bytes(b"image")
    path = tmp_path / "large.bin"
    path.write_bytes(b"from a file")
    send["pathlib"] = SimpleNamespace(Path=lambda name: path)
    async with serve([response(b"ok")]) as server, penstock.Client() as client:
        await send["send"](client, server.url, image)
        *bodies, form = server.bodies
        assert bodies == [b'{"name":"penstock"}', b"a=1&b=2&b=3", b"bytes", b"image", b"from a file"]
        assert b'name="file"; filename="a.bin"' in form
    granted = [UNREAD, b"HTTP/1.1 100 Continue\r\n\r\n", BODY, response(b"ok")]
    async with serve(granted) as server, penstock.Client() as client:
        assert (await send["careful"](client, server.url, image)).status == 200
        assert server.bodies == [b"image"]


async def test_names_come_from_a_table_and_strangers_lead_to_public_addresses_only() -> None:
    connect = page("how-to/connect.md")
    assert await connect["from_a_table"]("api.internal") == ["10.0.0.7", "10.0.0.8"]
    async with penstock.Client(resolver=connect["from_a_table"]) as client:
        with pytest.raises(penstock.DNSError):
            await client.get("http://elsewhere.internal/")
    assert connect["is_public"]("1.1.1.1")
    async with serve([response(b"ok")]) as server, penstock.Client(allow_address=connect["is_public"]) as client:
        with pytest.raises(penstock.ConnectError, match="which allow_address= refuses"):
            await client.get(server.url)
        assert server.connections == 0


async def test_a_stream_is_counted_and_kept(tmp_path: Path) -> None:
    stream, seen = page("how-to/stream.md"), list[int]()
    async with serve([response(LARGE)]) as server, penstock.Client() as client:
        assert await stream["count"](client, server.url) == len(LARGE)
        await stream["download"](client, server.url, tmp_path / "body", seen.append)
    assert (tmp_path / "body").read_bytes() == LARGE
    assert sum(seen) == len(LARGE)


PART = ("Content-Range: bytes 200000-511999/512000", "Content-Length: 312000")
RANGED = {
    "the same": ([head(*PART, status="206 Part")], None),
    "another": ([response(LARGE, 'ETag: "2"')], "has changed, or gives no ranges"),
    "another part": ([head("Content-Range: bytes 0-1/2", "Content-Length: 2", status="206 Part")], "has changed"),
}


@pytest.mark.parametrize(("answer", "refused"), RANGED.values(), ids=RANGED.keys())
async def test_a_download_goes_on_where_it_broke_off(tmp_path: Path, answer: list[bytes], refused: str | None) -> None:
    resumed, path = page("how-to/stream.md")["resumed"], tmp_path / "body"
    begun = [head(f"Content-Length: {len(LARGE)}", 'ETag: "1"'), LARGE[:200_000], CLOSE]
    async with serve([CLOSE], begun, [*answer, LARGE[200_000:], CLOSE]) as server, penstock.Client() as client:
        if refused is None:
            await resumed(client, server.url, path, (0, 0))
            assert path.read_bytes() == LARGE
        else:
            with pytest.raises(ValueError, match=refused):
                await resumed(client, server.url, path, (0, 0))
            assert not path.exists()
        assert b"range" not in server.requests[-2]
        assert server.requests[-1].endswith(b'\r\nrange: bytes=200000-\r\nif-range: "1"')


@pytest.mark.parametrize("tag", [(), ('ETag: W/"1"',)], ids=["no tag", "a weak tag"])
async def test_a_download_without_a_strong_tag_ends_where_it_broke_off(tmp_path: Path, tag: tuple[str, ...]) -> None:
    begun = [head(f"Content-Length: {len(LARGE)}", *tag), LARGE[:200_000], CLOSE]
    async with serve(begun) as server, penstock.Client() as client:
        with pytest.raises(penstock.Truncated):
            await page("how-to/stream.md")["resumed"](client, server.url, tmp_path / "body", (0, 0))
        assert len(server.requests) == 1


async def test_a_stream_is_read_line_by_line() -> None:
    stream, text = page("how-to/stream.md"), b"one\n\nthree\n" + b"x" * 100_000 + b"\nlast"
    async with serve([response(text)]) as server, penstock.Client() as client:
        async with client.stream("GET", server.url) as answer:
            assert [line async for line in stream["lines"](answer)] == text.split(b"\n")
        async with client.stream("GET", server.url) as answer:
            with pytest.raises(ValueError, match="more than 1000 bytes"):
                assert [line async for line in stream["lines"](answer, 1000)] == []


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
async def test_events_are_read_from_a_stream_that_is_often_silent(end: bytes) -> None:
    stream = page("how-to/stream.md")
    text = end.join((b":", b"", b"data: one", b"id: 1", b"", b"data:two", b"data:  three", b"", b"data: cut"))
    async with serve([response(text)]) as server, penstock.Client() as client:
        seen = [event async for event in stream["events"](client, server.url, "0")]
        assert seen == [("1", b"one"), ("1", b"two\n three")]
        assert b"last-event-id: 0" in server.requests[0]
    assert stream["ENDLESS"]["timeout"].min_rate is None


async def test_bodies_from_elsewhere_are_collected_and_go_back(tmp_path: Path) -> None:
    collect = page("how-to/collect-bodies.md")
    image = await collect["received"](SimpleNamespace(stream=lambda: pieces(LARGE, b"end")))
    assert await image.read() == LARGE + b"end"
    await collect["use"](image, tmp_path / "body")
    assert (tmp_path / "body").read_bytes() == LARGE + b"end"
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(bytes(message.get("body", b"")))

    answer = StreamingResponse(image.stream(65536))
    await answer({"type": "http", "asgi": {"spec_version": "2.4"}}, None, send)  # type: ignore[arg-type]
    assert b"".join(sent) == LARGE + b"end"
    cut = await collect["fetch_or_head_of"](pieces(b"abc", b"defg"), penstock.Tunables(max_body=5))
    assert await cut.read() == b"abc"
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    for piece in (b"a", b"b", b""):
        queue.put_nowait(piece)
    assert await (await collect["spool"](queue)).read() == b"ab"


async def test_a_coded_body_is_bounded_unpacked_and_packed(capsys: pytest.CaptureFixture[str]) -> None:
    untrusted, text = page("how-to/untrusted-bodies.md"), b"text" * 100
    wires = [gzip.compress(text), gzip.compress(bytes(1 << 20))]
    async with serve(*([response(wire, "Content-Encoding: gzip")] for wire in wires)) as server:
        body, decoded = await untrusted["fetch"](server.url)
        assert (await body.read(), decoded) == (text, ("gzip",))
        assert await untrusted["fetch"](server.url) is None
    assert "Tunables.max_ratio" in capsys.readouterr().out
    image = await untrusted["unpack"](pieces(wires[0]), "gzip")
    packed = await untrusted["pack"](image)
    assert await (await packed.decode("zstd")).read() == text


async def test_a_crawl_goes_on_after_failures_and_asks_for_nothing_twice(tmp_path: Path) -> None:
    archive, path = page("how-to/archive.md"), tmp_path / "a.barc"
    moved = [head("Location: /there", "Content-Length: 0", status="301 Moved")]
    async with serve([response(b"one", "Content-Type: text/plain")], moved, [response(b"there")], [CLOSE]) as server:
        urls = [server.url + name for name in ("one", "moved", "cut")]
        failed = await archive["crawl"](urls, path, workers=1)
        assert {url: type(error) for url, error in failed.items()} == {urls[2]: penstock.ConnectionLost}
        rows = await penstock.run_blocking(lambda: list(archive["rows"](path)))
        columns = [(row["url"], row["status"], row["type"], row["bytes"]) for row in rows]
        assert columns == [
            (urls[0], 200, "text/plain", 3),
            (server.url + "there", 200, None, 5),
            (urls[1], 301, None, 0),
        ]
        assert all(row["started"] and row["seconds"] >= 0 for row in rows)
        asked = len(server.requests)
        assert list(await archive["crawl"](urls, path)) == [urls[2]]
        assert {request.split()[1] for request in server.requests[asked:]} == {b"/cut"}


async def test_an_archive_is_written_read_followed_and_mended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive, path = page("how-to/archive.md"), tmp_path / "a.barc"
    async with serve([response(b"body", "Set-Cookie: a=secret")]) as server:
        await archive["keep"]([server.url], path)
        async with penstock.Client(auth=("user", "secret")) as client:
            dialog = archive["without_secrets"](await client.record("GET", server.url))
    names = {name for name, _ in (*dialog.req_headers.raw, *dialog.res_headers.raw)}
    assert names.isdisjoint((b"authorization", b"set-cookie"))
    assert (dialog.trace.req_head, dialog.trace.res_head) == (b"", b"")
    async with barc.AsyncArchive(path, "a") as more:
        offset = await more.append(dialog)
    status, _, body = await archive["one"](path, offset)
    assert (status, body) == (200, b"body")
    capsys.readouterr()
    await penstock.run_blocking(archive["look"], path)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["0", str(offset)]

    found: asyncio.Queue[barc.Record] = asyncio.Queue()
    following = asyncio.create_task(archive["follow"](path, found.put_nowait))
    assert [(await found.get()).offset for _ in range(2)] == [0, offset]
    following.cancel()
    await asyncio.wait([following])

    path.write_bytes(path.read_bytes()[:-1])
    assert [record.offset for record in await penstock.run_blocking(archive["rescue"], path)] == [0]
    await penstock.run_blocking(archive["mend"], path)
    assert f"\ncut off {offset} " in capsys.readouterr().out
    assert path.stat().st_size == offset


async def test_a_client_is_answered_by_a_function() -> None:
    async with page("how-to/replay.md")["echoing"]() as client:
        answer = await client.post("http://a.test/x")
        assert await answer.json() == {"method": "POST", "url": "http://a.test/x"}


async def test_bodies_stay_in_a_budget_and_files_are_recycled() -> None:
    image = await page("how-to/limit-memory.md")["spool"](pieces(b"a", LARGE))
    assert await image.read() == b"a" + LARGE
    recycle = page("how-to/recycle-files.md")
    async with serve([response(LARGE)]) as server:
        body = await recycle["mirror"](server.url)
        assert await body.read() == LARGE
    del body
    await until(lambda: recycle["pool"].stats()["files"] == 1)
    recycle["pool"].clear()


async def test_a_driver_has_connections_in_a_program_and_in_an_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    driver = page("how-to/database-driver.md")
    monkeypatch.chdir(tmp_path)
    with contextlib.closing(sqlite3.connect("accounts.db")) as connection, connection:
        connection.execute("CREATE TABLE accounts (id INTEGER, balance INTEGER)")
        connection.execute("INSERT INTO accounts VALUES (1, 100)")
    await driver["main"]()
    assert capsys.readouterr().out == "100\n"
    assert await driver["fetch"](SimpleNamespace(fetch_all=len), "sql") == 3
    app = driver["app"]
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client, driver["lifespan"](app):
        answer = await client.get("/accounts/1")
        assert (answer.status_code, answer.json()) == (200, {"balance": 100})
        async with penstock.DispatchPool(queue_length=0, overflow="caller") as app.state.database:
            assert (await client.get("/accounts/1")).status_code == 503


async def test_many_items_go_through_a_pool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path in paths:
        path.write_text("[1, 2]\n[3]\n")
    await page("how-to/parser.md")["main"](paths)
    assert capsys.readouterr().out == "3\n3\n3\n"
    pool_page = page("reference/pool.md")
    await pool_page["main"]()
    assert capsys.readouterr().out == "1024\n"
    async with penstock.DispatchPool(threads=1) as pool:
        assert [size async for size in pool_page["largest"](pool, paths)] == [11, 11, 11]


async def test_functions_run_under_permits(tmp_path: Path) -> None:
    blocking, path = page("explanation/blocking.md"), tmp_path / "file"
    path.write_bytes(LARGE)
    assert await blocking["hashed"](path) == hashlib.sha256(LARGE).hexdigest()
    assert await blocking["rows"](SimpleNamespace(fetchall=lambda: [1])) == [1]


async def test_one_timeout_of_several_is_changed_as_the_settings_say() -> None:
    assert dataclasses.replace(penstock.Timeouts(connect=2), total=5) == penstock.Timeouts(connect=2, total=5)
