"""The connections of a client, for whoever has a request: an idle one, a new one, or the next that comes free. Every
wait is bounded here: by a time of its own, by that of the request as a whole, and by the client's end.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable

from penstock._native import Scratch
from penstock.errors import ClientClosed, ConnectTimeout, PenstockError, PoolTimeout, Timeout, TotalTimeout
from penstock.http.connect import Connector
from penstock.http.connection import Connection
from penstock.http.deadlines import Deadlines
from penstock.http.exchange import Exchange
from penstock.http.options import Limits
from penstock.http.pool import ConnectionPool, Grant
from penstock.http.resolve import AllowAddress, Names, Resolver
from penstock.http.route import Route

__all__ = ["Supply"]

TLS_BUFFER = 256 << 10
"""What asyncio's TLS layer, and uvloop's, reserves for a connection to receive into."""

CLOSED_IN_FLIGHT = "the client was closed while the request was in flight"


class Supply:
    """Gives connections out. They come back by themselves, when their exchange is over or they are lost."""

    def __init__(self, limits: Limits, resolver: Resolver | None, allow_address: AllowAddress | None) -> None:
        self._scratch = Scratch()
        self._deadlines: Deadlines | None = None
        self._names = Names(resolver, limits.dns_seconds, limits.dns_failed_seconds)
        self._connector = Connector(self._names, allow_address)
        self._bounds: set[asyncio.Timeout] = set()
        self._unbound: asyncio.Future[None] | None = None
        """Done when nobody waits any more."""
        self._closed = False
        self.pool = ConnectionPool(limits)
        self.try_take = self.pool.try_take

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tells whose connections these are; once, before any is asked for."""
        self._deadlines = Deadlines(loop)

    async def take(self, route: Route, exchange: Exchange, grant: Grant | None, fresh: bool) -> Connection:
        """A usable connection that nobody else has, by what `try_take` has given; with `fresh` only a new one.

        Raises:
            PoolTimeout, ConnectTimeout, TotalTimeout: It took too long.
            ConnectError: There is none to be had.
            ClientClosed: The supply was closed meanwhile.

        Cancelled, nothing is left of it: what was given goes to the next who waits.
        """
        if grant is None:
            seconds = exchange.settings.timeout.pool
            until = None if seconds is None else exchange.now() + seconds
            late = functools.partial(
                PoolTimeout,
                f"no connection to {route} came free within {seconds} s (Timeouts.pool): {self.pool.explain(route)}",
            )
            grant = await self.pool.wait(route, fresh, self.within(exchange, "connection", until, late))
        if isinstance(grant, Connection):
            return grant
        try:
            connection = await self._connect(route, exchange)
        except BaseException:
            self.pool.release(route)
            raise
        self.pool.add(connection)
        return connection

    @contextlib.asynccontextmanager
    async def within(
        self,
        exchange: Exchange,
        what: str,
        until: float | None = None,
        late: Callable[[], Timeout] | None = None,
    ) -> AsyncIterator[None]:
        """Bounds a wait for `what`: by `until`, which gives the error `late`, by the time of the request as a whole,
        and by the supply's end."""
        if self._closed:
            raise ClientClosed(CLOSED_IN_FLIGHT)
        bound = asyncio.timeout_at(min((t for t in (until, exchange.until) if t is not None), default=None))
        self._bounds.add(bound)
        try:
            async with bound:
                yield
        except TimeoutError as cause:
            if isinstance(cause, PenstockError) or not bound.expired():
                raise
            if self._closed:
                raise ClientClosed(CLOSED_IN_FLIGHT) from None
            # By the times themselves: the timer may fire a clock's tick early.
            if late is None or (exchange.until is not None and (until is None or exchange.until <= until)):
                total = exchange.settings.timeout.total
                late = functools.partial(TotalTimeout, f"no {what} within {total} s (Timeouts.total)")
            error = late()
            exchange.describe(error, exchange.now())
            try:
                raise error from cause
            finally:
                # It has this frame: the request, and what it was to send, would live until a collection.
                del error
        finally:
            self._bounds.discard(bound)
            if not self._bounds and self._unbound is not None and not self._unbound.done():
                self._unbound.set_result(None)

    async def _connect(self, route: Route, exchange: Exchange) -> Connection:
        loop = asyncio.get_running_loop()
        began = loop.time()
        seconds = exchange.settings.timeout.connect
        until = None if seconds is None else began + seconds
        late = functools.partial(ConnectTimeout, f"not connected to {route} within {seconds} s (Timeouts.connect)")
        assert self._deadlines is not None  # bound
        make: Callable[[], Connection] = functools.partial(
            Connection, self._scratch, route, self._deadlines, self.pool.put, self.pool.lost
        )
        async with self.within(exchange, "connection", until, late):
            connection = await self._connector.connect(route, exchange.settings.limits, make)
        try:
            if self._closed:
                raise ClientClosed(CLOSED_IN_FLIGHT)
            hooks = exchange.settings.hooks
            if hooks is not None and hooks.connected is not None:
                hooks.connected(str(route), loop.time() - began)
        except BaseException:
            connection.close()
            raise
        return connection

    def stats(self) -> dict[str, int]:
        """What became of connections and names, and how many there are now."""
        pool, names = self.pool, self._names
        return {
            "waiting": pool.waiting,
            "connected": pool.made,
            "reused": pool.reused,
            "aged": pool.aged,
            "evicted": pool.evicted,
            "connecting": pool.connecting,
            "open": pool.open,
            "idle": pool.idle,
            "tls": pool.tls,
            "tls_bytes": pool.tls * TLS_BUFFER,
            "lookups": names.lookups,
            "lookups_saved": names.hits,
        }

    async def aclose(self) -> None:
        """Closes all connections; what uses or awaits one fails with `ClientClosed`. Cancelled, all is closed, too."""
        self._closed = True
        self.pool.close(lambda: ClientClosed(CLOSED_IN_FLIGHT))
        for bound in self._bounds:
            if not bound.expired():
                bound.reschedule(0)
        # After those who wait for one, which are told in their turn.
        self._names.close()
        if self._deadlines is not None:
            self._deadlines.close()
        try:
            if self._bounds:
                if self._unbound is None:
                    self._unbound = asyncio.get_running_loop().create_future()
                await asyncio.wait([self._unbound])
            # The transports' last callbacks.
            while not self.pool.gone:  # noqa: ASYNC110, it takes a turn or two
                await asyncio.sleep(0)
            await asyncio.sleep(0)
        finally:
            self._scratch.close()
