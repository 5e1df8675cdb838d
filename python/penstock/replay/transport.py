"""`Replay`: recorded dialogs in place of the network."""

from __future__ import annotations

from penstock._native import Tunables
from penstock.blocking.policy import Policy
from penstock.dialog import Dialog, Prolog
from penstock.replay.store import Key, Source, Store

__all__ = ["Replay"]


class Replay:
    """Answers a client's requests from recorded dialogs, without a socket: `Client(transport=Replay(path))`.

    A request that was recorded more than once gets the answers in turn, and then the last one again and again. Bodies
    are shared, not copied; one that was recorded as it came is decoded if the client decodes. A HEAD that isn't
    recorded gets the head of the GET.

    Args:
        source: An archive's path, or dialogs. An archive is opened and read through with the first request; records
            that are appended later are found when nothing else is.
        key: What requests and recorded dialogs are compared by; `None` is method and URL without its fragment.
        tunables: Limits of the bodies that are read from an archive, and where they go; `None` is `Tunables()`.
        policy: Runs what waits for the archive; `None` is the process's default pool.

    One event loop at a time may use it. Its file is closed when it goes.
    """

    def __init__(
        self,
        source: Source,
        *,
        key: Key | None = None,
        tunables: Tunables | None = None,
        policy: Policy | None = None,
    ) -> None:
        compared = key if key is not None else by_url
        self._store = Store(source, lambda prolog: (compared(prolog),), tunables, policy)

    async def answer(self, prolog: Prolog, /) -> Dialog:
        """The dialog that was recorded for a request.

        Raises:
            NotRecorded: There is none; the message names the nearest.
            BodyTooLong: A recorded body is over `max_body`.
            ArchiveError, OSError: The archive can't be read.

        Cancelled, the dialog whose turn it was is passed over.
        """
        return await self._store.answer(prolog)


def by_url(prolog: Prolog) -> tuple[str, str]:
    return prolog.method, prolog.url.partition("#")[0]
