"""Whether a connection's exchange is late, by any of its timeouts. The coarse timer of `deadlines` asks now and then;
while a connection can't receive for reasons of its own, its peer is in time.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from penstock.errors import FirstByteTimeout, IdleTimeout, Timeout, TooSlow, TotalTimeout, WriteTimeout
from penstock.http.deadlines import Deadlines
from penstock.http.exchange import Exchange

if TYPE_CHECKING:
    from penstock.http.connection import Connection

__all__ = ["Watch"]

BRIEF = 0.1
"""Seconds below which a timeout has a timer of its own."""

LATE: dict[type[Timeout], tuple[str, str]] = {
    TotalTimeout: ("total", "the response was not complete"),
    FirstByteTimeout: ("first_byte", "no complete response head"),
    IdleTimeout: ("idle", "nothing of the body was received"),
    WriteTimeout: ("write", "nothing of the request's body was taken"),
}
"""The setting behind an error, and what didn't happen."""


class Watch:
    """Looks after one exchange after another of a connection, to which it keeps no reference."""

    __slots__ = (
        "_deadlines",
        "_expiring",
        "_loop",
        "_rated",
        "_rated_at",
        "_seen",
        "_seen_at",
        "_shortest",
        "_taken",
        "_taken_at",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, deadlines: Deadlines) -> None:
        self._loop = loop
        self._deadlines = deadlines
        self._shortest = math.inf
        """The shortest timeout that the coarse timer looks for."""
        self._expiring: type[Timeout] | None = None
        self._seen = self._rated = self._taken = 0
        self._seen_at = self._rated_at = self._taken_at = math.inf
        """Since when nothing came, too little, or nothing was taken; endless while nobody could be blamed."""

    def begin(self, connection: Connection, exchange: Exchange, progress: int) -> None:
        """An exchange begins, with so many bytes received before it."""
        self._expiring = None
        self._seen = self._rated = progress
        exchange.sent = self._seen_at = self._loop.time()
        self._rated_at = math.inf
        watched = exchange.settings.timeout._watched
        if watched and watched[0] < self._shortest:
            self._shortest = watched[0]
            self._deadlines.watch(connection, watched[0])
        for seconds in watched:
            if seconds >= BRIEF:
                break
            self._loop.call_later(seconds, self._check_again, connection, exchange, seconds)

    def begin_sending(self, taken: int) -> None:
        """The request's body is being sent, with so many bytes taken by the peer before."""
        self._taken, self._taken_at = taken, math.inf

    def stop(self, connection: Connection) -> None:
        """There will be no other exchange."""
        self._deadlines.forget(connection)

    def check(self, connection: Connection, now: float) -> None:
        """Looks whether a deadline has passed."""
        exchange = connection.exchange
        if exchange is None:
            self._shortest = math.inf
            self._deadlines.forget(connection)
            return
        late = self._late(connection, exchange, now)
        if late is None:
            self._expiring = None
        elif self._expiring is None:
            # A stalled loop may have kept the socket waiting: it is read once more before the deadline counts.
            self._expiring = late
            self._loop.call_soon(self._loop.call_soon, self._expire, connection, exchange)

    def _late(self, connection: Connection, exchange: Exchange, now: float) -> type[Timeout] | None:
        timeouts = exchange.settings.timeout
        if timeouts.total is not None and now - exchange.began >= timeouts.total:
            return TotalTimeout
        if (taken := connection.accepted) is not None and self._is_stuck(connection, exchange, taken, now):
            return WriteTimeout
        seen = connection.progress
        # While it is held up here, the peer can't be blamed: its time begins when that is seen to be over.
        held_up = connection.is_held_up
        if held_up:
            self._seen_at = math.inf
        elif seen != self._seen or self._seen_at == math.inf:
            self._seen, self._seen_at = seen, now
        has_head = connection.has_head
        if timeouts.min_rate is not None:
            rate, seconds = timeouts.min_rate
            if not has_head or held_up:
                self._rated_at = math.inf
            elif self._rated_at == math.inf:
                self._rated, self._rated_at = seen, now
            elif now - self._rated_at >= seconds:
                left = connection.left
                if seen - self._rated >= rate * seconds:
                    self._rated, self._rated_at = seen, now
                # Of a peer that drips, each look may find what has just come: many bytes excuse it, or that none
                # of them were taken for a while.
                elif seen - self._rated + left < rate * seconds and not (left and now - self._seen_at >= seconds / 10):
                    return TooSlow
        if not has_head:
            if timeouts.first_byte is not None and now - exchange.sent >= timeouts.first_byte:
                return FirstByteTimeout
        elif timeouts.idle is not None and now - self._seen_at >= timeouts.idle:
            if not connection.left:
                return IdleTimeout
            self._seen_at = now
        return None

    def _is_stuck(self, connection: Connection, exchange: Exchange, taken: int, now: float) -> bool:
        """Whether the peer has taken nothing of the request's body for too long."""
        if taken != self._taken or connection.gives:
            # The response may take its time once all of the request is sent.
            exchange.sent = now
        waits = connection.waits
        if taken != self._taken or not waits or self._taken_at == math.inf:
            self._taken, self._taken_at = taken, now if waits else math.inf
        write = exchange.settings.timeout.write
        return write is not None and now - self._taken_at >= write

    def _expire(self, connection: Connection, exchange: Exchange) -> None:
        if connection.exchange is not exchange or self._expiring is None:
            return
        self._expiring = None
        late = self._late(connection, exchange, self._loop.time())
        if late is TooSlow:
            rate, seconds = exchange.settings.timeout.min_rate or (0, 0)
            came = connection.progress - self._rated
            message = f"{came} bytes came in {seconds} s, less than {rate} a second (Timeouts.min_rate)"
            connection.fail(TooSlow(message))
        elif late is not None:
            name, what = LATE[late]
            seconds = getattr(exchange.settings.timeout, name)
            connection.fail(late(f"{what} within {seconds} s (Timeouts.{name})"))

    def _check_again(self, connection: Connection, exchange: Exchange, seconds: float) -> None:
        """Looks by a timer of its own, for a timeout that the coarse one would be late for."""
        # No function within another: it would refer to itself, and what was received would live until a collection.
        if connection.exchange is exchange:
            connection.check(self._loop.time())
            self._loop.call_later(max(seconds / 4, 0.001), self._check_again, connection, exchange, seconds)
