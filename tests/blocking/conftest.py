"""A gate that holds up jobs."""

from __future__ import annotations

import threading
from collections.abc import Iterator

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


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture
def make_gate() -> type[Gate]:
    return Gate
