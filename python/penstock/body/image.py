"""`BodyImage`: a body as a value. The bytes, and what waits for them, are the extension's; here is the choice of the
thread, and the faces that Python programs expect: iteration, a binary file, pickling.
"""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, Self, overload

from penstock import _native
from penstock._native import Budget, Direct, Op, Tunables, read_limit
from penstock.blocking._ops import default_policy, perform
from penstock.blocking.policy import Policy, checked
from penstock.body.reader import ImageReader

if TYPE_CHECKING:
    from typing_extensions import Buffer
else:
    # Any is taken, but only Python 3.12 has a name for them.
    Buffer = bytes | bytearray | memoryview

__all__ = ["TURN", "BodyImage", "Buffer", "piece_size"]

SOON = 256 << 10
"""Bytes that a loop may copy out of the page cache in one go; more are for a thread."""

TURN = 1 << 20
"""Bytes that a stream gives before the event loop gets a turn."""


class Writable(Protocol):
    """What `write_to` writes to: a binary file, or a raw one that may take less than it is given."""

    def write(self, data: memoryview, /) -> int | None: ...


def piece_size(size: int) -> int:
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"size={size!r}: not an int")
    if size < 1:
        raise ValueError(f"size={size}: a piece has at least one byte")
    return size


class BodyImage(_native.Image):
    """A body: immutable, cheap to share, readable from many tasks and threads at once.

    Its `state` is "ram", "file" (a file without a name, or a slice of one) or "mmap". Methods that may touch a file are
    awaited and run by the image's policy; for a body in memory they don't suspend. The synchronous ones are for
    threads: on the thread of a running event loop they raise `BlockingInLoop` if the image is in state "file", unless
    its policy is `Direct()`; `chunks` and `open` leave that to what they give, when it is read.

    Made by a client's response, `collect`, a sink, `from_bytes` and `from_path`. Pickles by value, out of band with
    protocol 5. Source: upstream's `BodyImage`.
    """

    __slots__ = ()

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """A body in memory: `bytes` are kept without a copy, any other buffer is copied."""
        return cls(_native.Image.from_buffer(data))

    @classmethod
    def from_path(
        cls,
        path: str | os.PathLike[str],
        *,
        offset: int = 0,
        length: int | None = None,
        trusted: bool = False,
        policy: Policy | None = None,
    ) -> Self:
        """A file from outside as a body.

        Args:
            path: Opened now, on this thread, and kept open; in a task, give the call to `run_blocking`.
            offset: Where the body begins, in bytes.
            length: Its length in bytes; `None` is all that follows.
            trusted: Promise that nobody truncates the file or writes to it while the image lives. Only then is it
                mapped by `to_mmap`, because reading a mapping behind the end of its file kills the process (SIGBUS);
                otherwise it is read.
            policy: Runs what waits for the disk from then on.

        Raises:
            OSError: The file can't be opened, or has no length of its own, as pipes, devices and files of /proc.
            ValueError: `offset` and `length` lie outside it.
        """
        return cls(_native.Image.open_path(path, offset, length, trusted), checked(policy))

    # Synchronous, for threads

    def chunks(self, size: int | None = None) -> Iterator[memoryview]:
        """Read-only views of at most `size` bytes, without a copy where the body is in memory or mapped.

        `None` is 64 KiB, or what `Tunables.buffer_size_fs` was for a body that was moved to a file.

        Raises, when iterated over:
            Truncated: The file has become shorter than the body.
        """
        return self.reader(self.piece if size is None else piece_size(size))

    def gather(self) -> BodyImage:
        """The body in memory in one piece: itself, if it is that or not in memory."""
        return self if self.state != "ram" or self.contiguous else BodyImage(self.gather_now(), self._policy)

    def mmap(self) -> BodyImage:
        """The body mapped and populated, if it is in a file, or read to memory, if that isn't trusted; else itself.

        Raises: As `to_mmap`.
        """
        return BodyImage(self.mmap_now(), self._policy) if self.state == "file" else self

    def write_to(self, file: Writable) -> int:
        """Writes all of it to a binary file; returns the bytes written.

        Raises:
            Truncated: The body's file has become shorter than the body.
            BlockingIOError: `file` is a raw one, and takes nothing now.
            Exception: What `file.write` raises.
        """
        total = 0
        for piece in self.chunks(1 << 20):
            left = piece
            while left:
                written = file.write(left)
                if not written:
                    raise BlockingIOError(f"the file took nothing after {total} of {len(self)} bytes")
                total += written
                left = left[written:]
        return total

    @overload
    def open(self, buffering: None = None) -> io.BufferedReader: ...
    @overload
    def open(self, buffering: int) -> BinaryIO: ...
    def open(self, buffering: int | None = None) -> BinaryIO:
        """A seekable binary file to read the body from, with a position of its own; `buffering=0` is a raw one, `None`
        as for `chunks`. A buffer is no longer than the body."""
        raw = ImageReader(self)
        if buffering is None:
            buffering = self.piece
        elif isinstance(buffering, bool) or not isinstance(buffering, int):
            raise TypeError(f"buffering={buffering!r}: not an int")
        elif buffering < 0:
            raise ValueError(f"buffering={buffering}: a size, or 0 for none")
        elif buffering:
            buffering = min(buffering, len(self) or 1)
        # A raw file has all that its callers use of BinaryIO, as open(buffering=0) gives one.
        return io.BufferedReader(raw, buffering) if buffering else raw  # type: ignore[return-value]

    # Awaitable

    async def read(self, limit: int | str | None = None) -> bytes:
        """The first `limit` bytes, or all.

        A few that the kernel's page cache holds are given at once, as are those of a body in memory or mapped.
        Cancelled, the read runs to its end and its result is dropped.

        Raises:
            Truncated: The file has become shorter than the body.
        """
        most = None if limit is None else read_limit(limit)
        if self.state != "file" or isinstance(self._policy, Direct):
            return self.read_now(most)
        count = len(self) if most is None else min(most, len(self))
        if count <= SOON and (found := self.read_soon(most)) is not None:
            return found
        return await (self._policy or default_policy).run(self.read_now, most)

    async def stream(
        self, size: int | None = None, *, policy: Policy | None = None, yield_between: bool = False
    ) -> AsyncGenerator[memoryview, None]:
        """Read-only views of at most `size` bytes, in order.

        What is in memory, mapped, or in the kernel's page cache is given at once; the policy is used only for what
        would have to be waited for, and for pieces of more than a MiB that are copied out of a file. After each MiB the
        event loop gets a turn all the same, so that many large bodies at hand don't stall it. A view is good for as
        long as it is kept.

        Args:
            size: Bytes of a piece at most, `None` as for `chunks`; the pieces of a scattered body may be shorter.
            policy: Instead of the image's.
            yield_between: Let the event loop turn once after each piece (upstream's `YieldBodyImage`).

        Raises:
            Truncated: The file has become shorter than the body.
        """
        policy = checked(policy) or self._policy
        reader = self.reader(self.piece if size is None else piece_size(size))
        given = 0
        while (step := reader.step()) is not None:
            if isinstance(step, Op):
                piece = policy.perform(step) if isinstance(policy, Direct) else await perform(policy, step)
                if piece is None:
                    return
            else:
                piece = step
            yield piece
            given += len(piece)
            if yield_between or given >= TURN:
                given = 0
                await asyncio.sleep(0)

    async def to_ram(self) -> BodyImage:
        """The body in memory in one piece; itself, if it is that.

        It isn't counted against a budget: the caller has chosen it. Cancelled, the read runs to its end and its result
        is dropped.

        Raises:
            Truncated: The file has become shorter than the body.
        """
        if self.state == "ram":
            return self.gather()
        return BodyImage(await perform(self._policy, self.to_ram_op()), self._policy)

    async def to_mmap(self) -> BodyImage:
        """The body mapped, and read in off the loop, if it is in a file; else itself. A file that isn't trusted is read
        to memory instead. Cancelled, that runs to its end and its result is dropped.

        Raises:
            Truncated: The file has become shorter than the body.
            OSError: It can't be mapped or read.
        """
        if self.state != "file":
            return self
        return BodyImage(await perform(self._policy, self.to_mmap_op()), self._policy)

    async def decode(
        self,
        codings: str | Iterable[str],
        *,
        max_body: int | str | None = None,
        tunables: Tunables | None = None,
        budget: Budget | None = None,
        policy: Policy | None = None,
    ) -> BodyImage:
        """The body with codings taken off, in one go on the policy's pool; itself, if it is empty or there are none.

        Args:
            codings: Up to four of gzip, deflate, br and zstd, in the order in which they were applied: names, or the
                value of a Content-Encoding header. Case doesn't matter, and `identity` is none.
            max_body: Bytes that may come out, instead of the tunables'.
            tunables: Limits and places; `None` is `Tunables()`.
            budget: What is counted against; `None` is the process's.
            policy: Runs the decoding; `None` is the image's.

        Raises:
            UnsupportedEncoding: A coding that isn't decoded.
            DecodeError: The body isn't what `codings` says.
            Truncated: It was cut.
            DecodedTooLong: More than `max_body`, or more than `Tunables.max_ratio` allows.
            BudgetExceeded, StorageFull, OSError: As for a sink.

        No error has a `.partial` but `None`: the image is as it was. Cancelled, the decoding runs to its end and its
        result is dropped.
        """
        names = _names(codings)
        op = self.decode_op(names, _limited(tunables, max_body), _shared(budget))
        return BodyImage(await perform(checked(policy) or self._policy, op), self._policy)

    async def encode(
        self,
        codings: str | Iterable[str],
        *,
        level: int | None = None,
        max_body: int | str | None = None,
        tunables: Tunables | None = None,
        budget: Budget | None = None,
        policy: Policy | None = None,
    ) -> BodyImage:
        """The body with codings put on, the first of them first; as `decode`.

        Args:
            level: 0 to 9 for gzip and deflate (usually 6), 0 to 11 for br (5), 1 to 22 for zstd (3).

        Raises:
            ValueError: A coding doesn't have that level.
            BodyTooLong: More than `max_body` came out.
        """
        names = _names(codings)
        op = self.encode_op(names, level, _limited(tunables, max_body), _shared(budget))
        return BodyImage(await perform(checked(policy) or self._policy, op), self._policy)

    async def save(self, path: str | os.PathLike[str], *, overwrite: bool = False, fsync: bool = False) -> None:
        """Makes `path` a file with this body, never half written.

        A body in a file of the same file system is given the name, without a copy, and is read from then on where it
        would be mapped; otherwise, and if it was mapped before, it is copied, by reflink where that works.

        Args:
            path: Where; its directory must exist.
            overwrite: Replace a file that is there, atomically.
            fsync: Return only when the file and its name are on the disk.

        Raises:
            FileExistsError: `path` is there and `overwrite` is false.
            Truncated: The body's file has become shorter than the body.
            StorageFull: No space.
            OSError: Anything else that the file system says.

        Cancelled once it has begun, it goes on: the file may be there, complete.
        """
        await perform(self._policy, self.save_op(path, overwrite, fsync))

    # Values

    def __repr__(self) -> str:
        return f"<BodyImage {self.state} {len(self)} bytes>"

    def __bool__(self) -> bool:
        return len(self) > 0

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        if protocol >= 5:
            # Whoever pickles has it; nobody else is to wait for it at `import penstock`.
            from pickle import PickleBuffer

            return _unpickled, ([PickleBuffer(view) for view in self.views()], self.digests)
        return _unpickled, ([bytes(self)], self.digests)


def _names(codings: str | Iterable[str]) -> list[str]:
    if isinstance(codings, str):
        return [codings]
    if isinstance(codings, bytes) or not isinstance(codings, Iterable):
        raise TypeError(f'codings={codings!r}: takes names, as "gzip", or a list of them')
    return list(codings)


def _shared(budget: Budget | None) -> Budget:
    return Budget.shared() if budget is None else budget


def _limited(tunables: Tunables | None, max_body: int | str | None) -> Tunables:
    if tunables is None:
        return Tunables(max_body=max_body)
    if max_body is None:
        return tunables
    most = Tunables(max_body=max_body).max_body
    return tunables.replace(max_body=most, max_body_ram=min(most, tunables.max_body_ram))


def _unpickled(pieces: list[Any], digests: dict[str, str]) -> BodyImage:
    return BodyImage(_native.Image.from_buffers(pieces, digests))
