"""New connections: from a route to a socket, through a proxy's tunnel and TLS, to a `Connection` that is ready."""

from __future__ import annotations

import asyncio
import collections
import contextvars
import functools
import itertools
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import Any, Generic, TypeAlias, TypeVar, cast

from penstock.blocking._ops import default_policy
from penstock.errors import ConnectError, ConnectionLost, TLSError
from penstock.http.connection import Connection
from penstock.http.options import Limits
from penstock.http.proxy import tunnel
from penstock.http.resolve import AllowAddress, Names, faces
from penstock.http.route import Route

__all__ = ["Connector"]

log = logging.getLogger(__name__)

T = TypeVar("T")

Reach: TypeAlias = Callable[[str], Coroutine[Any, Any, socket.socket]]

HEAD_START = 0.25
"""Seconds that one address is tried alone before the next is tried besides (RFC 8305 section 5)."""

RACING = 8
"""Addresses of a host that are tried at a time: each has a descriptor, which no limit of connections counts."""

NAMED = 8
"""Addresses that an error names. Who answers for a name may give thousands."""

HANDSHAKE = 1e8
"""Seconds for TLS, of which asyncio gives 60: how long it may take is bounded by who asks for the connection."""


class _Apart(Generic[T]):
    """Awaits in an empty context, within the task that does so. A transport keeps the context in which it is made, with
    all that the program has in it."""

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, T]:
        run, coroutine = contextvars.Context().run, self._coroutine
        step: Callable[[], Any] = functools.partial(coroutine.send, None)
        while True:
            try:
                awaited = run(step)
            except StopIteration as end:
                return cast("T", end.value)
            finally:
                # An error would have this frame, and this frame the error.
                del step
            try:
                step = functools.partial(coroutine.send, (yield awaited))
            except BaseException as error:
                step = functools.partial(coroutine.throw, error)
            finally:
                # So would a future that it is an error of.
                del awaited


class Connector:
    """Makes connections."""

    def __init__(self, names: Names, allow_address: AllowAddress | None) -> None:
        self._names = names
        self._context: ssl.SSLContext | None = None
        self._allow_address = allow_address

    async def connect(self, route: Route, limits: Limits, make: Callable[[], Connection]) -> Connection:
        """A connection by a route; `limits` are those of a proxy's answer. Cancelled, nothing is left.

        Raises:
            ConnectError: None of the addresses could be connected to, or may be.
            DNSError, ProxyError, TLSError: It failed on the way.
        """
        origin, loop = route.origin, asyncio.get_running_loop()
        context = None
        if origin.scheme == "https":
            try:
                # As TLS does it, when there is a connection already.
                origin.name.encode("idna")
            except UnicodeError as error:
                raise TLSError(f"no TLS with {origin}: {error}") from error
            context = route.context or self._context
            if context is None:
                # Reads the system's certificates.
                context = self._context = await default_policy.run(_default_context)
        made: list[Connection] = []

        def protocol() -> Connection:
            made.append(make())
            return made[-1]

        sock = await self._open_socket(route)
        try:
            if route.proxy is not None and context is not None:
                await tunnel(sock, origin, route.proxy, limits)
            name, handshake = (origin.name, HANDSHAKE) if context is not None else (None, None)
            _, connection = await _Apart(
                loop.create_connection(
                    protocol, sock=sock, ssl=context, server_hostname=name, ssl_handshake_timeout=handshake
                )
            )
        except BaseException as error:
            for connection in made:
                # Cancelled just as TLS was ready, asyncio would go on with the socket, to take its leave of the peer.
                connection.close()
            sock.close()
            if isinstance(error, ssl.SSLError):
                raise TLSError(f"no TLS with {origin}: {error}") from error
            if isinstance(error, OSError) and not isinstance(error, ConnectError):
                # An end amid the handshake is told without a word.
                reason = str(error) or "the connection ended before TLS was ready"
                raise ConnectError(f"cannot connect to {route}: {reason}") from error
            raise
        # What lies in the socket under TLS may be of the handshake.
        if not connection.is_usable() or (context is None and connection.unread):
            connection.close()
            raise ConnectionLost(f"{route} closed the connection, or said something, before it was asked")
        log.debug("connected to %s", route)
        return connection

    async def _open_socket(self, route: Route) -> socket.socket:
        port: int | None = None
        if route.socket is not None:
            addresses = [route.socket]
        else:
            host, port = route.proxy[:2] if route.proxy is not None else route.origin[1:]
            addresses = await self._addresses(host, route)
        connect: Reach = functools.partial(_connect, port=port)
        try:
            return await (connect(addresses[0]) if len(addresses) == 1 else _race(addresses, connect))
        except OSError as error:
            raise ConnectError(f"cannot connect to {route}: {error}") from error

    async def _addresses(self, host: str, route: Route) -> list[str]:
        """Those of a host that may be connected to."""
        addresses = _interleaved(await self._names.addresses(host, route.resolver))
        allow = route.allow_address if route.allow_address is not None else self._allow_address
        if allow is None:
            return addresses
        allowed = [each for each in addresses if all(_is_allowed(allow, face) for face in faces(each))]
        if not allowed:
            more = f" and {len(addresses) - NAMED:,} more" if len(addresses) > NAMED else ""
            message = f"{host} is at {', '.join(addresses[:NAMED])}{more}, which allow_address= refuses"
            raise ConnectError(message, retryable=False)
        return allowed


def _default_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _is_allowed(allow: AllowAddress, address: str) -> bool:
    answer = allow(address)
    if not isinstance(answer, bool):
        # What an asynchronous function gives would be as good as True.
        raise TypeError(f"allow_address= gave {answer!r} for {address}: takes a function that gives True or False")
    return answer


def _interleaved(addresses: list[str]) -> list[str]:
    """Both families in turn, the first one's first: one that doesn't work is passed over soon (RFC 8305 section 4)."""
    first = [address for address in addresses if (":" in address) == (":" in addresses[0])]
    second = [address for address in addresses if (":" in address) != (":" in addresses[0])]
    pairs = itertools.zip_longest(first, second)
    return [address for pair in pairs for address in pair if address is not None]


async def _connect(address: str, port: int | None) -> socket.socket:
    """Without a port, the address is the path of a Unix socket."""
    family = socket.AF_UNIX if port is None else socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if port is not None:
            # A body would wait until the peer has acknowledged its head, which takes 40 ms where that has nothing to
            # send. asyncio sees to it for sockets that it makes, uvloop for all.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, address if port is None else (address, port))
    except BaseException:
        sock.close()
        raise
    return sock


async def _race(addresses: Sequence[str], connect: Reach) -> socket.socket:
    """The socket of the address that answers first; each has a head start before the next (RFC 8305 section 5), and is
    given up for one when it has had many."""
    loop = asyncio.get_running_loop()
    waiting = collections.deque(addresses)
    running: list[asyncio.Task[socket.socket]] = []
    failure: OSError | None = None
    try:
        while waiting or running:
            if waiting:
                if len(running) == RACING:
                    _forgo(running.pop(0))
                running.append(loop.create_task(connect(waiting.popleft())))
            done, _ = await asyncio.wait(
                running, timeout=HEAD_START if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                running.remove(task)
                if task.exception() is None:
                    return task.result()
                failure = failure or cast("OSError", task.exception())
        assert failure is not None  # there was an address, and none of them answered
        try:
            raise failure
        finally:
            # It has this frame, which has it, also by the tasks.
            del failure, done, task
    finally:
        for task in running:
            _forgo(task)


def _forgo(task: asyncio.Task[socket.socket]) -> None:
    task.cancel()
    task.add_done_callback(_close_late)


def _close_late(task: asyncio.Task[socket.socket]) -> None:
    """Another was faster."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()
