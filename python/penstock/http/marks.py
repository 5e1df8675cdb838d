"""Whether a function is asynchronous: said of those that give another's coroutine, asked of those that are given."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

__all__ = ["asynchronous", "check_called"]

P = ParamSpec("P")
R = TypeVar("R")


def asynchronous(function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Has it be an asynchronous function to who asks: doubles, and libraries that repeat calls or run them on a thread.

    To be one, it would need a coroutine of its own around the other's, which costs each request a fortieth of its time.
    """
    if sys.version_info >= (3, 12):
        return inspect.markcoroutinefunction(function)
    # Only asyncio can be told so; `inspect` looks at the code.
    function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
    return function


def check_called(option: str, function: object) -> None:
    """Refuses what can't be called, or would have to be awaited.

    Raises:
        TypeError: It is such a thing.
    """
    if function is not None and (not callable(function) or inspect.iscoroutinefunction(function)):
        raise TypeError(f"{option}={function!r}: takes a function that is called, and not awaited")
