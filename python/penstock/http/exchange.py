"""One request on its way: what its connection needs to know of it, and the future of its result."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

from penstock._native import Head
from penstock.body.image import BodyImage
from penstock.http.request import Request
from penstock.http.settings import Settings
from penstock.http.stream import Incoming

__all__ = ["Exchange"]


class Exchange:
    """A request and the wait for its response. Times are by the loop's clock.

    Args:
        request: What is asked.
        head: The request as it is sent, up to its body.
        settings: What holds for it.
        began: When the call began.
        result: Of head, body, the body's codings, of which `settings.decode` says whether they are off it by now, and
            when its last byte came.
        on_head: Told the status when the response's head is complete.
    """

    __slots__ = ("began", "context", "head", "incoming", "on_head", "request", "result", "sent", "settings")

    def __init__(
        self,
        request: Request,
        head: bytes,
        settings: Settings,
        began: float,
        result: asyncio.Future[tuple[Head, BodyImage, tuple[str, ...], float]],
        on_head: Callable[[int], object] | None,
    ) -> None:
        self.request: Request = request
        self.head: bytes = head
        self.settings: Settings = settings
        self.began: float = began
        self.result: asyncio.Future[tuple[Head, BodyImage, tuple[str, ...], float]] = result
        self.incoming: Incoming | None = None
        """Takes the body while it arrives."""
        self.on_head: Callable[[int], object] | None = on_head
        self.context: contextvars.Context = contextvars.copy_context()
        """Of the program's task. A connection's callbacks have that in which the connection was made."""
        self.sent: float = 0.0
        """When the request was written."""

    @property
    def until(self) -> float | None:
        """When the request as a whole has taken too long."""
        total = self.settings.timeout.total
        return None if total is None else self.began + total

    def now(self) -> float:
        return self.result.get_loop().time()

    def describe(self, error: Any, now: float) -> None:
        """Tells an error which request it is about; unless it is about one that the source of the body has made."""
        if getattr(error, "request", None) is not None:
            return
        error.request = self.request.method
        error.url = self.request.url
        error.elapsed = now - self.began
