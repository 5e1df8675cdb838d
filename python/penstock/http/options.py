"""What a client is told once: how long to wait, and how much to take."""

from __future__ import annotations

import dataclasses

from penstock._native import HeadLimits

__all__ = ["Limits", "Timeouts"]


def _seconds(owner: str, name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{owner}.{name}={value!r}: seconds are a number, or None for no limit")
    if not value > 0:
        raise ValueError(f"{owner}.{name}={value!r}: must be above 0, or None for no limit")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts:
    """How long a request may wait, in seconds; `None` is no limit.

    A timeout is never early, and late by at most 50 ms or 2 %, whichever is more.
    """

    connect: float | None = 10
    """To be connected, TLS included: `ConnectTimeout`."""
    first_byte: float | None = 60
    """From the request's being sent to its complete head: `FirstByteTimeout`."""
    idle: float | None = 60
    """Between two reads of the body: `IdleTimeout`."""
    pool: float | None = 60
    """For a connection, when `Limits.connections` are in use: `PoolTimeout`."""
    budget: float | None = 60
    """For disk or descriptors of the budget: `BudgetExceeded`."""
    total: float | None = None
    """For the request as a whole: `TotalTimeout`."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _seconds("Timeouts", field.name, getattr(self, field.name))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much a client takes at once."""

    connections: int = 100
    """Open connections in all; a further request waits for one."""
    idle_seconds: float = 30
    """How long an unused connection is kept."""
    head_bytes: int = 65536
    """Bytes before the body of a response: status line, headers and informational responses."""
    headers: int = 256
    """Header lines of a response."""
    informational: int = 16
    """Informational (1xx) responses before the final one."""

    def __post_init__(self) -> None:
        _seconds("Limits", "idle_seconds", self.idle_seconds)
        for name in ("connections", "head_bytes", "headers", "informational"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"Limits.{name}={value!r}: not an int")
            if value < 1:
                raise ValueError(f"Limits.{name}={value}: must be at least 1")

    def _head(self) -> HeadLimits:
        return HeadLimits(head_bytes=self.head_bytes, headers=self.headers, informational=self.informational)
