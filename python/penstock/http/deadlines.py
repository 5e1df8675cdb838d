"""One coarse timer for the deadlines of all connections of a client: a timer each would cost more than the requests."""

from __future__ import annotations

import asyncio
from typing import Protocol

__all__ = ["TICK", "Deadlines"]

TICK = 0.05
"""Seconds between two looks: how late a deadline may be noticed."""


class Watched(Protocol):
    def check(self, now: float) -> None:
        """Looks whether a deadline has passed."""


class Deadlines:
    """Calls `check` of what it watches every `TICK` seconds, and nothing while it watches nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watched: dict[Watched, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, watched: Watched) -> None:
        self._watched[watched] = None
        if self._timer is None:
            self._timer = self._loop.call_later(TICK, self._tick)

    def forget(self, watched: Watched) -> None:
        self._watched.pop(watched, None)

    def _tick(self) -> None:
        self._timer = None
        now = self._loop.time()
        for watched in tuple(self._watched):
            watched.check(now)
        if self._watched:
            self._timer = self._loop.call_later(TICK, self._tick)

    def close(self) -> None:
        self._watched.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
