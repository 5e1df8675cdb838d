"""WARC 1.1, through warcio (extra `warc`): dialogs as archives of the web keep them, and theirs as dialogs.

For threads and plain programs. Bodies are streamed both ways.

A WARC holds messages as they were on the wire. Of ours the codings may be gone: such a message has its fields
Content-Encoding, Transfer-Encoding and Content-Length under names that begin with `X-Archive-Orig-`, as other tools do
it, and a Content-Length that is true. What else reading it needs to give the same dialog is in record headers of our
own, which other readers pass over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import re
import urllib.parse
import zlib
from collections.abc import Callable, Iterable, Iterator
from io import BufferedWriter, BytesIO, FileIO
from pathlib import Path
from typing import Any

from penstock._native import Budget, Head, Tunables, __version__, read_limit, refuse_in_loop
from penstock.body.image import BodyImage
from penstock.body.sink import BodySink
from penstock.dialog import CODINGS, Dialog, Epilog, Prolog, Trace, read_seconds, seconds_of, with_history
from penstock.errors import ArchiveError, BudgetExceeded, HeadTooLong, PenstockError, StorageFull
from penstock.headers import Headers, brief, codings_in, headers_in, lines_of

try:
    from warcio.archiveiterator import WARCIterator
    from warcio.bufferedreaders import DecompressingBufferedReader
    from warcio.exceptions import ArchiveLoadFailed
    from warcio.limitreader import LimitReader
    from warcio.warcwriter import WARCWriter
except ImportError as error:
    raise ImportError("penstock.warc needs warcio: pip install warcio") from error

__all__ = ["read", "write"]

EPOCH = datetime.datetime.fromtimestamp(0, datetime.UTC)
ORIGINAL = b"X-Archive-Orig-"
DECODED = "Penstock-Decoded"
RENAMED = "Penstock-Renamed"
TIMING = "Penstock-Timing"
HEAD = 1 << 20
"""Bytes of a message's head, and of a record's own."""
LINES = 1024
"""Of a message's head, those included that go on with another: a few hundred bytes of gzip may be half a million."""
LINE = 64 << 10
VERSIONS = {b"HTTP/2": b"HTTP/2.0", b"HTTP/3": b"HTTP/3.0", **{b"HTTP/1.%d" % n: b"HTTP/1.1" for n in range(2, 10)}}
"""As an archive has them; a later minor version is the last that is known (RFC 9110 section 2.5)."""
PIECE = 256 << 10
"""Bytes that are read at once."""
GZIP = b"\x1f\x8b"
"""What compressed records begin with (RFC 1952 section 2.3.1)."""
MET = 200
"""Characters of a record, or of what warcio says of it, that an error has."""

STATUS_LINE = re.compile(rb"HTTP/(0\.9|1\.[0-9]|[23](\.0)?) [1-9][0-9]{2}( .*)?", re.DOTALL)
REQUEST_LINE = re.compile(rb"[0-9A-Za-z!#$%&'*+.^_`|~-]+( .*){2}", re.DOTALL)
# A line end would begin another field, or another record.
WRITABLE = re.compile(r"[^\0-\x1f\x7f]+")
# `int` would take signs and underscores, too. With another line end it is rather a text's first line.
CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(;[^\n]*)?\r\n")

Lines = list[bytes]


# Writing


def write(
    path: str | os.PathLike[str],
    dialogs: Iterable[Dialog],
    *,
    gzip: bool | None = None,
    max_body: int | str | None = None,
) -> int:
    """Appends dialogs to a WARC file, which is made if it isn't there; the redirects before each of them, too.

    Each becomes a response record and a request record that names it, with date, address, and digests of block and
    payload (SHA-1). Trailers are left behind.

    Args:
        path: The file.
        dialogs: Bodies are read piece by piece, twice: for the digests, and to be written.
        gzip: Compress each record; `None` is by the name, which then ends with `.gz`.
        max_body: Bytes of a body that are written; `None` is all. A longer one is cut, and its record has
            `WARC-Truncated: length`.

    Returns:
        How many dialogs were written. Interrupted, by Ctrl-C too, the file ends behind the last complete one.

    Raises:
        OSError: The file can't be written. It ends behind the last complete dialog.
        Truncated: A body's file was cut short. Of its dialog nothing is written.
        ValueError: A method, URL or version is empty, or has control characters. Of that dialog nothing is written.
        BlockingInLoop: This thread runs an event loop.
    """
    refuse_in_loop("warc.write()", "await run_blocking(warc.write, path, dialogs)")
    limit = read_limit(max_body, "max_body")
    name = os.fspath(path)
    with _Out(name, "ab") as raw:
        file = BufferedWriter(raw)
        writer = WARCWriter(file, gzip=name.endswith(".gz") if gzip is None else gzip, warc_version="1.1")
        end, count = file.tell(), 0
        try:
            if not end:
                about = {"software": f"penstock/{__version__}", "format": "WARC File Format 1.1"}
                writer.write_record(writer.create_warcinfo_record(Path(name).name, about))
                file.flush()
                end = file.tell()
            for last in dialogs:
                for dialog in with_history(last):
                    request, response = _request(writer, dialog, limit), _response(writer, dialog, limit)
                    writer.write_request_response_pair(request, response)
                    file.flush()
                    end = file.tell()
                    count += 1
        except BaseException:
            # Whatever was appended behind a part of a record would be taken for the rest of it. What is in the buffer
            # stays there.
            with contextlib.suppress(OSError):
                raw.truncate(end)
            raise
    return count


class _Out(FileIO):
    """The file that is written; the system doesn't say which one it was that failed."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            error.filename = self.name
            raise


class _Raw:
    """A head that is written as it is, where warcio has one that it takes apart."""

    def __init__(self, head: bytes) -> None:
        self.headers_buff = head

    def compute_headers_buffer(self, header_filter: Any = None) -> None:
        """It is there."""


def _request(writer: Any, dialog: Dialog, limit: int | None) -> Any:
    head = dialog.trace.req_head
    if not head:
        # Not by `urlsplit`, which refuses some.
        target = re.sub("^[^/?]*/?", "/", dialog.url.partition("#")[0].partition("://")[2])
        head = f"{dialog.method} {target} HTTP/1.1\r\n".encode() + lines_of(dialog.req_headers)
    chunked = "chunked" in dialog.req_headers.get("transfer-encoding", "").lower()
    return _record(writer, dialog, "request", head, dialog.req_body, ("chunked",) if chunked else (), limit)


def _response(writer: Any, dialog: Dialog, limit: int | None) -> Any:
    head = dialog.response()._head.raw
    if not dialog.trace.res_head:
        head = dialog.version.encode() + head[head.index(b" ") :]
    return _record(writer, dialog, "response", head, dialog.res_body, dialog.res_decoded, limit)


def _record(
    writer: Any, dialog: Dialog, kind: str, head: bytes, body: BodyImage, decoded: tuple[str, ...], limit: int | None
) -> Any:
    trace, length = dialog.trace, len(body)
    for name in ("method", "url", "version"):
        if not WRITABLE.fullmatch(value := getattr(dialog, name)):
            raise ValueError(f"{name}={value!r}: is empty, or has control characters, which a WARC can't hold")
    fields = {"WARC-Type": kind, "WARC-Date": _date(trace.started or EPOCH), DECODED: ", ".join(decoded)}
    if trace.peer is not None:
        fields["WARC-IP-Address"] = trace.peer[0]
    if kind == "response" and (timing := _timing(trace)):
        fields[TIMING] = timing
    head, renamed = _renamed(head, length, decoded)
    if renamed:
        fields[RENAMED] = ", ".join(sorted(renamed))
    stream: Any = body.open() if length else BytesIO()
    if limit is not None and length > limit:
        fields["WARC-Truncated"] = "length"
        stream = LimitReader(stream, limit)
    return writer.create_warc_record(
        dialog.url,
        kind,
        payload=stream,
        length=min(length, limit) if limit is not None else length,
        warc_headers_dict=fields,
        http_headers=_Raw(head),
    )


def _renamed(head: bytes, length: int, decoded: tuple[str, ...]) -> tuple[bytes, set[str]]:
    """The head with what isn't true of the body any more under other names, and the names that it had."""
    removed = set(decoded) - {"identity"}
    untrue = {"content-length"} if removed else set()
    if "chunked" in removed:
        untrue.add("transfer-encoding")
    if removed - {"chunked"}:
        untrue.add("content-encoding")
    first, *lines = head[:-4].split(b"\r\n")
    renamed = untrue & {_name(line) for line in lines}
    if not renamed:
        return head, renamed
    # Those too that came under such a name, as from a replay of an archive: `_restored` can't tell them otherwise.
    lines = [ORIGINAL + line if _original_name(line) in renamed else line for line in lines]
    return b"\r\n".join([first, *lines, b"Content-Length: %d" % length, b"", b""]), renamed


def _restored(lines: Lines, renamed: set[str]) -> Lines:
    """What `_renamed` was given."""
    return [line.removeprefix(ORIGINAL) if _original_name(line) in renamed else line for line in lines[:-1]]


def _name(line: bytes) -> str:
    return line.partition(b":")[0].strip().lower().decode("latin-1")


def _original_name(line: bytes) -> str:
    while line.startswith(ORIGINAL):
        line = line.removeprefix(ORIGINAL)
    return _name(line)


def _date(when: datetime.datetime) -> str:
    return when.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _timing(trace: Trace) -> str:
    known = [f"{name}={value}" for name, value in seconds_of(trace).items()]
    if trace.peer is not None:
        known.append(f"port={trace.peer[1]}")
    return "; ".join(known)


# Reading


def read(
    path: str | os.PathLike[str],
    *,
    tunables: Tunables | None = None,
    budget: Budget | None = None,
    decode: bool = True,
    skipped: Callable[[ArchiveError], object] | None = None,
) -> Iterator[Dialog]:
    """The dialogs of a WARC file, compressed or not: each response, with its request if that is its neighbour.

    Other records, those without HTTP, and `revisit`s, which refer to bodies elsewhere, are passed over. A response
    without a request gets one of its own: a GET without fields. Chunked bodies are joined. A record that goes on in
    others, as its `WARC-Segment-Number` says, is an `ArchiveError`.

    Args:
        path: The file.
        tunables: Limits for the bodies, and where they go; `None` is `Tunables()`.
        budget: What bodies count against; `None` is the process's.
        decode: Take content codings off. What can't be decoded stays as it is.
        skipped: Called with what is wrong with a record that is no dialog, which is then passed over; `None` raises it.

    Raises, when iterated over:
        ArchiveError: It isn't a WARC, is cut off or damaged, or holds a message that isn't HTTP; `.kind` is `"warc"`.
            Behind damage to its compression, records that are compressed together, or a record's own head of over a
            MiB, nothing is read, `skipped` or not.
        BodyTooLong: A body is over `max_body`.
        StorageFull, BudgetExceeded, OSError: A body's file can't be made, or the file not read.
        BlockingInLoop: This thread runs an event loop.
    """
    refuse_in_loop("warc.read()", "iterate over it in a function, and await run_blocking(function)")
    options = (tunables if tunables is not None else Tunables(), budget if budget is not None else Budget.shared())
    held: _Message | None = None
    failure: Exception | None = None
    with open(path, "rb") as file:
        messages = _messages(file, options, decode, skipped)
        while True:
            try:
                message = next(messages, None)
            except Exception as error:
                # What was held back comes first.
                message, failure = None, error
            if held is not None and message is not None and held.belongs_to(message):
                yield held.dialog(message)
                held = None
                continue
            if held is not None and held.kind == "response":
                yield held.dialog(None)
            held = message
            if message is None:
                break
    if failure is not None:
        try:
            raise failure
        finally:
            # It has this frame, and by it bodies that were read.
            del failure


def _messages(
    file: Any, options: tuple[Tunables, Budget], decode: bool, skipped: Callable[[ArchiveError], object] | None
) -> Iterator[_Message]:
    records = _Records(file, no_record_parse=True)
    # Of a pipe it has something in between, which counts bytes.
    records.reader = reader = _Reader(records.fh)
    try:
        for record in records:
            records.begun = records.offset
            reader.left = HEAD
            records.err_count = 0
            if record.length is None:
                # It has swallowed the others.
                message = f"record at byte {records.offset} of the WARC has no length"
                raise ArchiveError(message, offset=records.offset, kind="warc")
            offset = records.offset
            try:
                if _is_message(record):
                    read = _message(record, options, decode)
                    try:
                        records.read_to_end()
                    except ArchiveLoadFailed:
                        # What is behind it is the next one's matter.
                        yield read
                        raise
                    if records.err_count:
                        raise ValueError("it is longer than it says: what follows it is no blank line")
                    yield read
                else:
                    for _ in _pieces(record.raw_stream):
                        pass
                    # It may have swallowed the others.
                    _check_whole(record.raw_stream)
            except (ValueError, HeadTooLong) as error:
                _pass_over(offset, str(error), skipped)
        if reader.is_mute:
            _pass_over(records.offset, "it is cut off within its head", skipped)
    except ArchiveLoadFailed as error:
        offset = records.offset
        # It repeats the line that it met, which may be anything.
        why = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(error).strip()[:MET])
        raise ArchiveError(f"no WARC from byte {offset} on: {why}", offset=offset, kind="warc") from None


def _pass_over(offset: int, why: str, skipped: Callable[[ArchiveError], object] | None) -> None:
    wrong = ArchiveError(f"record at byte {offset} of the WARC: {brief(why)}", offset=offset, kind="warc")
    if skipped is None:
        raise wrong from None
    skipped(wrong)


class _Records(WARCIterator):  # type: ignore[misc]  # warcio has no types
    """Of a record that nothing blank follows warcio tells standard error, and goes on."""

    INC_RECORD = ""

    begun = 0
    """Where the latest record begins."""

    def _raise_invalid_gzip_err(self) -> None:
        # What it takes for the place of this one is none in the file.
        self.offset = self.begun
        raise ArchiveLoadFailed("several records are compressed together, and not one by one")


class _Reader(DecompressingBufferedReader):  # type: ignore[misc]  # warcio has no types
    """What lies between the blocks of records comes in lines of any length, and in any number, for warcio; and of
    damage it tells standard error, and takes it for the file's end."""

    left = HEAD
    """Bytes of such lines that are to come, at most."""

    is_mute = False
    """Whether nothing has come yet of what is compressed here: warcio takes it for the file's end."""

    def readline(self, length: int | None = None) -> bytes:
        if length is not None:
            return bytes(super().readline(length))
        line = b""
        while not line.endswith(b"\n") and (piece := super().readline(LINE)):
            line += piece
            self.left -= len(piece)
            if self.left < 0:
                raise ArchiveLoadFailed(f"a record's head, or what is before it, is over {HEAD} bytes")
        return line

    def _decompress(self, data: bytes) -> bytes:
        # Only what isn't compressed at all, which begins otherwise, is left as it is.
        if self.decompressor and (self.num_block_read or data.startswith(GZIP)):
            try:
                found = bytes(self.decompressor.decompress(data))
            except zlib.error as error:
                raise ArchiveLoadFailed(f"its compression is damaged: {error}") from None
        else:
            found = bytes(super()._decompress(data))
        self.is_mute = bool(self.decompressor) and not (found or self.num_block_read or self.decompressor.eof)
        return found


def _is_message(record: Any) -> bool:
    get = record.rec_headers.get_header
    url = get("WARC-Target-URI") or ""
    # A dialog of ours has any URL; of others `dns:` is of no HTTP.
    has_http = url.lower().startswith(("http:", "https:")) or (url != "" and get(DECODED) is not None)
    return record.rec_type in ("request", "response") and has_http


def _check_whole(stream: Any) -> None:
    if getattr(stream, "limit", 0):
        raise ValueError(f"it is cut off {stream.limit} bytes before its end")


@dataclasses.dataclass
class _Message:
    """A record, as far as it matters here."""

    kind: str
    id: str
    refers: list[str]
    """The records that it belongs to, where it says so."""
    url: str
    first: bytes
    """The line before the fields."""
    lines: Lines
    body: BodyImage
    decoded: tuple[str, ...]
    trace: Trace

    def belongs_to(self, other: _Message) -> bool:
        if self.kind == other.kind:
            return False
        if self.refers or other.refers:
            return other.id in self.refers or self.id in other.refers
        return self.url == other.url

    def dialog(self, other: _Message | None) -> Dialog:
        response, request = (self, other) if self.kind == "response" else (other, self)
        assert response is not None  # a request by itself is no dialog
        head = b"\r\n".join([response.first, *response.lines, b"", b""])
        trace = dataclasses.replace(response.trace, res_head=head if _is_head(head) else b"")
        prolog = Prolog(method="GET", url=response.url)
        if request is not None:
            trace = dataclasses.replace(trace, req_head=b"\r\n".join([request.first, *request.lines, b"", b""]))
            method = request.first.split(b" ")[0].decode("latin-1")
            fields = headers_in(request.lines)
            prolog = Prolog(method=method, url=response.url, req_headers=fields, req_body=request.body)
        version, status = response.first.split(b" ")[:2]
        epilog = Epilog(
            version=VERSIONS.get(version, version).decode("latin-1"),
            status=int(status),
            res_headers=headers_in(response.lines),
            res_body=response.body,
            res_decoded=response.decoded,
        )
        return Dialog(prolog, epilog, trace)


def _is_head(head: bytes) -> bool:
    """Whether it is one that a client would take."""
    try:
        Head(head, ())
    except PenstockError:
        return False
    return True


def _message(record: Any, options: tuple[Tunables, Budget], decode: bool) -> _Message:
    """What a record holds; its body is read.

    Raises:
        ValueError: It isn't HTTP.
    """
    get = record.rec_headers.get_header
    stream, kind = record.raw_stream, record.rec_type
    # Others may have an IRI there.
    url = re.sub("[^!-~]+", lambda bad: urllib.parse.quote(bad.group()), get("WARC-Target-URI"))
    if get("WARC-Segment-Number") is not None:
        raise ValueError("it goes on in other records (WARC-Segment-Number), which aren't put together here")
    first, *lines = _read_head(stream)
    if kind == "response":
        if not STATUS_LINE.fullmatch(first):
            raise ValueError(f"{first[:MET]!r} is no status line")
    elif not REQUEST_LINE.fullmatch(first):
        raise ValueError(f"{first[:MET]!r} is no request line")
    ours = get(DECODED)
    if ours is not None and (renamed := get(RENAMED)):
        lines = _restored(lines, set(renamed.split(", ")))
    fields = headers_in(lines)
    chunked = ours is None and "chunked" in fields.get("transfer-encoding", "").lower()
    pieces = _joined(stream, get("WARC-Truncated") is not None) if chunked else _pieces(stream)
    body = _collect(pieces, options)
    _check_whole(stream)
    decoded: tuple[str, ...]
    if ours is not None:
        decoded = tuple(name for name in ours.split(", ") if name)
        if not CODINGS.issuperset(decoded):
            raise ValueError(f"{DECODED}: {ours[:MET]!r} has a coding that isn't known")
    else:
        body, codings, left = _decoded(body, fields, options) if decode and kind == "response" else (body, (), True)
        decoded = (*(("chunked",) if chunked else ()), *codings, *(() if left else ("identity",)))
    refers = [value for name, value in record.rec_headers.headers if name.lower() == "warc-concurrent-to"]
    return _Message(kind, get("WARC-Record-ID") or "", refers, url, first, lines, body, decoded, _trace(get, url))


def _read_head(stream: Any) -> Lines:
    lines: Lines = []
    size = count = 0
    while line := stream.readline(LINE):
        size += len(line)
        count += 1
        if size > HEAD or count > LINES:
            raise ValueError(f"its head is over {f'{HEAD} bytes' if size > HEAD else f'{LINES} lines'}")
        if not line.endswith(b"\n"):
            raise ValueError(f"{line[:MET]!r} of its head has no end, or only after {LINE} bytes or so")
        text = line.rstrip(b"\r\n")
        if not text:
            if lines:
                return lines
            continue
        if line[:1] in b" \t" and len(lines) > 1:
            # A folded line (RFC 9112 section 5.2).
            lines[-1] += b" " + text.strip(b" \t")
        elif lines and not _name(text):
            raise ValueError(f"{text[:MET]!r} is no header line")
        else:
            lines.append(text)
    raise ValueError("its head has no end")


def _pieces(stream: Any) -> Iterator[bytes]:
    while piece := stream.read(PIECE):
        yield piece


def _joined(stream: Any, cut: bool) -> Iterator[bytes]:
    """The chunks of a body; all of it as it is, where it was joined before.

    Args:
        stream: Where it comes from.
        cut: Its end may be missing.

    Raises:
        ValueError: What begins as chunks doesn't go on so.
    """
    line = stream.readline(LINE)
    if not CHUNK.fullmatch(line):
        yield line
        yield from _pieces(stream)
        return
    while size := CHUNK.fullmatch(line):
        left = int(size[1], 16)
        if not left:
            for _ in _pieces(stream):
                # Trailers.
                pass
            return
        while left and (piece := stream.read(min(left, PIECE))):
            left -= len(piece)
            yield piece
        if (line := stream.readline(LINE)) != b"\r\n":
            break
        line = stream.readline(LINE)
    # That the last chunk is missing is no loss.
    if line.endswith(b"\n") or ((left or line) and not cut):
        raise ValueError("its chunks are broken")


def _collect(pieces: Iterable[bytes], options: tuple[Tunables, Budget]) -> BodyImage:
    tunables, budget = options
    with BodySink(tunables, budget=budget) as sink:
        for piece in pieces:
            sink.write(piece)
        return sink.prepare()


def _decoded(
    body: BodyImage, fields: Headers, options: tuple[Tunables, Budget]
) -> tuple[BodyImage, tuple[str, ...], bool]:
    """The body, the codings that were taken off it, and whether any are left."""
    codings = [coding.removeprefix("x-") for coding in codings_in(fields, "content-encoding")]
    if not codings or not len(body):
        return body, (), bool(codings)
    try:
        image = BodyImage(body.decode_op(codings, *options)())
    except (BudgetExceeded, StorageFull):
        raise
    except PenstockError:
        return body, (), True
    return image, tuple(reversed(codings)), False


def _trace(get: Callable[[str], str | None], url: str) -> Trace:
    timing = dict(part.split("=", 1) for part in (get(TIMING) or "").split("; ") if "=" in part)
    known: dict[str, Any] = {**read_seconds(timing)}
    with contextlib.suppress(ValueError, OverflowError):
        started = datetime.datetime.fromisoformat(get("WARC-Date") or "")
        started = started.astimezone(datetime.UTC) if started.tzinfo else started.replace(tzinfo=datetime.UTC)
        known["started"] = started if started != EPOCH else None
    if address := get("WARC-IP-Address"):
        with contextlib.suppress(ValueError):
            parts = urllib.parse.urlsplit(url)
            default = parts.port or (443 if parts.scheme == "https" else 80)
            known["peer"] = (address, int(timing.get("port", default)))
    return Trace(**known)
