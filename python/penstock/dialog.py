"""A request with its response, as values: what a client records and an archive keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self, cast

from penstock._native import Fields
from penstock.body.image import BodyImage

if TYPE_CHECKING:
    from penstock.http.response import Headers, Response

__all__ = ["Dialog", "Epilog", "Pairs", "Prolog", "RequestRecord", "headers_of"]

Pairs = Mapping[Any, Any] | Iterable[tuple[Any, Any]]
"""Header fields as they may be given: a mapping or pairs of names and values, each bytes or text (latin-1)."""

CODINGS = frozenset({"chunked", "deflate", "gzip", "br", "compress", "zstd", "identity"})
"""Names of what may have been removed from a body, or, last, `identity`: that nothing is left to remove."""

EMPTY = BodyImage.from_bytes(b"")


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


def headers_of(fields: Headers | Pairs | Fields | None) -> Headers:
    """Header fields as an archive holds them: names in lower case, repeated ones together, values without the
    whitespace around them.

    Raises:
        ValueError: A name or value that HTTP has no form for.
        HeadTooLong: More than 128 lines, or a MiB; no more can be archived.
    """
    from penstock.http.response import Headers

    if not isinstance(fields, Fields):
        if isinstance(fields, Headers):
            pairs: Any = fields.raw
        elif isinstance(fields, Mapping):
            pairs = fields.items()
        else:
            pairs = fields or ()
        fields = Fields([(_bytes(name), _bytes(value)) for name, value in pairs])
    # It has the three methods that Headers calls of a response's head.
    return Headers(cast(Any, fields))


class _Value:
    """Equality by what fields hold, header lines included: a mapping's would leave repeated ones out."""

    def _state(self) -> tuple[Any, ...]:
        return tuple(
            getattr(value, "raw", value)
            for value in (getattr(self, field.name) for field in dataclasses.fields(cast(Any, self)))
        )

    def __eq__(self, other: object) -> bool:
        return self._state() == other._state() if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._state())


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Prolog(_Value):
    """A request as its maker meant it: without what a client adds on the way.

    Two are equal when their fields are and their bodies are the same image.
    """

    method: str
    url: str
    req_headers: Headers = dataclasses.field(default_factory=lambda: headers_of(None))
    """Any pairs can be given."""
    req_body: BodyImage = EMPTY

    def __post_init__(self) -> None:
        object.__setattr__(self, "req_headers", headers_of(self.req_headers))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Epilog(_Value):
    """A response. Equality is that of `Prolog`."""

    version: str
    """`"HTTP/1.1"`, for example."""
    status: int
    res_headers: Headers = dataclasses.field(default_factory=lambda: headers_of(None))
    res_body: BodyImage = EMPTY
    res_decoded: tuple[str, ...] = ()
    """The codings that were removed from the body, in the order in which they were; `identity` in the end says that
    there are no others."""

    def __post_init__(self) -> None:
        if not 100 <= self.status <= 999:
            raise ValueError(f"status={self.status}: not between 100 and 999")
        if unknown := set(self.res_decoded) - CODINGS:
            raise ValueError(f"res_decoded={self.res_decoded!r}: {sorted(unknown)[0]!r} is no coding that is known")
        object.__setattr__(self, "res_headers", headers_of(self.res_headers))


@dataclasses.dataclass(frozen=True)
class Dialog:
    """A request and its response. Immutable, like its halves: `replace` gives another one."""

    prolog: Prolog
    epilog: Epilog

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

    def replace(self, **changes: Any) -> Self:
        """The same with some fields changed, by their names in `Prolog` and `Epilog`."""
        names = {field.name for field in dataclasses.fields(Prolog)}
        prolog = {name: value for name, value in changes.items() if name in names}
        epilog = {name: value for name, value in changes.items() if name not in names}
        return type(self)(dataclasses.replace(self.prolog, **prolog), dataclasses.replace(self.epilog, **epilog))


@dataclasses.dataclass(frozen=True)
class RequestRecord:
    """A request that is about to be sent, kept to become a `Dialog` with what comes back."""

    prolog: Prolog

    def answered(self, response: Response, res_decoded: Iterable[str] | None = None) -> Dialog:
        """The dialog of this request and `response`, whose body it shares.

        Args:
            response: What came back.
            res_decoded: The codings that were removed from its body; `None` is what the response says.
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
        return Dialog(self.prolog, epilog)


def _removed(response: Response) -> Iterator[str]:
    """Chunked framing is gone, and so are the codings that the client took off; `identity`, if those were all."""

    def named(field: str) -> list[str]:
        items = ",".join(response.headers.get_all(field)).lower().split(",")
        return [item.strip() for item in items if item.strip() not in ("", "identity")]

    transfer = named("transfer-encoding")
    if "chunked" in transfer:
        yield "chunked"
        transfer.remove("chunked")
    yield from reversed(response.decoded)
    if len(response.decoded) == len(transfer) + len(named("content-encoding")):
        yield "identity"
