"""`DispatchPool` with the face of a `concurrent.futures.Executor`, and the iterator of `map_unordered`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Executor
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from penstock import _native
from penstock._native import Future

__all__ = ["DispatchPool", "Unordered"]

A = TypeVar("A")
T = TypeVar("T")


class DispatchPool(_native.DispatchPool, Executor):
    """A fixed number of threads with one bounded queue, for blocking functions and penstock's own native work.

    Args:
        threads: How many; `max_workers` is another name. By default min(32, usable CPUs + 4), by affinity and cgroup
            quota; 32,768 at most.
        queue_length: So many jobs may wait for a thread, 16,384 by default. 0 makes no threads and needs `"caller"`.
        overflow: What happens when the queue is full. `"wait"`: the await goes on waiting, threads that submit are
            blocked, and `dispatch` and `submit` on a loop's thread raise `PoolFull`. `"refuse"`: `PoolFull`.
            `"caller"`: the oldest job runs on the calling thread, but never on one that runs a loop, where it is
            `PoolFull`.
        drain_threads: How many threads may take over sockets beside the others, started at first need.
        name_prefix: A thread's name is this and its index; `penstock-N-` by default. The kernel shows 15 bytes of it.
        after_start: Called with the index on each thread before its first job; what it raises fails the constructor,
            which waits for it, and hears no Ctrl-C meanwhile.
        before_stop: Called with the index on each thread after its last job; what it raises is logged.
        stack_size: Of each thread, in bytes or as a string with a unit; the platform's by default, 32 KiB at least.

    The threads start with the constructor. `close()` (or `with`, or `await aclose()`, or `async with`) lets queued jobs
    run and waits for the threads; a pool that is dropped unclosed warns, but one that its `before_stop` refers to lives
    until it is closed. At the interpreter's exit queued jobs run. In a forked child the threads start afresh with the
    first job, and what was queued is the parent's alone.
    """

    __slots__ = ()

    def map_unordered(self, fn: Callable[[A], T], items: Iterable[A], *, window: int | None = None) -> Unordered[T]:
        """Call `fn` with each item on the threads of the pool; iterate over the results as they come.

        Args:
            fn: The function; each call gets a copy of the context in which the iteration goes on.
            items: Taken one by one, on the loop's thread, as there is room in the window; may be endless.
            window: At most so many calls are queued, run, or have a result that wasn't taken yet; by default twice the
                threads of the pool, at least 1.

        Returns:
            An asynchronous iterator. The first exception of a call is raised from it and ends it. When it ends so, is
            closed (`aclose()`), or is dropped (`break`, a cancelled task), calls that no thread has taken never run;
            those that run go on to their ends, and their results are dropped. A cancelled `anext()` loses no result.

        Raises:
            ValueError: `window` is less than 1, or more than there can be.
            PoolFull: While iterating, if the pool's queue is full and its overflow policy isn't to wait.
            PoolClosed: While iterating.
        """
        if window is None:
            window = max(1, 2 * self.threads)
        if isinstance(window, bool) or not isinstance(window, int):
            raise TypeError(f"window={window!r}: not an int")
        if not 1 <= window <= sys.maxsize:
            raise ValueError(f"window={window}: not from 1 to {sys.maxsize}")
        return Unordered(lambda item: self.run(fn, item), items, window)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


class Unordered(AsyncIterator[T], Generic[T]):
    """What `DispatchPool.map_unordered` gives."""

    # No reference leads from a call's future back to here, so that the last one dropped ends it.
    __slots__ = ("_ended", "_items", "_pending", "_start", "_waiting", "_window")

    def __init__(self, start: Callable[[Any], Future[T]], items: Iterable[Any], window: int) -> None:
        self._pending: set[Future[T]] = set()
        self._start = start
        self._items = iter(items)
        self._window = window
        self._ended: asyncio.Queue[Future[T]] = asyncio.Queue()
        self._waiting = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """The result of the call that ends next. For one task at a time."""
        if self._waiting:
            raise RuntimeError("another task, or what gives the items, waits for the next result of this iterator")
        self._waiting = True
        try:
            self._fill()
            if not self._pending:
                raise StopAsyncIteration
            future = await self._ended.get()
        finally:
            self._waiting = False
        if future not in self._pending:
            # Closed meanwhile, which cancels what is pending.
            raise StopAsyncIteration
        self._pending.discard(future)
        try:
            return future.result()
        except StopAsyncIteration as error:
            self._end()
            # As it is, it would look like the end of the items.
            raise RuntimeError("a call raised StopAsyncIteration") from error
        except BaseException:
            self._end()
            raise
        finally:
            # It has the error, which has this frame, and those of whoever iterates.
            del future

    def _fill(self) -> None:
        try:
            for item in itertools.islice(self._items, self._window - len(self._pending)):
                future = self._start(item)
                self._pending.add(future)
                future.add_done_callback(self._ended.put_nowait)
        except BaseException:
            self._end()
            raise

    async def aclose(self) -> None:
        """End the iteration; calls that no thread has taken never run. Doesn't wait for those that run."""
        self._end()

    def _end(self) -> None:
        self._items = iter(())
        drop(self._pending)
        self._pending.clear()

    def __del__(self) -> None:
        # Left half way, by whichever thread collects it; a loop that is closed runs none of its futures' callbacks.
        if self._pending:
            loop = next(iter(self._pending)).get_loop()
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(drop, self._pending)


def drop(futures: Iterable[Future[Any]]) -> None:
    """Cancel what can be; nobody will look at the others' exceptions."""
    for future in futures:
        if not future.cancel() and not future.cancelled():
            future.exception()
