"""One request on its way: what its connection needs to know of it, and the future of its result."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

from penstock._native import Budget, Direct, Dispatch, FilePool, Head, Tunables
from penstock.blocking.policy import Policy
from penstock.body.image import BodyImage
from penstock.http.content import Content
from penstock.http.options import Decode, Timeouts
from penstock.http.stream import Incoming

__all__ = ["Exchange"]


@dataclasses.dataclass(slots=True, eq=False)
class Exchange:
    """A request and the wait for its response."""

    method: str
    url: str
    head: bytes
    """The request as it is sent, up to its body."""
    content: Content | None
    length: int | None
    """Of the content; `None` says that it goes in chunks."""
    expect: bool
    """Whether the content waits for a `100 Continue`."""
    tunables: Tunables
    budget: Budget
    file_pool: FilePool | None
    policy: Policy
    decode: Decode
    timeouts: Timeouts
    began: float
    """By the loop's clock, as are all times."""
    result: asyncio.Future[tuple[Head, BodyImage, tuple[str, ...]]]
    """Head, body, and its codings, of which `decode` says whether they are off it by now."""
    incoming: Incoming | None = None
    """Takes the body while it arrives."""
    on_head: Callable[[int], object] | None = None
    """Told the status when the head is complete."""
    sent: float = 0.0
    """When the request was written."""

    @property
    def until(self) -> float | None:
        """When the request as a whole has taken too long."""
        return None if self.timeouts.total is None else self.began + self.timeouts.total

    def now(self) -> float:
        return self.result.get_loop().time()

    @property
    def direct(self) -> Direct | None:
        """The policy, if works are done where they come up."""
        return self.policy if isinstance(self.policy, Direct) else None

    @property
    def dispatch(self) -> Dispatch | None:
        """The policy, if works go to a pool without a permit."""
        return self.policy if isinstance(self.policy, Dispatch) else None

    def describe(self, error: Any, now: float) -> None:
        """Tells an error which request it is about."""
        error.request = self.method
        error.url = self.url
        error.elapsed = now - self.began
