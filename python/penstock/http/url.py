"""URLs, split once: where to connect, and what to ask for (RFC 3986, RFC 9112 section 3.2)."""

from __future__ import annotations

import functools
import ipaddress
import numbers
import re
import unicodedata
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import NamedTuple, cast

from penstock.errors import InvalidURL
from penstock.headers import brief, pairs_of

__all__ = [
    "LONGEST_REMEMBERED",
    "Origin",
    "Params",
    "Target",
    "encoded",
    "join",
    "parse",
    "refused",
    "shown",
    "to_ascii",
    "utf8",
    "with_params",
]

LONGEST_REMEMBERED = 2048
"""Characters of a URL that may be remembered. Servers and pages make up longer ones, in any number."""

PORTS = {"http": 80, "https": 443}
_OUTSIDE = re.compile(r"[\x00-\x20\x7f-\U0010ffff]")
_INSIDE = bytes(range(0x21, 0x7F)).decode()
"""What a URL may hold as it is."""
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]*")
_HOST = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=-]+")
_BRACKETED = re.compile(r"\[[^\[\]]*:[^\[\]]*\](?::.*)?")
"""An IPv6 address, and nothing around it but a port. Of more, `urlsplit` takes what is in the brackets for the host,
and others take the rest."""
_BRACKETS = "brackets are around an IPv6 address, and nothing but a port is beside them"
_ZONE = re.compile(r"%[^\]]*")
_ENCODED_ZONE = re.compile(r"%25(?=.)")
_BEYOND = re.compile(r"(?i:https?)://([^/?#:@\[]*[%\x80-\U0010ffff][^/?#:@\[]*)")
"""What begins with a host that isn't as DNS has it."""
_USER = re.compile(r"((?:[^/?#@:]*:)?//)?(?:[^/?#@:\[]*:(?!\d*[/?#]).*|[^/?#]*)@", re.DOTALL)
"""Up to what a URL has before its host, a password perhaps, in which `/`, `?` and `#` may have been left as they are:
where a port would be, and isn't."""
_APART = re.compile(
    "[\u00df\u03c2\u1e9e\u200c\u200d\u115f\u1160\u17b4\u17b5\u180f\u2064\u3164\uffa0\U000e0100-\U000e01ef"
    "\u13a0-\u13fd\uab70-\uabbf]"
)
"""The two forms of a sharp s, the final sigma, joiners, fillers and selectors that aren't seen, and Cherokee."""
_URL = re.compile(r"([A-Za-z]+:)(//[^/?#]*)([^?#]*)")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_REFERENCE = re.compile(rf"({_SCHEME.pattern})?(//[^/?#]+)([^?#]*)")
"""What has an authority."""
_PATH = re.compile(r"[^?#]+")
LONGEST = 253
"""Characters that a name in DNS may have."""

Params = Mapping[str, object] | Sequence[tuple[str, object]]
"""A query: names and values; a value that is a list stands for several."""


class Origin(NamedTuple):
    """Where to connect."""

    scheme: str
    host: str
    """A name may end with a dot: a resolver then completes it by no domain of its own."""
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"

    @property
    def name(self) -> str:
        """The host as others than a resolver are told of it: certificates have no dot at the end of a name."""
        return self.host.removesuffix(".")

    @property
    def authority(self) -> str:
        """The host, and the port if it isn't the scheme's usual one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


class Target(NamedTuple):
    """A parsed URL: its origin, and the request target in origin form."""

    origin: Origin
    path: str
    line: bytes
    """What follows the method in a request to the origin."""
    host: bytes
    """The Host field's line."""

    def __str__(self) -> str:
        return f"{self.origin}{self.path}"


def shown(url: str) -> str:
    """The URL as errors have it, without the password that it may have been given with."""
    found = _USER.match(url)
    return url if found is None else f"{found[1] or ''}...@{url[found.end() :]}"


def refused(url: str, why: str) -> InvalidURL:
    """The error about a URL that no request can be made to."""
    url = shown(url)
    return InvalidURL(f"{brief(url)!r}: {why}", url=url)


def to_ascii(url: str) -> str:
    """The URL with the name of its host as DNS has it: one beyond ASCII, or percent-encoded UTF-8 (RFC 3986 section
    3.2.2), by IDNA 2003, which comes with Python.

    Raises:
        InvalidURL: That isn't a name, or it is another one by IDNA 2008.
    """
    found = _BEYOND.match(url)
    if found is None:
        return url
    host = found[1]
    try:
        host = urllib.parse.unquote(host, errors="strict")
        if len(host) > LONGEST:
            # The codec takes the square of that.
            raise UnicodeError(f"it has more than {LONGEST} characters")
        name = host.encode("idna").decode()
        # What Unicode has had only since 3.2 has forms that the codec takes for other letters.
        newer = unicodedata.normalize("NFKC", host.casefold()).encode("idna").decode()
    except UnicodeError as error:
        raise refused(url, f"the host {host!r} is not a name: {error}") from None
    if (apart := _APART.search(host)) or newer != name.lower():
        about = repr(apart.group()) if apart else f"a letter of {host!r}"
        why = f"IDNA 2003 and 2008 differ about {about} in a host: give its name in ASCII, xn--..."
        raise refused(url, why)
    if not _HOST.fullmatch(name):
        raise refused(url, f"the host {host!r} is not a name")
    return f"{url[: found.start(1)]}{name}{url[found.end(1) :]}"


def parse(url: str) -> Target:
    """Splits an absolute http or https URL, whose host is as `to_ascii` makes it.

    Raises:
        InvalidURL: It isn't one; the message says what about it.
    """
    return _remembered(url) if len(url) <= LONGEST_REMEMBERED else _split(url)


def _split(url: str) -> Target:
    def refuse(why: str) -> InvalidURL:
        return refused(url, why)

    if bad := _OUTSIDE.search(url):
        raise refuse(f"{bad.group()!r} at {bad.start()} must be percent-encoded")
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        # What it says of brackets that aren't an address's is another thing in each release.
        raise refuse(_BRACKETS) from None
    try:
        port = parts.port
    except ValueError:
        # It may be a part of a password.
        raise refuse("the port is not a number of at most 65535") from None
    scheme = parts.scheme.lower()
    if scheme not in PORTS:
        raise refuse("must begin with http:// or https://")
    if "@" in parts.netloc:
        raise refuse("credentials don't belong in a URL: give them as auth=")
    if not {"[", "]"}.isdisjoint(parts.netloc) and not _BRACKETED.fullmatch(parts.netloc):
        raise refuse(_BRACKETS)
    host = parts.hostname or ""
    if not (name := host.removesuffix(".")):
        raise refuse("has no host")
    if name.rpartition(".")[2].isdigit():
        # It is an address, which has no domain.
        host = name
    if len(name) > LONGEST:
        raise refuse(f"the host has more than {LONGEST} characters")
    if ":" in host:
        # A URL has a percent sign encoded, before a zone as well (RFC 6874 section 2); many leave it as it is.
        host = _ENCODED_ZONE.sub("%", host, count=1)
        try:
            ipaddress.IPv6Address(host)
        except ValueError as error:
            raise refuse(str(error)) from None
    elif name.endswith(".") or not _HOST.fullmatch(host):
        raise refuse(f"the host {host!r} is not a name or an address")
    if port == 0:
        raise refuse("port 0 can't be connected to")
    path = parts.path or "/"
    if parts.query or "?" in url.partition("#")[0]:
        # One that is empty isn't none (RFC 3986 section 6.2.3).
        path = f"{path}?{parts.query}"
    origin = Origin(scheme, host, port or PORTS[scheme])
    # The zone of an address is this machine's alone (RFC 6874 section 4).
    told = _ZONE.sub("", origin._replace(host=origin.name).authority)
    return Target(origin, path, f" {path} HTTP/1.1\r\n".encode(), f"host: {told}\r\n".encode())


_remembered = functools.lru_cache(maxsize=1024)(_split)


def encoded(params: Params, option: str) -> str:
    """Names and values, URL-encoded; `option` is what an error names.

    Raises:
        TypeError: They are neither by name nor pairs, or a name or a value is `None` or has no text of its own.
        ValueError: A text that isn't UTF-8.
    """
    # What else may be given takes longer to tell, here and below.
    if type(params) is dict:
        given: Iterable[tuple[object, object]] = params.items()
    elif isinstance(params, str | bytes) or not isinstance(params, Mapping | Sequence):
        raise TypeError(f"{option}={type(params).__name__}: takes a mapping or a list of names and values")
    else:
        given = pairs_of(params, option)
    texts: list[str] = []
    for name, value in given:
        before = _quoted(name, option)
        values = (value,) if type(value) is str or type(value) is int else _values(value)
        texts += [f"{before}={_quoted(each, option, name)}" for each in values]
    return "&".join(texts)


def _quoted(value: object, option: str, name: object = None) -> str:
    """A name, or the value of the one that `name` is."""
    if (type(value) is str or type(value) is int) and _UNRESERVED.fullmatch(text := str(value)):
        return text
    what = f"{option}: the name " if name is None else f"{option}[{name!r}]="
    return urllib.parse.quote_plus(_text(value, what))


def _values(value: object) -> Iterable[object]:
    # A flag has a length, too, and is a number. Of a mapping only the names would be sent.
    if isinstance(value, str | bytes | bytearray | memoryview | int | Mapping) or not isinstance(value, Sized):
        return (value,)
    try:
        return tuple(cast(Iterable[object], value))
    except TypeError:
        return (value,)


def utf8(text: str, what: str) -> bytes:
    """A text as it is sent; `what` is where an error has it.

    Raises:
        ValueError: It has half of a surrogate pair.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        # The codec's own error has all of it, which may be a secret.
        raise ValueError(f"{what}...: {text[error.start]!r} at {error.start} isn't UTF-8") from None


def _text(value: object, what: str) -> bytes:
    """What is sent for a value: as `str` has it, unless that is for programmers to read."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if value is None:
        raise TypeError(f"{what}None: leave it out, or give ''")
    if isinstance(value, str | numbers.Number) or type(value).__str__ is not object.__str__:
        return utf8(str(value), what)
    files = "; files= sends files" if what.startswith("form[") else ""
    kind = type(value).__name__
    raise TypeError(f"{what}{kind}: takes text, a number, what else has a __str__ of its own, or a list of them{files}")


def with_params(url: str, params: Params) -> str:
    """The URL with more in its query."""
    more = encoded(params, "params")
    if not more:
        return url
    url, mark, fragment = url.partition("#")
    between = "?" if "?" not in url else "" if url.endswith(("?", "&")) else "&"
    return f"{url}{between}{more}{mark}{fragment}"


def join(base: str, location: str) -> str:
    """Where a Location field leads to, with the fragment of the base unless it has one of its own (RFC 9110 section
    10.2.2). What servers forget to encode in it is encoded.

    Raises:
        InvalidURL: It isn't a reference.
    """
    # All at once: a call for each character of a long one would hold the loop up.
    location = urllib.parse.quote(location, safe=_INSIDE, encoding="latin-1", errors="replace")
    base, mark, fragment = base.partition("#")
    try:
        url = _resolved(base, location)
    except ValueError:
        raise refused(location, _BRACKETS) from None
    return to_ascii(url.removesuffix("#") if "#" in location else f"{url}{mark}{fragment}")


def _resolved(base: str, location: str) -> str:
    """A reference as a URL (RFC 3986 section 5.2). `urljoin` leaves out empty queries, and the empty segments of paths,
    as `/of/https://a.test/` has one."""
    found = _URL.match(base)
    assert found is not None  # it was asked for
    scheme, authority, path = found.groups()
    if elsewhere := _REFERENCE.match(location):
        path = elsewhere[3] and _without_dots(elsewhere[3])
        return f"{(elsewhere[1] or scheme).lower()}{elsewhere[2]}{path}{location[elsewhere.end() :]}"
    if _SCHEME.match(location) or location.startswith("//"):
        # What is left of those is wrong; browsers have a meaning for some of it.
        return urllib.parse.urljoin(base, location)
    if not location or location[0] == "#":
        return base + location
    if location[0] == "?":
        return f"{scheme}{authority}{path}{location}"
    to = _PATH.match(location)
    assert to is not None  # there is something before its query
    merged = to[0] if location[0] == "/" else f"{path[: path.rfind('/') + 1] or '/'}{to[0]}"
    return f"{scheme}{authority}{_without_dots(merged)}{location[to.end() :]}"


def _without_dots(path: str) -> str:
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment not in (".", ".."):
            kept.append(segment)
        elif segment == ".." and kept:
            kept.pop()
    if segments[-1] in (".", ".."):
        kept.append("")
    return f"/{'/'.join(kept)}"
