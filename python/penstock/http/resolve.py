"""Addresses of names: looked up off the loop, once for all who ask at the same time, and remembered for a while."""

from __future__ import annotations

import asyncio
import collections
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeAlias

from penstock.blocking._ops import default_policy
from penstock.errors import DNSError

__all__ = ["AllowAddress", "Names", "Resolver"]

log = logging.getLogger(__name__)

Resolver = Callable[[str], Awaitable[Sequence[str]]]
"""Gives the addresses of a host name, best first. Raises OSError if it has none."""

AllowAddress = Callable[[str], bool]
"""Told an address that is about to be connected to, says whether it may be."""

_Asked: TypeAlias = tuple[str, Resolver | None]
"""A host, and who is asked besides the client's own."""

MOST = 1024
"""Names that are remembered."""

FORSAKEN = 256
"""Lookups that go on though nobody waits for them."""


async def system_resolver(host: str) -> list[str]:
    """By the system's resolver, on the process's default pool."""
    found = await default_policy.run(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class Names:
    """Remembers addresses, and for a shorter time that a name has none."""

    def __init__(self, resolver: Resolver | None, seconds: float, failed_seconds: float) -> None:
        self._resolver = resolver if resolver is not None else system_resolver
        self._seconds = seconds
        self._failed_seconds = failed_seconds
        self._known: collections.OrderedDict[_Asked, tuple[float, list[str] | DNSError]] = collections.OrderedDict()
        self._asking: dict[_Asked, asyncio.Task[list[str] | DNSError]] = {}
        self._waiting: collections.Counter[_Asked] = collections.Counter()
        """How many wait for each."""
        self._forsaken: dict[_Asked, None] = {}
        """Those of which all who waited have given up, the first of them first."""
        self.lookups = 0
        self.hits = 0

    async def addresses(self, host: str, resolver: Resolver | None = None) -> list[str]:
        """The addresses of a host, in the resolver's order; of an address, itself. `None` is the client's own resolver.

        Cancelled, the lookup goes on for whoever asks next, unless many others do.

        Raises:
            DNSError: It has none.
        """
        if (address := as_address(host)) is not None:
            return [address]
        loop = asyncio.get_running_loop()
        asked = host, resolver
        if (known := self._known.get(asked)) is not None and loop.time() < known[0]:
            self.hits += 1
            found = known[1]
        else:
            asking = self._asking.get(asked)
            if asking is None:
                asking = loop.create_task(self._ask(asked))
                if not asking.done():
                    # An eager task may be.
                    self._asking[asked] = asking
            found = await self._wait(asked, asking)
        if isinstance(found, DNSError):
            # One for each who asked: it is told which request it is about.
            raise DNSError(*found.args, retryable=found.retryable) from found.__cause__
        return found

    async def _wait(self, asked: _Asked, asking: asyncio.Task[list[str] | DNSError]) -> list[str] | DNSError:
        self._waiting[asked] += 1
        self._forsaken.pop(asked, None)
        try:
            return await asyncio.shield(asking)
        finally:
            self._waiting[asked] -= 1
            if not self._waiting[asked]:
                del self._waiting[asked]
                if not asking.done():
                    self._forsake(asked)

    def _forsake(self, asked: _Asked) -> None:
        """Nobody waits any more. By resolvers that take for ever, or are asked once each, there could be any number."""
        self._forsaken[asked] = None
        if len(self._forsaken) > FORSAKEN:
            first = next(iter(self._forsaken))
            del self._forsaken[first]
            self._asking.pop(first).cancel()

    async def _ask(self, asked: _Asked) -> list[str] | DNSError:
        host, resolver = asked
        if resolver is None:
            resolver = self._resolver
        loop = asyncio.get_running_loop()
        self.lookups += 1
        try:
            given: object = resolver(host)
            if not isinstance(given, Awaitable):
                raise TypeError(f"resolver={resolver!r}: gave {given!r} for {host}, and isn't asynchronous")
            given = await given
            # One address by itself would be taken for a list of its characters.
            if isinstance(given, str | bytes) or not isinstance(given, Iterable):
                raise TypeError(f"resolver={resolver!r}: gave {given!r} for {host}, not a list of addresses")
            found = [as_address(address) for address in given]
            addresses = list(dict.fromkeys(address for address in found if address is not None))
            if not addresses:
                raise OSError("the resolver gave none")
        except (OSError, UnicodeError) as cause:
            # UnicodeError: not a name by the rules of IDNA, and never one.
            error = DNSError(f"no address for {host}: {cause}", retryable=isinstance(cause, OSError))
            error.__cause__ = cause
            self._remember(asked, loop.time() + self._failed_seconds, error)
            log.debug("%s", error)
            return error
        else:
            self._remember(asked, loop.time() + self._seconds, addresses)
            log.debug("%s is at %s", host, addresses)
            return addresses
        finally:
            # One that was ended isn't there any more, and another may be.
            if self._asking.get(asked) is asyncio.current_task():
                del self._asking[asked]
                self._forsaken.pop(asked, None)

    def _remember(self, asked: _Asked, until: float, found: list[str] | DNSError) -> None:
        self._known[asked] = until, found
        self._known.move_to_end(asked)
        if len(self._known) > MOST:
            self._known.popitem(last=False)

    def close(self) -> None:
        for asking in self._asking.values():
            asking.cancel()


def as_address(host: str) -> str | None:
    """The host, if it is an address; an IPv4 one that is written as IPv6 is given as what it is."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped if mapped is not None else address)
