"""How an origin is reached: connections of one route serve each other's requests."""

from __future__ import annotations

import ssl
from typing import NamedTuple

from penstock.http.proxy import Proxy
from penstock.http.url import Origin

__all__ = ["Route"]


class Route(NamedTuple):
    """An origin, and the way to it."""

    origin: Origin
    proxy: Proxy | None = None
    context: ssl.SSLContext | None = None
    """Of TLS; `None` is the default one."""
    socket: str | None = None
    """The path of a Unix socket that is connected to in place of the origin's address."""

    def __str__(self) -> str:
        way = f" by {self.proxy}" if self.proxy is not None else ""
        place = f" at {self.socket}" if self.socket is not None else ""
        return f"{self.origin}{way}{place}"
