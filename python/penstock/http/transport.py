"""Answers that come from somewhere else than the network: what a client's `transport` is, and how it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import penstock
from penstock._native import Op
from penstock.blocking._ops import ignored, perform
from penstock.blocking.policy import Policy
from penstock.errors import PenstockError
from penstock.headers import codings_in
from penstock.http.response import Answer, Response
from penstock.http.stream import TAKEN, StreamedResponse

if TYPE_CHECKING:
    from penstock.dialog import Dialog
    from penstock.http.exchange import Exchange
    from penstock.http.tape import Tape

__all__ = ["StoredResponse", "Transport", "ask", "codings_left"]


@runtime_checkable
class Transport(Protocol):
    """Answers a client's requests in place of the network."""

    async def answer(self, prolog: penstock.Prolog, /) -> penstock.Dialog:
        """The dialog whose response it is. `prolog` is the request, with all that would have been sent."""


async def ask(transport: Transport, exchange: Exchange, tape: Tape | None) -> Response:
    """The response to a request by a transport. Codings that are still on its body are taken off as by a connection."""
    from penstock.dialog import EMPTY, Dialog, RequestRecord
    from penstock.http.tape import Tape

    settings = exchange.settings
    async with Tape() as own:
        take = own.begin(exchange)
        request = exchange.request
        content = request.content
        if content is not None and content.source is not None:
            async for _ in content.source:
                pass
        exchange.sent, prolog = exchange.now(), await take.prolog()
        given: object = transport.answer(prolog)
        if not isinstance(given, Awaitable):
            raise TypeError(f"transport={transport!r}: answer() gave {type(given).__name__}, and isn't asynchronous")
        answer: object = await given
        if not isinstance(answer, Dialog):
            raise TypeError(f"transport={transport!r}: answer() gave {type(answer).__name__}, not a Dialog")
        take.note_head(answer.status)
        stored = answer.response()
        body, decoded = stored.body if request.method != "HEAD" else EMPTY, stored.decoded
        if settings.decode and (codings := codings_left(answer)) and body:
            try:
                body = await body.decode(
                    codings, tunables=settings.tunables, budget=settings.budget, policy=settings.policy
                )
            except PenstockError as error:
                if hasattr(error, "partial"):
                    # As of a body that was decoded when it was there: all of it, as it came.
                    error.partial = body
                raise
            # Of gzip's two names the one that a connection has, too.
            decoded = (*(coding.removeprefix("x-") for coding in codings), *decoded)
        response = Response(stored._head, body, request.url, exchange.now() - exchange.began, decoded)
        if tape is not None:
            trace = take.trace(exchange, None, response)
            tape.dialogs.append(RequestRecord(prolog).answered(response, trace=trace))
        return response


def codings_left(dialog: Dialog) -> tuple[str, ...]:
    """The codings that are still on a response's body, in the order in which they were applied."""
    if "identity" in dialog.res_decoded:
        return ()
    named = codings_in(dialog.res_headers, "content-encoding", "transfer-encoding")
    applied = [coding for coding in named if coding != "chunked"]
    removed = sum(coding != "chunked" for coding in dialog.res_decoded)
    # More may be said to be off it than its fields name.
    return tuple(applied[: max(len(applied) - removed, 0)])


class StoredResponse(StreamedResponse):
    """A response whose body is read as if it came while it is read."""

    __slots__ = ("_ahead", "_policy", "_reader", "_reading", "_taken")

    def __init__(self, response: Response, policy: Policy) -> None:
        Answer.__init__(self, response._head, response.url, response.elapsed, response.decoded)
        self._reader = response.body.reader(response.body.piece)
        self._policy = policy
        self._ahead = memoryview(b"")
        self._reading: asyncio.Task[memoryview | None] | None = None
        self._taken = False
        """Whether a task waits for the next piece."""
        self._over = ""

    async def _take(self, size: int) -> memoryview | None:
        if self._over:
            raise self._nothing_more()
        if self._taken:
            raise RuntimeError(TAKEN)
        if not self._ahead:
            self._taken = True
            try:
                piece = await self._next()
            finally:
                self._taken = False
            if piece is None:
                return None
            self._ahead = piece
        piece, self._ahead = self._ahead[:size], self._ahead[size:]
        return piece

    def _put_back(self, parts: list[bytes]) -> None:
        self._ahead = memoryview(b"".join((*parts, self._ahead)))

    async def _next(self) -> memoryview | None:
        reading = self._reading
        if reading is None:
            step = self._reader.step()
            if not isinstance(step, Op):
                return step
            reading = self._reading = asyncio.get_running_loop().create_task(perform(self._policy, step))
        # Whoever waits may be cancelled; the next one gets the piece.
        await asyncio.wait([reading])
        self._reading = None
        try:
            return reading.result()
        finally:
            # It has the error, which has this frame, and the body with it.
            del reading

    async def aclose(self) -> None:
        self._end("it was closed")
        if self._reading is not None:
            self._reading.add_done_callback(ignored)
            if not self._taken:
                # Whoever waited for it was cancelled, and a busy pool is not to hold that up.
                self._reading.cancel()
