"""The pages on recording, run from their first line to their last against a server of ours."""

from __future__ import annotations

import asyncio
import base64
import gzip
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock import barc, warc

from tests.http.serving import head, response, serve

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = b"<html><title>Example Domain</title></html>"


def page(name: str) -> dict[str, Any]:
    """What the page's examples define."""
    found: dict[str, Any] = {"__name__": "example"}
    for block in re.findall(r"^```python\n(.*?)^```", (DOCS / name).read_text(), re.MULTILINE | re.DOTALL):
        exec(block, found)
    return found


async def the_site(record: Callable[..., Any], path: Path) -> None:
    """Records a page that is behind a redirect."""
    scripts = [
        [head("Location: /", "Content-Length: 0", status="301 Moved")],
        [response(PAGE, "Content-Type: text/html")],
    ]
    async with serve(*scripts) as server:
        await record([server.url + "old"], path)


@pytest.mark.asyncio
async def test_the_tutorial_records_reads_back_and_replays(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    penstock_replay: Callable[..., Any],
) -> None:
    tutorial = page("tutorial/record-and-replay.md")
    monkeypatch.chdir(tmp_path)
    await the_site(tutorial["record"], tmp_path / "live.barc")
    # The tutorial's tests ask for example.com.
    async with barc.AsyncArchive("live.barc") as live, barc.AsyncArchive("site.barc", "a") as site:
        offsets = []
        async for record in live:
            dialog = record.dialog()
            path = dialog.url.partition("//")[2].partition("/")[2]
            offsets.append(await site.append(dialog.replace(url=f"http://example.com/{path}")))
    await penstock.run_blocking(tutorial["look"], "site.barc")
    told = capsys.readouterr().out.splitlines()
    assert [re.sub(r" \d{4}-.*", "", line) for line in told] == [
        f"{offsets[0]} 301 http://example.com/old 0",
        f"{offsets[1]} 200 http://example.com/ {len(PAGE)}",
    ]
    assert await penstock.run_blocking(tutorial["page"], "site.barc", offsets[1]) == PAGE
    await tutorial["test_the_title_of_a_page"](penstock_replay)
    tutorial["test_with_a_client_that_knows_nothing_of_it"](penstock_replay)


@pytest.mark.asyncio
async def test_the_page_on_the_format_has_every_line_of_meta_that_is_written(tmp_path: Path) -> None:
    record = page("tutorial/record-and-replay.md")["record"]
    scripts = [[response(gzip.compress(PAGE), "Content-Encoding: gzip")]]
    async with serve(*scripts) as server:
        await record([server.url], tmp_path / "site.barc")
    async with barc.AsyncArchive(tmp_path / "site.barc") as archive:
        written = [name for name, _ in (await anext(archive.records())).meta.raw]
    text = (DOCS / "reference/barc-format.md").read_text()
    told = re.findall(r"`([\w-]+)`", text[text.index("Meta lines of a dialog") : text.index("Other names are free")])
    assert [name.decode() for name in written] == told


CASSETTE = """\
interactions:
- request:
    body: null
    headers: {Accept: ['*/*']}
    method: GET
    uri: http://example.com/
  response:
    body: {string: '<html><title>Example Domain</title></html>'}
    headers: {Content-Type: [text/html], Set-Cookie: [a=1, b=2]}
    status: {code: 200, message: OK}
- request:
    body: name=value
    headers: {Content-Type: application/x-www-form-urlencoded}
    method: POST
    uri: http://example.com/form
  response:
    body:
      string: !!binary |
        CODED
    headers: {Content-Encoding: [gzip], Transfer-Encoding: [chunked]}
    status: {code: 201, message: Created}
version: 1
"""


def test_a_cassette_becomes_an_archive_that_replays(tmp_path: Path, penstock_replay: Callable[..., Any]) -> None:
    formats = page("how-to/other-formats.md")
    cassette, path = tmp_path / "cassette.yaml", tmp_path / "cassette.barc"
    cassette.write_text(CASSETTE.replace("CODED", base64.b64encode(gzip.compress(b"made")).decode()))
    formats["from_cassette"](cassette, path)
    with barc.open(path) as archive:
        first, second = (record.dialog() for record in archive)
    assert (bytes(first.res_body), first.res_decoded) == (PAGE, ("identity",))
    assert first.res_headers.get_all("set-cookie") == ["a=1", "b=2"]
    assert (second.method, second.status, bytes(second.req_body)) == ("POST", 201, b"name=value")
    assert second.res_decoded == ("chunked",)
    url = penstock_replay(path).url
    with urllib.request.urlopen(url + "/") as answer:
        assert answer.read() == PAGE
    replay = penstock.Replay(formats["interactions"](cassette))

    async def post() -> bytes:
        async with penstock.Client(transport=replay) as client:
            return await (await client.post("http://example.com/form", content=b"name=value")).read()

    assert asyncio.run(post()) == b"made"


def test_an_archive_goes_to_warc_and_back(tmp_path: Path) -> None:
    formats = page("how-to/other-formats.md")
    cassette, path = tmp_path / "cassette.yaml", tmp_path / "a.barc"
    cassette.write_text(CASSETTE.replace("CODED", "AAAA"))
    formats["from_cassette"](cassette, path)
    assert formats["to_warc"](path, tmp_path / "a.warc.gz") == 2
    formats["from_warc"](tmp_path / "a.warc.gz", tmp_path / "b.barc")
    with barc.open(path) as one, barc.open(tmp_path / "b.barc") as other:
        for record, copy in zip(one, other, strict=True):
            assert (copy.meta.raw, copy.req_headers.raw, copy.res_headers.raw) == (
                record.meta.raw,
                record.req_headers.raw,
                record.res_headers.raw,
            )
            assert bytes(copy.res_body) == bytes(record.res_body)
    assert len(list(warc.read(tmp_path / "a.warc.gz"))) == 2


@pytest.mark.asyncio
async def test_an_archive_goes_to_har(tmp_path: Path) -> None:
    formats = page("how-to/other-formats.md")
    cassette, path = tmp_path / "cassette.yaml", tmp_path / "a.barc"
    cassette.write_text(CASSETTE.replace("CODED", "AAAA"))
    await penstock.run_blocking(formats["from_cassette"], cassette, path)
    assert await formats["to_har"](path, tmp_path / "a.har") == 2
    assert "Example Domain" in (tmp_path / "a.har").read_text()


@pytest.mark.asyncio
async def test_the_page_on_replay_keeps_redirects_and_compares_by_a_key(
    tmp_path: Path, penstock_replay: Callable[..., Any]
) -> None:
    howto = page("how-to/replay.md")
    path = tmp_path / "site.barc"

    async def record(urls: list[str], path: Path) -> None:
        async with penstock.Client() as client, barc.AsyncArchive(path, "a") as archive:
            for url in urls:
                await howto["keep_all"](client, archive, url + "?b=2&session=1&a=1")

    await the_site(record, path)
    async with howto["replayed"](path) as client:
        url = (await first_url(path)).partition("?")[0]
        answer = await client.get(url + "?a=1&session=2&b=2")
        assert [one.status for one in (*answer.history, answer)] == [301, 200]
    assert await howto["titles"](path, [url + "?b=2&session=1&a=1"]) == ["Example Domain"]


@pytest.mark.asyncio
async def test_a_key_looks_at_bodies_in_files_by_the_policy_that_the_page_names(tmp_path: Path) -> None:
    key = page("how-to/replay.md")["without_session"]
    path, sent = tmp_path / "posts.barc", tmp_path / "sent"
    sent.write_bytes(bytes(300_000))
    body = penstock.BodyImage.from_bytes(sent.read_bytes())
    prolog = penstock.Prolog(method="POST", url="http://site.test/?session=1", req_body=body)
    async with barc.AsyncArchive(path, "a") as archive:
        await archive.append(penstock.Dialog(prolog, penstock.Epilog(version="HTTP/1.1", status=201)))

    async def post(policy: penstock.Policy | None) -> int:
        async with (
            penstock.Replay(path, key=key, policy=policy) as replay,
            penstock.Client(transport=replay, policy=policy) as client,
        ):
            return (await client.post("http://site.test/?session=2", content=sent)).status

    assert await post(penstock.Direct()) == 201
    with pytest.raises(penstock.BlockingInLoop):
        await post(None)


async def first_url(path: Path) -> str:
    async with barc.AsyncArchive(path) as archive:
        return (await anext(archive.records())).meta["url"]
