"""What `Client.record` keeps of its requests while they are made: the bodies that are sent, and when what happened."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import functools
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from penstock.blocking.policy import Policy
from penstock.body.image import BodyImage
from penstock.body.sink import AsyncBodySink
from penstock.dialog import EMPTY, Dialog, Prolog, RequestRecord, Trace
from penstock.errors import BudgetExceeded
from penstock.headers import headers_in
from penstock.http.content import Content, piece_of
from penstock.http.deadlines import with_patience
from penstock.http.exchange import Exchange
from penstock.http.response import Response
from penstock.http.settings import Settings

__all__ = ["Tape"]

PIECE = 256 << 10
"""Bytes of a part of a form that are read at once."""


class Tape:
    """The dialogs of one call, for `async with`: redirects, and the one in the end."""

    def __init__(self) -> None:
        self.dialogs: list[Dialog] = []
        self._sinks: list[AsyncBodySink] = []

    def begin(self, exchange: Exchange) -> Take:
        """A request is about to be sent, maybe for the second time; from now on by way of what keeps it.

        Raises:
            HeadTooLong: It couldn't be recorded.
        """
        content, settings, sink = exchange.request.content, exchange.settings, None
        if content is not None and (content.source is not None or len(content.parts) > 1):
            sink = AsyncBodySink(
                settings.tunables, policy=settings.policy, budget=settings.budget, size_hint=content.length
            )
            self._sinks.append(sink)
        take = Take(exchange, sink)
        exchange.request, exchange.on_head = take.request, take.note_head
        return take

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Each of them: what is awaited for one may be cancelled again and again.
        async with contextlib.AsyncExitStack() as stack:
            for sink in self._sinks:
                stack.push_async_callback(sink.aclose)


class Take:
    """One request on its way. The exchange has it, so that it doesn't have that."""

    def __init__(self, exchange: Exchange, sink: AsyncBodySink | None) -> None:
        request, settings = exchange.request, exchange.settings
        self._headers = headers_in(exchange.head.split(b"\r\n")[1:-2])
        self.request = request
        """What is to be sent: the same, with what wouldn't be at hand afterwards kept on its way."""
        if request.content is not None and sink is not None:
            kept = Content.streaming(_keep(request.content, settings, sink))
            kept.length = request.content.length
            self.request = dataclasses.replace(request, content=kept)
        self._settings = settings
        self._on_head = exchange.on_head
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._started = datetime.datetime.now(datetime.UTC)
        self._began = self._loop.time()
        self._first_byte: float | None = None

    def note_head(self, status: int) -> None:
        """The response's head is there."""
        self._first_byte = self._loop.time()
        if self._on_head is not None:
            self._on_head(status)

    async def prolog(self) -> Prolog:
        """What was sent."""
        request, body = self.request, await self._body()
        return Prolog(method=request.method, url=request.url, req_headers=self._headers, req_body=body)

    async def _body(self) -> BodyImage:
        if self._sink is not None:
            return await with_patience(self._sink.prepare, self._settings.timeout.budget)
        content = self.request.content
        if content is None or not content.parts:
            return EMPTY
        part = content.parts[0]
        return part if isinstance(part, BodyImage) else BodyImage.from_bytes(part)

    def trace(self, exchange: Exchange, peer: tuple[str, int] | None, response: Response) -> Trace:
        """How it went until now."""
        done = self._loop.time()
        first_byte = done if self._first_byte is None else self._first_byte
        return Trace(
            started=self._started,
            # An answer may be there before the request is.
            sent=round(min(exchange.sent, first_byte) - self._began, 6),
            first_byte=round(first_byte - self._began, 6),
            done=round(done - self._began, 6),
            peer=peer,
            req_head=exchange.head,
            res_head=response._head.raw,
            trailers=response.trailers,
        )

    async def dialog(self, exchange: Exchange, peer: tuple[str, int] | None, response: Response) -> Dialog:
        """Of what was sent, and of what came back."""
        trace = self.trace(exchange, peer, response)
        return RequestRecord(await self.prolog()).answered(response, trace=trace)


async def _keep(content: Content, settings: Settings, sink: AsyncBodySink) -> AsyncIterator[bytes]:
    """The pieces of a body; what was given before each of them is in the sink."""
    content.begun = True
    pieces = content.source if content.source is not None else _parts(content, settings.policy)
    iterator = aiter(pieces)
    try:
        async for piece in iterator:
            data = piece_of(piece)
            try:
                await sink.write(data)
            except BudgetExceeded:
                # The sink has it: what is tried again is to write it to its file.
                await with_patience(functools.partial(sink.write, b""), settings.timeout.budget)
            yield data
    finally:
        if (close := getattr(iterator, "aclose", None)) is not None:
            await close()


async def _parts(content: Content, policy: Policy) -> AsyncIterator[bytes]:
    for part in content.parts:
        if isinstance(part, bytes):
            yield part
        else:
            async for view in part.stream(PIECE, policy=policy):
                yield bytes(view)
