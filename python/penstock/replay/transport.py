"""`Replay`: recorded dialogs in place of the network."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from penstock._native import Tunables
from penstock.blocking._unique import Unique
from penstock.blocking.policy import Policy
from penstock.dialog import Dialog, Prolog
from penstock.http.marks import check_called
from penstock.replay.keys import by_url
from penstock.replay.store import Key, Source, Store

__all__ = ["Replay"]


class Replay(Unique):
    """Answers a client's requests from recorded dialogs, without a socket: `Client(transport=Replay(path))`.

    A request that was recorded more than once gets the answers in turn, and then the last one again and again. Bodies
    are shared, not copied; one that was recorded as it came is decoded if the client decodes. A HEAD that isn't
    recorded gets the head of the next GET, which keeps its turn.

    Args:
        source: An archive's path, or dialogs. An archive is opened and read through with the first request; records
            that are appended later are found when nothing else is. One whose URL is over 64 KiB is passed over.
        key: What requests and recorded dialogs are compared by; `None` is method and URL: without its fragment,
            and with host, port and an empty path as the client reads them.
        tunables: Limits of the bodies that are read from an archive, and where they go; `None` is `Tunables()`.
        policy: Runs what waits for the archive; `None` is the process's default pool.

    One event loop at a time may use it, and any number of clients, which leave it open. Use it as `async with`, or
    call `close`; its file is closed at the latest when it goes.
    """

    def __init__(
        self,
        source: Source,
        *,
        key: Key | None = None,
        tunables: Tunables | None = None,
        policy: Policy | None = None,
    ) -> None:
        check_called("key", key)
        compared = key if key is not None else by_url
        self._store = Store(source, lambda prolog: (compared(prolog),), tunables, policy)

    def __repr__(self) -> str:
        return f"<Replay {self._store}>"

    async def answer(self, prolog: Prolog, /) -> Dialog:
        """The dialog that was recorded for a request.

        Raises:
            NotRecorded: There is none; the message names the nearest.
            BodyTooLong: A recorded body is over `max_body`.
            ArchiveError, OSError: The archive can't be read, or was written anew.
            ValueError: It is closed.

        Cancelled, the dialog whose turn it was is passed over.
        """
        return await self._store.answer(prolog)

    def close(self) -> None:
        """Closes the archive's file; bodies stay good. Requests from then on are a `ValueError`."""
        self._store.close()

    async def aclose(self) -> None:
        """As `close`, without waiting for anything."""
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
