"""What a policy is. The policies themselves are in the extension."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, Protocol, TypeVar, runtime_checkable

from penstock._native import Direct, Dispatch, Permit

__all__ = ["Direct", "Dispatch", "Permit", "Policy"]

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
