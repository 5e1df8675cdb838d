"""Which recorded dialog answers a request: what the client's transport and the server have in common."""

from __future__ import annotations

import asyncio
import bisect
import hashlib
import os
from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple

from penstock._native import Tunables
from penstock.barc import AsyncArchive, Record
from penstock.barc.archive import AsyncRecords, check_limits
from penstock.blocking import Semaphore
from penstock.blocking.policy import Policy, checked
from penstock.dialog import Dialog, Prolog, with_history
from penstock.errors import ArchiveError, BodyTooLong, NotRecorded
from penstock.replay.keys import whole

__all__ = ["Key", "Keys", "Source", "Store"]

Source = str | os.PathLike[str] | Iterable[Dialog]
"""An archive's path, or dialogs; redirects before them, in their `trace.history`, are recorded, too."""

Key = Callable[[Prolog], Hashable]
"""What requests that get the same answers have in common. Called on the loop, for what is asked and, once, for what is
recorded."""

Keys = Callable[[Prolog], Iterable[Hashable]]
"""All that a dialog is found by; of what is asked, the first one that was recorded counts."""

RUN = 4096
"""Requests that are kept in order together."""

LONG = 2048
"""Characters of a text that is kept as it is. An archive may have any of a MiB, each in a KiB of the file."""

LONGEST = 64 << 10
"""Characters of a URL that may be replayed: a server's request has no longer one, and none is free to look at."""


class _Place(NamedTuple):
    """Where a dialog is in the archive, and of what it was when that was read through."""

    offset: int
    method: str
    url: Hashable
    """Of a long one, its digest."""


class Store:
    """Recorded dialogs by keys of which each has several.

    Of an archive only the places of its records are kept. What is appended to it later is found, too.
    """

    def __init__(
        self,
        source: Source,
        keys: Keys,
        tunables: Tunables | None,
        policy: Policy | None,
        near: Callable[[str], str] = whole,
    ) -> None:
        check_limits(tunables)
        self._keys = keys
        self._tunables = tunables
        self._policy = checked(policy)
        self._found: dict[Hashable, list[Dialog | _Place]] = {}
        self._turns: dict[Hashable, int] = {}
        self._asked = _Asked(near)
        self.size = 0
        """How many dialogs it has."""
        self._path: str | os.PathLike[str] | None = None
        self._archive: AsyncArchive | None = None
        self._records: AsyncRecords[Record] | None = None
        # asyncio's lock would stay with the first loop on which a task had to wait for it.
        self._opening = Semaphore(1)
        self._closed = False
        if isinstance(source, str | os.PathLike):
            self._path = source
        elif isinstance(source, bytes) or not isinstance(source, Iterable):
            raise TypeError(f"source={type(source).__name__}: takes an archive's path as a str, or dialogs")
        else:
            for last in source:
                for dialog in with_history(last):
                    self._add(dialog.prolog, dialog)

    def _add(self, prolog: Prolog, place: Dialog | _Place) -> None:
        self.size += 1
        if len(prolog.url) <= LONG:
            self._asked.add(prolog.url, prolog.method)
        for key in self._keys(prolog):
            self._found.setdefault(_kept(key), []).append(place)

    def __str__(self) -> str:
        """How much there is, of what."""
        source = "" if self._path is None else f" of {os.fspath(self._path)!r}"
        return f"{self.size} recorded{source}{' closed' if self._closed else ''}"

    async def answer(self, prolog: Prolog, keys: Keys | None = None) -> Dialog:
        """The dialog whose turn it is; for a HEAD that isn't recorded, that of the GET, its body included.

        Args:
            prolog: What is asked.
            keys: What it is looked for by; `None` is all that it would be found by.

        Raises:
            NotRecorded: There is none.
            ArchiveError, OSError: The archive can't be read.
            ValueError: It is closed.
        """
        keys = keys or self._keys
        self._check()
        dialog = await self._find(prolog, keys)
        if dialog is None:
            await self.read_on()
            dialog = await self._find(prolog, keys)
        if dialog is None:
            raise self._not_recorded(prolog)
        return dialog

    def _check(self) -> None:
        if self._closed:
            raise ValueError("the replay is closed")

    async def _find(self, prolog: Prolog, keys: Keys) -> Dialog | None:
        dialog = await self._next(keys(prolog))
        if dialog is None and prolog.method == "HEAD":
            get = Prolog(method="GET", url=prolog.url, req_headers=prolog.req_headers)
            # The turn is the next GET's.
            if (dialog := await self._next(keys(get), step=0)) is not None:
                return dialog.replace(method="HEAD")
        return dialog

    async def _next(self, keys: Iterable[Hashable], step: int = 1) -> Dialog | None:
        for key in map(_kept, keys):
            if places := self._found.get(key):
                turn = self._turns.get(key, 0)
                # The last one again and again.
                self._turns[key] = min(turn + step, len(places) - 1)
                return await self._read(places[turn])
        return None

    async def _read(self, place: Dialog | _Place) -> Dialog:
        if isinstance(place, Dialog):
            return place
        self._check()
        assert self._archive is not None  # the place is one in it
        record = await self._archive.read(place.offset)
        if record is None:
            raise _gone(place, "it isn't there any more", kind="short")
        dialog = record.dialog()
        if (dialog.method, _kept(dialog.url)) != (place.method, place.url):
            # The file was written anew, and its answer is to something else.
            was = f"{place.method} {place.url}" if isinstance(place.url, str) else "another"
            raise _gone(place, f"it is {dialog.method} {dialog.url[:LONG]}, and was {was}", kind="rewritten")
        return dialog

    async def read_on(self) -> None:
        """Takes in what the archive has by now. Any number of tasks may: they share the work."""
        if self._path is None:
            return
        if self._records is None:
            async with self._opening:
                await self._open(self._path)
        records = self._records
        assert records is not None  # it was opened
        try:
            async for record in records:
                try:
                    prolog = record.dialog().prolog
                except ArchiveError:
                    # It has bytes that were damaged, or what something else put there.
                    continue
                if len(prolog.url) > LONGEST:
                    continue
                assert record.offset is not None  # it was read
                self._add(prolog, _Place(record.offset, prolog.method, _kept(prolog.url)))
                if len(prolog.url) > LONG:
                    # To read such a one takes milliseconds.
                    await asyncio.sleep(0)
        except BodyTooLong as error:
            error.args = (f"record at byte {records.offset} of the archive: {error}",)
            raise

    async def _open(self, path: str | os.PathLike[str]) -> None:
        if self._records is None:
            archive = AsyncArchive(path, policy=self._policy, tunables=self._tunables)
            await archive.__aenter__()
            if self._closed:
                await archive.aclose()
            self._check()
            self._archive, self._records = archive, archive.records()

    def close(self) -> None:
        """Lets go of the archive, whose file is closed once nobody reads from it."""
        self._closed = True
        self._archive = self._records = None

    def _not_recorded(self, prolog: Prolog) -> NotRecorded:
        near = self._asked.nearest(prolog.url, prolog.method)
        message = f"nothing is recorded for {prolog.method} {prolog.url}"
        if near == (prolog.method, prolog.url):
            message += " by this key; what is has another (key=)"
        elif near is not None:
            message += f"; the nearest of {len(self._asked)} is {near[0]} {near[1]}"
        return NotRecorded(message, request=prolog.method, url=prolog.url, nearest=near)


def _kept(key: Hashable) -> Hashable:
    """The key as it is kept: of one that is long text, which would be memory, a digest."""
    parts = key if isinstance(key, tuple) else (key,)
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) == len(parts) and sum(map(len, texts)) > LONG:
        return hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return key


def _gone(place: _Place, what: str, kind: str) -> ArchiveError:
    message = f"record at byte {place.offset} of the archive: {what}"
    return ArchiveError(message, offset=place.offset, kind=kind)


class _Asked:
    """URLs and methods in order, in runs that are short: neither adding one nor looking for one holds the loop up,
    however many there are."""

    def __init__(self, near: Callable[[str], str]) -> None:
        self._near = near
        """What of a URL counts."""
        self._all: set[tuple[str, str, str]] = set()
        self._runs: list[list[tuple[str, str, str]]] = [[]]

    def __len__(self) -> int:
        return len(self._all)

    def add(self, url: str, method: str) -> None:
        one = (self._near(url), method, url)
        if one not in self._all:
            self._all.add(one)
            if len(self._runs[-1]) == RUN:
                self._runs.append([])
            bisect.insort(self._runs[-1], one)

    def nearest(self, url: str, method: str) -> tuple[str, str] | None:
        """Method and URL of the one that begins with the most characters in common."""
        asked = (self._near(url), method, url)
        near = []
        for run in self._runs:
            at = bisect.bisect(run, asked)
            near += run[max(at - 1, 0) : at + 1]
        found = max(near, key=lambda one: _alike(one[0], asked[0]), default=None)
        return found and found[1:]


def _alike(one: str, other: str) -> int:
    """How many characters two texts begin with in common."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
