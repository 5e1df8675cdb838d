"""URLs, split once: where to connect, and what to ask for (RFC 3986, RFC 9112 section 3.2)."""

from __future__ import annotations

import functools
import ipaddress
import re
import urllib.parse
from typing import NamedTuple

from penstock.errors import InvalidURL

__all__ = ["Origin", "Target", "parse"]

PORTS = {"http": 80, "https": 443}
_OUTSIDE = re.compile(r"[\x00-\x20\x7f-\U0010ffff]")
_HOST = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=%-]+")


class Origin(NamedTuple):
    """Where to connect."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """The value of the Host field."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


class Target(NamedTuple):
    """A parsed URL: its origin, and the request target in origin form."""

    origin: Origin
    path: str

    def __str__(self) -> str:
        return f"{self.origin}{self.path}"


@functools.lru_cache(maxsize=1024)
def parse(url: str) -> Target:
    """Splits an absolute http or https URL.

    Raises:
        InvalidURL: It isn't one; the message says what about it.
    """

    def refuse(why: str) -> InvalidURL:
        return InvalidURL(f"{url!r}: {why}", url=url)

    if bad := _OUTSIDE.search(url):
        raise refuse(f"{bad.group()!r} at {bad.start()} must be percent-encoded")
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise refuse(str(error)) from None
    scheme = parts.scheme.lower()
    if scheme not in PORTS:
        raise refuse("must begin with http:// or https://")
    if "@" in parts.netloc:
        raise refuse("credentials don't belong in a URL: send an Authorization header")
    host = (parts.hostname or "").rstrip(".") or ""
    if not host:
        raise refuse("has no host")
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError as error:
            raise refuse(str(error)) from None
    elif not _HOST.fullmatch(host):
        raise refuse(f"the host {host!r} is not a name or an address")
    if port == 0:
        raise refuse("port 0 can't be connected to")
    path = parts.path or "/"
    if parts.query:
        path = f"{path}?{parts.query}"
    return Target(Origin(scheme, host, port or PORTS[scheme]), path)
