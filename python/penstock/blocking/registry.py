"""The pool that a context uses where none is named: `register` sets it, and the functions here go by it.

A registration belongs to the current `contextvars.Context`: a task registers for itself and for the tasks that it
starts afterwards, a thread that runs no loop for itself. `run` and `dispatch` carry the context, so a job sees the
registration of whoever submitted it; `submit` doesn't, as executors don't.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar, overload

from penstock._native import Direct, Dispatch, Future, Permit, Semaphore, default_pool
from penstock.blocking._ops import default_policy
from penstock.blocking.policy import Policy, checked
from penstock.blocking.pool import DispatchPool

__all__ = ["dispatch", "dispatch_or_permit", "register", "registered", "run_blocking"]

P = ParamSpec("P")
T = TypeVar("T")

_pool: ContextVar[DispatchPool | None] = ContextVar("penstock.registered", default=None)


def register(pool: DispatchPool | None, /) -> DispatchPool | None:
    """Make `pool` the one that this context uses where none is named; `None` ends the registration.

    Returns:
        The pool that was registered before, if there was one. A registration keeps its pool alive; ending it doesn't
        close the pool.

    Raises:
        TypeError: It is no pool.
    """
    if pool is not None and not isinstance(pool, DispatchPool):
        raise TypeError(f"{pool!r}: takes a DispatchPool, or None to end the registration")
    before = _pool.get()
    _pool.set(pool)
    return before


def registered() -> DispatchPool | None:
    """The pool that is registered in this context, if there is one."""
    return _pool.get()


def dispatch(fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
    """`DispatchPool.dispatch` on the registered pool, or else on the process's default pool.

    Raises:
        PoolFull: The queue is full, and this thread can neither be made to wait nor to help.
        PoolClosed: The pool takes no more jobs.
    """
    (_pool.get() or default_pool()).dispatch(fn, *args, **kwargs)


@overload
def run_blocking(  # type: ignore[overload-overlap]
    fn: Callable[..., T], /, *args: Any, policy: Direct | Dispatch | Permit | None, **kwargs: Any
) -> Future[T] | asyncio.Task[T]: ...
@overload
def run_blocking(  # type: ignore[overload-overlap]
    fn: Callable[..., T], /, *args: Any, policy: Policy, **kwargs: Any
) -> Awaitable[T]: ...
@overload
def run_blocking(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]: ...
def run_blocking(  # type: ignore[misc]
    fn: Callable[..., T], /, *args: Any, policy: Policy | None = None, **kwargs: Any
) -> Awaitable[T]:
    """Run a blocking function beside the event loop.

    Args:
        fn: The function; `args` and `kwargs` go to it, in a copy of the caller's context. A parameter of its own named
            `policy` can be given by `functools.partial`.
        policy: Where it runs; `None` is the registered pool, or else the process's default pool.

    Returns:
        The future of its result, or a task, which a `Permit` gives on penstock's own loop; of another policy, what
        that gives. Cancelled before the function has started, it never starts; after that it runs to its end and its
        result is dropped.

    Raises:
        TypeError: `policy` is none; or, when awaited: `fn` is an asynchronous function, which is to be awaited itself.
        RuntimeError: No asyncio loop runs on this thread; `DispatchPool.submit` needs none.
        PoolFull: The pool's queue is full, and its overflow policy is not to wait.
        PoolClosed: The pool takes no more jobs.
    """
    return (checked(policy) or _pool.get() or default_policy).run(fn, *args, **kwargs)


def dispatch_or_permit(
    semaphore: Semaphore, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> Future[T] | asyncio.Task[T]:
    """Run a blocking function on the registered pool, or else, where none is registered, under a permit.

    For libraries: an application that registered a pool has said how many threads there are, and the semaphore isn't
    touched; in any other, `semaphore` bounds how many of these calls run at once, as `Permit(semaphore)` does.

    Returns:
        The future of its result, or a task for it on penstock's own loop without a pool. Cancelled before the function
        has started, it never starts, and gives back its permit or its place in the queue; after that it runs to its
        end, holding its permit, and its result is dropped.

    Raises:
        PoolFull: The pool's queue is full, and its overflow policy is not to wait.
        PoolClosed: The pool takes no more jobs.
        SemaphoreClosed: When awaited, without a registered pool.
    """
    pool = _pool.get()
    if pool is None:
        return Permit(semaphore).run(fn, *args, **kwargs)
    return pool.run(fn, *args, **kwargs)
