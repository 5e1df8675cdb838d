"""What came over TLS before a write failed. The transport reads no more then, and it may be the answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

__all__ = ["Leftover"]

WINDOW = 256 << 10


class Leftover:
    """Another descriptor of a TLS connection's socket, by which its TLS can be given what the transport leaves there.

    The connection stays open until it is closed, too.
    """

    def __init__(self, tls: Any, fd: int) -> None:
        self._tls = tls
        self._fd = os.dup(fd)

    @classmethod
    def of(cls, transport: asyncio.Transport, fd: int) -> Leftover | None:
        """`None` if there is no descriptor for it, or the loop is neither asyncio's nor uvloop's."""
        tls = transport.get_extra_info("uvloop.sslproto") or getattr(transport, "_ssl_protocol", None)
        try:
            return None if tls is None else cls(tls, fd)
        except OSError:
            return None

    def give(self) -> None:
        """No more than the socket's buffer holds; it doesn't wait."""
        # Neither loop has promised to keep this: what can't be given is lost, as it would be without.
        with contextlib.suppress(Exception):
            while count := os.readv(self._fd, [self._tls.get_buffer(WINDOW)]):
                self._tls.buffer_updated(count)

    def close(self) -> None:
        os.close(self._fd)
