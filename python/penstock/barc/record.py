"""A record of an archive, and how a dialog becomes one and the other way round."""

from __future__ import annotations

import contextlib
import datetime
import re
from typing import Any, NamedTuple

from penstock import _native
from penstock.blocking.policy import Policy
from penstock.body.image import BodyImage
from penstock.dialog import EMPTY, Dialog, Epilog, Prolog, Trace, check_body, phrase_of, read_seconds, seconds_of
from penstock.errors import ArchiveError, HeadTooLong
from penstock.headers import Headers, Pairs, fields_of

__all__ = ["Entry", "Record", "Repair", "archived_url"]

UNKNOWN = "<unknown status code>"

PHRASES = {
    103: UNKNOWN,
    203: "Non Authoritative Information",
    413: "Payload Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    418: "I'm a teapot",
    422: "Unprocessable Entity",
    425: UNKNOWN,
}
"""Reason phrases that differ between Pythons, or from those that upstream writes."""

VERSIONS = ("HTTP/0.9", "HTTP/1.0", "HTTP/1.1", "HTTP/2.0", "HTTP/3.0")

TOKEN = re.compile(r"[0-9A-Za-z!#$%&'*+.^_`|~-]+")
URL = re.compile(r"[!-~]+")
"""As far as upstream's reader looks at one."""
WITHOUT_PATH = re.compile(r"\A([A-Za-z][A-Za-z0-9+.-]*://[^/?]+)(?=\?|\Z)")


class Entry(NamedTuple):
    """A record's place in its archive."""

    offset: int
    """Of its head, in bytes: what a record is known by."""
    end: int
    """Where the next one begins."""
    compression: str
    """`"plain"`, `"gzip"` or `"brotli"`."""


class Repair(NamedTuple):
    """A place of an archive that was mended."""

    offset: int
    end: int
    cut: bool
    """Cut off the end of the file; else a record of its own now, with the damaged bytes as its response's body."""
    error: ArchiveError
    """What was wrong."""


class Record:
    """What an archive holds for a dialog: lines of meta, and both heads and bodies.

    Made of any pairs of names and values, or read from an archive, where it has an `offset`. Immutable; pickles by
    value.
    """

    __slots__ = ("_policy", "native")

    def __init__(
        self,
        *,
        meta: Pairs | None = None,
        req_headers: Pairs | None = None,
        req_body: BodyImage = EMPTY,
        res_headers: Pairs | None = None,
        res_body: BodyImage = EMPTY,
    ) -> None:
        check_body("req_body", req_body)
        check_body("res_body", res_body)
        self.native: _native.Record = _native.Record(
            fields_of(meta), fields_of(req_headers), req_body, fields_of(res_headers), res_body
        )
        self._policy: Policy | None = None

    @classmethod
    def of(cls, native: _native.Record, policy: Policy | None = None) -> Record:
        record = cls.__new__(cls)
        record.native = native
        record._policy = policy
        return record

    @property
    def offset(self) -> int | None:
        """Of its head in the archive that it was read from, in bytes."""
        return self.native.offset

    @property
    def end(self) -> int | None:
        """Where the next record begins there."""
        return self.native.end

    @property
    def compression(self) -> str:
        """How it is stored there: `"plain"`, `"gzip"` or `"brotli"`."""
        return self.native.compression

    @property
    def meta(self) -> Headers:
        """URL, method, version, status, decoded codings, and whatever else a writer put there."""
        return Headers(self.native.meta)

    @property
    def req_headers(self) -> Headers:
        return Headers(self.native.req_headers)

    @property
    def req_body(self) -> BodyImage:
        """In memory; or, larger, in a file: a slice of the archive, if that isn't compressed."""
        return BodyImage(self.native.req_body, self._policy)

    @property
    def res_headers(self) -> Headers:
        return Headers(self.native.res_headers)

    @property
    def res_body(self) -> BodyImage:
        """As `req_body`."""
        return BodyImage(self.native.res_body, self._policy)

    @classmethod
    def from_dialog(cls, dialog: Dialog) -> Record:
        """The record of a dialog, which has its URL without the fragment, and with a path: `http://a/` for `http://a#b`.

        Raises:
            ValueError: The URL has a space or what isn't ASCII, the method is no token, or the version isn't known.
            HeadTooLong: More header lines than a record holds.
        """
        if dialog.version not in VERSIONS:
            raise ValueError(f"version={dialog.version!r}: not one of {', '.join(VERSIONS)}")
        if not TOKEN.fullmatch(dialog.method):
            raise ValueError(f"method={dialog.method!r}: not a token")
        url = archived_url(dialog.url)
        if not URL.fullmatch(url):
            raise ValueError(f"url={dialog.url!r}: a URL has no spaces, and nothing outside ASCII: percent-encode them")
        phrase = PHRASES.get(dialog.status) or phrase_of(dialog.status) or UNKNOWN
        meta = [
            ("url", url),
            ("method", dialog.method),
            ("response-version", dialog.version),
            ("response-status", f"{dialog.status} {phrase}"),
        ]
        if dialog.res_decoded:
            meta.append(("response-decoded", ", ".join(dialog.res_decoded)))
        meta += _timing(dialog.trace)
        return cls(
            meta=meta,
            req_headers=dialog.req_headers,
            req_body=dialog.req_body,
            res_headers=dialog.res_headers,
            res_body=dialog.res_body,
        )

    def dialog(self) -> Dialog:
        """The dialog that this is a record of; meta that a dialog has no place for is left behind. Of its trace there
        are the times and the peer.

        Raises:
            ArchiveError: Meta lacks something, or says what can't be, or a header block has more lines than a dialog;
                `.kind` is `"no-dialog"`.
        """
        meta = self.meta
        try:
            status = meta["response-status"][:3]
            version = meta["response-version"]
            method = meta["method"]
            if version not in VERSIONS:
                raise ValueError(f"response-version: {version!r} is none of {', '.join(VERSIONS)}")
            if not (len(status) == 3 and status.isascii() and status.isdigit()):
                raise ValueError(f"response-status: {meta['response-status']!r} doesn't begin with a status code")
            if not TOKEN.fullmatch(method):
                raise ValueError(f"method: {method!r} is not a token")
            if not URL.fullmatch(meta["url"]):
                raise ValueError(f"url: {meta['url']!r} is not a URL")
            decoded = meta.get("response-decoded")
            return Dialog(
                Prolog(method=method, url=meta["url"], req_headers=self.req_headers, req_body=self.req_body),
                Epilog(
                    version=version,
                    status=int(status),
                    res_headers=self.res_headers,
                    res_body=self.res_body,
                    res_decoded=() if decoded is None else tuple(item.strip() for item in decoded.split(",")),
                ),
                _trace(meta),
            )
        except KeyError as error:
            raise self._no_dialog(f"no {error.args[0]} in its meta") from None
        except (ValueError, HeadTooLong) as error:
            # A block may have more lines than are written.
            raise self._no_dialog(str(error)) from None

    def _no_dialog(self, why: str) -> ArchiveError:
        where = "" if self.offset is None else f" at byte {self.offset} of the archive"
        return ArchiveError(f"record{where} is no dialog: {why}", offset=self.offset, kind="no-dialog", end=self.end)

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (self.meta.raw, self.req_headers.raw, self.req_body, self.res_headers.raw, self.res_body)
        return _unpickled, fields

    def __repr__(self) -> str:
        where = "" if self.offset is None else f" at {self.offset}"
        return f"<Record{where} {self.meta.get('method', '-')} {self.meta.get('url', '-')}>"


def archived_url(url: str) -> str:
    """What a record has of it."""
    return WITHOUT_PATH.sub(r"\1/", url.partition("#")[0])


def _timing(trace: Trace) -> list[tuple[str, str]]:
    """Lines of meta that upstream's tools don't know, and leave alone."""
    lines = []
    if trace.started is not None:
        lines.append(("started", trace.started.isoformat(timespec="microseconds")))
    lines += seconds_of(trace).items()
    if trace.peer is not None:
        address, port = trace.peer
        lines.append(("peer", f"[{address}]:{port}" if ":" in address else f"{address}:{port}"))
    return lines


def _trace(meta: Headers) -> Trace:
    """What these lines say; what isn't in their form, someone else has written."""
    found: dict[str, Any] = {**read_seconds(meta)}
    with contextlib.suppress(KeyError, ValueError, OverflowError):
        if (started := datetime.datetime.fromisoformat(meta["started"])).tzinfo is not None:
            found["started"] = started.astimezone(datetime.UTC)
    with contextlib.suppress(KeyError, ValueError):
        address, _, port = meta["peer"].rpartition(":")
        if 0 <= int(port) < 1 << 16:
            found["peer"] = (address.strip("[]"), int(port))
    return Trace(**found)


def _unpickled(meta: Pairs, req_headers: Pairs, req_body: BodyImage, res_headers: Pairs, res_body: BodyImage) -> Record:
    return Record(meta=meta, req_headers=req_headers, req_body=req_body, res_headers=res_headers, res_body=res_body)
