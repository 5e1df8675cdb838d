"""What a policy is. The policies themselves are in the extension."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar, runtime_checkable

from penstock._native import Direct, Dispatch, Future, Permit

__all__ = ["Direct", "Dispatch", "Permit", "Policy"]

P = ParamSpec("P")
T = TypeVar("T")


@runtime_checkable
class Policy(Protocol):
    """Where a blocking function runs: `Direct()`, `Permit(semaphore)` or `Dispatch(pool)`."""

    def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Starts `fn(*args, **kwargs)` by this policy; await what it returns for the result."""

    def stats(self) -> dict[str, int]:
        """How many functions it has run (`count`) and how many run now (`running`)."""
