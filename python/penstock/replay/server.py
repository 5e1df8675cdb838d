"""`ReplayServer`: recorded dialogs over HTTP, on a socket of this machine."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Hashable, Iterator
from types import TracebackType
from typing import Any, Self

from penstock._native import Tunables
from penstock.blocking._unique import Unique
from penstock.blocking.policy import Policy
from penstock.dialog import Prolog
from penstock.errors import LimitExceeded, NotRecorded, PenstockError
from penstock.headers import headers_of
from penstock.http.marks import check_called
from penstock.replay.keys import behind_host, by_path, by_url_and_path, by_url_of_others
from penstock.replay.messages import PIECE, Peer, Reply, plain, read_body, read_head, recorded
from penstock.replay.store import Key, Keys, Source, Store

__all__ = ["ReplayServer", "serving"]

log = logging.getLogger(__name__)

CONNECTIONS = 1000
"""Open connections; a further one waits."""

OnAnswer = Callable[[str, str, int], object]


class ReplayServer(Unique):
    """Serves recorded answers, for `async with`: `url` is where.

    A request for `/path?query` gets what was recorded for that on the host of its Host field, by http or https, and
    else on any host; one for a whole URL, as clients send it to a proxy, what was recorded for that. Programs escape a
    URL differently: `|` is `%7C`, `%c3` is `%C3`, and `%7E` is `~`. Answers come in turn, as from `Replay`. What isn't
    recorded is a 404 that names what has the nearest path.

    The recorded head is sent byte for byte where the dialog has it in its trace, and else with the names in lower case
    that an archive keeps. Made anew are the version, the fields about connection and framing, and, when the body was
    recorded decoded, content-encoding, which is left out. Trailers are left out.

    Args:
        source: An archive's path, or dialogs.
        host: The address to listen on, IPv4 or IPv6; a `ValueError` if it is empty.
        port: 0 takes a free one.
        key: What requests and recorded dialogs are compared by, in place of the above. What is asked has the URL that
            the request names, with this server's address where it gives a path only.
        tunables: Limits of the requests' bodies, which are collected for `key`, and of those that are read from an
            archive; `None` is `Tunables()`.
        policy: Runs what waits for files; `None` is the process's default pool.
        on_answer: Called with method, URL and status of each answer.
    """

    def __init__(
        self,
        source: Source,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        key: Key | None = None,
        tunables: Tunables | None = None,
        policy: Policy | None = None,
        on_answer: OnAnswer | None = None,
    ) -> None:
        if not isinstance(host, str):
            raise TypeError(f"host={host!r}: takes an address as a str")
        if not host:
            raise ValueError("host='': not an address; '0.0.0.0' is all of this machine's")
        if isinstance(port, bool) or not isinstance(port, int):
            raise TypeError(f"port={port!r}: not an int")
        if not 0 <= port <= 65535:
            raise ValueError(f"port={port}: not from 0 to 65535")
        check_called("key", key)
        check_called("on_answer", on_answer)
        self._address = (host, port)
        self._tunables = tunables if tunables is not None else Tunables()
        self._policy = policy
        self._on_answer = on_answer
        compared = key if key is not None else by_url_of_others

        def whole(prolog: Prolog) -> Iterator[Hashable]:
            yield compared(prolog)

        self._whole: Keys = whole
        self._path: Keys = by_path if key is None else whole
        self._store = Store(source, by_url_and_path if key is None else whole, tunables, policy, behind_host)
        self._loop: asyncio.AbstractEventLoop
        self._listener: socket.socket | None = None
        self.port: int = port
        """Where it listens, once it is entered."""
        self._conversations: set[asyncio.Task[None]] = set()
        self.answered: int = 0
        """Requests that had an answer."""
        self.missed: int = 0
        """Requests that weren't recorded."""

    @property
    def recorded(self) -> int:
        """How many dialogs there are."""
        return self._store.size

    @property
    def url(self) -> str:
        """`http://address:port`, to put before a path."""
        host = self._address[0]
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def __repr__(self) -> str:
        at = "" if self._listener is None else f" at {self.url}"
        return f"<ReplayServer{at} {self._store}>"

    async def __aenter__(self) -> Self:
        """Reads through the archive, and listens.

        Raises:
            ArchiveError: It is damaged.
            OSError: It isn't there, or the address can't be listened on.
        """
        try:
            await self._store.read_on()
            self._start()
        except BaseException:
            self._store.close()
            raise
        return self

    def _start(self) -> None:
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        self._listener = socket.create_server(self._address, family=family)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._loop = asyncio.get_running_loop()
        self._listen()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes all connections, and the archive's file."""
        listener, self._listener = self._listener, None
        if listener is not None:
            self._loop.remove_reader(listener)
            listener.close()
        for task in self._conversations:
            task.cancel()
        try:
            if self._conversations:
                await asyncio.wait(self._conversations)
        finally:
            self._store.close()

    # Not asyncio's own server: closed in the turn in which it accepts, that leaves a socket behind.

    def _listen(self) -> None:
        if self._listener is not None:
            self._loop.add_reader(self._listener, self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            log.warning("accepts no connections for a second: %s", error)
            self._loop.remove_reader(listener)
            self._loop.call_later(1, self._listen)
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def end(task: asyncio.Task[None]) -> None:
            self._conversations.discard(task)
            connection.close()
            self._listen()

        task = self._loop.create_task(self._converse(Peer(connection)))
        self._conversations.add(task)
        # Not in the task itself: one that is cancelled before its first step never gets there.
        task.add_done_callback(end)
        if len(self._conversations) >= CONNECTIONS:
            self._loop.remove_reader(listener)

    async def _converse(self, peer: Peer) -> None:
        try:
            while await self._serve(peer):
                pass
            await peer.leave()
        except (ConnectionError, TimeoutError):
            # It has gone, or says nothing more.
            pass
        except Exception:
            log.exception("a connection was closed")

    async def _serve(self, peer: Peer) -> bool:
        """Whether another request may follow."""
        try:
            asked = await read_head(peer, self.url)
            body = await read_body(asked, peer, self._tunables, self._policy)
            prolog = Prolog(method=asked.method, url=asked.url, req_headers=headers_of(asked.fields), req_body=body)
        except (ValueError, LimitExceeded) as error:
            await self._send(peer, plain(400, f"{error}\n"), keep=False)
            return False
        try:
            keys = self._whole if asked.whole else self._path
            reply = recorded(await self._store.answer(prolog, keys), asked.method)
            self.answered += 1
        except NotRecorded as error:
            self.missed += 1
            reply = plain(404, f"{error}\n")
        except Exception as error:
            # The archive's, or that of `key`.
            log.warning("%s %s: %r", asked.method, asked.url, error)
            reply = plain(500, f"{type(error).__name__}: {error}\n")
        if self._on_answer is not None:
            self._on_answer(asked.method, asked.url, reply.status)
        try:
            await self._send(peer, reply, keep=asked.keep, bodiless=asked.method == "HEAD")
        except (ConnectionError, TimeoutError):
            raise
        except (PenstockError, OSError) as error:
            # The archive's, in the middle of a body: who asked sees that it isn't all.
            log.warning("%s %s: %r", asked.method, asked.url, error)
            return False
        return asked.keep

    async def _send(self, peer: Peer, reply: Reply, *, keep: bool, bodiless: bool = False) -> None:
        await peer.send(reply.head if keep else reply.head[:-2] + b"connection: close\r\n\r\n")
        if not bodiless:
            async for view in reply.body.stream(PIECE, policy=self._policy):
                await peer.send(view)


@contextlib.contextmanager
def serving(source: Source, **options: Any) -> Iterator[ReplayServer]:
    """A `ReplayServer` on a thread with a loop of its own, for `with`: for tests and programs without asyncio.

    Args: Those of `ReplayServer`.

    Raises: As entering it.
    """
    started: concurrent.futures.Future[ReplayServer] = concurrent.futures.Future()

    async def serve() -> None:
        try:
            async with ReplayServer(source, **options) as server:
                started.set_result(server)
                # Until it is cancelled.
                await asyncio.Event().wait()
        except BaseException as error:
            if started.done():
                raise
            # Whatever it is, whoever waits for the start has it.
            started.set_exception(error)

    # Made here: whoever waits for the start can stop it by then.
    runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
    loop = runner.get_loop()
    task = loop.create_task(serve())
    begun = threading.Lock()

    def run() -> None:
        with runner:
            runner.run(asyncio.wait([task]))

    def begin() -> None:
        if begun.acquire(blocking=False):
            run()

    thread = threading.Thread(target=begin, name="penstock-replay")
    try:
        thread.start()
        yield started.result()
    finally:
        # It may be over by itself.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(task.cancel)
        if begun.acquire(blocking=False):
            # None can be had, or Ctrl-C came before it began: what it would have run ends here.
            task.cancel()
            run()
        # Nor is one joined that has not begun.
        with contextlib.suppress(RuntimeError):
            thread.join()
