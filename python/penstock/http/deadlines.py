"""One coarse timer for the deadlines of all connections of a client: a timer each would cost more than the requests.
And the patience with a budget that has no room.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from penstock.errors import BudgetExceeded

__all__ = ["BUDGET_RETRY", "Deadlines", "with_patience"]

T = TypeVar("T")

TICK = 0.02
"""Seconds between two looks, at least. One notices what came, and another that nothing came since: both may be late by
50 ms."""

BUDGET_RETRY = 0.02
"""Seconds between two tries of a write for which there was no budget."""


class Watched(Protocol):
    def check(self, now: float) -> None:
        """Looks whether a deadline has passed."""


class Deadlines:
    """Calls `check` of each that it watches when its time has come, looking no more often than that takes: a loop that
    has nothing else to do sleeps meanwhile."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watched: dict[Watched, tuple[float, float]] = {}
        """When each is due, and how long after that again."""
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0.0
        """When the timer looks."""

    def watch(self, watched: Watched, shortest: float) -> None:
        """Checks often enough for a timeout of `shortest` seconds, each `TICK` or 1 % of that, whichever is more; until
        told to forget it."""
        every = max(TICK, shortest * 0.01)
        known = self._watched.get(watched)
        if known is not None and known[1] <= every:
            return
        now = self._loop.time()
        self._watched[watched] = (now + every, every)
        self._look_for(now + every, now)

    def forget(self, watched: Watched) -> None:
        self._watched.pop(watched, None)

    def _look_for(self, due: float, now: float) -> None:
        """Looks in time for what is due then, though the timer be late."""
        at = max(now + TICK, due - TICK)
        if self._timer is not None:
            if self._next <= at:
                return
            self._timer.cancel()
        self._next = at
        self._timer = self._loop.call_later(at - now, self._tick, context=contextvars.Context())

    def _tick(self) -> None:
        self._timer = None
        now = self._loop.time()
        # What is due before the next look would wait for that.
        for watched, (due, every) in tuple(self._watched.items()):
            if due <= now + TICK and watched in self._watched:
                self._watched[watched] = (now + every, every)
                watched.check(now)
        if self._watched:
            self._look_for(min(due for due, _ in self._watched.values()), now)

    def close(self) -> None:
        self._watched.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def with_patience(step: Callable[[], Awaitable[T]], patience: float | None) -> T:
    """Does `step`, again and again while there is no budget for it and `patience` seconds haven't passed."""
    loop = asyncio.get_running_loop()
    began = tried = loop.time()
    while True:
        try:
            return await step()
        except BudgetExceeded as error:
            now = loop.time()
            if error.hopeless or (patience is not None and now - began >= patience):
                raise
        # What comes far before it fails isn't done all the time.
        await asyncio.sleep(max(BUDGET_RETRY, now - tried))
        tried = loop.time()
