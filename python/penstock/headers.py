"""`Headers`: the fields of a message, for the client and for what is recorded, and their way from lines and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar, cast, overload

from penstock._native import Fields, Head

__all__ = [
    "Headers",
    "Pairs",
    "all_of",
    "brief",
    "codings_in",
    "fields_of",
    "headers_in",
    "headers_of",
    "lines_of",
    "pairs_of",
]

T = TypeVar("T")

Pairs = Mapping[Any, Any] | Iterable[tuple[Any, Any]]
"""Header fields as they may be given: a mapping or pairs of names and values, each bytes or text (latin-1)."""

_PARSED = (Head, Fields)
_BRIEF = 1024


class Headers(Mapping[str, str]):
    """Header fields: names in any case, values as latin-1 text (RFC 9110 section 5.5). A field that came more than once
    gives its first value by `[]`, and all of them by `get_all`. Two are equal when they have the same fields in one
    order. Made of pairs or a mapping, in text or bytes."""

    __slots__ = ("_head",)

    def __init__(self, head: Head | Fields | Pairs) -> None:
        self._head = head if isinstance(head, _PARSED) else fields_of(head)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._head.get(name) is not None

    def __getitem__(self, name: str) -> str:
        value = self._head.get(name)
        if value is None:
            raise KeyError(name)
        return value

    @overload
    def get(self, name: str, /) -> str | None: ...
    @overload
    def get(self, name: str, /, default: str | T) -> str | T: ...
    def get(self, name: str, /, default: str | T | None = None) -> str | T | None:
        # A mapping's own would raise and catch an error for each field that isn't there.
        value = self._head.get(name)
        return default if value is None else value

    def get_all(self, name: str) -> list[str]:
        """All values of a field, in order; empty if there is none."""
        return self._head.get_all(name)

    @property
    def raw(self) -> tuple[tuple[bytes, bytes], ...]:
        """Names and values as received, in order."""
        return self._head.fields()

    def _names(self) -> dict[str, None]:
        return dict.fromkeys(name.decode("latin-1").lower() for name, _ in self.raw)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def _key(self) -> tuple[tuple[bytes, bytes], ...]:
        return tuple((name.lower(), value) for name, value in self.raw)

    def __eq__(self, other: object) -> bool:
        # A mapping's own would leave out all values but the first.
        return self._key() == other._key() if isinstance(other, Headers) else super().__eq__(other)

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"Headers({[(name.decode('latin-1'), value.decode('latin-1')) for name, value in self.raw]})"


def headers_of(fields: Headers | Pairs | None) -> Headers:
    """What `fields_of` gives, with the errors of that."""
    return Headers(fields_of(fields))


def fields_of(fields: Headers | Pairs | None) -> Fields:
    """Header fields as an archive holds them: names in lower case, repeated ones together, values without the
    whitespace around them.

    Raises:
        TypeError: They are no pairs and no mapping, or what is in them isn't text or bytes.
        ValueError: A name or value that HTTP has no form for.
        HeadTooLong: More than 128 lines, or a MiB; no more can be archived.
    """
    if isinstance(fields, Headers):
        if isinstance(fields._head, Fields):
            return fields._head.canonical()
        pairs: Any = fields.raw
    elif fields is not None and (isinstance(fields, str | bytes) or not isinstance(fields, Iterable)):
        raise TypeError(f"header fields are pairs or a mapping, not {type(fields).__name__}")
    else:
        pairs = pairs_of(fields or (), "header fields")
    return Fields([(_bytes(name), _bytes(value, name)) for name, value in pairs])


def pairs_of(fields: Mapping[Any, T] | Iterable[tuple[Any, T]], option: str) -> list[tuple[Any, T]]:
    """Names and values, one after the other; `option` is what an error names.

    Raises:
        TypeError: Something in a list isn't both.
    """
    pairs = list(all_of(fields) if isinstance(fields, Mapping) else fields)
    for pair in pairs:
        # Text of two letters could be taken apart, too.
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"{option}: a {type(pair).__name__} in the list, not a pair of a name and a value")
    return pairs


def all_of(fields: Any) -> Iterable[Any]:
    """The names and values of what has `items`, which gives one value of each name of Starlette's and httpx's mappings,
    and of Django's and Werkzeug's."""
    for name in ("multi_items", "lists"):
        # Some mappings make an attribute of each name.
        if (method := getattr(type(fields), name, None)) is not None:
            return cast(Iterable[Any], method(fields))
    return cast(Iterable[Any], fields.items())


def headers_in(lines: Iterable[bytes]) -> Headers:
    """Those that the lines of a head have, as `headers_of` has them."""
    pairs = (line.partition(b":") for line in lines)
    # What others received may have whitespace before a colon; it isn't the name's (RFC 9112 section 5.1).
    return headers_of([(name.rstrip(b" \t"), value.strip(b" \t")) for name, _, value in pairs])


def codings_in(fields: Headers | Head, *names: str) -> list[str]:
    """The codings that the fields of these names have, in order and in lower case; `identity` is none."""
    values = [value for name in names for value in fields.get_all(name)]
    codings = (coding.strip() for coding in ",".join(values).lower().split(","))
    return [coding for coding in codings if coding not in ("", "identity")]


def lines_of(headers: Headers) -> bytes:
    """The lines of a head, with the empty one behind them."""
    return b"".join(b"%s: %s\r\n" % pair for pair in headers.raw) + b"\r\n"


def _bytes(text: object, name: object = None) -> bytes:
    """A header's name, or the value of the one that `name` is."""
    if isinstance(text, str):
        try:
            return text.encode("latin-1")
        except UnicodeEncodeError as error:
            # Without the rest, which may be a secret.
            whose = "a header's name" if name is None else f"the value of the header {name!r}"
            raise ValueError(f"{text[error.start]!r} at {error.start} of {whose} is not latin-1") from None
    if isinstance(text, bytes):
        return text
    raise TypeError(f"a header's name and value are text or bytes, not {type(text).__name__}")


def brief(text: str) -> str:
    """As much of a URL, a reason phrase or a line as a message has: a server may give one that fills a log."""
    return text if len(text) <= _BRIEF else f"{text[:_BRIEF]}..."
