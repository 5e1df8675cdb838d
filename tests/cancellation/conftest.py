"""A cancelled await gives all back: tests cancel in every await that suspends, and at every turn of the loop, until
one that came too late.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from typing import Any

import penstock
from penstock._native import settle

from tests.http.conftest import slow_disk, storing, storing_by

__all__ = ["Held", "cancel_everywhere", "slow_disk", "storing", "storing_by"]


LOOPS_TIMER = "anon_inode:[timerfd]"
"""What a loop has from its first batch of finished jobs on: no body has one."""


def descriptors() -> Iterator[str]:
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            yield os.readlink(f"/proc/self/fd/{name}")


class Held:
    """What the process holds that a body may hold."""

    def __init__(self, *pools: penstock.DispatchPool, semaphore: penstock.Semaphore | None = None) -> None:
        slabs = penstock.stats()["slabs"]
        self.figures = {
            "lent": slabs["lent"],
            "unwritten": slabs["unwritten"],
            "files": penstock.stats()["budget"]["files"]["used"],
            "descriptors": len([link for link in descriptors() if link != LOOPS_TIMER]),
            "tasks": len(asyncio.all_tasks()),
            "draining": sum(pool.stats()["draining"] for pool in pools),
            "jobs": sum(pool.stats()["queued"] + pool.stats()["running"] for pool in pools),
            "permits": semaphore.permits - semaphore.free if semaphore else 0,
            "waiting for permits": semaphore.waiting if semaphore else 0,
        }
        self._pools, self._semaphore = pools, semaphore

    async def is_given_back(self) -> None:
        """Waits, for large things are freed by another thread, but not for ever."""
        end = time.monotonic() + 10
        while True:
            now = Held(*self._pools, semaphore=self._semaphore).figures
            over = {name: (now[name], before) for name, before in self.figures.items() if now[name] > before}
            if not over:
                return
            assert time.monotonic() < end, f"held now and before: {over}"
            await asyncio.sleep(0.001)
            if time.monotonic() > end - 9.9:
                # Not only a thread that isn't done: something in a cycle.
                gc.collect()
                settle(1)


class Stepped:
    """Awaits a coroutine, and cancels the task that does when it suspends for the `at`-th time."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], at: int) -> None:
        self._coroutine, self._at = coroutine, at
        self.suspended = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        thrown: list[BaseException] = []
        while True:
            try:
                # Not kept in this frame: the traceback has it, and so it would be in a cycle.
                waits_for = self._coroutine.throw(thrown.pop()) if thrown else self._coroutine.send(None)
            except StopIteration as end:
                return end.value
            task = asyncio.current_task()
            if self.suspended == self._at and task is not None:
                task.cancel()
            self.suspended += 1
            try:
                yield waits_for
            except BaseException as error:  # what the loop throws is the coroutine's
                thrown.append(error)


async def cancel_everywhere(
    make: Callable[[], Coroutine[Any, Any, Any]],
    after: Callable[[], Awaitable[None]],
    *,
    most: int = 400,
    step: Callable[[], Awaitable[None]] | None = None,
) -> int:
    """Runs `make()` and cancels it in its first, second, ... await that suspends, then after 0, 1, 2, ... turns of the
    loop, until it has ended before; awaits `after` each time. Returns how often it was cancelled after turns."""
    for at in range(most):
        stepped = Stepped(make(), at)
        task = asyncio.ensure_future(stepped)
        await asyncio.wait([task])
        if not task.cancelled():
            assert task.exception() is None
        del task
        await after()
        if stepped.suspended <= at:
            break
    for turns in range(most):
        task = asyncio.create_task(make())
        for _ in range(turns):
            if step is not None and turns > 60:
                await step()
            await asyncio.sleep(0)
            if task.done():
                break
        if task.done():
            await task
            await after()
            return turns
        task.cancel()
        await asyncio.wait([task])
        # Cancelled, or complete because that came too late; nothing else.
        if not task.cancelled():
            assert task.exception() is None
        del task
        await after()
    raise AssertionError(f"not done after {most} turns of the loop")
