"""A response whose body is read while it arrives: its pieces on their way from the connection to the reader."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any

import penstock
from penstock._native import Budget, Head, Held, read_limit
from penstock.body.image import BodyImage, piece_size
from penstock.errors import PenstockError, RequestError
from penstock.headers import brief
from penstock.http.response import PIECE, Answer

if TYPE_CHECKING:
    import penstock.http.connection
    import penstock.http.exchange
    from penstock.http.exchange import Exchange

__all__ = ["TAKEN", "Incoming", "StreamedResponse"]

FULL = 512 << 10
"""Bytes that are received ahead of the reader; what the peer sends beyond stays in the kernel, and with the peer."""

MANY = 1024
"""Pieces that are: one has some hundreds of bytes of its own, however few it holds."""

TAKEN = "another task is still reading this response"


class Incoming:
    """Pieces that were received and not read yet, counted in the budget. One connection puts, one task takes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, budget: Budget) -> None:
        self._loop = loop
        self._held = Held(budget)
        self._pieces: collections.deque[memoryview] = collections.deque()
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._head: Head | None = None

    @property
    def is_full(self) -> bool:
        """Whether no more should come until its reader has taken some. Without budget it gets the next window when it
        has nothing left: so each that is read goes on, whatever others hold."""
        return self._size > FULL or len(self._pieces) > MANY or (self._size > 0 and self._held.is_short)

    @property
    def is_taken(self) -> bool:
        """Whether a task has begun to wait for the next piece, and hasn't gone on yet."""
        return self._waiter is not None

    @property
    def is_awaited(self) -> bool:
        """Whether its reader waits for more."""
        return self._waiter is not None and not self._waiter.done()

    def begin(self, head: Head) -> None:
        self._head = head
        self.wake()

    def put(self, pieces: list[memoryview]) -> None:
        self._pieces.extend(pieces)
        self._count(sum(map(len, pieces)))
        self.wake()

    def put_back(self, parts: list[bytes]) -> None:
        self._pieces.extendleft(memoryview(part) for part in reversed(parts))
        self._count(sum(map(len, parts)))

    def clear(self) -> None:
        """Drops what nobody will read."""
        self._pieces.clear()
        self._count(-self._size)

    def _count(self, more: int) -> None:
        self._size += more
        self._held.set(self._size)

    def wake(self, _: object = None) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    async def head(self, exchange: Exchange) -> Head:
        """The head, once it is there."""
        while self._head is None:
            if exchange.result.done():
                try:
                    # It failed: without a head nothing is complete.
                    return exchange.result.result()[0]
                finally:
                    # It has the error, which has this frame.
                    del exchange
            await self._wait()
        return self._head

    async def take(self, size: int, exchange: Exchange) -> memoryview | None:
        """The next piece, of at most `size` bytes; `None` at the end."""
        while not self._pieces:
            if exchange.result.done():
                if exchange.result.cancelled():
                    # Its response was closed, by another task than this.
                    return None
                try:
                    exchange.result.result()
                finally:
                    # It has the error, which has this frame.
                    del exchange
                return None
            await self._wait()
        piece = self._pieces.popleft()
        if len(piece) > size:
            self._pieces.appendleft(piece[size:])
            piece = piece[:size]
        self._count(-len(piece))
        return piece


class StreamedResponse(Answer):
    """A response of which the head is there, and whose body comes while it is read: what `client.stream` gives."""

    __slots__ = ("_connection", "_exchange", "_incoming", "_on_failed", "_over")

    decoded: tuple[str, ...]
    history: tuple[StreamedResponse, ...]

    def __init__(
        self,
        head: Head,
        url: str,
        elapsed: float,
        connection: penstock.http.connection.Connection,
        exchange: penstock.http.exchange.Exchange,
        on_failed: Callable[[BaseException], object] | None,
    ) -> None:
        super().__init__(head, url, elapsed)
        assert exchange.incoming is not None  # it is a stream
        self._incoming = exchange.incoming
        self._connection = connection
        self._exchange: Exchange | None = exchange
        self._on_failed = on_failed
        self._over = ""
        """Why nothing can be read any more, if there is no exchange."""

    async def stream(self, size: int = 65536) -> AsyncGenerator[memoryview, None]:
        """The body in pieces of at most `size` bytes, as they come; no more than half a MiB is received ahead, and at
        most 2 MiB more when codings are taken off.

        A view is good for as long as it is kept. Cancelled, it can be read on by another call.

        Raises:
            Truncated: The body ended early.
            Timeout: It came too slowly; while nobody reads, no time counts but `Timeouts.total`.
            BodyTooLong: It is longer than `Tunables.max_body`.
            RequestError: The response was closed, or one of these was raised before.
            RuntimeError: Another task is still reading: there is one at a time, for all ways to read.
        """
        size = piece_size(size)
        while (piece := await self._take(size)) is not None:
            yield piece

    async def read(self, limit: int | str | None = None) -> bytes:
        """The first `limit` bytes of what wasn't read yet, or all. Cancelled, it leaves all that came to another call;
        an error's `.partial` is what it had read."""
        left = read_limit(limit)
        parts: list[bytes] = []
        try:
            while left is None or left > 0:
                size = 1 << 20 if left is None else min(left, 1 << 20)
                piece = await self._take(size)
                if piece is None:
                    break
                parts.append(bytes(piece))
                left = None if left is None else left - len(piece)
        except asyncio.CancelledError:
            self._put_back(parts)
            raise
        except PenstockError as error:
            # One that has a part of something else, of what was sent, keeps it; nothing of this body was left.
            if hasattr(error, "partial") and not error.partial:
                error.partial = BodyImage.from_bytes(b"".join(parts))
            raise
        return b"".join(parts)

    async def _take(self, size: int) -> memoryview | None:
        """The next piece, of at most `size` bytes; `None` at the end."""
        if self._exchange is None:
            raise self._nothing_more()
        if self._incoming.is_taken:
            raise RuntimeError(TAKEN)
        try:
            piece = await self._incoming.take(size, self._exchange)
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:
            # The exchange has the error, which has this frame.
            self._end(f"it failed, {error!r}")
            if self._on_failed is not None:
                self._on_failed(error)
            raise
        if self._exchange is None:
            # It was closed meanwhile; what came is given all the same.
            if piece is None:
                raise self._nothing_more()
            self._incoming.clear()
            return piece
        if piece is None:
            # Known at the end only.
            self._head, _, self.decoded, _ = self._exchange.result.result()
        else:
            self._connection.taken(self._exchange)
        return piece

    def _put_back(self, parts: list[bytes]) -> None:
        self._incoming.put_back(parts)

    def _nothing_more(self) -> RequestError:
        return RequestError(f"nothing more can be read: {self._over}")

    def _end(self, why: str) -> None:
        self._exchange, self._over = None, why

    async def _pieces(self) -> AsyncGenerator[memoryview, None]:
        body = await self.read()
        try:
            async for piece in BodyImage.from_bytes(body).stream(PIECE, yield_between=len(body) > PIECE):
                yield piece
        except asyncio.CancelledError:
            self._put_back([body])
            raise

    async def aclose(self) -> None:
        """Ends the reading; unless all of the body has come, its connection is closed."""
        exchange = self._exchange
        if exchange is None:
            return
        result = exchange.result
        if result.done():
            if not result.cancelled():
                # It was told by `stream` and `read`, if anybody asked.
                result.exception()
            if not self._incoming.is_taken:
                # What came and was left isn't given later, whether it was little and all of the body or not.
                self._end("it was closed")
                self._incoming.clear()
            return
        self._end("it was closed")
        if result.get_loop().is_closed():
            # Nothing can be ended any more: its collection ends it.
            return
        # First: an error that nobody will ask for is told to no one.
        result.cancel()
        self._connection.abandon(exchange)
        if not self._incoming.is_taken:
            self._incoming.clear()

    def __repr__(self) -> str:
        return f"<StreamedResponse {self.status} {brief(self.reason)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # The body stays with its connection. Errors have responses, and are to pickle.
        return _without_body, (self._head, self.url, self.elapsed, self.decoded, self.history)


def _without_body(
    head: Head, url: str, elapsed: float, decoded: tuple[str, ...], history: tuple[StreamedResponse, ...]
) -> StreamedResponse:
    response = StreamedResponse.__new__(StreamedResponse)
    Answer.__init__(response, head, url, elapsed, decoded)
    response.history = history
    response._end("it is a copy, without the body")
    return response
