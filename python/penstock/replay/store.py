"""Which recorded dialog answers a request: what the client's transport and the server have in common."""

from __future__ import annotations

import bisect
import os
from collections.abc import AsyncIterator, Callable, Hashable, Iterable

from penstock._native import Tunables
from penstock.barc import AsyncArchive, Record
from penstock.blocking.policy import Policy
from penstock.dialog import Dialog, Prolog
from penstock.errors import ArchiveError, NotRecorded

__all__ = ["Key", "Source", "Store"]

Source = str | os.PathLike[str] | Iterable[Dialog]
"""An archive's path, or dialogs; redirects before them, in their `trace.history`, are recorded, too."""

Key = Callable[[Prolog], Hashable]
"""What requests that get the same answers have in common. Called on the loop, for what is asked and, once, for what is
recorded."""


class Store:
    """Recorded dialogs by keys of which each has several.

    Of an archive only the places of its records are kept. What is appended to it later is found, too.
    """

    def __init__(
        self,
        source: Source,
        keys: Callable[[Prolog], Iterable[Hashable]],
        tunables: Tunables | None,
        policy: Policy | None,
    ) -> None:
        self._keys = keys
        self._tunables = tunables
        self._policy = policy
        self._found: dict[Hashable, list[Dialog | int]] = {}
        self._turns: dict[Hashable, int] = {}
        self._asked: set[tuple[str, str]] = set()
        self.size = 0
        """How many dialogs it has."""
        self._path: str | os.PathLike[str] | None = None
        self._archive: AsyncArchive | None = None
        self._records: AsyncIterator[Record] | None = None
        if isinstance(source, str | os.PathLike):
            self._path = source
        else:
            for last in source:
                for dialog in (*last.trace.history, last):
                    self._add(dialog.prolog, dialog)

    def _add(self, prolog: Prolog, place: Dialog | int) -> None:
        self.size += 1
        self._asked.add((prolog.url, prolog.method))
        for key in self._keys(prolog):
            self._found.setdefault(key, []).append(place)

    async def answer(self, prolog: Prolog) -> Dialog:
        """The dialog whose turn it is; for a HEAD that isn't recorded, that of the GET, its body included.

        Raises:
            NotRecorded: There is none.
            ArchiveError, OSError: The archive can't be read.
        """
        dialog = await self._find(prolog)
        if dialog is None:
            await self.read_on()
            dialog = await self._find(prolog)
        if dialog is None:
            raise self._not_recorded(prolog)
        return dialog

    async def _find(self, prolog: Prolog) -> Dialog | None:
        dialog = await self._next(prolog)
        if dialog is None and prolog.method == "HEAD":
            get = Prolog(method="GET", url=prolog.url, req_headers=prolog.req_headers)
            if (dialog := await self._next(get)) is not None:
                return dialog.replace(method="HEAD")
        return dialog

    async def _next(self, prolog: Prolog) -> Dialog | None:
        for key in self._keys(prolog):
            if places := self._found.get(key):
                turn = self._turns.get(key, 0)
                # The last one again and again.
                self._turns[key] = min(turn + 1, len(places) - 1)
                return await self._read(places[turn])
        return None

    async def _read(self, place: Dialog | int) -> Dialog:
        if isinstance(place, Dialog):
            return place
        assert self._archive is not None  # the place is one in it
        record = await self._archive.read(place)
        assert record is not None  # complete records stay
        return record.dialog()

    async def read_on(self) -> None:
        """Takes in what the archive has by now. Any number of tasks may: they share the work."""
        if self._path is None:
            return
        if self._records is None:
            archive = AsyncArchive(self._path, policy=self._policy, tunables=self._tunables)
            await archive.__aenter__()
            # Another task may have been faster.
            if self._records is None:
                self._archive, self._records = archive, archive.records()
        async for record in self._records:
            try:
                prolog = record.dialog().prolog
            except ArchiveError:
                # It has bytes that were damaged, or what something else put there.
                continue
            assert record.offset is not None  # it was read
            self._add(prolog, record.offset)

    def _not_recorded(self, prolog: Prolog) -> NotRecorded:
        asked = sorted(self._asked)
        at = bisect.bisect(asked, (prolog.url, prolog.method))
        near = max(asked[max(at - 1, 0) : at + 1], key=lambda one: _alike(one[0], prolog.url), default=None)
        message = f"nothing is recorded for {prolog.method} {prolog.url}"
        if near is not None:
            message += f"; the nearest of {len(asked)} is {near[1]} {near[0]}"
        return NotRecorded(
            message,
            request=prolog.method,
            url=prolog.url,
            nearest=None if near is None else (near[1], near[0]),
        )


def _alike(one: str, other: str) -> int:
    """How many characters two URLs begin with in common."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
