"""What a policy is. The policies themselves are in the extension."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import NoneType
from typing import Any, ParamSpec, Protocol, TypeVar, runtime_checkable

from penstock._native import Direct, Dispatch, Permit

__all__ = ["Direct", "Dispatch", "Permit", "Policy", "checked"]

P = ParamSpec("P")
T = TypeVar("T")


@runtime_checkable
class Policy(Protocol):
    """Where a blocking function runs: `Direct()`, `Permit(semaphore)` or `Dispatch(pool)`."""

    def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        """Starts `fn(*args, **kwargs)` by this policy; await what it returns for the result. A `Permit` gives a task on
        a loop that can be handed over, where the function runs in place."""

    def stats(self) -> dict[str, Any]:
        """What it has run: `count` begun, `waiting` and `running` now, and for the `wait` before, the `run` itself, and
        the `lag`, for which it kept loops from turning, `count`, `sum`, `p50`, `p99`, `max` and `buckets`, in seconds.

        `Direct` knows its lag, which is all that it runs. That of the others is found by a `LoopMonitor`.
        """


def checked(policy: Policy | None) -> Policy | None:
    """A policy as it was given, for who keeps it until something has to run.

    Raises:
        TypeError: It is none.
    """
    # The protocol by itself is slow to ask, and a policy's class has all of its methods, too.
    known = isinstance(policy, (NoneType, Dispatch, Permit, Direct, Policy)) and not isinstance(policy, type)
    if not known:
        raise TypeError(f"policy={policy!r}: takes a policy, as Dispatch(pool)")
    return policy
