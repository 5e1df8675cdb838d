"""`open`, and the archives that it and `AsyncArchive` give: the one for threads, the other for tasks."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar

from penstock import _native
from penstock._native import (
    ArchiveMender,
    ArchiveReader,
    ArchiveWalk,
    ArchiveWriter,
    Budget,
    Strategy,
    Tunables,
    refuse_in_loop,
)
from penstock.barc.record import Entry, Record, Repair
from penstock.blocking import Semaphore
from penstock.blocking._ops import perform
from penstock.blocking._unique import Unique
from penstock.blocking.policy import Policy, checked
from penstock.dialog import Dialog
from penstock.errors import ArchiveError
from penstock.headers import Headers

__all__ = ["Archive", "AsyncArchive", "AsyncRecords", "Records", "check_limits", "open", "repair"]

T = TypeVar("T")

PathLike = str | os.PathLike[str]
Mode = Literal["r", "a"]

MOST_DAMAGE = 1000
"""So many errors an archive keeps of what it went past."""


def open(
    path: PathLike,
    mode: Mode = "r",
    *,
    tunables: Tunables | None = None,
    budget: Budget | None = None,
    strategy: Strategy | None = None,
    keep_going: bool = False,
    fsync: bool = False,
    known_end: int = 0,
) -> Archive:
    """An archive, for threads; tasks use `AsyncArchive`.

    Args:
        path: The file.
        mode: `"r"` reads; `"a"` appends, too, and makes the file if it isn't there. There is one writer of a file at a
            time; it holds a lock on it (flock). What a writer that was killed has left behind the last complete record
            is cut off.
        tunables: Limits for the bodies that are read, and where files for them go; `None` is `Tunables()`. A body over
            `max_body_ram` is a slice of the archive, or, from a compressed record, goes to a file of its own.
        budget: What bodies count against; `None` is the process's.
        strategy: How records are written where `append` isn't told; `None` is `Strategy.plain()`.
        keep_going: Read on behind damage, which is then found in `Archive.damage`.
        fsync: `append` returns only when the record is on the disk. So is the name of a new file when it is open.
        known_end: With mode `"a"`: the end of some record, an `Entry.end` for example, to look for the last one from
            there instead of from the start.

    Raises:
        FileNotFoundError: No file to read from, or no directory to make it in.
        BlockingIOError: Another writer has the file.
        ArchiveError: The file to append to is damaged, so that readers wouldn't find what comes behind; see `repair`.
        BlockingInLoop: This thread runs an event loop.
    """
    refuse_in_loop("barc.open()", "use an AsyncArchive")
    archive = Archive(path, mode, strategy, keep_going)
    if mode == "a":
        archive._writer = ArchiveWriter.open_op(os.fspath(path), known_end, fsync)()
    try:
        archive._reader = ArchiveReader.open_op(os.fspath(path), tunables, budget)()
    except BaseException:
        archive.close()
        raise
    return archive


def repair(path: PathLike, *, progress: Callable[[int, int], object] | None = None) -> list[Repair]:
    """Mends a damaged archive in place; for threads, as it reads all of it.

    No record that can be read is moved, so that offsets stay good. At the end of the file, what isn't complete is cut
    off. Damage before other records becomes a record of its own: plain, without meta, with the damaged bytes as its
    response's body, for all readers to get past it. Nothing is changed before all is read. Then an `Index` beside the
    archive may have other numbers, and is removed, to be made anew.

    Args:
        path: The archive.
        progress: Is called now and then, with how many records and bytes were read since it was called last.

    Returns:
        What was mended, in order; an empty list if there was nothing to do.

    Raises:
        FileNotFoundError: There is no such file.
        BlockingIOError: A writer has it.
        ArchiveError: It has no record, and doesn't begin as an archive does: it is left as it is.
        ValueError: There are too few bytes for a record between others, and nothing is mended; copy the good ones to
            another file.
        BlockingInLoop: This thread runs an event loop.
    """
    refuse_in_loop("barc.repair()", "await run_blocking(barc.repair, path)")
    mender = ArchiveMender.open_op(path)()
    try:
        while any(read := mender.read_op()()):
            if progress is not None:
                progress(*read)
        mended = [Repair(*place) for place in mender.mend_op()()]
    finally:
        mender.close()
    if not all(place.cut for place in mended):
        from penstock.barc.index import forget

        # Of neighbours that were damaged there is one record now.
        forget(path)
    return mended


def _record(source: Dialog | Record) -> _native.Record:
    if isinstance(source, Dialog):
        return Record.from_dialog(source).native
    if isinstance(source, Record):
        return source.native
    raise TypeError(f"takes a Dialog, as Client.record gives, or a Record, not {type(source).__name__}")


def _place_and_meta(native: _native.Record) -> tuple[Entry, Headers]:
    assert native.offset is not None  # it was read
    assert native.end is not None
    return Entry(native.offset, native.end, native.compression), Headers(native.meta)


def check_limits(tunables: Tunables | None, budget: Budget | None = None) -> None:
    """For who keeps them until something is read.

    Raises:
        TypeError: It is something else.
    """
    if tunables is not None and not isinstance(tunables, Tunables):
        raise TypeError(f'tunables={tunables!r}: takes Tunables, as Tunables(max_body="1GiB")')
    if budget is not None and not isinstance(budget, Budget):
        raise TypeError(f'budget={budget!r}: takes a Budget, as Budget(ram="1GiB")')


class _Archive(Unique):
    """What the two have in common."""

    def __init__(self, path: PathLike, mode: Mode, strategy: Strategy | None, keep_going: bool) -> None:
        if mode not in ("r", "a"):
            raise ValueError(f"mode={mode!r}: 'r' or 'a'")
        if strategy is not None and not isinstance(strategy, Strategy):
            raise TypeError(f"strategy={strategy!r}: takes a Strategy, as Strategy.gzip()")
        self.path = path
        self.mode: Mode = mode
        self.strategy: Strategy = strategy or Strategy.plain()
        self.keep_going = keep_going
        self.damage: deque[ArchiveError] = deque(maxlen=MOST_DAMAGE)
        """With `keep_going`: what was gone past, the latest thousand of it. Each error's `.end` is where reading went
        on."""
        self._reader: ArchiveReader | None = None
        self._writer: ArchiveWriter | None = None

    def _reading(self) -> ArchiveReader:
        if self._reader is None:
            raise ValueError(f"{self!r}: not open")
        return self._reader

    def _writing(self) -> ArchiveWriter:
        self._reading()
        if self._writer is None:
            raise ValueError(f"{self!r}: open for reading; mode 'a' appends")
        if self._writer.is_inherited:
            raise ValueError(f"{self!r}: it was opened before this process was forked, and its lock is the parent's")
        return self._writer

    def _let_go(self) -> ArchiveWriter | None:
        """The writer that is to be closed: not the parent's."""
        writer, self._writer, self._reader = self._writer, None, None
        return None if writer is None or writer.is_inherited else writer

    def _walk(self, what: Literal["records", "metas", "entries"]) -> ArchiveWalk:
        return self._reading().walk(what, self.keep_going)

    @property
    def closed(self) -> bool:
        return self._reader is None

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"mode={self.mode!r}"
        return f"<{type(self).__name__} {os.fspath(self.path)!r} {state}>"

    def __del__(self, warn: Callable[..., None] = warnings.warn) -> None:
        if getattr(self, "_writer", None) is not None:
            warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=2)


class Records(Unique, Generic[T]):
    """An iterator over an archive that knows where it is."""

    def __init__(
        self,
        archive: _Archive,
        walk: ArchiveWalk,
        start: int,
        make: Callable[[Any], T],
        damage: deque[ArchiveError] | None = None,
    ) -> None:
        self._archive = archive
        self._walk = walk
        self._make = make
        self._damage = archive.damage if damage is None else damage
        self._items: deque[Any] = deque()
        self._fetched = self.offset = start

    offset: int
    """Where the next record begins. At the end of an archive that is still written, an iterator that starts here gives
    what comes later; after an error it is where the damaged record begins."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._archive!r} at {self.offset}>"

    def _take(self) -> T | None:
        """The next one that was fetched; damage that was gone past goes to the archive's list."""
        while self._items:
            item = self._items.popleft()
            if isinstance(item, ArchiveError):
                self._damage.append(item)
                assert item.end is not None
                self.offset = item.end
                continue
            made = self._make(item)
            self.offset = item[1] if isinstance(item, tuple) else item.end
            return made
        return None

    def _put(self, items: list[Any]) -> bool:
        self._items.extend(items)
        if items:
            last = items[-1]
            self._fetched = last[1] if isinstance(last, tuple) else last.end
        return bool(items)

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        while (taken := self._take()) is None:
            refuse_in_loop("iterating over an Archive", "use an AsyncArchive")
            self._archive._reading()
            if not self._put(self._walk.batch_op(self._fetched)()):
                raise StopIteration
        return taken


class AsyncRecords(Records[T]):
    """The same for tasks. Cancelled, it gives the same one next."""

    def __init__(self, *args: Any, policy: Policy | None) -> None:
        super().__init__(*args)
        self._policy = policy

    def __iter__(self) -> Iterator[T]:
        raise TypeError("an AsyncArchive is iterated over with 'async for'")

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        while (taken := self._take()) is None:
            self._archive._reading()
            at = self._fetched
            items = await perform(self._policy, self._walk.batch_op(at))
            # Another task may have gone on meanwhile.
            if at == self._fetched and not self._put(items):
                raise StopAsyncIteration
        return taken


class Archive(_Archive):
    """An archive for threads: see `open`. Any number of threads may read from it, and appends are made one by one.

    On the thread of a running event loop its methods raise `BlockingInLoop`, but for `close`, which waits there for an
    append of another thread.
    """

    def __iter__(self) -> Records[Record]:
        return self.records()

    def records(self, start: int = 0) -> Records[Record]:
        """The records from the offset `start` on, to the end of the file or to a record that is being written.

        Raises, when iterated over:
            ArchiveError: What is there is damaged, and `keep_going` wasn't given.
            BodyTooLong: A body is over `max_body`; `records(entry.end)` goes on behind it.
            StorageFull, BudgetExceeded, OSError: A body's file can't be made, or the archive not read.
        """
        return Records(self, self._walk("records"), start, Record.of)

    def entries(self, start: int = 0) -> Records[Entry]:
        """The places of the records from the offset `start` on: only heads are read."""
        return Records(self, self._walk("entries"), start, Entry._make)

    def metas(self, start: int = 0) -> Records[tuple[Entry, Headers]]:
        """The places of the records from the offset `start` on, each with its meta: what stands behind that isn't read,
        and may be damaged or over any limit."""
        return Records(self, self._walk("metas"), start, _place_and_meta)

    def read(self, offset: int) -> Record | None:
        """The record at `offset`; `None` at the end of the file, behind it, and where a record is being written.

        Raises: As `records`.
        """
        refuse_in_loop("Archive.read()", "use an AsyncArchive")
        native = self._reading().read_op(offset)()
        return native and Record.of(native, None)

    def append(self, dialog: Dialog | Record, *, strategy: Strategy | None = None) -> int:
        """Writes a record behind the others.

        Args:
            dialog: Bodies are read piece by piece, wherever they are.
            strategy: Whether it is compressed; `None` is the archive's.

        Returns:
            Its offset, by which `read` finds it.

        Raises:
            ValueError, HeadTooLong: What a record can't hold; nothing was written.
            OSError: The disk is full, or something without a lock wrote to the file. It is cut back to what it was. Or
                the file was deleted, or replaced by another: nothing was written.
        """
        refuse_in_loop("Archive.append()", "use an AsyncArchive")
        return self._writing().append_op(_record(dialog), strategy or self.strategy)()

    def check(self, start: int = 0) -> Iterator[Entry | ArchiveError]:
        """Reads everything from the offset `start` on: good records as entries, damage as errors."""
        damage: deque[ArchiveError] = deque()
        reader = self._reading()
        records = Records(self, reader.walk("verified", True), start, Entry._make, damage)
        reached: int | None = None
        # What is there is unfinished only if nothing came of it once more: a writer may be at work.
        while records.offset != reached:
            reached = records.offset
            for entry in records:
                while damage:
                    yield damage.popleft()
                yield entry
            while damage:
                yield damage.popleft()
            if (left := reader.size()) <= records.offset:
                return
        message = f"record at byte {records.offset} of the archive: its writer hasn't finished it"
        yield ArchiveError(message, offset=records.offset, kind="unfinished", end=left)

    def close(self) -> None:
        """Gives the lock on the file back, when an append of another thread is over. Bodies that are slices of it stay
        good."""
        if (writer := self._let_go()) is not None:
            writer.close_op()()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncArchive(_Archive):
    """An archive for tasks: what waits for the disk is run by a policy.

    Args: Those of `open`, which happens when it is entered with `async with`, and
        policy: Runs what waits; `None` is the process's default pool.

    Appends are made one at a time, in the order in which they were asked for.
    """

    def __init__(
        self,
        path: PathLike,
        mode: Mode = "r",
        *,
        policy: Policy | None = None,
        tunables: Tunables | None = None,
        budget: Budget | None = None,
        strategy: Strategy | None = None,
        keep_going: bool = False,
        fsync: bool = False,
        known_end: int = 0,
    ) -> None:
        super().__init__(path, mode, strategy, keep_going)
        check_limits(tunables, budget)
        self._policy = checked(policy)
        self._options = (tunables, budget, fsync, known_end)
        # For any number of loops, which asyncio's lock isn't.
        self._turn = Semaphore(1)

    async def __aenter__(self) -> Self:
        """Opens it, with the errors of `open` but `BlockingInLoop`. Cancelled, it is closed."""
        tunables, budget, fsync, known_end = self._options
        path = os.fspath(self.path)
        if self.mode == "a":
            self._writer = await perform(self._policy, ArchiveWriter.open_op(path, known_end, fsync))
        try:
            self._reader = await perform(self._policy, ArchiveReader.open_op(path, tunables, budget))
        except BaseException:
            await self.aclose()
            raise
        return self

    def __aiter__(self) -> AsyncRecords[Record]:
        return self.records()

    def records(self, start: int = 0) -> AsyncRecords[Record]:
        """As `Archive.records`, for `async for`. What is small is read a few records at a time. Cancelled, it goes on
        with the same record."""

        def make(native: _native.Record) -> Record:
            return Record.of(native, self._policy)

        return AsyncRecords(self, self._walk("records"), start, make, policy=self._policy)

    def entries(self, start: int = 0) -> AsyncRecords[Entry]:
        """As `Archive.entries`, for `async for`."""
        return AsyncRecords(self, self._walk("entries"), start, Entry._make, policy=self._policy)

    def metas(self, start: int = 0) -> AsyncRecords[tuple[Entry, Headers]]:
        """As `Archive.metas`, for `async for`."""
        return AsyncRecords(self, self._walk("metas"), start, _place_and_meta, policy=self._policy)

    async def read(self, offset: int) -> Record | None:
        """As `Archive.read`. Cancelled, nothing is left."""
        native = await perform(self._policy, self._reading().read_op(offset))
        return native and Record.of(native, self._policy)

    async def append(self, dialog: Dialog | Record, *, strategy: Strategy | None = None) -> int:
        """As `Archive.append`. Cancelled before it has begun, nothing is written; after that the record is written to
        its end, and its offset is lost to the caller."""
        record = _record(dialog)
        # Before its turn, which in a forked child may never come.
        self._writing()
        async with self._turn:
            return await perform(self._policy, self._writing().append_op(record, strategy or self.strategy))

    async def aclose(self) -> None:
        """Gives the lock on the file back when the append in flight is over. Bodies that are slices of it stay good.
        Cancelled, it goes on without you."""
        if (writer := self._let_go()) is not None:
            # Not to be interrupted: the next writer waits for this one.
            closing = asyncio.ensure_future(perform(self._policy, writer.close_op()))
            await asyncio.shield(closing)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
