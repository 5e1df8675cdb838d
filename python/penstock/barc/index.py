"""Offsets of an archive's records by number, kept in a file beside it: to open a large archive at any record, or for
appending, without following all of its heads."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import overload

from penstock.barc.archive import Archive
from penstock.errors import ArchiveError

__all__ = ["Index", "forget"]

MAGIC = b"BARCIDX1"

HEAD = 54
"""Bytes of a record's head."""

LOOKED_AT = 16
"""At most so many records, and the last one, are looked at to tell whether an index is the archive's."""


def forget(path: str | os.PathLike[str]) -> None:
    """Removes the index beside an archive, if it has one, and if that can be done."""
    beside = Path(f"{os.fspath(path)}.index")
    with contextlib.suppress(OSError):
        # Whatever else goes by that name stays.
        if beside.is_file():
            with beside.open("rb") as file:
                ours = file.read(len(MAGIC)) == MAGIC
            if ours:
                beside.unlink()


class Index(Sequence[int]):
    """The offsets of an archive's records, in order: `archive.read(index[n])` is its record number `n`."""

    def __init__(self) -> None:
        self._offsets = array("Q")
        self.end: int = 0
        """Where the last record ends: `open(path, "a", known_end=index.end)` looks for the end from there."""

    @classmethod
    def of(cls, archive: Archive, path: str | os.PathLike[str] | None = None) -> Index:
        """The index of an archive, for threads: read from its file, brought up to date, and saved if it has grown.

        One that goes past damage is not saved: `repair` makes a record of that.

        Args:
            archive: Read by heads, from where the file's index ends.
            path: The index's file; `None` is the archive's with `.index` behind it. One that is missing, or isn't of
                this archive by the few records that are looked at, is made anew.

        Raises:
            ArchiveError: The archive is damaged, and wasn't opened with `keep_going`.
            OSError: A file can't be read or written.
        """
        if not isinstance(archive, Archive):
            raise TypeError(f"takes an Archive, as barc.open gives, not {type(archive).__name__}")
        path = os.fspath(archive.path) + ".index" if path is None else path
        index = cls()
        try:
            with open(path, "rb") as file:
                # Whatever else goes by that name may be of any size.
                most = len(MAGIC) + 8 * (archive._reading().size() // HEAD + 1)
                data = file.read(most + 1)
            if len(data) > most:
                raise ValueError("more numbers than the archive has records")
            index._parse(data)
        except (FileNotFoundError, ValueError):
            index = cls()
        if not index._fits(archive):
            index = cls()
        known, whole = len(index), True
        for entry in archive.entries(index.end):
            whole = whole and entry.offset == index.end
            index._offsets.append(entry.offset)
            index.end = entry.end
        if whole and len(index) > known:
            index._save(path)
        return index

    def _fits(self, archive: Archive) -> bool:
        """Whether the last record is still where it was, and some of those before it are."""
        if not self or self.end > archive._reading().size():
            return False
        # Whatever stands there, the archive isn't damaged by that.
        walk = archive._reading().walk("entries", False)
        last = len(self) - 1
        for number in (last, *range(0, last, last // LOOKED_AT + 1)):
            place = self[number], self.end if number == last else self[number + 1]
            try:
                found = walk.batch_op(self[number])()
            except ArchiveError:
                return False
            if not found or found[0][:2] != place:
                return False
        return True

    def _parse(self, data: bytes) -> None:
        if not data.startswith(MAGIC):
            raise ValueError("not an index")
        self._offsets.frombytes(data[len(MAGIC) :])
        if sys.byteorder == "big":
            self._offsets.byteswap()
        self.end = self._offsets.pop() if self._offsets else 0

    def _save(self, path: str | os.PathLike[str]) -> None:
        numbers = self._offsets[:]
        numbers.append(self.end)
        if sys.byteorder == "big":
            numbers.byteswap()
        draft = Path(f"{os.fspath(path)}.{secrets.token_hex(4)}.part")
        try:
            draft.write_bytes(MAGIC + numbers.tobytes())
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise

    @overload
    def __getitem__(self, number: int) -> int: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[int]: ...
    def __getitem__(self, number: int | slice) -> int | Sequence[int]:
        return self._offsets[number]

    def __len__(self) -> int:
        return len(self._offsets)

    def __repr__(self) -> str:
        return f"<Index of {len(self)} records to {self.end}>"
