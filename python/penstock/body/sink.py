"""The sinks: `BodySink` for threads and `AsyncBodySink` for tasks. Both collect a body in memory until it is larger
than `Tunables.max_body_ram`, or the budget has no more, and then in a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self

from penstock import _native
from penstock._native import Budget, Direct, Tunables, refuse_in_loop
from penstock.blocking._ops import ignored, perform
from penstock.blocking.policy import Policy, checked
from penstock.body.image import BodyImage, Buffer
from penstock.errors import BodyTooLong

__all__ = ["AsyncBodySink", "BodySink"]


class _Sink(_native.Sink):
    """What the two have in common."""

    @property
    def state(self) -> Literal["ram", "file"]:
        """Where the body is."""
        return "ram" if self.is_ram else "file"

    def __repr__(self) -> str:
        if self.closed:
            return f"<{type(self).__name__} closed>"
        return f"<{type(self).__name__} {self.state} {len(self)} bytes>"

    def __del__(self, warn: Callable[..., None] = warnings.warn) -> None:
        if not self.closed and len(self):
            warn(f"{self!r} was neither prepared nor closed", ResourceWarning, source=self, stacklevel=2)


class BodySink(_Sink):
    """Collects a body, synchronously: for threads. Source: upstream's `BodySink`.

    Args:
        tunables: Limits and places; `None` is `Tunables()`.
        budget: What memory, disk and descriptors are counted against; `None` is the process's.
        size_hint: The expected length in bytes: over `max_body_ram` the body goes to its file from the first byte. A
            wrong one does no harm; nothing is allocated for it, and no limit is taken from it.
    """

    def __new__(
        cls, tunables: Tunables | None = None, *, budget: Budget | None = None, size_hint: int | None = None
    ) -> Self:
        return super().__new__(cls, tunables, budget, size_hint)

    def write(self, data: Buffer) -> None:
        """Takes `bytes` without a copy, and a copy of any other buffer.

        Raises:
            BodyTooLong: The body would be over `max_body`. Nothing of `data` is taken, and the sink is closed;
                `.partial` is the image of what it had.
            BudgetExceeded, StorageFull, OSError: A file was needed and could not be made or written. The sink keeps
                what it has, `data` included: `prepare` tries once more. But for BudgetExceeded, further ones are an
                `OSError`, and take nothing.
            BlockingInLoop: A file has to be written and this thread runs an event loop; `data` was taken.
        """
        try:
            self.take(data)
        except BodyTooLong as error:
            error.partial = BodyImage(self.salvage()())
            raise
        self._work(all_of_it=False)

    push = write

    def _work(self, *, all_of_it: bool) -> None:
        while (op := self.work(all_of_it)) is not None:
            try:
                if not self.is_ram:
                    refuse_in_loop("a BodySink's write", "use an AsyncBodySink")
                op()
            finally:
                # An error keeps this frame, and the write would be out for as long as somebody keeps the error.
                del op

    def write_back(self) -> None:
        """Moves the body to a file now, whatever its size.

        Raises:
            BudgetExceeded, StorageFull, OSError, BlockingInLoop: As `write`.
            ValueError: The sink is closed.
        """
        self.spill()
        self._work(all_of_it=True)

    def prepare(self) -> BodyImage:
        """The image of all that was written; an empty one is in memory. The sink is closed afterwards.

        Raises:
            BudgetExceeded, StorageFull, OSError, BlockingInLoop: As `write`. The sink keeps what it has, and may be
                asked again.
            ValueError: The sink is closed.
        """
        self.retry()
        self._work(all_of_it=True)
        return BodyImage(self.finish())

    def close(self) -> None:
        """Drops what was collected."""
        self.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncBodySink(_Sink):
    """Collects a body for a task: what waits for the disk is run by a policy, one write at a time, in order.

    Args:
        tunables: Limits and places; `None` is `Tunables()`.
        policy: Runs the writes; `None` is the process's default pool.
        budget: What memory, disk and descriptors are counted against; `None` is the process's.
        size_hint: The expected length in bytes, as for `BodySink`.

    One task at a time may write. Source: upstream's `AsyncBodySink`, `PermitBodySink` and `DispatchBodySink`.
    """

    _policy: Policy | None
    _writing: asyncio.Task[None] | None

    def __new__(
        cls,
        tunables: Tunables | None = None,
        *,
        policy: Policy | None = None,
        budget: Budget | None = None,
        size_hint: int | None = None,
    ) -> Self:
        sink = super().__new__(cls, tunables, budget, size_hint)
        sink._policy = checked(policy)
        sink._writing = None
        return sink

    async def write(self, data: Buffer) -> None:
        """Takes `bytes` without a copy, and a copy of any other buffer.

        A body in memory doesn't suspend. One in a file does while more than a megabyte waits for the write that is out;
        while all sinks together have more than 32 MiB unwritten, while anything does. Cancelled, `data` was taken, and
        a write that had begun goes on.

        Raises: As `BodySink.write`, except `BlockingInLoop`.
        """
        try:
            self.take(data)
        except BodyTooLong as error:
            await self._settled()
            error.partial = BodyImage(await perform(self._policy, self.salvage()), self._policy)
            raise
        except OSError:
            # It says that a write failed before: what that failed with comes first, if nobody was told of it.
            await self._settled()
            raise
        if isinstance(self._policy, Direct):
            while (op := self.work(False)) is not None:
                self._policy.perform(op)
        else:
            self._begin()
            while self._writing is not None and self.crowded:
                await self._settled()
                self._begin()

    def _begin(self) -> None:
        """Starts the next write, if there is one to be made and none in flight."""
        if self._writing is not None and self._writing.done():
            writing, self._writing = self._writing, None
            try:
                writing.result()
            finally:
                # It has the error, which has this frame, and the body with it.
                del writing
        if self._writing is None and (op := self.work(False)) is not None:
            self._writing = asyncio.get_running_loop().create_task(perform(self._policy, op))

    async def _settled(self) -> None:
        """Waits until no write is in flight; what fails is raised here."""
        while (writing := self._writing) is not None:
            # Whoever waits may be cancelled; the write goes on.
            await asyncio.wait([writing])
            # Another task that waited may have begun the next one.
            if self._writing is writing:
                self._writing = None
            try:
                writing.result()
            finally:
                # It has the error, which has this frame, and the body with it.
                del writing

    async def write_back(self) -> None:
        """Moves the body to a file now, whatever its size. Cancelled, the write that is under way goes on.

        Raises: As `BodySink.write_back`, except `BlockingInLoop`.
        """
        self.spill()
        await self._flush()

    async def _flush(self) -> None:
        await self._settled()
        while (op := self.work(True)) is not None:
            if isinstance(self._policy, Direct):
                self._policy.perform(op)
            else:
                # Its own task, for the sink to know of it if whoever waits is cancelled.
                self._writing = asyncio.get_running_loop().create_task(perform(self._policy, op))
                await self._settled()

    async def prepare(self) -> BodyImage:
        """The image of all that was written; an empty one is in memory. The sink is closed afterwards.

        Raises: As `BodySink.prepare`, except `BlockingInLoop`.

        Cancelled, the sink is as it was.
        """
        await self._settled()
        self.retry()
        await self._flush()
        return BodyImage(self.finish(), self._policy)

    async def aclose(self) -> None:
        """Drops what was collected, when the write in flight is over. A `write` that another task waits for raises
        `ValueError`."""
        # First, so that no other write begins meanwhile.
        self.discard()
        # The body is dropped, and so is what went wrong with it, or does when this wait was cancelled.
        if self._writing is not None:
            self._writing.add_done_callback(ignored)
        with contextlib.suppress(Exception):
            await self._settled()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
