"""What a policy is, and `run_blocking`, which takes one. The policies themselves are in the extension."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar, runtime_checkable

from penstock._native import Direct, Dispatch, Future, Permit

__all__ = ["Direct", "Dispatch", "Permit", "Policy", "run_blocking"]

P = ParamSpec("P")
T = TypeVar("T")


@runtime_checkable
class Policy(Protocol):
    """Where a blocking function runs: `Direct()`, `Permit(semaphore)` or `Dispatch(pool)`."""

    def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Starts `fn(*args, **kwargs)` by this policy; await what it returns for the result."""

    def stats(self) -> dict[str, int]:
        """How many functions it has run (`count`) and how many run now (`running`)."""


_default = Dispatch()


def run_blocking(fn: Callable[..., T], /, *args: Any, policy: Policy | None = None, **kwargs: Any) -> Future[T]:
    """Run a blocking function beside the event loop.

    Args:
        fn: The function; `args` and `kwargs` go to it, in a copy of the caller's context.
        policy: Where it runs; `None` is `Dispatch()`, the process's default pool.

    Returns:
        The future of its result. Cancelled before the function has started, it never starts; after that it runs to its
        end and its result is dropped.

    Raises:
        PoolFull: The pool's queue is full, and its overflow policy is not to wait.
        PoolClosed: The pool takes no more jobs.
    """
    return (policy or _default).run(fn, *args, **kwargs)
