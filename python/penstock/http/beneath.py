"""What lies beneath a transport's TLS, as far as asyncio and uvloop, which promise nothing of it, let it be seen."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

__all__ = ["Leftover", "beneath"]

WINDOW = 256 << 10


def beneath(transport: asyncio.Transport) -> asyncio.Transport:
    """The transport of the socket, which knows first that its connection is gone; if it can't be seen, the same."""
    plain: asyncio.Transport | None = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
    return transport if plain is None else plain


class Leftover:
    """Another descriptor of a TLS connection's socket, by which its TLS can be given what came before a write failed:
    the transport reads no more then, and it may be the answer.

    The connection stays open until this is closed, too.
    """

    def __init__(self, tls: Any, fd: int) -> None:
        self._tls = tls
        self._fd = os.dup(fd)

    @classmethod
    def of(cls, transport: asyncio.Transport, fd: int) -> Leftover | None:
        """`None` if its TLS can't be seen, or there is no descriptor left."""
        tls = transport.get_extra_info("uvloop.sslproto") or getattr(transport, "_ssl_protocol", None)
        try:
            return None if tls is None else cls(tls, fd)
        except OSError:
            return None

    def give(self) -> None:
        """No more than the socket's buffer holds; it doesn't wait."""
        # What can't be given is lost, as it would be without.
        with contextlib.suppress(Exception):
            while count := os.readv(self._fd, [self._tls.get_buffer(WINDOW)]):
                self._tls.buffer_updated(count)

    def close(self) -> None:
        os.close(self._fd)
