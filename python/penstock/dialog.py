"""A request with its response, as values: what a client records and an archive keeps."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import http
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack

import penstock
from penstock._native import Head
from penstock.body.image import BodyImage
from penstock.headers import Headers, Pairs, codings_in, headers_of, lines_of

__all__ = [
    "CODINGS",
    "EMPTY",
    "Dialog",
    "Epilog",
    "Prolog",
    "RequestRecord",
    "Trace",
    "check_body",
    "phrase_of",
    "read_seconds",
    "seconds_of",
    "with_history",
]

CODINGS = frozenset({"chunked", "deflate", "gzip", "br", "compress", "zstd", "identity"})
"""Names of what may have been removed from a body, or, last, `identity`: that nothing is left to remove."""

EMPTY = BodyImage.from_bytes(b"")


def _check_text(name: str, text: object) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{name}={text!r}: takes text")


def check_body(name: str, body: object) -> None:
    """Refuses what isn't an image, by the name of the option.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(body, BodyImage):
        raise TypeError(f"{name}={type(body).__name__}: takes a BodyImage, as BodyImage.from_bytes(data)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prolog:
    """A request: as its maker meant it, or, from `Client.record`, with all the header fields that were sent.

    Two are equal when their fields are and their bodies are the same image.
    """

    method: str
    url: str
    # Not shown, as the others and the heads: dialogs are printed, and secrets are among these.
    req_headers: Headers = dataclasses.field(default_factory=lambda: headers_of(None), repr=False)
    """Any pairs can be given."""
    req_body: BodyImage = EMPTY

    if TYPE_CHECKING:
        # More is taken than a field holds.
        def __init__(
            self, *, method: str, url: str, req_headers: Headers | Pairs = ..., req_body: BodyImage = ...
        ) -> None: ...

    def __post_init__(self) -> None:
        _check_text("method", self.method)
        _check_text("url", self.url)
        check_body("req_body", self.req_body)
        object.__setattr__(self, "req_headers", headers_of(self.req_headers))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Epilog:
    """A response. Equality is that of `Prolog`."""

    version: str
    """`"HTTP/1.1"`, for example."""
    status: int
    res_headers: Headers = dataclasses.field(default_factory=lambda: headers_of(None), repr=False)
    res_body: BodyImage = EMPTY
    res_decoded: tuple[str, ...] = ()
    """The codings that were removed from the body, in the order in which they were; `identity` in the end says that
    there are no others."""

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            version: str,
            status: int,
            res_headers: Headers | Pairs = ...,
            res_body: BodyImage = ...,
            res_decoded: Sequence[str] = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        _check_text("version", self.version)
        if not isinstance(self.status, int):
            raise TypeError(f"status={self.status!r}: takes a number, as 200")
        if not 100 <= self.status <= 999:
            raise ValueError(f"status={self.status}: not between 100 and 999")
        if unknown := set(self.res_decoded) - CODINGS:
            raise ValueError(f"res_decoded={self.res_decoded!r}: {sorted(unknown)[0]!r} is no coding that is known")
        check_body("res_body", self.res_body)
        object.__setattr__(self, "res_decoded", tuple(self.res_decoded))
        object.__setattr__(self, "res_headers", headers_of(self.res_headers))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trace:
    """How a dialog went: times, peer and heads as sent. What isn't known is `None`, or empty.
    A `started` without a time zone is a ValueError.

    Seconds are by the loop's clock, from `started` on, to the microsecond; uvloop's has whole milliseconds.
    """

    started: datetime.datetime | None = None
    """When the request set out for a connection, in UTC."""
    sent: float | None = None
    """Seconds until all of the request was sent, its body included; or what of it the server wanted."""
    first_byte: float | None = None
    """Seconds until the response's head was there, as `Timeouts.first_byte` counts."""
    done: float | None = None
    """Seconds until its body was there, decoded."""
    peer: tuple[str, int] | None = None
    """Address and port that were connected to, a proxy's if there was one; `None` for a Unix socket."""
    req_head: bytes = dataclasses.field(default=b"", repr=False)
    """The request up to its body, byte for byte as sent."""
    res_head: bytes = dataclasses.field(default=b"", repr=False)
    """The response's status line, field lines and empty line, byte for byte as received."""
    trailers: tuple[tuple[bytes, bytes], ...] = ()
    """Fields that followed a chunked body."""
    history: tuple[Dialog, ...] = ()
    """The dialogs whose redirects led here, in order."""

    def __post_init__(self) -> None:
        if self.started is None:
            return
        if not isinstance(self.started, datetime.datetime):
            raise TypeError(f"started={self.started!r}: takes a datetime")
        if self.started.tzinfo is None:
            raise ValueError(f"started={self.started.isoformat()}: has no time zone, as datetime.now(UTC) has")


def seconds_of(trace: Trace) -> dict[str, str]:
    """What is known of a trace's seconds, by the names that archives have for them, to the microsecond."""
    seconds = {"sent": trace.sent, "first-byte": trace.first_byte, "done": trace.done}
    return {name: f"{value:.6f}" for name, value in seconds.items() if value is not None}


def read_seconds(found: Mapping[str, str]) -> dict[str, float]:
    """The same for a `Trace`; what isn't in that form, someone else has written."""
    seconds = {}
    for name in ("sent", "first-byte", "done"):
        with contextlib.suppress(KeyError, ValueError):
            if math.isfinite(value := float(found[name])):
                seconds[name.replace("-", "_")] = value
    return seconds


class _Changes(TypedDict, total=False):
    """What `Dialog.replace` takes."""

    method: str
    url: str
    req_headers: Headers | Pairs
    req_body: BodyImage
    version: str
    status: int
    res_headers: Headers | Pairs
    res_body: BodyImage
    res_decoded: Sequence[str]
    trace: Trace


@dataclasses.dataclass(frozen=True)
class Dialog:
    """A request and its response. Immutable, like its halves: `replace` gives another one.

    Two are equal when both halves are, whenever they were recorded.
    """

    prolog: Prolog
    epilog: Epilog
    trace: Trace = dataclasses.field(default=Trace(), compare=False, repr=False)
    """Times, the peer's address, and both heads as they were on the wire, if it was recorded."""

    @property
    def method(self) -> str:
        return self.prolog.method

    @property
    def url(self) -> str:
        return self.prolog.url

    @property
    def req_headers(self) -> Headers:
        return self.prolog.req_headers

    @property
    def req_body(self) -> BodyImage:
        return self.prolog.req_body

    @property
    def version(self) -> str:
        return self.epilog.version

    @property
    def status(self) -> int:
        return self.epilog.status

    @property
    def res_headers(self) -> Headers:
        return self.epilog.res_headers

    @property
    def res_body(self) -> BodyImage:
        return self.epilog.res_body

    @property
    def res_decoded(self) -> tuple[str, ...]:
        return self.epilog.res_decoded

    def replace(self, **changes: Unpack[_Changes]) -> Self:
        """The same with some fields changed, by their names in `Prolog` and `Epilog`, or with another `trace`.

        Where a head changes, its bytes as they were on the wire are left out of the trace.
        """
        trace = changes.pop("trace", None)
        if trace is None:
            trace = self.trace
            if trace.req_head and not changes.keys().isdisjoint(("method", "url", "req_headers")):
                trace = dataclasses.replace(trace, req_head=b"")
            if trace.res_head and not changes.keys().isdisjoint(("version", "status", "res_headers")):
                trace = dataclasses.replace(trace, res_head=b"")
        names = {field.name for field in dataclasses.fields(Prolog)}
        prolog: dict[str, Any] = {name: value for name, value in changes.items() if name in names}
        epilog: dict[str, Any] = {name: value for name, value in changes.items() if name not in names}
        halves = dataclasses.replace(self.prolog, **prolog), dataclasses.replace(self.epilog, **epilog)
        return type(self)(*halves, trace)

    def response(self) -> penstock.Response:
        """The response, as the client that got it had it; it shares the body.

        The head is the recorded one if the trace has it, else made of status and fields: with a reason phrase of our
        own, and as HTTP/1.1 where it was something newer.
        """
        from penstock.http.response import Response

        trace = self.trace
        head = Head(trace.res_head or self._head(), trace.trailers)
        decoded = tuple(coding for coding in reversed(self.res_decoded) if coding not in ("chunked", "identity"))
        response = Response(head, self.res_body, self.url, trace.done or 0.0, decoded)
        response.history = tuple(dialog.response() for dialog in trace.history)
        return response

    def _head(self) -> bytes:
        version = "HTTP/1.0" if self.version == "HTTP/1.0" else "HTTP/1.1"
        return f"{version} {self.status} {phrase_of(self.status)}\r\n".encode() + lines_of(self.res_headers)


def phrase_of(status: int) -> str:
    """The usual reason phrase; empty if there is none."""
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return ""


def with_history(last: Dialog) -> tuple[Dialog, ...]:
    """The dialogs of the redirects that led to it, and it.

    Raises:
        TypeError: It is none.
    """
    if not isinstance(last, Dialog):
        raise TypeError(f"takes dialogs, as record.dialog() gives them, not {type(last).__name__}")
    return (*last.trace.history, last)


@dataclasses.dataclass(frozen=True)
class RequestRecord:
    """A request that is about to be sent, kept to become a `Dialog` with what comes back."""

    prolog: Prolog

    def answered(
        self, response: penstock.Response, res_decoded: Iterable[str] | None = None, *, trace: Trace | None = None
    ) -> Dialog:
        """The dialog of this request and `response`, whose body it shares.

        Args:
            response: What came back.
            res_decoded: The codings that were removed from its body; `None` is what the response says.
            trace: How it went; `None` is that the response came after `elapsed` seconds, with its head and trailers.
        """
        if res_decoded is None:
            res_decoded = _removed(response)
        epilog = Epilog(
            version=response.version,
            status=response.status,
            res_headers=response.headers,
            res_body=response.body,
            res_decoded=tuple(res_decoded),
        )
        if trace is None:
            head = response._head
            trace = Trace(done=response.elapsed, res_head=head.raw, trailers=head.trailers())
        return Dialog(self.prolog, epilog, trace)


def _removed(response: penstock.Response) -> Iterator[str]:
    """Chunked framing is gone, and so are the codings that the client took off; `identity`, if those were all."""
    transfer = codings_in(response.headers, "transfer-encoding")
    if "chunked" in transfer:
        yield "chunked"
        transfer.remove("chunked")
    yield from reversed(response.decoded)
    if len(response.decoded) == len(transfer) + len(codings_in(response.headers, "content-encoding")):
        yield "identity"
