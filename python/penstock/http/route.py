"""How an origin is reached: connections of one route serve each other's requests."""

from __future__ import annotations

import dataclasses
import os
import ssl

from penstock.http.proxy import Proxy
from penstock.http.resolve import AllowAddress, Resolver
from penstock.http.url import Origin

__all__ = ["Route", "socket_path"]


@dataclasses.dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Route:
    """An origin, and the way to it. Of those of one client, no two say the same: which it is says all, and is looked up
    twice for each request, so that comparing and hashing what is in it would show."""

    origin: Origin
    proxy: Proxy | None = None
    context: ssl.SSLContext | None = None
    """Of TLS; `None` is the default one."""
    socket: str | None = None
    """The path of a Unix socket that is connected to in place of the origin's address."""

    resolver: Resolver | None = None
    """Who is asked for its address; `None` is the client's."""
    allow_address: AllowAddress | None = None
    """What says whether it may be connected to; `None` is the client's."""

    def __str__(self) -> str:
        way = f" by {self.proxy}" if self.proxy is not None else ""
        place = f" at {self.socket}" if self.socket is not None else ""
        return f"{self.origin}{way}{place}"


def socket_path(uds: str | os.PathLike[str]) -> str:
    """A Unix socket's path.

    Raises:
        TypeError: It is none.
        ValueError: No socket has such a path.
    """
    path = os.fspath(uds) if isinstance(uds, os.PathLike) else uds
    if not isinstance(path, str):
        raise TypeError(f"uds={path!r}: takes a path that is a str")
    # The system would take what is before a NUL for all of it; one in front is Linux's sign of a name without a file.
    if not path or (not path.startswith("\0") and "\0" in path):
        raise ValueError(f"uds={path!r}: is no path of a socket")
    return path
