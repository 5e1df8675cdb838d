"""`Client`: requests by method, and the connections that they share."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import ipaddress
import socket
import ssl
import warnings
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Self

from penstock._native import Budget, FilePool, Head, Scratch, Tunables
from penstock.blocking._ops import default_policy
from penstock.blocking.policy import Policy, run_blocking
from penstock.body.image import BodyImage
from penstock.errors import (
    ClientClosed,
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    DNSError,
    InvalidURL,
    PoolTimeout,
    RequestError,
    Timeout,
    TLSError,
    TotalTimeout,
)
from penstock.http.connection import Connection
from penstock.http.deadlines import Deadlines
from penstock.http.exchange import Exchange
from penstock.http.options import Limits, Timeouts
from penstock.http.response import Response
from penstock.http.url import Origin, parse

__all__ = ["Client"]

USER_AGENT = "penstock/0.1"
CLOSED_IN_FLIGHT = "the client was closed while the request was in flight"


class Client:
    """Makes HTTP/1.1 requests; keeps connections alive and shares them between tasks of one event loop.

    Args:
        base_url: What a URL that begins with `/` is appended to.
        headers: Sent with each request.
        tunables: Limits of bodies, and where they go; `None` is `Tunables()`.
        budget: What bodies are counted against; `None` is the process's.
        policy: Runs what waits for a disk; `None` is the process's default pool.
        timeout: Deadlines.
        limits: Connections, and the size of heads.
        ssl_context: For https; `None` is `ssl.create_default_context()`.
        file_pool: Recycles the files of bodies, with their mappings; `None` makes a new file for each.

    Use it as `async with`, or call `aclose`. Bodies stay good afterwards.
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        headers: Mapping[str, str] | None = None,
        tunables: Tunables | None = None,
        budget: Budget | None = None,
        policy: Policy | None = None,
        timeout: Timeouts | None = None,
        limits: Limits | None = None,
        ssl_context: ssl.SSLContext | None = None,
        file_pool: FilePool | None = None,
    ) -> None:
        self._base = None if base_url is None else str(parse(base_url)).rstrip("/")
        self._fields = {"user-agent": USER_AGENT, "accept": "*/*", **_lower(headers)}
        self._lines = _field_lines(self._fields)
        self._tunables = tunables if tunables is not None else Tunables()
        self._budget = budget if budget is not None else Budget.shared()
        self._policy = policy if policy is not None else default_policy
        self._timeouts = timeout if timeout is not None else Timeouts()
        self._limits = limits if limits is not None else Limits()
        self._head_limits = self._limits._head()
        self._ssl_context = ssl_context
        self._file_pool = file_pool
        self._scratch = Scratch()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._deadlines: Deadlines | None = None
        self._open: set[Connection] = set()
        self._connecting = 0
        self._idle: dict[Origin, list[Connection]] = {}
        self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()
        self._bounds: set[asyncio.Timeout] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False
        self._requests = 0
        self._connected = 0

    # Requests

    async def get(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: Timeouts | None = None,
        tunables: Tunables | None = None,
        policy: Policy | None = None,
    ) -> Response:
        """GETs a URL; the response has its whole body, wherever that lies.

        Args:
            url: http or https, or a path if the client has a `base_url`.
            headers: Besides the client's, and instead of those of the same name.
            timeout, tunables, policy: Instead of the client's.

        Raises:
            RequestError: The request failed; see its subclasses.
            LimitExceeded: The body or the head is over a limit.
            BudgetExceeded, StorageFull: No room for the body.

        Cancelled, the connection is closed, and what was received is dropped.
        """
        return await self.request("GET", url, headers=headers, timeout=timeout, tunables=tunables, policy=policy)

    async def head(
        self, url: str, *, headers: Mapping[str, str] | None = None, timeout: Timeouts | None = None
    ) -> Response:
        """Asks for the head only; as `get`."""
        return await self.request("HEAD", url, headers=headers, timeout=timeout)

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: Timeouts | None = None,
        tunables: Tunables | None = None,
        policy: Policy | None = None,
    ) -> Response:
        """Makes a request without a body; as `get`."""
        loop = self._bind()
        if self._base is not None and url.startswith("/"):
            url = self._base + url
        try:
            target = parse(url)
        except InvalidURL as error:
            error.request, error.elapsed = method, 0.0
            raise
        lines = self._lines if headers is None else _field_lines({**self._fields, **_lower(headers)})
        head = f"{_token(method)} {target.path} HTTP/1.1\r\nhost: {target.origin.authority}\r\n".encode() + lines
        timeouts = timeout if timeout is not None else self._timeouts
        self._requests += 1
        began = loop.time()
        again = False
        while True:
            exchange = Exchange(
                method,
                url,
                head,
                tunables if tunables is not None else self._tunables,
                self._budget,
                self._file_pool,
                policy if policy is not None else self._policy,
                timeouts,
                began,
                loop.create_future(),
            )
            connection = await self._acquire(target.origin, exchange, fresh=again)
            reused, before = connection.used > 0, connection.progress
            try:
                found, body = await self._exchange(connection, exchange)
            except ConnectionLost:
                # The server closed an idle connection just as it was taken again: nothing of the request was
                # answered, so it is safe to ask once more (RFC 9110 section 9.2.2).
                if again or not reused or connection.progress != before or method not in ("GET", "HEAD"):
                    raise
                again = True
                continue
            return Response(found, body, url, loop.time() - began)

    @staticmethod
    async def _exchange(connection: Connection, exchange: Exchange) -> tuple[Head, BodyImage]:
        connection.start(exchange)
        try:
            return await exchange.result
        except asyncio.CancelledError:
            connection.abandon(exchange)
            raise

    # Connections

    def _bind(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._closed:
            raise ClientClosed("the client is closed")
        if self._loop is None:
            self._loop = loop
            self._deadlines = Deadlines(loop)
        elif self._loop is not loop:
            raise ClientClosed("the client belongs to another event loop: make one for each")
        return loop

    async def _acquire(self, origin: Origin, exchange: Exchange, *, fresh: bool) -> Connection:
        """A usable connection that nobody else has: an idle one, a new one, or the next that comes free. With `fresh`
        only a new one."""
        until = None
        while True:
            idle = self._idle.get(origin, [])
            while idle and not fresh:
                connection = idle.pop()
                unused = exchange.began - connection.idle_since
                # What already lies in the socket is no answer to a request that isn't sent yet.
                if connection.usable and unused <= self._limits.idle_seconds and not connection.unread:
                    return connection
                connection.close()
            if len(self._open) + self._connecting < self._limits.connections or self._evict():
                return await self._connect(origin, exchange)
            first = until is None
            if first and exchange.timeouts.pool is not None:
                until = exchange.now() + exchange.timeouts.pool
            await self._wait(exchange, until, in_front=not first)

    def _evict(self) -> bool:
        """Closes an idle connection to make room for one to another origin."""
        for idle in self._idle.values():
            while idle:
                connection = idle.pop(0)
                if connection in self._open:
                    self._open.discard(connection)
                    connection.close()
                    return True
        return False

    @contextlib.asynccontextmanager
    async def _within(
        self, exchange: Exchange, until: float | None, late: Callable[[], Timeout]
    ) -> AsyncIterator[None]:
        """Bounds a wait by a time of its own and by that of the request as a whole. `aclose` ends it, too."""
        bound = asyncio.timeout_at(min((t for t in (until, exchange.until) if t is not None), default=None))
        self._bounds.add(bound)
        try:
            async with bound:
                yield
        except TimeoutError as cause:
            if self._closed:
                raise ClientClosed(CLOSED_IN_FLIGHT) from None
            # By the times themselves: the timer may fire a clock's tick early.
            if exchange.until is not None and (until is None or exchange.until <= until):
                total = exchange.timeouts.total
                late = functools.partial(TotalTimeout, f"no connection within {total} s (Timeouts.total)")
            error = late()
            exchange.describe(error, exchange.now())
            raise error from cause
        finally:
            self._bounds.discard(bound)

    async def _wait(self, exchange: Exchange, until: float | None, *, in_front: bool) -> None:
        """Waits for a connection to come free; who has waited for one that another took waits in front."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        late = functools.partial(
            PoolTimeout,
            f"no connection came free within {exchange.timeouts.pool} s (Timeouts.pool): all "
            f"{self._limits.connections} are in use (Limits.connections)",
        )
        if in_front:
            self._waiting.appendleft(waiter)
        else:
            self._waiting.append(waiter)
        try:
            async with self._within(exchange, until, late):
                await waiter
        except BaseException:
            # Given up after it was woken: the connection is for the next.
            if waiter.done() and not waiter.cancelled():
                self._wake()
            raise
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
        if self._closed:
            raise ClientClosed(CLOSED_IN_FLIGHT)

    def _wake(self) -> None:
        """Lets the next that waits try again."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def _connect(self, origin: Origin, exchange: Exchange) -> Connection:
        loop = asyncio.get_running_loop()
        seconds = exchange.timeouts.connect
        until = None if seconds is None else loop.time() + seconds
        late = functools.partial(ConnectTimeout, f"not connected to {origin} within {seconds} s (Timeouts.connect)")
        self._connecting += 1
        connection = None
        try:
            async with self._within(exchange, until, late):
                connection = await self._open_connection(loop, origin)
            if self._closed:
                raise ClientClosed(CLOSED_IN_FLIGHT)
            if not connection.usable:
                raise ConnectionLost(f"{origin} closed the connection, or said something, before it was asked")
            self._open.add(connection)
            self._connected += 1
            return connection
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, RequestError):
                exchange.describe(error, loop.time())
            self._wake()
            raise
        finally:
            self._connecting -= 1

    async def _open_connection(self, loop: asyncio.AbstractEventLoop, origin: Origin) -> Connection:
        context = None
        if origin.scheme == "https":
            if self._ssl_context is None:
                self._ssl_context = await run_blocking(ssl.create_default_context)
            context = self._ssl_context
        assert self._deadlines is not None  # bound
        make: Callable[[], Connection] = functools.partial(
            Connection, self._scratch, self._head_limits, origin, self._deadlines, self._freed, self._lost
        )
        failure: Exception | None = None
        for address in await _resolve(origin):
            try:
                _, connection = await loop.create_connection(
                    make, address, origin.port, ssl=context, server_hostname=origin.host if context else None
                )
            except ssl.SSLError as error:
                raise TLSError(f"no TLS with {origin}: {error}") from error
            except OSError as error:
                failure = error
            else:
                return connection
        raise ConnectError(f"cannot connect to {origin}: {failure}") from failure

    def _freed(self, connection: Connection) -> None:
        """A connection has finished an exchange and can take another."""
        if self._closed:
            connection.close()
            return
        self._idle.setdefault(connection.origin, []).append(connection)
        if self._sweeper is None:
            self._sweep()
        self._wake()

    def _sweep(self) -> None:
        """Closes connections that have been unused for too long, now and when the next one will have been."""
        loop = asyncio.get_running_loop()
        since = loop.time() - self._limits.idle_seconds
        # In each list the connection that was used last is the last.
        for idle in self._idle.values():
            while idle and idle[0].idle_since <= since:
                idle.pop(0).close()
        self._idle = {origin: idle for origin, idle in self._idle.items() if idle}
        oldest = min((idle[0].idle_since for idle in self._idle.values()), default=None)
        self._sweeper = None if oldest is None else loop.call_at(oldest + self._limits.idle_seconds, self._sweep)

    def _lost(self, connection: Connection) -> None:
        """A connection is gone."""
        self._open.discard(connection)
        idle = self._idle.get(connection.origin, [])
        if connection in idle:
            idle.remove(connection)
        self._wake()

    # Its life

    def stats(self) -> dict[str, int]:
        """Counts: `requests` made and connections `connected` since the start; connections `open` and `idle`, and
        requests `waiting` for one, now."""
        return {
            "requests": self._requests,
            "connected": self._connected,
            "open": len(self._open),
            "idle": sum(map(len, self._idle.values())),
            "waiting": len(self._waiting),
        }

    async def aclose(self) -> None:
        """Closes all connections; requests in flight fail with `ClientClosed`."""
        self._closed = True
        for connection in tuple(self._open):
            connection.shut(ClientClosed(CLOSED_IN_FLIGHT))
        self._idle.clear()
        for bound in self._bounds:
            if not bound.expired():
                bound.reschedule(0)
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._deadlines is not None:
            self._deadlines.close()
        # The transports' last callbacks, and the last steps of those that waited for a connection.
        while self._open or self._bounds:  # noqa: ASYNC110, it takes a turn or two
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        self._scratch.close()

    async def __aenter__(self) -> Self:
        self._bind()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        if self._closed:
            return "<Client closed>"
        return f"<Client {' '.join(f'{name}={count}' for name, count in self.stats().items())}>"

    def __del__(self, warn: Callable[..., None] = warnings.warn) -> None:
        if not getattr(self, "_closed", True) and self._open:
            warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=2)


async def _resolve(origin: Origin) -> list[str]:
    """The addresses of a host, in the resolver's order; the resolver may wait, so it runs on the default pool."""
    try:
        return [str(ipaddress.ip_address(origin.host))]
    except ValueError:
        pass
    try:
        found = await run_blocking(socket.getaddrinfo, origin.host, origin.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        # UnicodeError: not a name by the rules of IDNA.
        raise DNSError(f"no address for {origin.host}: {error}") from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _token(method: str) -> str:
    if not method or not method.isascii() or not all(c.isalnum() or c in "!#$%&'*+-.^_`|~" for c in method):
        raise ValueError(f"method={method!r}: not a token (RFC 9110 section 5.6.2)")
    return method


def _lower(headers: Mapping[str, str] | None) -> dict[str, str]:
    return {name.lower(): value for name, value in (headers or {}).items()}


def _field_lines(fields: Mapping[str, str]) -> bytes:
    for name, value in fields.items():
        _token(name)
        if any(c in value for c in "\r\n\0"):
            raise ValueError(f"header {name}: {value!r} has a line break or NUL")
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return lines.encode("latin-1") + b"\r\n"
