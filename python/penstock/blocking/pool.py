"""`DispatchPool` with the face of a `concurrent.futures.Executor`, and the process's default pool."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import ParamSpec, TypeVar

from penstock import _native
from penstock._native import Future, default_pool

__all__ = ["DispatchPool", "default_pool", "run_blocking"]

P = ParamSpec("P")
T = TypeVar("T")


class DispatchPool(_native.DispatchPool, Executor):
    """A fixed number of threads with one bounded queue."""


def run_blocking(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Runs a blocking function on the default pool."""
    return default_pool().run(fn, *args, **kwargs)
