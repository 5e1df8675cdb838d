"""A request as it is to be sent: its head's bytes, and what becomes of it when the server redirects."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from penstock.errors import InvalidURL, RequestError
from penstock.headers import Headers, all_of, brief, pairs_of
from penstock.http.content import Content
from penstock.http.response import Answer
from penstock.http.url import Origin, Target, join, parse

__all__ = ["UNFIT", "Fields", "HeaderPairs", "Request", "by_name", "field_lines"]

Fields = Mapping[str, str]
HeaderPairs = Fields | Iterable[tuple[str, str]]
"""Header fields as they may be given."""

REDIRECTS = frozenset((301, 302, 303, 307, 308))
KNOWN = frozenset(("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"))
WITH_BODY = frozenset(("POST", "PUT", "PATCH"))
"""Methods that say so when they have no body (RFC 9110 section 8.6)."""
IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))
SECRETS = frozenset(("authorization", "cookie", "proxy-authorization", "host"))
"""Fields that are for one origin only."""
SINGULAR = frozenset(
    (
        "authorization",
        "content-length",
        "content-type",
        "date",
        "from",
        "host",
        "if-modified-since",
        "if-range",
        "if-unmodified-since",
        "max-forwards",
        "origin",
        "proxy-authorization",
        "range",
        "referer",
        "user-agent",
    )
)
"""Fields whose value is no list."""
PROXYS = frozenset(("proxy-authorization",))
"""Fields that are for a proxy."""
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+")
_CONTROLS_AND_BEYOND = "\0-\b\n-\x1f\x7f\u0100-\U0010ffff"
UNFIT = re.compile(f"[{_CONTROLS_AND_BEYOND}]")
"""What no value holds (RFC 9110 section 5.5): some readers end a line at other control characters than line breaks."""
_LINES = re.compile(rf"(?:{_TOKEN.pattern}: [^{_CONTROLS_AND_BEYOND}]*\r\n)*")


@dataclasses.dataclass(slots=True, eq=False)
class Request:
    """What is asked of whom."""

    method: str
    url: str
    target: Target = dataclasses.field(repr=False)
    # Not shown, as the lines: hooks print requests, and secrets are among these.
    fields: Fields = dataclasses.field(repr=False)
    """By names in lower case. A client's requests share them, so that a hook can't change them."""
    lines: bytes = dataclasses.field(repr=False)
    """The fields as they are sent, but for the host, with the blank line."""
    content: Content | None = None
    absolute: bool = False
    """Whether a proxy is asked, which wants the whole URL (RFC 9112 section 3.2.2)."""
    closing: bool = dataclasses.field(init=False, repr=False)
    """Whether it says that its connection is to be closed after it (RFC 9112 section 9.6)."""

    def __post_init__(self) -> None:
        if not isinstance(self.fields, MappingProxyType):
            self.fields = MappingProxyType(self.fields)
        options = self.fields.get("connection")
        self.closing = options is not None and "close" in map(str.strip, options.lower().split(","))

    @property
    def origin(self) -> Origin:
        return self.target.origin

    @property
    def idempotent(self) -> bool:
        return self.method in IDEMPOTENT and (self.content is None or self.content.repeatable)

    @property
    def expect(self) -> bool:
        return self.content is not None and self.fields.get("expect", "").lower() == "100-continue"

    @property
    def length(self) -> int | None:
        """Of the content; `None` says that it goes in chunks."""
        if self.content is None:
            return 0
        if self.content.length is None and (announced := self.fields.get("content-length")) is not None:
            return int(announced)
        return self.content.length

    def head(self, extra: bytes = b"") -> bytes:
        """Everything before the body, with more lines than its own."""
        target = self.target
        line = f" {target} HTTP/1.1\r\n".encode() if self.absolute else target.line
        own = self.fields.get("host")
        # First in any case (RFC 9110 section 7.2).
        host = target.host if own is None else f"host: {own}\r\n".encode("latin-1")
        return b"".join((self.method.encode(), line, host, extra, self._framing(), self.lines))

    def _framing(self) -> bytes:
        """The fields that follow from the content."""
        content, announced = self.content, self.fields.get("content-length")
        if content is None:
            return b"content-length: 0\r\n" if self.method in WITH_BODY and announced is None else b""
        kind = f"content-type: {content.kind}\r\n" if content.kind and "content-type" not in self.fields else ""
        if content.length is None:
            return kind.encode() + (b"transfer-encoding: chunked\r\n" if announced is None else b"")
        if announced is not None:
            return kind.encode()
        return f"{kind}content-length: {content.length}\r\n".encode()

    def check(self) -> None:
        """Refuses what could be read in two ways, or not at all.

        Raises:
            ValueError: Which, and why.
        """
        if self.method not in KNOWN and not _TOKEN.fullmatch(self.method):
            raise ValueError(f"method={self.method!r}: not a token (RFC 9110 section 5.6.2)")
        if self.method == "CONNECT":
            raise ValueError("method='CONNECT': tunnels are made by proxy=")
        if "transfer-encoding" in self.fields:
            raise ValueError("headers: transfer-encoding follows from the content, give that")
        if "content-type" in self.fields and self.content is not None and self.content.kind_is_fixed:
            # Without the boundary nobody could read the parts.
            raise ValueError("headers: content-type follows from files, leave it out, of a client's headers as well")
        if self.method == "TRACE" and self.content is not None:
            raise ValueError("method='TRACE': is sent without content (RFC 9110 section 9.3.8)")
        announced = self.fields.get("content-length")
        if announced is None:
            return
        if not (announced.isascii() and announced.isdigit()):
            raise ValueError(f"headers: content-length={announced!r} is not a number")
        actual = 0 if self.content is None else self.content.length
        if actual is not None and int(announced) != actual:
            raise ValueError(f"headers: content-length={announced} for a body of {actual} bytes")

    def following(self, response: Answer) -> Request | None:
        """What to ask next, if the response says to ask elsewhere (RFC 9110 section 15.4), or without `expect`.

        Raises:
            InvalidURL: It says so in a way that can't be followed.
            RequestError: The body would have to be sent again, and can't be.
        """
        if response.status == 417 and self.expect:
            _check_repeatable(self.content, "417")
            rest = {name: value for name, value in self.fields.items() if name != "expect"}
            return dataclasses.replace(self, fields=rest, lines=field_lines(rest))
        if response.status not in REDIRECTS or (location := response.headers.get("location")) is None:
            return None
        try:
            url = join(self.url, location)
            target = parse(url)
        except InvalidURL as error:
            raise InvalidURL(f"{response.status} to {error}") from None
        method, content = self.method, self.content
        fields: Fields = self.fields
        if (response.status == 303 and method != "HEAD") or (response.status in (301, 302) and method == "POST"):
            # The answer to a POST is elsewhere: it is fetched, not posted to.
            method, content = "GET", None
            fields = {name: value for name, value in fields.items() if not name.startswith(("content-", "expect"))}
        _check_repeatable(content, f"{response.status} to {brief(url)}")
        if left := _left_behind(self.origin, target.origin):
            fields = {name: value for name, value in fields.items() if name not in left}
        lines = self.lines if fields is self.fields else field_lines(fields)
        # Whether a proxy is asked is to be found out anew.
        return dataclasses.replace(
            self, method=method, url=url, target=target, fields=fields, lines=lines, content=content, absolute=False
        )


def _check_repeatable(content: Content | None, what: str) -> None:
    if content is not None and not content.repeatable:
        message = (
            f"{what} wants the body once more, and an iterator, or a file or stream, can be sent only once: "
            "give an object whose __aiter__ makes a new one, or collect it first"
        )
        raise RequestError(message)


def _left_behind(this: Origin, other: Origin) -> frozenset[str]:
    """Fields that one origin may know and the other may not."""
    if this == other:
        return frozenset()
    # The same host by TLS may know the same. But what a proxy was told would go through its tunnel now.
    upgraded = this.scheme == "http" and this.port == 80 and other == Origin("https", this.host, 443)
    return PROXYS if upgraded else SECRETS


def by_name(headers: HeaderPairs | None) -> dict[str, str]:
    """By names in lower case. What a name has several values for is one list of them, which says the same (RFC 9110
    section 5.3).

    Raises:
        TypeError: They aren't names and values, or not text.
        ValueError: A field that has one value was given more.
    """
    if headers is None:
        return {}
    fields: dict[str, str] = {}
    # What else may be given takes longer to tell.
    for name, value in headers.items() if type(headers) is dict else _pairs(headers):
        if not isinstance(name, str):
            also = "; Headers(pairs) takes bytes" if isinstance(name, bytes) else ""
            raise TypeError(f"headers: a name is a str, not {type(name).__name__}{also}")
        name = name.lower()
        # A value may be a secret, so messages don't hold it.
        if not isinstance(value, str):
            raise TypeError(f"header {name}: its value is not a str but {type(value).__name__}")
        if name in fields:
            if name in SINGULAR:
                raise ValueError(f"header {name}: has one value, and is given more")
            # Cookies are no list, but pairs of their own (RFC 6265 section 4.2.1).
            value = f"{fields[name]}{'; ' if name == 'cookie' else ', '}{value}"
        fields[name] = value
    return fields


def _pairs(headers: HeaderPairs) -> list[tuple[Any, Any]]:
    if isinstance(headers, str | bytes) or not isinstance(headers, Iterable):
        raise TypeError(f"headers={type(headers).__name__}: takes a mapping or a list of names and values")
    given: Any = headers
    if isinstance(headers, Headers):
        # Its items are the first of each name.
        given = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers.raw]
    elif hasattr(headers, "items"):
        given = all_of(headers)
    return pairs_of(given, "headers")


def field_lines(fields: Fields) -> bytes:
    """The lines of a head but for the host's, which is sent before them, with the blank one at its end.

    Raises:
        ValueError: A name or a value would break out of its line, or can't be written.
    """
    lines = "".join([f"{name}: {value}\r\n" for name, value in fields.items()])
    # All at once, and one by one only to tell of one.
    if not _LINES.fullmatch(lines) or lines.count("\n") != len(fields):
        _refuse(fields)
    if "host" in fields:
        lines = "".join([f"{name}: {value}\r\n" for name, value in fields.items() if name != "host"])
    return lines.encode("latin-1") + b"\r\n"


def _refuse(fields: Fields) -> None:
    for name, value in fields.items():
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"header {name!r}: not a token (RFC 9110 section 5.6.2)")
        # As in `by_name`, messages hold no values.
        if bad := UNFIT.search(value):
            why = "a line break or another control character" if bad.group() < "\x80" else "not latin-1"
            raise ValueError(f"header {name}: {bad.group()!r} at {bad.start()} of its value is {why}")
