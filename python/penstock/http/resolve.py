"""Addresses of names: looked up off the loop, once for all who ask at the same time, and remembered for a while."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import copy
import errno
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeAlias

from penstock.blocking._ops import default_policy
from penstock.errors import DNSError

__all__ = ["AllowAddress", "Names", "Resolver", "as_address", "faces"]

log = logging.getLogger(__name__)

Resolver = Callable[[str], Awaitable[Sequence[str]]]
"""Gives the addresses of a host name, best first. Raises OSError if it has none."""

AllowAddress = Callable[[str], bool]
"""Told an address that is about to be connected to, says whether it may be."""

_Asked: TypeAlias = tuple[str, Resolver | None]
"""A host, and who is asked besides the client's own."""

MOST = 1024
"""Names that are remembered."""

ADDRESSES = 256
"""Of one name; what a server of names makes up beyond is left out."""

SHORT = {errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
"""Numbers of what keeps a lookup from being made: they tell of this system, and nothing of a name."""

FORSAKEN = 256
"""Lookups that go on though nobody waits for them."""

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""Addresses that end with an IPv4 one, to which a gateway leads (RFC 6052 section 2.1)."""


async def system_resolver(host: str) -> list[str]:
    """By the system's resolver, on the process's default pool."""
    found = await default_policy.run(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class _Lookup:
    """One that is under way."""

    __slots__ = ("asked", "task", "waiting")

    def __init__(self, asked: _Asked, task: asyncio.Task[list[str] | DNSError]) -> None:
        self.asked = asked
        self.task = task
        self.waiting = 0
        """How many wait for it."""


class Names:
    """Remembers addresses, and for a shorter time that a name has none."""

    def __init__(self, resolver: Resolver | None, seconds: float, failed_seconds: float) -> None:
        self._resolver = resolver if resolver is not None else system_resolver
        self._seconds = seconds
        self._failed_seconds = failed_seconds
        self._known: collections.OrderedDict[_Asked, tuple[float, list[str] | DNSError]] = collections.OrderedDict()
        self._asking: dict[_Asked, _Lookup] = {}
        self._forsaken: dict[_Lookup, None] = {}
        """Of these, those that nobody waits for, in the order in which they were given up."""
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
            lookup = self._asking.get(asked)
            if lookup is None:
                lookup = _Lookup(asked, loop.create_task(self._ask(asked)))
                if not lookup.task.done():
                    # An eager task may be.
                    self._asking[asked] = lookup
            found = await self._wait(lookup)
        if isinstance(found, DNSError):
            # One for each who asked: it is told which request it is about.
            raise DNSError(*found.args, retryable=found.retryable) from found.__cause__
        return found

    async def _wait(self, lookup: _Lookup) -> list[str] | DNSError:
        lookup.waiting += 1
        self._forsaken.pop(lookup, None)
        try:
            return await asyncio.shield(lookup.task)
        finally:
            lookup.waiting -= 1
            if not lookup.waiting and self._asking.get(lookup.asked) is lookup:
                self._forsaken[lookup] = None
                # By resolvers that take for ever, or are asked once each, there could be any number.
                if len(self._forsaken) > FORSAKEN:
                    first = next(iter(self._forsaken))
                    del self._forsaken[first], self._asking[first.asked]
                    first.task.cancel()

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
            found: dict[str, None] = {}
            for one in given:
                if (address := as_address(one)) is not None:
                    found[address] = None
                elif not isinstance(one, str):
                    # As those that getaddrinfo gives, with an address in each.
                    raise TypeError(f"resolver={resolver!r}: gave {one!r} among those of {host}, not an address")
            addresses = list(found)[:ADDRESSES]
            if not addresses:
                raise OSError("the resolver gave none")
        except (OSError, UnicodeError) as cause:
            # The cause has this frame, which has neither the error nor its task: nothing waits for a collection.
            return self._failed(asked, cause, loop.time() + self._failed_seconds)
        else:
            self._remember(asked, loop.time() + self._seconds, addresses)
            log.debug("%s is at %s", host, addresses)
            return addresses
        finally:
            self._over(asked)

    def _over(self, asked: _Asked) -> None:
        """The lookup that this task makes has come to its end."""
        lookup = self._asking.get(asked)
        # One that was ended isn't there any more, and another may be.
        if lookup is not None and lookup.task is asyncio.current_task():
            del self._asking[asked]
            self._forsaken.pop(lookup, None)

    def _failed(self, asked: _Asked, cause: OSError | UnicodeError, until: float) -> DNSError:
        """What is told of a lookup now, and remembered of it."""
        error = _no_address(asked[0], cause)
        error.__cause__ = cause
        # Those of a resolver's answer are of a number space of their own.
        if isinstance(cause, socket.gaierror | UnicodeError) or cause.errno not in SHORT:
            remembered = _no_address(asked[0], cause)
            # Its traceback has the frames of a program's resolver, and all that is in them. Some can't be copied.
            with contextlib.suppress(Exception):
                remembered.__cause__ = copy.copy(cause)
            self._remember(asked, until, remembered)
        log.debug("%s", error)
        return error

    def _remember(self, asked: _Asked, until: float, found: list[str] | DNSError) -> None:
        self._known[asked] = until, found
        self._known.move_to_end(asked)
        # What is out of date goes with its resolver, of which a program may make one for each request.
        now = asyncio.get_running_loop().time()
        while len(self._known) > MOST or (len(self._known) > 1 and next(iter(self._known.values()))[0] < now):
            self._known.popitem(last=False)

    def close(self) -> None:
        for lookup in self._asking.values():
            lookup.task.cancel()


def _no_address(host: str, cause: OSError | UnicodeError) -> DNSError:
    # UnicodeError: not a name by the rules of IDNA, and never one.
    return DNSError(f"no address for {host}: {cause}", retryable=isinstance(cause, OSError))


def as_address(host: str) -> str | None:
    """The host, if it is an address; an IPv4 one that is written as IPv6 is given as what it is."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped if mapped is not None else address)


def faces(address: str) -> list[str]:
    """What may be forbidden of an address: itself, and the IPv4 one that a gateway makes of it, by NAT64 or 6to4."""
    known = ipaddress.ip_address(address)
    if isinstance(known, ipaddress.IPv4Address):
        return [address]
    inner = ipaddress.IPv4Address(int(known) & 0xFFFFFFFF) if known in NAT64 else known.sixtofour
    return [address] if inner is None else [address, str(inner)]
