"""Dialogs as values, and records that become dialogs or can't."""

from __future__ import annotations

import dataclasses
import datetime
import gzip
import pickle
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import multidict
import penstock
import penstock.headers
import pytest
from penstock import barc, replay
from penstock._native import Head
from starlette.datastructures import Headers as StarletteHeaders

from tests.barc.conftest import DATA, MakeDialog, make_dialog
from tests.http.serving import head, response, serve


def test_what_is_no_text_is_no_name_of_a_header() -> None:
    headers = penstock.Headers([("A", "1")])
    assert "a" in headers
    assert "b" not in headers
    assert 5 not in headers
    assert b"a" not in headers


def test_a_trace_says_by_which_clock_it_started() -> None:
    naive = datetime.datetime(2026, 11, 29, 8)
    with pytest.raises(ValueError, match=r"^started=2026-11-29T08:00:00: has no time zone"):
        penstock.Trace(started=naive)
    aware = naive.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=1)))
    assert penstock.Trace(started=aware).started == aware


def test_a_dialog_is_a_value(dialog: MakeDialog) -> None:
    image = penstock.BodyImage.from_bytes(b"x")
    one, same, other = dialog(1, image), dialog(1, image), dialog(2, image)
    assert one == same != other
    assert hash(one) == hash(same)
    assert one != dialog(1, image, res_headers=[*one.res_headers.raw, (b"set-cookie", b"c=3")])
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.epilog.status = 404  # type: ignore[misc]
    changed = one.replace(status=404, method="HEAD", res_body=penstock.BodyImage.from_bytes(b""))
    assert (changed.status, changed.method, changed.url, len(changed.res_body)) == (404, "HEAD", one.url, 0)
    assert (one.prolog.method, one.epilog.status, one.version) == ("GET", 200, "HTTP/1.1")
    assert one.req_headers["ACCEPT"] == "*/*"
    removed = ["gzip", "identity"]
    decoded = one.replace(res_decoded=removed)
    removed.clear()
    assert decoded == one.replace(res_decoded=("gzip", "identity"))
    assert hash(decoded) == hash(one.replace(res_decoded=("gzip", "identity")))


def test_what_is_printed_of_a_dialog_tells_no_header_fields(dialog: MakeDialog) -> None:
    one = dialog(1, penstock.BodyImage.from_bytes(b"x"))
    head = b"authorization: secret"
    trace = penstock.Trace(done=1.5, req_head=head, res_head=head)
    told = one.replace(req_headers={"authorization": "secret"}, res_headers={"set-cookie": "secret"}, trace=trace)
    printed = f"{told!r} {told.trace!r} {penstock.RequestRecord(told.prolog)!r} {barc.Record.from_dialog(told)!r}"
    assert "secret" not in printed
    assert f"method='GET', url='{one.url}'" in printed
    assert "status=200" in printed
    assert "done=1.5" in printed


def test_headers_are_made_of_what_they_are_printed_as() -> None:
    headers = penstock.Headers([("A", "1"), (b"b", b"2"), ("a", "3")])
    assert repr(headers) == "Headers([('a', '1'), ('a', '3'), ('b', '2')])"
    assert eval(repr(headers), {"Headers": penstock.Headers}).raw == headers.raw
    assert penstock.Headers({"Accept": "*/*"})["accept"] == "*/*"
    assert penstock.Headers(headers).raw == headers.raw
    with pytest.raises(TypeError, match="text or bytes, not int"):
        penstock.Headers({"a": 1})


def test_headers_made_of_another_librarys_have_each_line_of_a_name() -> None:
    pairs = [("set-cookie", "a=1"), ("set-cookie", "b=2")]
    for others in (
        httpx.Headers(pairs),
        multidict.CIMultiDict(pairs),
        StarletteHeaders(raw=[(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]),
    ):
        assert penstock.Headers(others).get_all("set-cookie") == ["a=1", "b=2"]


def test_headers_are_equal_when_all_of_their_fields_are() -> None:
    one = penstock.Headers([("A", "1"), ("b", "2"), ("a", "3")])
    same = penstock.Headers(Head(b"HTTP/1.1 200 OK\r\na: 1\r\nA: 3\r\nB: 2\r\n\r\n", ()))
    assert one == same
    assert len({one, same}) == 1
    for other in ([("a", "1"), ("b", "2")], [("a", "1"), ("a", "4"), ("b", "2")], [("a", "3"), ("a", "1"), ("b", "2")]):
        assert one != penstock.Headers(other)
    assert penstock.Headers({"A": "1"}) == {"a": "1"}
    assert one != "text"


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("res_body", b"bytes", r"res_body=bytes: takes a BodyImage, as BodyImage\.from_bytes"),
        ("req_body", None, "req_body=NoneType: takes a BodyImage"),
        ("method", None, "method=None: takes text"),
        ("url", b"http://a/", "url=b'http://a/': takes text"),
        ("version", 1.1, "version=1.1: takes text"),
        ("status", "200", "status='200': takes a number, as 200"),
        ("res_headers", {"content-length": 5}, "text or bytes, not int"),
        ("res_headers", "content-length: 5", "header fields are pairs or a mapping, not str"),
        ("res_headers", 5, "header fields are pairs or a mapping, not int"),
        ("res_headers", ["ab"], "header fields: a str in the list, not a pair of a name and a value"),
    ],
)
def test_what_a_dialog_does_not_hold_is_refused_where_it_is_given(
    dialog: MakeDialog, field: str, value: Any, why: str
) -> None:
    with pytest.raises(TypeError, match=why):
        dialog(1).replace(**{field: value})


def test_what_is_no_time_is_refused_where_it_is_given() -> None:
    with pytest.raises(TypeError, match=r"^started='2026-11-29': takes a datetime$"):
        penstock.Trace(started="2026-11-29")  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["req_body", "res_body"])
def test_what_is_no_body_of_a_record_is_refused_by_its_name(field: str) -> None:
    body: dict[str, Any] = {field: b"bytes"}
    with pytest.raises(TypeError, match=rf"^{field}=bytes: takes a BodyImage, as BodyImage\.from_bytes\(data\)$"):
        barc.Record(**body)


@pytest.mark.asyncio
@pytest.mark.parametrize("other", [barc.Record(), "text"], ids=["record", "text"])
async def test_what_takes_dialogs_says_so_of_anything_else(tmp_path: Path, other: Any) -> None:
    why = rf"takes dialogs, as record\.dialog\(\) gives them, not {type(other).__name__}"
    with pytest.raises(TypeError, match=why):
        await penstock.har.write(tmp_path / "x.har", [other])
    with pytest.raises(TypeError, match=why):
        penstock.Replay([other])
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_dialog_and_no_record_is_not_appended(dialog: MakeDialog, tmp_path: Path) -> None:
    with barc.open(tmp_path / "x.barc", "a") as archive:
        with pytest.raises(TypeError, match=r"takes a Dialog, as Client\.record gives, or a Record, not Response"):
            archive.append(dialog(1).response())  # type: ignore[arg-type]
        assert list(archive) == []


def held(value: Any) -> Any:
    """All that it holds: heads by their lines, bodies by their bytes."""
    if isinstance(value, penstock.BodyImage):
        return bytes(value)
    if dataclasses.is_dataclass(value):
        return [type(value), *(held(getattr(value, field.name)) for field in dataclasses.fields(value))]
    return [held(item) for item in value] if isinstance(value, tuple) else getattr(value, "raw", value)


TRACED = make_dialog(
    1,
    b"response",
    req_body=penstock.BodyImage.from_bytes(b"request"),
    trace=penstock.Trace(
        started=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        done=0.5,
        peer=("127.0.0.1", 80),
        trailers=((b"x", b"y"),),
        history=(make_dialog(2, b"before"),),
    ),
)


@pytest.mark.parametrize(
    "value",
    [TRACED, TRACED.prolog, TRACED.epilog, TRACED.trace, penstock.RequestRecord(TRACED.prolog)],
    ids=lambda value: type(value).__name__,
)
def test_nothing_of_a_value_can_be_set_or_deleted_and_it_pickles(value: Any) -> None:
    for field in dataclasses.fields(value):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, getattr(value, field.name))
        with pytest.raises(dataclasses.FrozenInstanceError):
            delattr(value, field.name)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert held(pickle.loads(pickle.dumps(value, protocol))) == held(value)


@pytest.mark.asyncio
async def test_a_request_becomes_a_dialog_with_its_response() -> None:
    zipped = gzip.compress(b"zipped")
    chunked = head("Transfer-Encoding: Chunked", "X-A: 1", "x-a: 2") + b"3\r\nabc\r\n0\r\n\r\n"
    scripts = [[response(b"plain")], [chunked], [response(zipped, "Content-Encoding: gzip")]]
    async with serve(*scripts) as server, penstock.Client() as client:
        url = server.url
        prolog = penstock.Prolog(method="GET", url=url, req_headers={"Accept": "text/*"})
        record = penstock.RequestRecord(prolog)
        plain = record.answered(await client.get(url))
        coded = record.answered(await client.get(url))
        decoded = record.answered(await client.get(url))
        raw = record.answered(await client.get(url, decode=False))
        told = record.answered(await client.get(url), ["gzip"])
    assert (plain.url, plain.status, plain.version, plain.res_decoded) == (url, 200, "HTTP/1.1", ("identity",))
    assert await plain.res_body.read() == b"plain"
    assert coded.res_decoded == ("chunked", "identity")
    assert coded.res_headers.get_all("X-A") == ["1", "2"]
    assert (await decoded.res_body.read(), decoded.res_decoded) == (b"zipped", ("gzip", "identity"))
    assert (await raw.res_body.read(), raw.res_decoded) == (zipped, ())
    assert told.res_decoded == ("gzip",)


def test_a_field_that_is_not_there_is_asked_for_without_an_error_inside() -> None:
    raised: list[Any] = []

    def note(frame: FrameType, event: str, arg: Any) -> Any:
        if event == "exception":
            raised.append(arg)
        return note

    headers = penstock.Prolog(method="GET", url="http://a/", req_headers={"Here": "1"}).req_headers
    # Of a debugger, or of what measures the tests.
    before = sys.gettrace()
    sys.settrace(note)
    try:
        found = headers.get("HERE"), headers.get("gone"), headers.get("gone", 2), headers.get("here", 2)
    finally:
        sys.settrace(before)
    assert (found, raised) == (("1", None, 2, "1"), [])


def test_headers_of_one_dialog_are_anothers_without_being_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    first = penstock.Prolog(method="GET", url="http://a/", req_headers=[("B", "1"), ("A", "2"), ("b", " 3")])
    monkeypatch.setattr(penstock.headers, "_bytes", None)
    second = penstock.Prolog(method="PUT", url="http://b/", req_headers=first.req_headers)
    assert second.req_headers.raw == ((b"b", b"1"), (b"b", b"3"), (b"a", b"2"))


META = [("url", "http://a/b"), ("method", "GET"), ("response-version", "HTTP/1.1"), ("response-status", "200 OK")]


def with_meta(**changes: str | None) -> barc.Record:
    meta = {**dict(META), **{name.replace("_", "-"): value for name, value in changes.items()}}
    return barc.Record(meta=[(name, value) for name, value in meta.items() if value is not None])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"url": None}, "no url in its meta"),
        ({"method": None}, "no method"),
        ({"response_version": None}, "no response-version"),
        ({"response_status": None}, "no response-status"),
        ({"url": "http://a/ b"}, "url: 'http://a/ b'"),
        ({"url": "http://\u00e4/"}, "url:"),
        ({"url": ""}, "url:"),
        ({"method": "G T"}, "method: 'G T'"),
        ({"response_version": "HTTP/1"}, "response-version: 'HTTP/1'"),
        ({"response_status": "20"}, "response-status: '20'"),
        ({"response_status": "abc"}, "response-status: 'abc'"),
        ({"response_status": "099"}, "status=99"),
        ({"response_decoded": "rot13"}, "'rot13'"),
        ({"response_decoded": ""}, "''"),
        ({"response_decoded": "GZIP"}, "'GZIP'"),
    ],
)
def test_a_record_that_is_no_dialog_says_why(changes: dict[str, str | None], why: str) -> None:
    with pytest.raises(penstock.ArchiveError, match="is no dialog") as raised:
        with_meta(**changes).dialog()
    assert why in str(raised.value)
    assert raised.value.kind == "no-dialog"


def test_a_record_of_more_lines_than_are_written_is_no_dialog_and_others_are_replayed(path: Path) -> None:
    with barc.open(path, "a") as archive:
        archive.append(make_dialog(1))
    meta = b"url: http://a/\r\nmethod: GET\r\nresponse-version: HTTP/1.1\r\nresponse-status: 200 OK\r\n\r\n"
    lines = b"".join(b"x-%d: y\r\n" % number for number in range(129)) + b"\r\n"
    sizes = (len(meta) + len(lines), len(meta), 0, 0, len(lines))
    with path.open("ab") as file:
        file.write(b"BARC2 %012x DP %05x %05x %010x %05x\r\n\r\n" % sizes + meta + lines)
    with barc.open(path) as archive:
        _, record = archive
    assert len(record.res_headers) == 129
    with pytest.raises(penstock.ArchiveError, match=r"is no dialog.*128") as raised:
        record.dialog()
    assert raised.value.kind == "no-dialog"
    with replay.serving(path) as server:
        assert server.recorded == 1


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"response_status": "200OK"}, "status", 200),
        ({"response_status": "999"}, "status", 999),
        ({"response_version": "HTTP/3.0"}, "version", "HTTP/3.0"),
        ({"response_decoded": "chunked,compress , identity"}, "res_decoded", ("chunked", "compress", "identity")),
        ({"url": "/path"}, "url", "/path"),
        ({"method": "get"}, "method", "get"),
        ({"x_note": "kept by the record"}, "res_decoded", ()),
    ],
)
def test_what_upstream_writes_is_accepted_where_its_own_reader_refuses(
    changes: dict[str, str | None], field: str, value: Any
) -> None:
    assert getattr(with_meta(**changes).dialog(), field) == value


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (200, "200 OK"),
        (404, "404 Not Found"),
        (413, "413 Payload Too Large"),
        (425, "425 <unknown status code>"),
        (599, "599 <unknown status code>"),
    ],
)
def test_the_meta_of_a_dialog_is_what_upstream_writes(status: int, told: str, dialog: MakeDialog) -> None:
    record = barc.Record.from_dialog(dialog(3, status=status))
    assert [(name.decode(), value.decode()) for name, value in record.meta.raw] == [
        ("url", "http://sample.test/3"),
        ("method", "GET"),
        ("response-version", "HTTP/1.1"),
        ("response-status", told),
        ("response-decoded", "chunked, identity"),
    ]
    assert "response-decoded" not in barc.Record.from_dialog(dialog(3, res_decoded=())).meta


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://a.test", "http://a.test/"),
        ("http://a.test#x", "http://a.test/"),
        ("http://a.test?x#y?z", "http://a.test/?x"),
        ("https://[::1]:8443", "https://[::1]:8443/"),
        ("http://a.test/b?c#d", "http://a.test/b?c"),
        ("http://a.test/?b=http://c", "http://a.test/?b=http://c"),
        ("/b#c", "/b"),
    ],
)
def test_a_url_is_recorded_without_its_fragment_and_with_a_path(url: str, told: str, dialog: MakeDialog) -> None:
    record = barc.Record.from_dialog(dialog(url=url))
    assert record.meta["url"] == record.dialog().url == told


def test_of_meta_that_is_told_twice_the_first_counts() -> None:
    lines = [*META, ("response-decoded", "chunked")]
    again = [("url", "http://c/"), ("method", "POST"), ("response-version", "HTTP/1.0"), ("response-status", "404 No")]
    dialog = barc.Record(meta=[*lines, *again, ("response-decoded", "gzip")]).dialog()
    assert (dialog.url, dialog.method, dialog.version, dialog.status) == ("http://a/b", "GET", "HTTP/1.1", 200)
    assert dialog.res_decoded == ("chunked",)


def test_upstreams_samples_become_dialogs() -> None:
    with barc.open(DATA / "multi.barc") as archive:
        dialogs = [record.dialog() for record in archive]
    assert [dialog.status for dialog in dialogs] == [200, 201, 204, 200, 302]
    assert dialogs[1].res_decoded == ("chunked", "gzip", "identity")


@pytest.mark.parametrize(
    "line",
    [
        ("sent", "nan"),
        ("done", "-inf"),
        ("first-byte", "soon"),
        ("started", "2026-01-02T03:04:05"),
        ("started", "today"),
        ("started", "0001-01-01T00:00:00+14:00"),
        ("started", "9999-12-31T23:59:59-14:00"),
        ("peer", "127.0.0.1:-5"),
        ("peer", "127.0.0.1:65536"),
        ("peer", "nobody"),
    ],
)
def test_a_time_or_a_peer_that_is_none_is_left_out(line: tuple[str, str]) -> None:
    meta = [("url", "http://one.test/"), ("method", "GET"), line]
    meta += [("response-version", "HTTP/1.1"), ("response-status", "200 OK")]
    assert barc.Record(meta=meta).dialog().trace == penstock.dialog.Trace()
