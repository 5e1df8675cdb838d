"""Dialogs as WARC, and WARCs of others as dialogs; warcio, and its own `check`, have the last word."""

from __future__ import annotations

import datetime
import errno
import gzip
import io
import itertools
import os
import re
import string
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import penstock
import pytest
from hypothesis import strategies as st
from penstock import warc
from warcio.archiveiterator import ArchiveIterator
from warcio.warcwriter import WARCWriter

from tests.barc.conftest import make_dialog
from tests.conftest import uncollected
from tests.http.serving import CLOSE, chunked, head, response, serve

UTC = datetime.UTC
LARGE = bytes(i * 7 & 255 for i in range(900_000))


def check(path: Path) -> str:
    command = [sys.executable, "-m", "warcio.cli", "check", "-v", str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def records(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        yield from ArchiveIterator(file)


def state(dialog: penstock.Dialog) -> list[Any]:
    """All of a dialog, its bodies by their bytes."""
    prolog, epilog = dialog.prolog, dialog.epilog
    return [
        (prolog.method, prolog.url, prolog.req_headers.raw, bytes(prolog.req_body)),
        (epilog.version, epilog.status, epilog.res_headers.raw, bytes(epilog.res_body), epilog.res_decoded),
    ]


def test_without_warcio_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "penstock").symlink_to(Path(penstock.__file__).parent)
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import penstock.warc"
    done = subprocess.run([sys.executable, "-S", "-I", "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.endswith("ImportError: penstock.warc needs warcio: pip install warcio\n")


async def recorded() -> list[penstock.Dialog]:
    """Of each framing and coding, with bodies both ways."""

    async def pieces() -> Any:
        yield b"se"
        yield b"nt"

    zipped = gzip.compress(b"text" * 100)
    wires = [
        response(b"plain", "X-A:  1 ", "x-a: \xe4", "X-Archive-Orig-Content-Length: 9"),
        head("Transfer-Encoding: chunked", "X-B: 2") + chunked(LARGE, 70_000),
        response(zipped, "Content-Encoding: gzip"),
        head("Transfer-Encoding: chunked", "Content-Encoding: gzip") + chunked(zipped, 10),
        head("Connection: close", version="HTTP/1.0") + b"until the end",
        head("Content-Length: 7"),
        head(status="204 Nothing"),
    ]
    dialogs = []
    async with (
        serve(*[[wire, CLOSE] if b"until" in wire else [wire] for wire in wires]) as server,
        penstock.Client() as client,
    ):
        url = server.url
        dialogs.append(await client.record("GET", url + "a?b=c"))
        dialogs.append(await client.record("POST", url, content=pieces()))
        dialogs.append(await client.record("PUT", url, content=b"body"))
        dialogs.append(await client.record("GET", url, decode=False))
        dialogs.append(await client.record("GET", url))
        dialogs.append(await client.record("HEAD", url))
        dialogs.append(await client.record("DELETE", url))
    return dialogs


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
async def test_dialogs_come_back_as_they_were_and_warcio_finds_nothing_wrong(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    dialogs = await recorded()

    def there_and_back() -> list[penstock.Dialog]:
        assert warc.write(path, dialogs[:3]) == 3
        assert warc.write(path, dialogs[3:]) == 4
        return list(warc.read(path, tunables=penstock.Tunables(max_body_ram=100_000)))

    back = await penstock.run_blocking(there_and_back)
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == name.endswith(".gz")
    found = await penstock.run_blocking(check, path)
    assert found.count("digest pass") == 1 + 2 * 7
    assert [one.state for one in (back[0].res_body, back[1].res_body)] == ["ram", "file"]
    for dialog, copy in zip(dialogs, back, strict=True):
        assert await penstock.run_blocking(state, copy) == await penstock.run_blocking(state, dialog)
        assert copy.trace == dialog.trace


@pytest.mark.asyncio
async def test_records_say_when_whom_and_what_belongs_together(tmp_path: Path) -> None:
    path = tmp_path / "a.warc"
    first, second = (await recorded())[1:3]
    await penstock.run_blocking(warc.write, path, [first, second])
    about, *pairs = records(path)
    assert about.rec_type == "warcinfo"
    (answer, asked), (coded, _) = (pairs[:2], pairs[2:])
    get = answer.rec_headers.get_header
    assert (answer.rec_type, asked.rec_type) == ("response", "request")
    assert asked.rec_headers.get_header("WARC-Concurrent-To") == get("WARC-Record-ID")
    assert get("WARC-IP-Address") == "127.0.0.1"
    assert first.trace.started is not None
    assert get("WARC-Date") == first.trace.started.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert get("WARC-Payload-Digest").startswith("sha1:")
    assert get("WARC-Target-URI") == first.url
    # What isn't true of the body has another name, as its Content-Length shows.
    assert answer.http_headers.get_header("X-Archive-Orig-Transfer-Encoding") == "chunked"
    assert answer.http_headers.get_header("Content-Length") == str(len(LARGE))
    assert coded.http_headers.get_header("X-Archive-Orig-Content-Encoding") == "gzip"
    assert asked.http_headers.get_header("X-Archive-Orig-transfer-encoding") == "chunked"


NAMES = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=12).map(str.encode) | st.sampled_from(
    [b"Content-Length", b"Content-Encoding", b"Transfer-Encoding", b"X-Archive-Orig-Content-Length"]
)
VALUES = st.binary(max_size=20).map(lambda value: bytes(c for c in value if c > 31 and c != 127).strip(b" "))
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=5)
DECODED = st.sampled_from([(), ("chunked",), ("gzip", "identity"), ("chunked", "br"), ("identity",)])


@st.composite
def dialogs(draw: st.DrawFn) -> penstock.Dialog:
    sent = draw(st.none() | st.integers(0, 10**9).map(lambda micros: micros / 10**6))
    return penstock.Dialog(
        penstock.Prolog(
            method=draw(st.sampled_from(["GET", "POST", "HEAD", "PURGE"])),
            url=draw(st.sampled_from(["http://a.test/", "https://a.test:8443/x?y=z", "http://a.test/%20"])),
            req_headers=draw(FIELDS),
            req_body=penstock.BodyImage.from_bytes(draw(st.binary(max_size=50))),
        ),
        penstock.Epilog(
            version=draw(st.sampled_from(["HTTP/1.0", "HTTP/1.1", "HTTP/2.0"])),
            status=draw(st.integers(100, 999)),
            res_headers=draw(FIELDS),
            res_body=penstock.BodyImage.from_bytes(draw(st.binary(max_size=50))),
            res_decoded=draw(DECODED),
        ),
        penstock.Trace(
            started=draw(st.none() | st.datetimes(min_value=datetime.datetime(2000, 1, 1), timezones=st.just(UTC))),
            sent=sent,
            done=sent,
            peer=draw(st.sampled_from([None, ("127.0.0.1", 80), ("::1", 8443)])),
        ),
    )


@hypothesis.given(written=st.lists(dialogs(), max_size=4), compressed=st.booleans())
@hypothesis.settings(deadline=None, max_examples=30, suppress_health_check=list(hypothesis.HealthCheck))
def test_whatever_dialogs_are_written_come_back(
    tmp_path: Path, written: list[penstock.Dialog], compressed: bool
) -> None:
    path = tmp_path / "any.warc"
    path.unlink(missing_ok=True)
    warc.write(path, written, gzip=compressed)
    back = list(warc.read(path))
    assert list(map(state, back)) == list(map(state, written))
    for dialog, copy in zip(written, back, strict=True):
        trace = dialog.trace
        assert (copy.trace.started, copy.trace.sent, copy.trace.done, copy.trace.peer) == (
            trace.started,
            trace.sent,
            trace.done,
            trace.peer,
        )


@pytest.mark.parametrize("url", ["ftp://a.test/x", "urn:a"])
def test_a_dialog_whose_url_is_of_another_scheme_comes_back_as_any_other(tmp_path: Path, url: str) -> None:
    path = tmp_path / "dialogs.warc"
    written = [make_dialog(), make_dialog().replace(url=url)]
    assert warc.write(path, written) == 2
    assert list(map(state, warc.read(path))) == list(map(state, written))


def test_a_field_that_came_with_the_name_of_one_that_is_renamed_keeps_it(tmp_path: Path) -> None:
    # As from a replay of an archive of the web, whose own codings are gone.
    lines = ["Content-Encoding: gzip", "X-Archive-Orig-Content-Encoding: br", "X-Archive-Orig-Content-Length: 9"]
    lines += ["X-Archive-Orig-X-Archive-Orig-Content-Length: 8", "Content-Length: 7"]
    lines.append("x-archive-orig-content-length: 6")
    fields = [line.split(": ") for line in lines]
    written = make_dialog(
        1, b"text", res_headers=fields, res_decoded=("gzip", "identity"), trace=penstock.Trace(res_head=head(*lines))
    )
    path = tmp_path / "a.warc"
    warc.write(path, [written])
    (back,) = warc.read(path)
    assert (state(back), back.trace.res_head) == (state(written), written.trace.res_head)
    answer = list(records(path))[1].http_headers
    assert [value for name, value in answer.headers if name == "Content-Length"] == ["4"]


@pytest.mark.parametrize(
    "change", [{"url": ""}, {"url": "http://a.test/\r\nX: 1"}, {"method": "A\nB"}, {"version": "A\rB"}]
)
def test_what_would_be_read_as_something_else_is_not_written(tmp_path: Path, change: dict[str, str]) -> None:
    path = tmp_path / "dialogs.warc"
    good = make_dialog()
    with pytest.raises(ValueError, match=f"{next(iter(change))}=.*control characters"):
        warc.write(path, [good, good.replace(**change), good])
    (dialog,) = warc.read(path)
    assert state(dialog) == state(good)
    check(path)


def test_a_body_over_the_limit_is_cut_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.warc.gz"
    upload = make_dialog(3, req_body=penstock.BodyImage.from_bytes(LARGE), method="POST")
    warc.write(path, [make_dialog(1, LARGE), make_dialog(2, b"short"), upload], max_body=1000)
    assert "digest pass" in check(path)
    marks = [
        (record.rec_type, record.rec_headers.get_header("WARC-Truncated"), record.payload_length)
        for record in records(path)
    ]
    cut = ("length", 1000)
    assert marks[1::2] == [("response", *cut), ("response", None, 5), ("response", None, 0)]
    assert marks[2::2] == [("request", None, 0), ("request", None, 0), ("request", *cut)]
    long, short, sent = warc.read(path)
    assert [bytes(dialog.res_body) for dialog in (long, short)] == [LARGE[:1000], b"short"]
    assert bytes(sent.req_body) == LARGE[:1000]
    with pytest.raises(ValueError, match=r"^max_body=-1: not between"):
        warc.write(path, [], max_body=-1)


def test_that_a_body_was_cut_is_not_told_by_its_dialog(tmp_path: Path) -> None:
    path, again = tmp_path / "a.warc", tmp_path / "b.warc"
    warc.write(path, [make_dialog(1, LARGE)], max_body=1000)
    warc.write(again, warc.read(path))
    assert [record.rec_headers.get_header("WARC-Truncated") for record in records(again)] == [None] * 3


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/2.0"])
def test_dialogs_that_were_never_on_a_wire_come_back_too(tmp_path: Path, version: str) -> None:
    path = tmp_path / "a.warc"
    dialog = make_dialog(1, b"body", version=version, req_body=penstock.BodyImage.from_bytes(b"asked"), method="POST")
    warc.write(path, [dialog])
    (back,) = warc.read(path)
    assert state(back) == state(dialog)
    assert (back.trace.started, back.trace.done, back.trace.peer) == (None, None, None)
    check(path)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://[x/?a=b#c", "/?a=b"),
        ("http://a.test", "/"),
        ("http://a.test?b://c", "/?b://c"),
        ("http://a.test//b/", "//b/"),
    ],
)
def test_a_request_asks_for_what_stands_behind_the_host(tmp_path: Path, url: str, target: str) -> None:
    path = tmp_path / "a.warc"
    warc.write(path, [make_dialog(1, url=url)])
    (dialog,) = warc.read(path)
    assert (dialog.url, dialog.trace.req_head.split(b" ")[1].decode()) == (url, target)


class Others:
    """A WARC as other tools write them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = io.BytesIO()
        self._writer = WARCWriter(self._file, gzip=False)

    def add(self, kind: str, block: bytes, url: str = "http://a.test/x", **fields: str) -> str:
        headers = {"WARC-Date": "2020-01-02T03:04:05Z", **{k.replace("_", "-"): v for k, v in fields.items()}}
        record = self._writer.create_warc_record(
            url,
            kind,
            payload=io.BytesIO(block),
            length=len(block),
            warc_headers_dict=headers,
            # The block as it is: warcio would mend it.
            http_headers=warc._Raw(b""),
        )
        self._writer.write_record(record)
        return str(record.rec_headers.get_header("WARC-Record-ID"))

    def save(self, cut: int = 0) -> Path:
        data = self._file.getvalue()
        self.path.write_bytes(data[: len(data) - cut] if cut else data)
        return self.path


@pytest.fixture
def others(tmp_path: Path) -> Others:
    return Others(tmp_path / "others.warc")


GET = b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_what_other_tools_write_is_joined_and_decoded(others: Others) -> None:
    coded = gzip.compress(b"text")
    wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n"
    others.add("response", wire + chunked(coded, 7))
    others.add("response", wire + coded)
    others.add("response", b"HTTP/2 404\r\nContent-Encoding: br\r\nfolded: a\r\n b\r\n\r\nnot br")
    others.add("response", b"HTTP/1.1 200 OK\nX-Lines: feed\n\nbody", WARC_IP_Address="10.0.0.1")
    path = others.save()
    first, second, third, fourth = warc.read(path)
    for dialog in (first, second):
        assert (bytes(dialog.res_body), dialog.res_decoded) == (b"text", ("chunked", "gzip", "identity"))
    assert (third.status, third.version, bytes(third.res_body)) == (404, "HTTP/2.0", b"not br")
    assert (third.res_decoded, third.res_headers["folded"], third.trace.res_head) == ((), "a b", b"")
    assert (bytes(fourth.res_body), fourth.res_headers["x-lines"]) == (b"body", "feed")
    assert fourth.trace.peer == ("10.0.0.1", 80)
    assert fourth.trace.started is not None
    assert fourth.trace.started.isoformat() == "2020-01-02T03:04:05+00:00"
    raw = next(iter(warc.read(path, decode=False)))
    assert (bytes(raw.res_body), raw.res_decoded) == (coded, ("chunked",))
    assert penstock.barc.Record.from_dialog(third).dialog().version == "HTTP/2.0"


@pytest.mark.parametrize("body", [b"", b"42", b"0", b"deadbeef", b"1\n2\n3\n", b"-1\r\nx", b"0x5\r\nx", b"1_0\r\nx"])
def test_a_body_whose_chunks_were_joined_before_stays_as_it_is(others: Others, body: bytes) -> None:
    others.add("response", CHUNKED + body)
    (dialog,) = warc.read(others.save())
    assert bytes(dialog.res_body) == body


@pytest.mark.parametrize("end", [b"", b"\r", b"\r\n", b"\r\n9", b"\r\n9\r\n", b"\r\n9\r\nmo", b"\r\n0", b"\r\n0\r\n"])
def test_of_a_chunked_body_that_its_record_calls_truncated_what_is_there_is_taken(others: Others, end: bytes) -> None:
    others.add("response", CHUNKED + b"4;extension\r\nsome" + end, WARC_Truncated="length")
    (dialog,) = warc.read(others.save())
    assert bytes(dialog.res_body) == b"some" + (b"mo" if end.endswith(b"mo") else b"")


def test_an_iri_of_a_record_becomes_a_url(others: Others, path: Path) -> None:
    others.add("response", OK + b"body", url="http://a.test/\u4e2d\xe4?x")
    with penstock.barc.open(path, "a") as archive:
        (dialog,) = warc.read(others.save())
        record = archive.read(archive.append(dialog))
        assert record is not None
    assert record.dialog().url == dialog.url == "http://a.test/%E4%B8%AD%C3%A4?x"


def test_a_scheme_in_capitals_is_http_too(others: Others) -> None:
    others.add("response", OK + b"body", url="HTTP://a.test/x")
    assert [(dialog.url, bytes(dialog.res_body)) for dialog in warc.read(others.save())] == [
        ("HTTP://a.test/x", b"body")
    ]


def test_a_date_that_is_none_in_utc_is_left_out(others: Others) -> None:
    others.add("response", OK, WARC_Date="0001-01-01T00:00:00+14:00")
    others.add("response", OK, WARC_Date="2020-01-02T03:04:05+01:00")
    none, found = (dialog.trace.started for dialog in warc.read(others.save()))
    assert none is None
    assert found is not None
    assert found.isoformat() == "2020-01-02T02:04:05+00:00"


def test_seconds_that_are_none_are_left_out(others: Others) -> None:
    others.add("response", OK, Penstock_Timing="sent=nan; first-byte=inf; done=1.5")
    (dialog,) = warc.read(others.save())
    assert (dialog.trace.sent, dialog.trace.first_byte, dialog.trace.done) == (None, None, 1.5)


@pytest.mark.parametrize(
    "fields", [{"Penstock_Decoded": "rot13"}, {"Penstock_Decoded": "gzip", "Penstock_Renamed": "a, , b"}]
)
def test_a_record_of_ours_that_something_else_changed_is_passed_over(others: Others, fields: dict[str, str]) -> None:
    others.add("response", b"HTTP/1.1 200 OK\r\nX-Archive-Orig-: x\r\nContent-Length: 0\r\n\r\n", **fields)
    others.add("response", OK + b"good")
    wrong: list[penstock.ArchiveError] = []
    assert [bytes(dialog.res_body) for dialog in warc.read(others.save(), skipped=wrong.append)] == [b"good"]
    assert [error.kind for error in wrong] == ["warc"]


def test_requests_and_responses_are_paired_by_what_they_say_or_by_where_they_are(others: Others) -> None:
    def add(kind: str, name: str, **fields: str) -> str:
        start = b"GET /%s HTTP/1.1\r\n\r\n" % name.encode() if kind == "request" else OK
        return others.add(kind, start, url=f"http://a.test/{name}", **fields)

    others.add("warcinfo", b"software: other\r\n", url="")
    add("request", "before")
    add("response", "before")
    named = add("response", "named")
    others.add("metadata", b"fetchTimeMs: 1\r\n")
    add("request", "named", WARC_Concurrent_To=named)
    add("response", "alone")
    add("response", "not-mine")
    add("request", "not-mine", WARC_Concurrent_To="<urn:uuid:0>")
    others.add("response", b"dns", url="dns:a.test")
    found = [(dialog.url[14:], dialog.trace.req_head != b"") for dialog in warc.read(others.save())]
    assert found == [("before", True), ("named", True), ("alone", False), ("not-mine", False)]


@pytest.mark.parametrize(
    ("kind", "block", "why"),
    [
        ("response", b"HTTP/1.1 000 No\r\n\r\n", "no status line"),
        ("response", b"HTTP/1.1 200OK\r\n\r\n", "no status line"),
        ("response", b"HTTP/1.1 404\tNo\r\n\r\n", "no status line"),
        ("response", b"HTTP/1.1 2000 OK\r\n\r\n", "no status line"),
        ("response", b"HTTP/1.01 200 OK\r\n\r\n", "no status line"),
        ("response", b"HTTP/1 200 OK\r\n\r\n", "no status line"),
        ("response", b"HTTP/1.1 200 OK\r\n: no name\r\n\r\n", "no header line"),
        ("response", b"HTTP/1.1 200 OK\r\nUnfinished: 1", "has no end"),
        ("response", b"HTTP/1.1 200 OK\r\n" + b"A: 1\r\n" * 200 + b"\r\n", "128"),
        ("response", b"HTTP/1.1 200 OK\r\nA: 1\r\n" + b" \r\n" * 1100 + b"\r\n", "over 1024 lines"),
        ("response", b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000 + b"\r\n\r\n", "has no end"),
        ("response", b"HTTP/1.1 200 OK\r\nA: 1\r\n", "head has no end"),
        ("response", CHUNKED + b"5\r\nlonger\r\n0\r\n\r\n", "chunks are broken"),
        ("response", CHUNKED + b"5\r\nshort\r\nno size\r\n", "chunks are broken"),
        ("response", CHUNKED + b"8\r\nshort", "chunks are broken"),
        ("request", b"GET\r\n\r\n", "no request line"),
        ("request", b"G:T / HTTP/1.1\r\n\r\n", "no request line"),
    ],
)
def test_a_record_that_is_no_message_is_an_error_or_passed_over(
    others: Others, kind: str, block: bytes, why: str
) -> None:
    others.add("response", OK + b"good")
    others.add(kind, block, url="http://a.test/bad")
    others.add("response", OK + b"good too")
    path = others.save()
    reading = warc.read(path)
    assert bytes(next(reading).res_body) == b"good"
    with pytest.raises(penstock.ArchiveError, match=why) as caught:
        list(reading)
    assert (caught.value.kind, (caught.value.offset or 0) > 0) == ("warc", True)
    wrong: list[penstock.ArchiveError] = []
    assert [bytes(dialog.res_body) for dialog in warc.read(path, skipped=wrong.append)] == [b"good", b"good too"]
    assert len(wrong) == 1


def test_a_name_that_does_not_touch_its_colon_is_a_name(others: Others) -> None:
    others.add("response", b"HTTP/1.1 200 OK\r\nA : 1\r\nTransfer-Encoding\t: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n")
    (dialog,) = warc.read(others.save())
    assert (dialog.res_headers["a"], bytes(dialog.res_body)) == ("1", b"body")
    assert penstock.barc.Record.from_dialog(dialog).dialog().res_headers == dialog.res_headers


@pytest.mark.parametrize("version", ["0.9", "1.0", "1.1", "1.2", "1.9", "2", "2.0", "3", "3.0"])
def test_a_version_that_is_read_can_be_archived(others: Others, version: str) -> None:
    others.add("response", b"HTTP/%s 200 OK\r\n\r\n" % version.encode())
    (dialog,) = warc.read(others.save())
    assert penstock.barc.Record.from_dialog(dialog).dialog().version == dialog.version


def test_a_record_that_goes_on_in_others_is_no_dialog_with_a_part_of_the_body(others: Others) -> None:
    others.add("response", OK + b"begun", url="http://a.test/long", WARC_Segment_Number="1")
    others.add("continuation", b" and ended", url="http://a.test/long", WARC_Segment_Number="2")
    others.add("response", OK + b"good")
    wrong: list[penstock.ArchiveError] = []
    assert [bytes(dialog.res_body) for dialog in warc.read(others.save(), skipped=wrong.append)] == [b"good"]
    assert [("goes on in other records" in str(error), error.kind) for error in wrong] == [(True, "warc")]


def test_a_file_that_is_cut_off_or_no_warc_is_an_error(others: Others, tmp_path: Path) -> None:
    others.add("response", OK + b"x" * 1000)
    with pytest.raises(penstock.ArchiveError, match="cut off"):
        list(warc.read(others.save(cut=500)))
    (tmp_path / "none").write_bytes(b"something else\r\n" * 10)
    with pytest.raises(penstock.ArchiveError, match="no WARC from byte 0"):
        list(warc.read(tmp_path / "none"))
    with pytest.raises(penstock.BodyTooLong):
        list(warc.read(others.save(), tunables=penstock.Tunables(max_body=999)))


def test_what_is_no_warc_is_told_even_if_it_might_be_an_arc(tmp_path: Path) -> None:
    path = tmp_path / "a.arc"
    path.write_bytes(b"http://a.test/ 127.0.0.1 20200102030405 text/html 19\nHTTP/1.1 200 OK\r\n\r\n\n" * 2)
    with pytest.raises(penstock.ArchiveError, match="no WARC from byte 0"):
        list(warc.read(path))


@pytest.mark.parametrize("kind", ["response", "metadata"])
def test_a_record_without_a_length_does_not_hold_the_others(others: Others, kind: str) -> None:
    others.add("response", OK + b"good")
    for _ in range(2):
        others.add(kind, OK)
    path = others.save()
    before, name, after = path.read_bytes().partition(b"Content-Length")
    path.write_bytes(before + name + after.replace(name, b"Content-Lengthy", 1))
    reading = warc.read(path)
    assert bytes(next(reading).res_body) == b"good"
    with pytest.raises(penstock.ArchiveError, match="no length") as raised:
        next(reading)
    assert (raised.value.kind, (raised.value.offset or 0) > 0) == ("warc", True)


@pytest.mark.parametrize("kind", ["response", "metadata"])
@pytest.mark.parametrize("skipped", [None, print])
def test_compression_that_is_damaged_does_not_end_the_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str, skipped: Any
) -> None:
    others = Others(tmp_path / "damaged.warc.gz")
    others.add(kind, OK + b"".join(b"%d," % (n * 7919 % 1000003) for n in range(60000)))
    large = bytearray(gzip.compress(others.save().read_bytes()))
    middle = len(large) // 2
    large[middle : middle + 50] = bytes(byte ^ 0x5A for byte in large[middle : middle + 50])
    others = Others(others.path)
    others.add("response", OK)
    small = gzip.compress(others.save().read_bytes())
    others.path.write_bytes(small + large + small)
    dialogs = warc.read(others.path, skipped=skipped)
    assert next(dialogs).status == 200
    with pytest.raises(penstock.ArchiveError, match="compression is damaged") as raised:
        next(dialogs)
    assert (raised.value.kind, raised.value.offset) == ("warc", len(small))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("at", [-8, -12])
def test_a_short_record_whose_compression_is_damaged_is_told_of_as_that(tmp_path: Path, at: int) -> None:
    others = Others(tmp_path / "damaged.warc.gz")
    others.add("response", OK + b"short")
    good = gzip.compress(others.save().read_bytes())
    bad = bytearray(good)
    bad[at] ^= 0x5A
    others.path.write_bytes(good + bad + good)
    dialogs = warc.read(others.path)
    assert bytes(next(dialogs).res_body) == b"short"
    with pytest.raises(penstock.ArchiveError, match="compression is damaged") as raised:
        next(dialogs)
    assert raised.value.offset == len(good)


def test_a_compressed_file_that_is_cut_off_before_anything_of_a_record_came_says_so(tmp_path: Path) -> None:
    others = Others(tmp_path / "cut.warc.gz")
    others.add("response", OK + b"good")
    good = gzip.compress(others.save().read_bytes())
    others.path.write_bytes(good + gzip.compress(b""))
    assert len(list(warc.read(others.path))) == 1
    for length in range(1, 50):
        others.path.write_bytes(good + good[:length])
        wrong: list[penstock.ArchiveError] = []
        assert len(list(warc.read(others.path, skipped=wrong.append))) == 1
        assert [error.offset for error in wrong] == [len(good)]
        with pytest.raises(penstock.ArchiveError, match="cut off within its head"):
            list(warc.read(others.path))


def test_records_that_are_compressed_together_are_told_of_with_where_they_begin(tmp_path: Path) -> None:
    others = Others(tmp_path / "together.warc.gz")
    others.add("response", OK + b"one")
    alone = gzip.compress(others.save().read_bytes())
    others.add("response", OK + b"two")
    others.path.write_bytes(alone + gzip.compress(others.save().read_bytes()))
    dialogs = warc.read(others.path)
    assert [bytes(next(dialogs).res_body) for _ in range(2)] == [b"one", b"one"]
    with pytest.raises(penstock.ArchiveError, match=r": several records are compressed together, [^\n]*$") as raised:
        next(dialogs)
    assert raised.value.offset == len(alone)


def test_what_is_no_warc_is_repeated_in_a_line_without_what_a_terminal_listens_to(others: Others) -> None:
    others.add("response", OK)
    path = others.save()
    path.write_bytes(path.read_bytes() + b"\x1b[2J\xff" + b"x" * 100_000 + b"\n")
    with pytest.raises(penstock.ArchiveError, match=r"no WARC from byte \d+ on: ") as raised:
        list(warc.read(path))
    text = str(raised.value)
    assert (text.isprintable(), len(text) < 500, r"\x1b[2J" in text) == (True, True, True)


@pytest.mark.parametrize(
    ("kind", "block", "fields"),
    [
        ("response", b"x" * 9000 + b"\r\n\r\n", {}),
        ("request", b"x" * 9000 + b"\r\n\r\n", {}),
        ("response", b"HTTP/1.1 200 OK\r\n: " + b"x" * 9000 + b"\r\n\r\n", {}),
        ("response", b"HTTP/1.1 200 OK\r\n(" + b"x" * 9000 + b": 1\r\n\r\n", {}),
        ("response", b"HTTP/1.1 200 OK\r\n\r\n", {"Penstock_Decoded": "x" * 9000}),
    ],
)
def test_of_a_long_line_of_a_record_its_error_has_the_beginning(
    others: Others, kind: str, block: bytes, fields: dict[str, str]
) -> None:
    others.add(kind, block, **fields)
    with pytest.raises(penstock.ArchiveError, match=r"record at byte 0 of the WARC: .*xxx") as raised:
        list(warc.read(others.save()))
    assert len(str(raised.value)) < 1200


def test_a_record_that_is_passed_over_does_not_hide_those_that_it_would_swallow(others: Others) -> None:
    others.add("response", OK)
    others.add("resource", b"x" * 100)
    others.add("response", OK)
    path = others.save()
    path.write_bytes(path.read_bytes().replace(b"Content-Length: 100", b"Content-Length: 999"))
    dialogs = warc.read(path)
    assert next(dialogs).status == 200
    with pytest.raises(penstock.ArchiveError, match="cut off"):
        next(dialogs)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_record_that_is_longer_than_it_says_is_damage_and_not_a_short_body(
    zipped: bool, others: Others, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others.add("warcinfo", b"x" * 100)
    others.add("response", OK + b"one\r\ntwo\r\n")
    others.add("response", OK)
    data = others.save().read_bytes()
    length = b"Content-Length: %d" % len(OK + b"one\r\ntwo\r\n")
    assert data.count(length) == 1
    data = data.replace(length, b"Content-Length: %d" % len(OK + b"one\r\n")).replace(b"x" * 100, b"x" * 100 + b"y")
    path = tmp_path / "longer.warc"
    heads = [0, *(found.start() for found in re.finditer(b"WARC/1", data) if found.start()), len(data)]
    members = [data[one:two] for one, two in itertools.pairwise(heads)]
    path.write_bytes(b"".join(map(gzip.compress, members)) if zipped else data)
    with pytest.raises(penstock.ArchiveError, match="it is longer than it says"):
        list(warc.read(path))
    skipped: list[penstock.ArchiveError] = []
    (dialog,) = warc.read(path, skipped=skipped.append)
    assert (bytes(dialog.res_body), len(skipped)) == (b"", 1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("head", "more"),
    [
        (b"WARC/1.0\r\nX: ", b"a" * 64),
        (b"WARC/1.0\r\n", b"X: a\r\n"),
        (b"WARC/1.0\r\nWARC-Type: warcinfo\r\nContent-Length: 0\r\n\r\n", b"\r\n"),
    ],
    ids=["line", "lines", "between"],
)
def test_heads_of_records_without_an_end_are_not_collected(tmp_path: Path, head: bytes, more: bytes) -> None:
    path = tmp_path / "bomb.warc.gz"
    path.write_bytes(gzip.compress(head + more * ((4 << 20) // len(more))))
    with pytest.raises(penstock.ArchiveError, match="is over 1048576 bytes"):
        list(warc.read(path))


def test_a_pipe_is_read_as_a_file_is(others: Others, tmp_path: Path) -> None:
    others.add("response", OK)
    first = len(others.save().read_bytes())
    others.add("response", b"no HTTP")
    data, pipe = others.save().read_bytes(), tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    wrong: list[penstock.ArchiveError] = []
    assert [dialog.status for dialog in warc.read(pipe, skipped=wrong.append)] == [200]
    assert [error.offset for error in wrong] == [first]
    writer.join()


def test_what_came_before_a_body_that_is_too_long_is_given(others: Others) -> None:
    others.add("response", OK + b"good")
    others.add("response", OK + b"x" * 1000, url="http://a.test/long")
    reading = warc.read(others.save(), tunables=penstock.Tunables(max_body=999))
    assert bytes(next(reading).res_body) == b"good"
    with pytest.raises(penstock.BodyTooLong):
        next(reading)


def test_no_room_for_a_decoded_body_is_no_bad_coding(others: Others) -> None:
    coded = gzip.compress(bytes(range(256)) * 20_000)
    others.add("response", b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + coded)
    assert len(coded) < 64 << 10
    with pytest.raises(penstock.BudgetExceeded):
        list(warc.read(others.save(), budget=penstock.Budget(ram="64KiB", files=0)))


def test_a_body_that_cannot_be_read_leaves_what_came_before_it(tmp_path: Path) -> None:
    path, source = tmp_path / "a.warc", tmp_path / "body"
    source.write_bytes(LARGE)
    body = penstock.BodyImage.from_path(source)
    os.truncate(source, 1000)
    with pytest.raises(penstock.Truncated):
        warc.write(path, [make_dialog(1, b"good"), make_dialog(2, body)])
    assert [bytes(dialog.res_body) for dialog in warc.read(path)] == [b"good"]
    check(path)


FULL = """
import os, resource, sys
from penstock import warc
from tests.barc.conftest import make_dialog
path, size = sys.argv[1], int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, resource.RLIM_INFINITY))
try:
    warc.write(path, [make_dialog(number, os.urandom(size)) for number in range(20)])
except OSError as error:
    print(error.errno, error.filename == path)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(warc.write(path, [make_dialog(20, b"behind them")]))
"""


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
@pytest.mark.parametrize("size", [500, 5000, 100_000])
def test_a_full_disk_leaves_complete_dialogs_to_append_to(name: str, size: int, tmp_path: Path, script: Any) -> None:
    path = tmp_path / name
    # The limit on a file's size fails a write as a full disk does, without one.
    done = script(FULL, str(path), str(size))
    assert done.stdout == f"{errno.EFBIG} True\n1\n", done.stderr
    *first, last = [bytes(dialog.res_body) for dialog in warc.read(path)]
    assert ({len(body) for body in first} <= {size}, bool(first), last) == (True, size < 100_000, b"behind them")
    assert check(path).count("digest pass") >= 1 + 2 * len(first)


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_an_interrupt_between_two_records_of_a_dialog_leaves_complete_ones_to_append_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / name

    def interrupted(writer: WARCWriter, request: Any, response: Any) -> None:
        writer.write_record(response)
        raise KeyboardInterrupt

    dialogs = [make_dialog(number, LARGE[number:]) for number in range(3)]
    for dialog in dialogs:
        with monkeypatch.context() as patch:
            patch.setattr(WARCWriter, "write_request_response_pair", interrupted)
            with pytest.raises(KeyboardInterrupt):
                warc.write(path, [dialog])
        assert warc.write(path, [dialog]) == 1
    assert [bytes(dialog.res_body) for dialog in warc.read(path)] == [bytes(dialog.res_body) for dialog in dialogs]
    assert check(path).count("digest pass") == 1 + 2 * 3


def test_what_was_read_before_damage_is_in_no_cycle_with_its_error(tmp_path: Path) -> None:
    path = tmp_path / "a.warc"
    warc.write(path, [make_dialog(0, b"body")])
    with path.open("ab") as file:
        file.write(b"no record\r\n")

    def read() -> weakref.ref[penstock.ArchiveError]:
        try:
            for _ in warc.read(path):
                pass
        except penstock.ArchiveError as error:
            return weakref.ref(error)
        raise AssertionError("nothing was wrong")

    with uncollected():
        assert read()() is None


@pytest.mark.asyncio
async def test_on_a_loop_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(penstock.BlockingInLoop, match=r"warc\.write"):
        warc.write(tmp_path / "a.warc", [])
    with pytest.raises(penstock.BlockingInLoop, match=r"warc\.read"):
        next(warc.read(tmp_path / "a.warc"))


def test_memory_does_not_grow_with_bodies(tmp_path: Path, script: Callable[..., Any]) -> None:
    source = """
import resource, sys
import penstock
from penstock import warc
path = sys.argv[1] + "/big"
with open(path, "wb") as file:
    for _ in range(80):
        file.write(b"x" * (1 << 20))
body = penstock.BodyImage.from_path(path)
dialog = penstock.Dialog(
    penstock.Prolog(method="GET", url="http://a/"), penstock.Epilog(version="HTTP/1.1", status=200, res_body=body)
)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
warc.write(path + ".warc", [dialog])
(back,) = warc.read(path + ".warc")
assert len(back.res_body) == 80 << 20
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""
    ran = script(source, str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < 40
