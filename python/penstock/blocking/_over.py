"""What the extension gives to be awaited where there is nothing to wait for."""

import types
from collections.abc import Generator

__all__ = ["OVER"]


@types.coroutine
def _nothing() -> Generator[None, None, None]:
    return
    yield


OVER = _nothing()
"""Awaiting it gives None at once, any number of times and on any thread: a generator that has ended stays as it is, and
the interpreter steps one that is marked as a coroutine without a call of `__await__`."""

for _ in OVER:
    pass
