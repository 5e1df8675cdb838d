"""What requests and recorded dialogs are compared by, where nobody says otherwise."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator

from penstock.dialog import Prolog
from penstock.errors import InvalidURL
from penstock.http.url import parse, to_ascii

__all__ = ["behind_host", "by_path", "by_url", "by_url_and_path", "by_url_of_others", "whole"]

_VARIED = re.compile(r"""%([0-9A-Fa-f]{2})|[\0- "%<>[\\\]^`{|}\x7f]""")
"""What of a path and a query each program escapes as it likes."""
_UNRESERVED = re.compile("[0-9A-Za-z._~-]")
_PARTS = re.compile(r"(?:(.*?)://)?([^/?#]*)([^#]*)", re.DOTALL)


def by_url(prolog: Prolog) -> tuple[str, ...]:
    """By method and URL, however that is spelt."""
    scheme, authority, path = _split(prolog.url)
    return prolog.method, scheme, authority, path


def by_url_of_others(prolog: Prolog) -> tuple[str, ...]:
    """The same for other programs, which escape characters of it that the client leaves as they are, or the reverse."""
    method, scheme, authority, path = by_url(prolog)
    return method, scheme, authority, _VARIED.sub(_escaped, path)


def by_path(prolog: Prolog) -> Iterator[Hashable]:
    """By the host first, and by what follows that, whichever host it is on. The scheme isn't told by who asks for a
    path."""
    method, _, authority, path = by_url_of_others(prolog)
    yield method, authority, path
    yield method, path


def by_url_and_path(prolog: Prolog) -> Iterator[Hashable]:
    yield by_url_of_others(prolog)
    yield from by_path(prolog)


def whole(url: str) -> str:
    return url


def behind_host(url: str) -> str:
    """Path and query."""
    return _split(url)[2]


def _split(url: str) -> tuple[str, str, str]:
    """Scheme, authority and path: as the client asks for it, or as it is, where the client would refuse it."""
    try:
        target = parse(to_ascii(url))
    except InvalidURL:
        found = _PARTS.match(url)
        assert found is not None  # all of it is optional
        return found[1] or "", found[2], found[3]
    # Programs that split a URL lose an empty query.
    return target.origin.scheme, target.origin.authority, target.path.removesuffix("?")


def _escaped(found: re.Match[str]) -> str:
    """In capitals, but not what is never escaped in need (RFC 3986 section 6.2.2)."""
    char = chr(int(found[1], 16)) if found[1] else found[0]
    return char if _UNRESERVED.fullmatch(char) else f"%{ord(char):02X}"
