"""A connection: asyncio's side of the core's receiver. It writes requests, runs the works that the receiver asks for by
the request's policy, and hands large bodies over to the draining worker. One exchange at a time; whether that is late,
its `Watch` finds out.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import fcntl
import functools
import math
import os
import ssl
import struct
import sys
import termios
from collections.abc import Callable
from typing import Any, cast

from penstock._native import Direct, Dispatch, Image, Op, Permit, Receiver, Scratch, is_readable
from penstock.blocking._ops import perform
from penstock.blocking.policy import Policy
from penstock.body.image import BodyImage
from penstock.errors import BudgetExceeded, HeadTooLong, PenstockError, ProtocolError, RequestError, Timeout, Truncated
from penstock.http.beneath import Leftover
from penstock.http.content import Content
from penstock.http.deadlines import BUDGET_RETRY, Deadlines
from penstock.http.exchange import Exchange
from penstock.http.route import Route
from penstock.http.watch import Watch
from penstock.http.writer import Stopped, Writer

__all__ = ["Connection"]

MUCH = 4096
"""Bytes in a socket that aren't only on their way to whoever reads them."""

CONTINUE = 1.0
"""Seconds that a body waits for a `100 Continue`; not all servers send one (RFC 9110 section 10.1.1)."""

NO_MEMORY = {errno.ENOMEM, errno.ENOBUFS}
"""Numbers of what a transport is lost with when there is nothing to receive into."""

PATIENCE = 0.05
"""Seconds that a timeout waits for what was received to be written, so that its error has it."""


class Connection(Receiver, asyncio.BufferedProtocol):
    """One connection by a route, for one exchange after another.

    `on_free` is called when it can take the next one, `on_closed` when it is gone.
    """

    def __new__(cls, scratch: Scratch, *args: Any, **kwargs: Any) -> Connection:
        return super().__new__(cls, scratch)

    def __init__(
        self,
        scratch: Scratch,
        route: Route,
        deadlines: Deadlines,
        on_free: Callable[[Connection], None],
        on_closed: Callable[[Connection], None],
    ) -> None:
        self.route = route
        self._loop = asyncio.get_running_loop()
        self._on_free = on_free
        self._on_closed = on_closed
        self._transport: asyncio.Transport | None = None
        self._writer: Writer | None = None
        self._sending: asyncio.Task[None] | None = None
        self._continue: asyncio.Future[None] | None = None
        self._fit = True
        """Whether all of what was asked was sent, and it wasn't asked to be the last."""
        self._exchange: Exchange | None = None
        self._job: asyncio.Future[Any] | None = None
        self._draining = False
        self._paused = False
        self._watch = Watch(self._loop, deadlines)
        self._budget_until: float | None = None
        self._blocked = False
        """Whether a work waits for budget, until it is tried again."""
        self._postponed = False
        """Whether work on a stream waits until its reader has taken more."""
        self._failure: tuple[Exchange, BaseException] | None = None
        self._reason: Exception | None = None
        """Why the transport was lost, while what follows from it is told."""
        self._reset = False
        """Whether sending failed by a reset, of which the receiving side then hears as a mere end."""
        self._salvage: asyncio.Future[Image] | None = None
        self._fd = -1
        self._plain_fd = -1
        """What may be read beside the transport and handed to a draining worker."""
        self._tls: Any = None
        self._leftover: Leftover | None = None
        """While a body is sent over TLS."""
        self.used: int = 0
        self.before: int = 0
        """The progress before the exchange."""
        self.idle_since: float = 0.0

    # asyncio's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._fd = transport.get_extra_info("socket").fileno()
        # Only a plain socket has the body's own bytes, and a draining worker needs epoll.
        plain = sys.platform == "linux" and transport.get_extra_info("sslcontext") is None
        self._plain_fd = self._fd if plain else -1
        self._tls = transport.get_extra_info("ssl_object")

    def pause_writing(self) -> None:
        if self._writer is not None:
            self._writer.pause()

    def resume_writing(self) -> None:
        if self._writer is not None:
            self._writer.resume()

    def eof_received(self) -> bool:
        self.feed_eof(self._reset if self._tls is None else not self._read_rest_of_tls())
        # The transport may close: what came is here, even if some of it has still to be written.
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._reset |= isinstance(exc, ConnectionResetError)
        if isinstance(exc, RuntimeError):
            try:
                # uvloop keeps to itself what this has raised.
                self.get_buffer(-1)
            except (OSError, MemoryError) as error:
                exc = error
        if isinstance(exc, ConnectionError) and self._plain_fd >= 0:
            self._read_rest()
        elif isinstance(exc, ConnectionError | None) and self._leftover is not None:
            # asyncio tells of no error where TLS itself, which the transport had held back, did the write that failed.
            self._leftover.give()
        self._transport = None
        if isinstance(exc, MemoryError) or (isinstance(exc, OSError) and exc.errno in NO_MEMORY):
            # The peer has no part in it. Without its traceback, whose frames have the window.
            self.fail(exc.with_traceback(None))
        elif self._exchange is not None and not self._draining:
            self._reason = exc
            # uvloop tells of an end without a word so, and not by `eof_received`.
            ended = (self.complete or exc is None) if self._tls is None else self._read_rest_of_tls()
            self.feed_eof(not ended)
            self._reason = None
        self._leave()

    # The client's calls

    def is_usable(self) -> bool:
        """Whether another exchange can begin."""
        transport = self._transport
        return transport is not None and not transport.is_closing() and self._exchange is None

    def is_fresh(self, seconds: float) -> bool:
        """Whether another exchange can begin after a rest, of so many seconds at most. What already lies in the socket
        is no answer to a request that isn't sent yet."""
        return self.is_usable() and self._loop.time() - self.idle_since <= seconds and not is_readable(self._fd)

    @property
    def peer(self) -> tuple[str, int] | None:
        """Address and port of the other end; `None` for a Unix socket, and when it is gone."""
        name = None if self._transport is None else self._transport.get_extra_info("peername")
        return name[:2] if isinstance(name, tuple) else None

    @property
    def unread(self) -> bool:
        """Whether bytes, or the connection's end, lie in its socket."""
        return self._transport is not None and is_readable(self._fd)

    def start(self, exchange: Exchange) -> None:
        """Sends a request; its result comes through the exchange's future. Closes the connection if that fails."""
        transport = self._transport
        assert transport is not None  # it is usable
        request = exchange.request
        content = request.content
        expect = content is not None and request.expect
        self._exchange = exchange
        self._budget_until = None
        try:
            self._fit = not request.closing
            self.before = self.begin(
                exchange.settings.plan,
                request.method == "HEAD",
                self._plain_fd,
                expect,
                exchange.on_head is not None,
                exchange.incoming is not None,
            )
            self._watch.begin(self, exchange, self.before)
            if content is None:
                transport.write(exchange.head)
            elif (small := content.small) is not None and not expect:
                transport.write(exchange.head + small)
            else:
                transport.write(exchange.head)
                self._send(exchange, content)
        except BaseException:
            # Nobody would wait for its end.
            self.abandon(exchange)
            raise
        self.used += 1

    def abandon(self, exchange: Exchange) -> None:
        """Gives up an exchange whose task was cancelled, and closes the connection; unless the exchange is over, and
        the connection serves another by now."""
        if self._exchange is exchange:
            self._end(exchange)
            self.close()
            self._drop()
        elif self._failure is not None and self._failure[0] is exchange:
            self._forgo_partial()

    def taken(self, exchange: Exchange) -> None:
        """The reader of a stream has taken a piece: there may be room for more."""
        failed = self._failure is not None and self._failure[0] is exchange
        if self._exchange is not exchange and not failed:
            return
        if self._postponed:
            if exchange.incoming is not None and not exchange.incoming.is_full:
                self._postponed = False
                if failed:
                    self._begin_salvage()
                else:
                    self.resume()
        elif not failed and self._paused and not self.crowded:
            self._unpause()

    def shut(self, error: PenstockError) -> None:
        """Ends the exchange, if there is one, with an error, and closes the connection."""
        self.fail(error)
        self._forgo_partial()
        self.close()

    def close(self) -> None:
        """Closes the connection; nothing is waited for."""
        self.cancel_drain()
        if self._transport is not None:
            self._transport.abort()

    # The receiver's calls

    def _on_done(self) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        if self._sending is not None and not self._sending.done():
            writer = self._writer
            assert writer is not None  # it is sending
            if writer.waiting or writer.left or self._continue is not None or exchange.request.length is None:
                # What is left of it would be taken for the next request.
                self._fit = False
            elif writer.left is None:
                # It may be all sent, which this loop hasn't heard of yet.
                writer.stopping = True
                return
        now = self._loop.time()
        head, image, codings, reusable = self.finish()
        reusable = reusable and self._fit
        self._end(exchange)
        if not exchange.result.done():
            exchange.result.set_result((head, BodyImage(image, exchange.settings.policy), codings, now))
        transport = self._transport
        if (
            reusable
            and transport is not None
            and not transport.is_closing()
            # Of a small body, which goes with its head, something may be left.
            and not transport.get_write_buffer_size()
        ):
            if self._paused:
                self._unpause()
            self.idle_since = now
            self._on_free(self)
        elif transport is not None:
            # Not within a call of asyncio's TLS, which may be ending by itself and then can't be aborted.
            self._loop.call_soon(transport.abort)

    def _on_continue(self) -> None:
        if self._continue is not None and not self._continue.done():
            self._continue.set_result(None)

    def _on_head(self) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        try:
            self._tell_head(exchange)
        except (KeyboardInterrupt, SystemExit):
            # They end the loop.
            raise
        except BaseException as error:
            self.fail(error)
            # It has the error, which has this frame: what was to be sent would live until a collection.
            del exchange
            return
        self.resume()

    def _tell_head(self, exchange: Exchange) -> None:
        """Tells once that the head is there, if it is."""
        if (status := self.status) is None:
            return
        on_head, context, incoming = exchange.on_head, exchange.context, exchange.incoming
        exchange.on_head = None
        # It gets what is raised here, which has this frame.
        del exchange
        if on_head is not None:
            try:
                context.run(on_head, status)
            except StopIteration as error:
                # As of a coroutine: no future takes one, and the request would wait for ever.
                raise RuntimeError("Hooks.head raised StopIteration") from error
        if incoming is not None and (head := self.head()) is not None:
            incoming.begin(head)

    def _on_data(self) -> None:
        if self._exchange is None or (incoming := self._exchange.incoming) is None:
            return
        incoming.put(self.take_pieces())
        if incoming.is_full:
            self._pause()
        self.resume()

    def _on_work(self) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        if self._job is not None:
            # A work that is over counts as out until this loop has heard of it. That takes a turn, in which uvloop may
            # receive some megabytes.
            if self.crowded:
                self._pause()
            return
        # However much is decoded would wait for the reader here.
        self._postponed = exchange.incoming is not None and exchange.incoming.is_full
        if self._postponed or (op := self.work()) is None:
            return
        try:
            self._job = self._perform(exchange, op, self._on_worked)
        except Exception as error:
            self.fail(error)

    def _perform(
        self, exchange: Exchange, op: Op[Any], then: Callable[[asyncio.Future[Any]], None]
    ) -> asyncio.Future[Any]:
        """Raises what keeps it from being begun: its pool takes nothing, or is made at first use and can't be."""
        policy = exchange.settings.policy
        if isinstance(policy, Dispatch):
            job = cast("asyncio.Future[Any]", policy.perform(op))
        else:
            job = exchange.context.run(self._loop.create_task, perform(policy, op))
        job.add_done_callback(then)
        return job

    def _on_full(self) -> None:
        self._pause()

    def _on_worked(self, job: asyncio.Future[Any]) -> None:
        self._job = None
        error = None if job.cancelled() else job.exception()
        if self._exchange is None:
            if job.cancelled():
                # The loop ends: nothing new is begun on it.
                self._forgo_partial()
            self._begin_salvage(error is None)
        elif error is None:
            self._budget_until = None
            self._unpause()
            self.resume()
        else:
            self._on_failed(error)

    def _on_drain(self) -> None:
        exchange = self._exchange
        if exchange is None or self._transport is None:
            return
        policy = exchange.settings.policy
        assert isinstance(policy, Dispatch)  # by the plan
        # Nothing may be received here from now on, not even in this turn of the loop.
        self._pause()
        patience = exchange.settings.timeout.budget
        try:
            drained = self.drain(self._plain_fd, policy, patience if patience is not None else float("inf"))
        except Exception as error:
            self.fail(error)
            return
        if drained is None:
            self._unpause()
            self.resume()
            return
        self._draining = True
        cast("asyncio.Future[Any]", drained).add_done_callback(self._on_drained)

    def _on_drained(self, drained: asyncio.Future[Any]) -> None:
        self._draining = False
        error = None if drained.cancelled() else drained.exception()
        if self._exchange is None:
            self._begin_salvage()
        elif error is not None:
            self.fail(error)
        elif self._reset:
            self.feed_eof(True)
        else:
            self.resume()

    def _on_failed(self, error: BaseException) -> None:
        exchange = self._exchange
        if self._reason is not None and isinstance(error, RequestError):
            # Without its traceback, whose frames are the transport's, and have the window.
            error.__cause__ = self._reason.with_traceback(None)
        if exchange is not None and isinstance(error, BudgetExceeded) and self._has_patience(exchange, error):
            self._blocked = True
            self._pause()
            self._loop.call_later(BUDGET_RETRY, self._retry, exchange)
        else:
            self.fail(error)

    # What its watch asks

    def check(self, now: float) -> None:
        """Looks whether a deadline has passed."""
        self._watch.check(self, now)

    @property
    def exchange(self) -> Exchange | None:
        """The one that is under way."""
        return self._exchange

    @property
    def accepted(self) -> int | None:
        """Bytes that the peer has taken of the request's body, `None` when no more is to be sent."""
        over = self._transport is None or self._sending is None
        return None if over or self._writer is None else self._writer.taken

    @property
    def waits(self) -> bool:
        """Whether the peer is to take some of the request's body now."""
        return self._writer is not None and self._writer.waiting

    @property
    def gives(self) -> bool:
        """Whether some of the request's body is still to be given to the transport. A source of which all is there may
        take its time to end."""
        return self._sending is not None and self._writer is not None and self._writer.left != 0

    @property
    def is_held_up(self) -> bool:
        """Whether nothing is received for reasons of ours. What comes may depend on what has still to be sent, of which
        a source may take its time. When the connection has ended, all has come."""
        incoming = None if self._exchange is None else self._exchange.incoming
        unread = incoming is not None and not incoming.is_awaited
        over = self.complete or self._transport is None
        return over or unread or self.gives or (self._paused and not self._draining)

    @property
    def has_head(self) -> bool:
        """Whether the response's head is there."""
        return self.status is not None or self._draining

    @property
    def left(self) -> float:
        """Bytes that the draining worker, busy with other bodies or a slow disk, has left unread; endless with the
        connection's end among them, or where they may be what keeps the peer from sending more."""
        if not (self._draining and self.unread):
            return 0
        (count,) = struct.unpack("i", fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4)))
        return count if 0 < count < MUCH else math.inf

    # Sending

    def _send(self, exchange: Exchange, content: Content) -> None:
        transport = self._transport
        assert transport is not None  # it is usable
        if self._writer is None:
            self._writer = Writer(self._loop, transport)
        self._writer.stopping, self._writer.left = False, None
        if self._tls is not None:
            self._leftover = Leftover.of(transport, self._fd)
        self._watch.begin_sending(self._writer.taken)
        if exchange.request.expect:
            self._continue = self._loop.create_future()
        # Without the exchange, which is to have an error of this: one that has a frame that has the exchange would keep
        # what was to be sent until a collection.
        length, policy = exchange.request.length, exchange.settings.policy
        self._sending = self._loop.create_task(self._send_content(self._writer, content, length, policy))
        self._sending.add_done_callback(functools.partial(self._on_sent, exchange))

    async def _send_content(self, writer: Writer, content: Content, length: int | None, policy: Policy) -> None:
        if self._continue is not None:
            await asyncio.wait([self._continue], timeout=CONTINUE)
            self._continue = None
        await writer.send(content, length, policy)

    def _on_sent(self, exchange: Exchange, sending: asyncio.Task[None]) -> None:
        cancelled = sending.cancelled()
        error = None if cancelled else sending.exception()
        if self._exchange is not exchange:
            return
        if cancelled:
            # Not by this connection, which ends the exchange first.
            error = RequestError("content= was cancelled while it was sent, and the request was not")
        self._sending = self._continue = None
        self._reset |= isinstance(error, Stopped) and isinstance(error.__cause__, ConnectionResetError)
        exchange.sent = self._loop.time()
        if error is not None:
            self._fit = False
        if error is None or isinstance(error, Stopped):
            # A peer that has gone may have said why: what it sent is read first.
            self.resume()
        else:
            self.fail(error, of_sending=True)

    # Inner life

    def _read_rest(self) -> None:
        """Takes what came before a write failed, which the transport reads no more: it may be the answer."""
        while self._exchange is not None and not (self.complete or self._paused or self._draining):
            try:
                count = os.readv(self._plain_fd, [self.get_buffer(-1)])
            except (OSError, PenstockError):
                return
            if not count:
                return
            self.buffer_updated(count)

    def _read_rest_of_tls(self) -> bool:
        """Takes what the transport's TLS has and won't give any more: at the connection's end it gives a window at
        most, on uvloop none. Whether the peer has said that this is the end; a mere end may be anybody's (RFC 9112
        section 9.8)."""
        while self._exchange is not None and not self.complete:
            try:
                window = self.get_buffer(-1)
                count = self._tls.read(len(window), window)
            except ssl.SSLZeroReturnError:
                return True
            except (OSError, PenstockError):
                return False
            if not count:
                return True
            self.buffer_updated(count)
        return True

    def _pause(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _unpause(self) -> None:
        # A work that was under way when the socket was handed over may come back while the worker reads it.
        exchange = self._exchange
        if exchange is not None and exchange.incoming is not None and exchange.incoming.is_full:
            return
        if self._paused and not self._draining and self._transport is not None:
            self._paused = False
            if not self._transport.is_closing():
                # Called by whoever reads, the loop would keep the context of that.
                contextvars.Context().run(self._transport.resume_reading)

    def _has_patience(self, exchange: Exchange, error: BudgetExceeded) -> bool:
        if error.hopeless:
            return False
        now = self._loop.time()
        if self._budget_until is None:
            patience = exchange.settings.timeout.budget
            self._budget_until = now + (patience if patience is not None else float("inf"))
        return now < self._budget_until

    def _retry(self, exchange: Exchange) -> None:
        if self._exchange is not exchange:
            return
        self._blocked = False
        self.resume()
        # A work that is done right here has failed by now or not at all; any other tells when it comes back.
        if isinstance(exchange.settings.policy, Direct | Permit) and not self._blocked and self._job is None:
            self._budget_until = None
            self._unpause()

    def _end(self, exchange: Exchange) -> None:
        self._exchange = None
        if self._sending is not None:
            exchange.sent = self._loop.time()
            self._sending.cancel()
            self._sending = self._continue = None
        if self._leftover is not None:
            self._leftover.close()
            self._leftover = None
        if self._transport is None:
            self._watch.stop(self)

    def _leave(self) -> None:
        # What has come may still be on its way to its file: the exchange as a whole isn't over.
        if self._exchange is None:
            self._watch.stop(self)
        if self._transport is None and self._failure is None:
            self._on_closed(self)

    def fail(self, error: BaseException, *, of_sending: bool = False) -> None:
        """Ends the exchange with an error. One that can tell what was received does, once that is known; one that is
        `of_sending` is about another body."""
        exchange = self._exchange
        if exchange is None:
            return
        self._end(exchange)
        self.close()
        if isinstance(error, PenstockError):
            exchange.describe(error, self._loop.time())
        if of_sending or not hasattr(error, "partial"):
            if isinstance(error, ProtocolError | HeadTooLong):
                self._tell_before_fault(exchange)
            self._drop()
            _reject(exchange, error)
            return
        self._failure = exchange, error
        if isinstance(error, Timeout):
            # It is not to be late for the sake of the bytes.
            self._loop.call_later(PATIENCE, self._lose_patience, exchange)
        self._begin_salvage()

    def _tell_before_fault(self, exchange: Exchange) -> None:
        """A fault in the framing, chunks' or trailers', may have come in one piece with the head, and with some of the
        body."""
        try:
            self._tell_head(exchange)
            if exchange.incoming is not None:
                exchange.incoming.put(self.take_pieces())
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            # The error that there is counts.
            return

    def _lose_patience(self, exchange: Exchange) -> None:
        if self._failure is not None and self._failure[0] is exchange:
            self._forgo_partial()

    def _drop(self) -> None:
        """Drops what was received, and the job that is to write some of it."""
        if self._job is not None:
            self._job.cancel()
        self.give_up()

    def _begin_salvage(self, goes_on: bool = True) -> None:
        """Keeps what was received for the error, when nobody works on it any more; if nobody wants it, drops it.

        The reader of a stream gets what came before its end, the rest of it decoded as it has room for it, and for as
        long as that `goes_on`.
        """
        if self._job is not None or self._draining or self._salvage is not None:
            return
        if self._failure is None:
            self.give_up()
            return
        exchange, error = self._failure
        try:
            # Where it came in one piece with what fails, nothing was told yet.
            self._tell_head(exchange)
            if (incoming := exchange.incoming) is not None:
                incoming.put(self.take_pieces())
                if goes_on and isinstance(error, Truncated):
                    self._postponed = incoming.is_full
                    if self._postponed:
                        return
                    if (op := self.work()) is not None:
                        self._job = self._perform(exchange, op, self._on_worked)
                        return
            found = self.give_up()
            if isinstance(found, Op):
                self._salvage = self._perform(exchange, found, self._on_salvaged)
                return
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            # The error that there is counts, and goes without what was received.
            self.give_up()
            found = None
        self._settle_failure(found)

    def _on_salvaged(self, salvage: asyncio.Future[Image]) -> None:
        self._salvage = None
        failed = salvage.cancelled() or salvage.exception() is not None
        self._settle_failure(None if failed else salvage.result())

    def _settle_failure(self, partial: Image | None) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            exchange, error = failure
            # One that has a part of something else, of what was sent, keeps it.
            if partial is not None and getattr(error, "partial", None) is None and not exchange.result.done():
                error.partial = BodyImage(partial, exchange.settings.policy)  # type: ignore[attr-defined]
            _reject(exchange, error)
        self._leave()

    def _forgo_partial(self) -> None:
        """Ends a failed exchange now, without what was received."""
        if self._salvage is not None:
            self._salvage.cancel()
        elif self._failure is not None:
            self._drop()
            self._settle_failure(None)


def _reject(exchange: Exchange, error: BaseException) -> None:
    if not exchange.result.done():
        exchange.result.set_exception(error)
