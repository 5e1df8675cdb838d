"""A gate that holds up jobs, and a look at what a loop's exception handler is told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest


class Gate:
    """A job that runs until the gate is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self._entered = threading.Semaphore(0)

    def __call__(self) -> None:
        self._entered.release()
        assert self.open.wait(20)

    def wait_entered(self, n: int = 1) -> None:
        """Until so many jobs have begun."""
        for _ in range(n):
            assert self._entered.acquire(timeout=20)


class Handler:
    """What a loop's exception handler was told."""

    def __init__(self) -> None:
        self.contexts: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.contexts.append(context))


def abandon(task: asyncio.Task[Any]) -> None:
    """Tells a task that is left on purpose apart from a forgotten one, which asyncio warns of."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]


async def turns(n: int = 5) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture
def make_gate() -> type[Gate]:
    return Gate
