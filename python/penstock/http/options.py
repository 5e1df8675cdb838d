"""What a client is told once: how long to wait, and how much to take."""

from __future__ import annotations

import dataclasses
import functools
import sys
from typing import Any, Literal, TypeAlias

from penstock._native import HeadLimits

__all__ = ["Decode", "Limits", "Timeouts"]

Decode: TypeAlias = bool | Literal["after"]
"""When the codings of a body are taken off: while it arrives, never, or when all of it is there."""


def _seconds(owner: str, name: str, value: object, unlimited: object = None) -> None:
    if value is None and unlimited is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{owner}.{name}={value!r}: seconds are a number, or {unlimited} for no limit")
    if not value > 0:
        raise ValueError(f"{owner}.{name}={value!r}: must be above 0, or {unlimited} for no limit")
    if value > sys.float_info.max and value != float("inf"):
        raise ValueError(f"{owner}.{name}: is more than a float holds; {unlimited} is no limit")


class _Watched:
    """What follows from timeouts, beside their fields: those are what `dataclasses.asdict` gives, and can be given."""

    __slots__ = ("_watched",)

    _watched: tuple[float, ...]
    """What runs while a request is out, the shortest first."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts(_Watched):
    """How long a request may wait, in seconds; `None` is no limit.

    A timeout is never early, and late by at most 50 ms or 2 %, whichever is more; by 50 ms more if what was received
    has still to be written.
    """

    connect: float | None = 10
    """To be connected: lookup, proxy's tunnel and TLS included: `ConnectTimeout`."""
    first_byte: float | None = 60
    """From the request's being sent to its complete head: `FirstByteTimeout`."""
    idle: float | None = 60
    """Between two reads of the body: `IdleTimeout`."""
    write: float | None = 60
    """For the peer to take some more of the request: `WriteTimeout`."""
    pool: float | None = 60
    """For a connection, when `Limits.connections` are in use: `PoolTimeout`."""
    budget: float | None = 60
    """For disk or descriptors of the budget: `BudgetExceeded`."""
    total: float | None = None
    """For the request as a whole, redirects included: `TotalTimeout`."""
    min_rate: tuple[float, float] | None = (1, 300)
    """Bytes a second, and over how many seconds: a body that comes more slowly is `TooSlow`."""

    def __post_init__(self) -> None:
        for name in ("connect", "first_byte", "idle", "write", "pool", "budget", "total"):
            _seconds("Timeouts", name, getattr(self, name))
        rate = self.min_rate
        if rate is not None:
            if not isinstance(rate, tuple) or len(rate) != 2 or None in rate:
                raise TypeError(f"Timeouts.min_rate={rate!r}: bytes a second and seconds, or None")
            for part in rate:
                _seconds("Timeouts", "min_rate", part)
        times = (self.first_byte, self.idle, self.write, self.total, rate[1] if rate else None)
        object.__setattr__(self, "_watched", tuple(sorted(time for time in times if time is not None)))

    def __reduce__(self) -> tuple[Any, ...]:
        # By its fields alone it would be without what follows from them.
        return functools.partial(type(self), **dataclasses.asdict(self)), ()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much a client takes at once."""

    connections: int = 100
    """Open connections in all; a further request waits for one."""
    per_host: int | None = None
    """Open connections to one origin by one way (proxy, TLS context); `None` is no limit besides `connections`."""
    idle_seconds: float = 30
    """How long an unused connection is kept."""
    head_bytes: int | str = 65536
    """Bytes before the body of a response: status line, headers and informational responses."""
    headers: int = 256
    """Header lines of a response."""
    informational: int = 16
    """Informational (1xx) responses before the final one."""
    blank_lines: int = 4
    """Blank lines before a status line."""
    chunk_size_digits: int = 16
    """Digits of a chunk's size, leading zeros included."""
    chunk_extension_bytes: int | str = 4096
    """Bytes behind the sizes of chunks, over all chunks of a body."""
    trailer_bytes: int | str = 16384
    """Bytes behind the last chunk."""
    trailers: int = 64
    """Lines behind the last chunk."""

    dns_seconds: float = 60
    """How long the addresses of a name are remembered."""
    dns_failed_seconds: float = 5
    """How long it is remembered that a name has none."""

    def __post_init__(self) -> None:
        for name in ("idle_seconds", "dns_seconds", "dns_failed_seconds"):
            _seconds("Limits", name, getattr(self, name), unlimited="math.inf")
        given = {name: value for name in _SIZES if (value := getattr(self, name)) is not None}
        sizes = HeadLimits(**given)
        for name in given:
            object.__setattr__(self, name, getattr(sizes, name))
        for name in ("connections", "per_host", *_HEAD):
            value = getattr(self, name)
            if value is None and name == "per_host":
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"Limits.{name}={value!r}: not an int")
            least = 0 if name in ("blank_lines", "chunk_extension_bytes", "trailers") else 1
            if value < least:
                raise ValueError(f"Limits.{name}={value}: must be at least {least}")
        # Refuses what no machine word holds.
        self._head()

    def _check_shared(self, client: Limits) -> None:
        """Whether they may be a request's, of a client with the others."""
        for name, usual in _SHARED.items():
            value, own = getattr(self, name), getattr(client, name)
            if value not in (own, usual):
                message = f"Limits.{name}={value!r}: is for a Client, which has {own!r} here, and not for one request"
                raise ValueError(message)

    def _head(self) -> HeadLimits:
        return HeadLimits(**{name: getattr(self, name) for name in _HEAD})


_SIZES = ("head_bytes", "chunk_extension_bytes", "trailer_bytes")
"""Bytes, or text with a unit."""

_HEAD = (
    "head_bytes",
    "headers",
    "informational",
    "blank_lines",
    "chunk_size_digits",
    "chunk_extension_bytes",
    "trailer_bytes",
    "trailers",
)
"""What surrounds a body."""

_SHARED = {field.name: field.default for field in dataclasses.fields(Limits) if field.name not in _HEAD}
"""What requests have in common, by default."""
