"""The connections of a client: how many there may be, who gets the next, and when an unused one is closed.

A slot is the right to have a connection. Whoever is given one either brings a connection or gives the slot back; a
connection keeps its slot until it is gone. What comes free goes to who has waited longest; only who waits for an origin
that has all the connections it may have is passed over. What was given to a waiter that was cancelled in the same turn
goes to the next.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import heapq
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from penstock.errors import PenstockError
from penstock.http.connection import Connection
from penstock.http.options import Limits
from penstock.http.route import Route

__all__ = ["ConnectionPool", "Grant"]

log = logging.getLogger(__name__)


class _Slot:
    def __repr__(self) -> str:
        return "SLOT"


SLOT: Final = _Slot()
"""The right to make a connection."""

Grant = Connection | _Slot


class _Waiter:
    __slots__ = ("fresh", "future")

    def __init__(self, future: asyncio.Future[Grant], fresh: bool) -> None:
        self.future = future
        self.fresh = fresh


class _Queue:
    """Who waits for a route, by ticket."""

    __slots__ = ("parked", "waiters")

    def __init__(self) -> None:
        self.waiters: collections.OrderedDict[int, _Waiter] = collections.OrderedDict()
        self.parked = False
        """Whether the route has all the connections it may have, so that it isn't among those that can be served."""


class ConnectionPool:
    """Keeps no more connections than its limits, and gives them out first come, first served."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: set[Connection] = set()
        self._leaving: set[Connection] = set()
        """Closed here; their transports don't know yet."""
        self._slots = 0
        self._by_route: collections.Counter[Route] = collections.Counter()
        self._idle: dict[Route, list[Connection]] = {}
        self._queues: dict[Route, _Queue] = {}
        self._ready: list[tuple[int, Route]] = []
        """A heap of the first tickets of the queues that aren't parked; old ones are passed over."""
        self._last_ticket = self._front_ticket = 0
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False
        self.made = self.reused = self.aged = self.evicted = 0
        self.waiting = 0

    # Figures

    @property
    def open(self) -> int:
        return len(self._open)

    @property
    def connecting(self) -> int:
        return self._slots - len(self._open)

    @property
    def idle(self) -> int:
        return sum(map(len, self._idle.values()))

    @property
    def tls(self) -> int:
        """Of the open ones, those that speak TLS."""
        return sum(connection.route.origin.scheme == "https" for connection in self._open)

    @property
    def gone(self) -> bool:
        """Whether no transport is left."""
        return not self._open and not self._leaving

    def explain(self, route: Route) -> str:
        """Why there is none for a route."""
        most = self._limits.per_host
        if most is not None and self._by_route[route] >= most:
            return f"all {most} of this origin are in use (Limits.per_host)"
        return f"all {self._limits.connections} are in use (Limits.connections)"

    # Taking

    def try_take(self, route: Route, fresh: bool = False) -> Grant | None:
        """What can be had at once, if nobody waits."""
        return None if self._queues else self._take(route, fresh)

    async def wait(self, route: Route, fresh: bool, bound: AbstractAsyncContextManager[None]) -> Grant:
        """A connection or a slot, in turn; `bound` ends the wait."""
        waiter = _Waiter(asyncio.get_running_loop().create_future(), fresh)
        self._last_ticket += 1
        ticket = self._last_ticket
        self.waiting += 1
        try:
            async with bound:
                while True:
                    self._enqueue(route, ticket, waiter)
                    grant = await waiter.future
                    if not isinstance(grant, Connection) or (grant.is_usable() and not grant.unread):
                        return grant
                    # It went on its way here, or something came: who has waited for it waits in front.
                    self._discard(grant)
                    self._front_ticket -= 1
                    ticket = self._front_ticket
                    waiter.future = asyncio.get_running_loop().create_future()
        except BaseException:
            future = waiter.future
            if future.done() and not future.cancelled() and future.exception() is None:
                self._return(route, future.result())
            raise
        finally:
            self.waiting -= 1
            self._leave(route, ticket)

    def _enqueue(self, route: Route, ticket: int, waiter: _Waiter) -> None:
        queue = self._queues.setdefault(route, _Queue())
        queue.waiters[ticket] = waiter
        if ticket < 0:
            # What it was given is gone, which leaves room for one more.
            queue.waiters.move_to_end(ticket, last=False)
            queue.parked = False
        if next(iter(queue.waiters)) == ticket:
            self._get_ready(route, queue)
        self._serve()

    def _leave(self, route: Route, ticket: int) -> None:
        """Somebody doesn't wait any more."""
        queue = self._queues.get(route)
        if queue is not None and ticket in queue.waiters:
            first = next(iter(queue.waiters)) == ticket
            del queue.waiters[ticket]
            if first:
                self._get_ready(route, queue)
                self._serve()

    def _get_ready(self, route: Route, queue: _Queue) -> None:
        """A queue has another first, or none."""
        if not queue.waiters:
            del self._queues[route]
        elif not queue.parked:
            heapq.heappush(self._ready, (next(iter(queue.waiters)), route))
        if len(self._ready) > 2 * len(self._queues) + 32:
            # Mostly old ones: of waiters that were cancelled.
            queues = self._queues.items()
            self._ready = [(next(iter(queue.waiters)), route) for route, queue in queues if not queue.parked]
            heapq.heapify(self._ready)

    def _return(self, route: Route, grant: Grant) -> None:
        if isinstance(grant, Connection):
            if grant.is_usable():
                self.put(grant)
        else:
            self.release(route)

    def _take(self, route: Route, fresh: bool) -> Grant | None:
        idle = self._idle.get(route)
        while idle and not fresh:
            connection = idle.pop()
            if connection.is_fresh(self._limits.idle_seconds):
                self.reused += 1
                return connection
            self._discard(connection)
        most = self._limits.per_host
        if most is not None and self._by_route[route] >= most:
            if not idle:
                return None
            self._discard(idle.pop(0))
        if self._slots >= self._limits.connections and not self._evict():
            return None
        self._slots += 1
        self._by_route[route] += 1
        return SLOT

    def _evict(self) -> bool:
        """Closes the idle connection of some other route to make room."""
        for route, idle in self._idle.items():
            if idle:
                self._discard(idle.pop(0))
                self.evicted += 1
                # The next is of another route, and none is looked for where there are no more.
                del self._idle[route]
                if idle:
                    self._idle[route] = idle
                return True
        return False

    def _serve(self) -> None:
        """Gives what is free to those who wait, for as long as there is any."""
        while self._ready:
            ticket, route = self._ready[0]
            queue = self._queues.get(route)
            if queue is None or queue.parked or next(iter(queue.waiters), None) != ticket:
                heapq.heappop(self._ready)
                continue
            waiter = queue.waiters[ticket]
            if waiter.future.done():
                grant = None
            elif (grant := self._take(route, waiter.fresh)) is None:
                most = self._limits.per_host
                if most is None or self._by_route[route] < most:
                    return
                queue.parked = True
                heapq.heappop(self._ready)
                continue
            heapq.heappop(self._ready)
            del queue.waiters[ticket]
            self._get_ready(route, queue)
            if grant is not None:
                waiter.future.set_result(grant)

    # Giving

    def add(self, connection: Connection) -> None:
        """A slot has become a connection."""
        self._open.add(connection)
        self.made += 1

    def release(self, route: Route) -> None:
        """A slot isn't needed any more."""
        self._free(route)
        self._stir(route)

    def _free(self, route: Route) -> None:
        self._slots -= 1
        self._by_route[route] -= 1
        if not self._by_route[route]:
            del self._by_route[route]

    def put(self, connection: Connection) -> None:
        """A connection has finished an exchange and can take another."""
        if self._closed:
            self._discard(connection)
            return
        if (idle := self._idle.get(connection.route)) is None:
            self._idle[connection.route] = idle = []
        idle.append(connection)
        if self._sweeper is None:
            self._sweep()
        if self._queues:
            self._stir(connection.route)

    def lost(self, connection: Connection) -> None:
        """A connection's transport is gone."""
        self._leaving.discard(connection)
        if connection in self._open:
            self._open.discard(connection)
            if (idle := self._idle.get(connection.route)) is not None:
                if connection in idle:
                    idle.remove(connection)
                if not idle:
                    del self._idle[connection.route]
            self.release(connection.route)

    def _stir(self, route: Route) -> None:
        if not self._queues:
            return
        queue = self._queues.get(route)
        if queue is not None and queue.parked:
            queue.parked = False
            self._get_ready(route, queue)
        self._serve()

    def _discard(self, connection: Connection) -> None:
        """Closes a connection that nobody uses; its slot is free at once."""
        if connection in self._open:
            self._open.discard(connection)
            self._leaving.add(connection)
            self._free(connection.route)
            log.debug("closed an idle connection to %s", connection.route)
        connection.close()

    def _sweep(self) -> None:
        """Closes connections that have been unused for too long, now and when the next one will have been."""
        loop = asyncio.get_running_loop()
        since = loop.time() - self._limits.idle_seconds
        # In each list the connection that was used last is the last.
        for idle in self._idle.values():
            while idle and idle[0].idle_since <= since:
                self._discard(idle.pop(0))
                self.aged += 1
        self._idle = {route: idle for route, idle in self._idle.items() if idle}
        oldest = min((idle[0].idle_since for idle in self._idle.values()), default=None)
        self._sweeper = None
        if oldest is not None:
            until = oldest + self._limits.idle_seconds
            self._sweeper = loop.call_at(until, self._sweep, context=contextvars.Context())

    # Its end

    def close(self, error: Callable[[], PenstockError]) -> None:
        """Ends all connections, and the waits for one, with an error each."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for queue in self._queues.values():
            for waiter in queue.waiters.values():
                if not waiter.future.done():
                    waiter.future.set_exception(error())
        self._queues.clear()
        self._ready.clear()
        for connection in tuple(self._open):
            connection.shut(error())
        self._idle.clear()
