"""Dialogs as HAR 1.2: what its specification asks of each object, and what of a dialog is where."""

from __future__ import annotations

import base64
import contextlib
import datetime
import errno
import gzip
import json
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import penstock
import pytest
from penstock import barc, har

from tests.barc.conftest import MakeDialog, make_dialog
from tests.conftest import uncollected
from tests.http.serving import head, response, serve, until

pytestmark = pytest.mark.asyncio


def of(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """An object with these properties, and no others but those that begin with an underscore."""
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **optional, "comment": TEXT},
        "patternProperties": {"^_": {}},
        "additionalProperties": False,
    }


TEXT, NUMBER = {"type": "string"}, {"type": "number", "minimum": -1}
DATE = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?([+-]\d\d:\d\d|Z)$"}
TIME = {"type": "number", "minimum": 0}


def many(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item}


PAIRS = many(of({"name": TEXT, "value": TEXT}))
COOKIES = many(
    of(
        {"name": TEXT, "value": TEXT},
        path=TEXT,
        domain=TEXT,
        expires=DATE,
        httpOnly={"type": "boolean"},
        secure={"type": "boolean"},
    )
)
COMMON = {"httpVersion": TEXT, "cookies": COOKIES, "headers": PAIRS, "headersSize": NUMBER, "bodySize": NUMBER}
CONTENT = of({"size": NUMBER, "mimeType": TEXT}, compression={"type": "number"}, text=TEXT, encoding=TEXT)
POSTED = of({"mimeType": TEXT}, text=TEXT, params=PAIRS)
ENTRY = of(
    {
        "startedDateTime": DATE,
        "time": TIME,
        "request": of({**COMMON, "method": TEXT, "url": TEXT, "queryString": PAIRS}, postData=POSTED),
        "response": of(
            {**COMMON, "status": {"type": "integer"}, "statusText": TEXT, "content": CONTENT, "redirectURL": TEXT}
        ),
        "cache": of({}),
        "timings": of({"send": TIME, "wait": TIME, "receive": TIME}, blocked=NUMBER, dns=NUMBER, connect=NUMBER),
    },
    serverIPAddress=TEXT,
    connection=TEXT,
)
HAR = of(
    {"log": of({"version": {"const": "1.2"}, "creator": of({"name": TEXT, "version": TEXT}), "entries": many(ENTRY)})}
)
"""The specification's tables, as a schema."""


async def written(path: Path, dialogs: Any, **options: Any) -> list[dict[str, Any]]:
    count = await har.write(path, dialogs, **options)
    log = json.loads(path.read_bytes())
    jsonschema.validate(log, HAR)
    entries: list[dict[str, Any]] = log["log"]["entries"]
    assert count == len(entries)
    return entries


async def test_a_recorded_dialog_is_an_entry_with_all_that_is_known(tmp_path: Path) -> None:
    zipped = gzip.compress("grün".encode())
    scripts = [
        [head("Location: /two?x=1&y=", "Content-Length: 0", "Set-Cookie: a=b; Path=/; HttpOnly", status="302 There")],
        [response(zipped, "Content-Encoding: gzip", "Content-Type: text/html; charset=utf-8", status="200 Fine")],
    ]
    async with serve(*scripts) as server, penstock.Client() as client:
        url = server.url
        dialog = await client.record("GET", url, headers={"Cookie": "c=d; e=f"})
    first, last = await written(tmp_path / "a.har", [dialog])
    assert (first["request"]["url"], first["response"]["redirectURL"]) == (url, "/two?x=1&y=")
    assert first["response"]["cookies"] == [{"name": "a", "value": "b", "path": "/", "httpOnly": True}]
    assert first["request"]["cookies"] == [{"name": "c", "value": "d"}, {"name": "e", "value": "f"}]
    assert first["response"]["content"] == {"size": 0, "mimeType": ""}
    assert last["request"]["queryString"] == [{"name": "x", "value": "1"}, {"name": "y", "value": ""}]
    assert (last["response"]["status"], last["response"]["statusText"]) == (200, "Fine")
    assert last["response"]["content"] == {
        "size": 5,
        "mimeType": "text/html; charset=utf-8",
        "compression": 5 - len(zipped),
        "text": "grün",
    }
    assert last["response"]["bodySize"] == len(zipped)
    assert last["request"]["headersSize"] == len(dialog.trace.req_head)
    assert (last["serverIPAddress"], last["connection"]) == (
        "127.0.0.1",
        str(dialog.trace.peer and dialog.trace.peer[1]),
    )
    assert datetime.datetime.fromisoformat(last["startedDateTime"]).utcoffset() == datetime.timedelta(0)
    assert last["time"] == pytest.approx((dialog.trace.done or 0) * 1000)
    assert last["time"] == pytest.approx(sum(last["timings"].values()))


async def test_bodies_are_text_or_base64_or_left_out(tmp_path: Path, dialog: MakeDialog) -> None:
    def posted(body: bytes, kind: str = "text/plain") -> penstock.Dialog:
        image = penstock.BodyImage.from_bytes(body)
        return dialog(1, image, method="POST", req_body=image, req_headers={"Content-Type": kind})

    dialogs = [posted(b"text"), posted(b"\xff\xfe"), posted(b"a\0b"), posted(b"12345678901")]
    dialogs.append(dialog(2, b"gr\xfcn", res_headers={"Content-Type": "text/plain; charset=latin-1"}))
    dialogs.append(dialog(3, b"x", res_headers={"Content-Type": "text/plain; charset=of-its-own"}))
    dialogs.append(dialog(4, b"+2AA-", res_headers={"Content-Type": "text/plain; charset=utf-7"}))
    dialogs += [
        dialog(5, b"y", res_headers={"Content-Type": f"text/plain; {odd}"})
        for odd in ("charset*=a; charset*0=b", "charset*=utf-8''a%00b", "charset=zlib")
    ]
    entries = await written(tmp_path / "a.har", dialogs, max_text=10)
    contents = [entry["response"]["content"] for entry in entries]
    assert contents[0]["text"] == "text"
    for content, body in (
        (contents[1], b"\xff\xfe"),
        (contents[2], b"a\0b"),
        (contents[5], b"x"),
        (contents[6], b"+2AA-"),
        *((content, b"y") for content in contents[7:]),
    ):
        assert (content["encoding"], base64.b64decode(content["text"])) == ("base64", body)
    assert (contents[3]["size"], contents[3]["comment"]) == (11, "left out: 11 bytes are over max_text")
    assert "text" not in contents[3]
    assert contents[4]["text"] == "grün"
    assert entries[0]["request"]["postData"] == {"mimeType": "text/plain", "text": "text"}
    assert entries[1]["request"]["postData"]["_encoding"] == "base64"
    assert "1970-01-01" in entries[0]["startedDateTime"]
    assert entries[0]["response"]["statusText"] == "OK"


async def test_bodies_of_any_size_are_refused_by_name_and_nothing_is_left(tmp_path: Path) -> None:
    without: Any = None
    with pytest.raises(TypeError, match=r"^max_text=None: takes a size"):
        await har.write(tmp_path / "a.har", [], max_text=without)
    with pytest.raises(ValueError, match=r"^max_text=-1: not between"):
        await har.write(tmp_path / "a.har", [], max_text=-1)
    assert list(tmp_path.iterdir()) == []


async def test_cookies_are_taken_apart(tmp_path: Path, dialog: MakeDialog) -> None:
    lines = [
        "a=b=c; Expires=Wed, 21 Oct 2015 07:28:00 GMT; Domain=x.test; Secure; SameSite=Lax",
        "d=; expires=Wed, 21 Oct 2015 07:28:00 -0000; PATH=/y",
        "e; expires=soon; HttpOnly",
        "f=; expires=Wed, 21 Oct 99999999999 07:28:00 GMT",
        "g=; expires=Wed, 21 Oct 2015 07:28:00 +99999999999999999",
    ]
    (entry,) = await written(tmp_path / "a.har", [dialog(1, res_headers=[("Set-Cookie", line) for line in lines])])
    assert entry["response"]["cookies"] == [
        {"name": "a", "value": "b=c", "expires": "2015-10-21T07:28:00+00:00", "domain": "x.test", "secure": True},
        {"name": "d", "value": "", "expires": "2015-10-21T07:28:00+00:00", "path": "/y"},
        {"name": "e", "value": "", "httpOnly": True},
        {"name": "f", "value": ""},
        {"name": "g", "value": ""},
    ]


async def test_a_length_that_is_no_number_of_bytes_is_not_known(tmp_path: Path, dialog: MakeDialog) -> None:
    lengths = ["soon", "9" * 5000]
    dialogs = [dialog(1, res_headers=[("Content-Length", told)], res_decoded=("gzip", "identity")) for told in lengths]
    entries = await written(tmp_path / "a.har", dialogs)
    assert [entry["response"]["bodySize"] for entry in entries] == [-1, -1]


async def test_an_archive_is_written_record_by_record(tmp_path: Path) -> None:
    most = 0

    async def dialogs(archive: barc.AsyncArchive) -> AsyncIterator[penstock.Dialog]:
        nonlocal most
        async for record in archive:
            yield record.dialog()
            # While it is written the file grows: nothing is kept back.
            most = max(most, *(path.stat().st_size for path in tmp_path.glob(".a.har.*")))

    async with barc.AsyncArchive(tmp_path / "a.barc", "a") as archive:
        for number in range(40):
            await archive.append(make_dialog(number, b"%d" % number * 20_000))
        entries = await written(tmp_path / "a.har", dialogs(archive))
    assert [entry["request"]["url"] for entry in entries] == [f"http://sample.test/{number}" for number in range(40)]
    assert most > 1_000_000


async def test_a_file_is_there_when_it_is_complete_or_not_at_all(tmp_path: Path, dialog: MakeDialog) -> None:
    path = tmp_path / "a.har"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite=True replaces it") as raised:
        await har.write(path, [dialog()])
    assert (raised.value.errno, raised.value.filename) == (errno.EEXIST, str(path))
    with pytest.raises(FileNotFoundError):
        await har.write(tmp_path / "none/a.har", [dialog()])

    async def broken() -> AsyncIterator[penstock.Dialog]:
        yield dialog()
        raise KeyError("of the source")

    with pytest.raises(KeyError):
        await har.write(path, broken(), overwrite=True)
    assert ([one.name for one in tmp_path.iterdir()], path.read_text()) == (["a.har"], "mine")
    assert await har.write(path, [dialog()], overwrite=True) == 1
    assert json.loads(path.read_bytes())["log"]["version"] == "1.2"
    assert await har.write(tmp_path / "empty.har", []) == 0
    assert json.loads((tmp_path / "empty.har").read_bytes())["log"]["entries"] == []


FULL = """
import asyncio, os, resource, sys
from penstock import har
from tests.barc.conftest import make_dialog
path, size = sys.argv[1], int(sys.argv[2])
# As a full disk, it fails a write.
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    asyncio.run(har.write(path, [make_dialog(number, bytes(size)) for number in range(20)]))
except OSError as error:
    print(error.errno, error.filename == path, os.listdir(os.path.dirname(path)))
"""


@pytest.mark.parametrize("size", [10, 1000, 100_000])
async def test_a_full_disk_names_the_file_and_leaves_nothing(size: int, tmp_path: Path, script: Any) -> None:
    done = script(FULL, str(tmp_path / "a.har"), str(size))
    assert done.stdout == f"{errno.EFBIG} True []\n", done.stderr


async def test_a_folder_that_is_missing_is_an_error_that_names_the_file_and_not_its_draft(tmp_path: Path) -> None:
    path = tmp_path / "none" / "a.har"
    with pytest.raises(FileNotFoundError) as caught:
        await har.write(path, [])
    assert caught.value.filename == str(path)


async def test_why_there_is_no_file_is_in_no_cycle_with_the_dialogs(tmp_path: Path) -> None:
    async def write() -> weakref.ref[Iterator[penstock.Dialog]]:
        dialogs = (make_dialog(number, b"") for number in range(2))
        with contextlib.suppress(FileNotFoundError):
            await har.write(tmp_path / "none" / "a.har", dialogs)
        return weakref.ref(dialogs)

    with uncollected():
        dialogs = await write()
        await until(lambda: dialogs() is None)


async def test_a_file_that_came_meanwhile_is_not_replaced(tmp_path: Path, dialog: MakeDialog) -> None:
    path = tmp_path / "a.har"

    async def dialogs() -> AsyncIterator[penstock.Dialog]:
        yield dialog()
        path.write_text("mine")

    with pytest.raises(FileExistsError):
        await har.write(path, dialogs())
    assert ([one.name for one in tmp_path.iterdir()], path.read_text()) == (["a.har"], "mine")
    assert await har.write(path, dialogs(), overwrite=True) == 1
    assert ([one.name for one in tmp_path.iterdir()], path.read_text() != "mine") == (["a.har"], True)


async def test_a_file_system_without_links_has_it_too(
    tmp_path: Path, dialog: MakeDialog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    assert len(await written(tmp_path / "a.har", [dialog()])) == 1
    assert [one.name for one in tmp_path.iterdir()] == ["a.har"]


async def test_a_url_that_cannot_be_taken_apart_is_written_all_the_same(tmp_path: Path, dialog: MakeDialog) -> None:
    (entry,) = await written(tmp_path / "a.har", [dialog(1, url="http://[x/?a=b#c=d")])
    assert entry["request"]["url"] == "http://[x/?a=b#c=d"
    assert entry["request"]["queryString"] == [{"name": "a", "value": "b"}]


async def test_a_charset_that_would_hold_the_loop_up_is_base64(tmp_path: Path, dialog: MakeDialog) -> None:
    body = b"a" * 1000
    dialogs = [
        dialog(1, body, res_headers={"Content-Type": f"text/plain; charset={charset}"})
        for charset in ("punycode", "idna", "UTF7")
    ]
    for entry in await written(tmp_path / "a.har", dialogs):
        content = entry["response"]["content"]
        assert (content["encoding"], base64.b64decode(content["text"])) == ("base64", body)


async def test_a_charset_is_looked_for_in_the_first_kib_of_a_content_type(tmp_path: Path, dialog: MakeDialog) -> None:
    # Of which `email` takes the square.
    kind = 'text/plain; a="' + '\\";' * 21_000 + '"; charset=latin-1'
    (entry,) = await written(tmp_path / "a.har", [dialog(1, b"\xfc", res_headers={"Content-Type": kind})])
    assert entry["response"]["content"]["encoding"] == "base64"
