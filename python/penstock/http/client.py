"""`Client`: requests by method, with the options that a client and each of its requests have."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import http.cookiejar
import logging
import os
import ssl
import warnings
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

import penstock
from penstock._native import Budget, FilePool, Tunables
from penstock.blocking._ops import default_policy
from penstock.blocking._unique import Unique
from penstock.blocking.policy import Policy
from penstock.body.image import BodyImage
from penstock.errors import (
    ClientClosed,
    ConnectionLost,
    PenstockError,
    RequestError,
    TooManyRedirects,
)
from penstock.headers import brief
from penstock.http.auth import Auth
from penstock.http.connection import Connection
from penstock.http.cookies import keep_cookies
from penstock.http.deadlines import with_patience
from penstock.http.exchange import Exchange
from penstock.http.hooks import Hooks
from penstock.http.marks import asynchronous
from penstock.http.options import Decode, Limits, Timeouts
from penstock.http.prepare import Prepared, Preparer, head_of
from penstock.http.proxy import parse_proxy
from penstock.http.request import HeaderPairs, Request
from penstock.http.resolve import AllowAddress, Resolver
from penstock.http.response import Response
from penstock.http.route import socket_path
from penstock.http.settings import APART, Options, Settings
from penstock.http.stream import Incoming, StreamedResponse
from penstock.http.supply import Supply
from penstock.http.transport import StoredResponse, Transport, ask
from penstock.http.url import shown

if TYPE_CHECKING:
    from penstock.http.tape import Tape

__all__ = ["Client"]

log = logging.getLogger(__name__)


class Client(Unique):
    """Makes HTTP/1.1 requests; keeps connections alive and shares them between tasks of one event loop.

    Args:
        base_url: What a URL that begins with `/` is appended to; without a query.
        headers: A mapping or pairs, sent with each request, besides or in place of user-agent, accept and
            accept-encoding; and on to another origin by a redirect, but for authorization, cookie, proxy-authorization
            and host. Several values of a name are joined to one line.
        auth: A pair of user and password, `BasicAuth` or `BearerAuth`; not sent on to another origin by a redirect.
        tunables: Limits of bodies, and where they go; `None` is `Tunables()`.
        budget: What bodies are counted against; `None` is the process's.
        policy: Runs what waits for a disk; `None` is the process's default pool.
        timeout: Deadlines.
        limits: Connections, and the size of heads.
        ssl_context: For https; `None` is `ssl.create_default_context()`: the system's trust, names verified.
        proxy: The URL of an HTTP proxy, `http://user:password@host:port`, for http and https.
        trust_env: Whether HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY choose the proxy where `proxy` doesn't.
        follow_redirects: Whether to ask where a response says.
        max_redirects: How often, for one request; then `TooManyRedirects`.
        cookies: A jar that keeps what servers set and gives it back to them; `None` ignores cookies.
        uds: The path of a Unix socket that all connections are made to.
        resolver: Gives the addresses of a host name; `None` is the system's, on the process's default pool.
        allow_address: Told the address that is about to be connected to, says whether it may be; it isn't awaited.
        hooks: Called at the stages of each request.
        decode: Whether the codings of a body (gzip, deflate, br, zstd, and up to four of them on each other) are
            taken off: `True` while it arrives, `"after"` when all of it is there, in one go on the pool. They are asked
            for by Accept-Encoding. With `False` nothing is asked for, and a body stays as it comes.
        file_pool: Recycles the files of bodies, with their mappings; `None` makes a new file for each.
        transport: Answers all requests in place of the network, as `Replay` does; `None` is the network. Of the
            deadlines only `Timeouts.total` applies to it, and no limits of what is received. Whoever made it closes it.

    Use it as `async with`, or call `aclose`. Bodies stay good afterwards.
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        headers: HeaderPairs | None = None,
        auth: Auth | None = None,
        tunables: Tunables | None = None,
        budget: Budget | None = None,
        policy: Policy | None = None,
        timeout: Timeouts | None = None,
        limits: Limits | None = None,
        ssl_context: ssl.SSLContext | None = None,
        proxy: str | None = None,
        trust_env: bool = False,
        follow_redirects: bool = True,
        max_redirects: int = 10,
        cookies: http.cookiejar.CookieJar | None = None,
        uds: str | os.PathLike[str] | None = None,
        resolver: Resolver | None = None,
        allow_address: AllowAddress | None = None,
        hooks: Hooks | None = None,
        decode: Decode = True,
        file_pool: FilePool | None = None,
        transport: Transport | None = None,
    ) -> None:
        self._settings = settings = Settings.of(
            tunables=tunables if tunables is not None else Tunables(),
            budget=budget if budget is not None else Budget.shared(),
            policy=policy if policy is not None else default_policy,
            timeout=timeout if timeout is not None else Timeouts(),
            limits=limits if limits is not None else Limits(),
            file_pool=file_pool,
            follow_redirects=follow_redirects,
            max_redirects=max_redirects,
            decode=decode,
            proxy=parse_proxy(proxy) if proxy is not None and proxy != "" else proxy,
            trust_env=trust_env,
            ssl_context=ssl_context,
            uds=socket_path(uds) if uds is not None else None,
            resolver=resolver,
            allow_address=allow_address,
            cookies=cookies,
            hooks=hooks,
            transport=transport,
        )
        self._supply = Supply(settings.limits, resolver, allow_address)
        self._preparer = Preparer(settings, self._supply, base_url=base_url, headers=headers, auth=auth)
        self._prepared = self._preparer.prepared
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._drained: asyncio.Future[None] | None = None
        self._active = 0
        self._requests = self._failed = self._redirects = self._retried = 0

    # Requests

    @asynchronous
    def get(self, url: str, **options: Unpack[Options]) -> Coroutine[Any, Any, Response]:
        """GETs a URL; the response has its whole body, wherever that lies.

        Args:
            url: http or https, or a path if the client has a `base_url`.
            options: See `Options`.

        Raises:
            RequestError: The request failed; see its subclasses.
            LimitExceeded: The body or the head is over a limit.
            BudgetExceeded, StorageFull: No room for the body.
            ValueError, TypeError: The request can't be sent as it was given; told without secrets.

        Cancelled, the connection is closed, and what was received is dropped.
        """
        return self.request("GET", url, **options)

    @asynchronous
    def head(self, url: str, **options: Unpack[Options]) -> Coroutine[Any, Any, Response]:
        """Asks for the head only; as `get`."""
        return self.request("HEAD", url, **options)

    @asynchronous
    def options(self, url: str, **options: Unpack[Options]) -> Coroutine[Any, Any, Response]:
        """Asks what may be asked; as `get`."""
        return self.request("OPTIONS", url, **options)

    @asynchronous
    def delete(self, url: str, **options: Unpack[Options]) -> Coroutine[Any, Any, Response]:
        """DELETEs; as `get`."""
        return self.request("DELETE", url, **options)

    @asynchronous
    def post(self, url: str, **options: Unpack[Options]) -> Coroutine[Any, Any, Response]:
        """POSTs `content`, `json`, `form` or `files`; as `get`."""
        return self.request("POST", url, **options)

    @asynchronous
    def put(self, url: str, **options: Unpack[Options]) -> Coroutine[Any, Any, Response]:
        """PUTs `content`, `json`, `form` or `files`; as `get`."""
        return self.request("PUT", url, **options)

    @asynchronous
    def patch(self, url: str, **options: Unpack[Options]) -> Coroutine[Any, Any, Response]:
        """PATCHes with `content`, `json`, `form` or `files`; as `get`."""
        return self.request("PATCH", url, **options)

    @asynchronous
    def request(self, method: str, url: str, **options: Unpack[Options]) -> Coroutine[Any, Any, Response]:
        """Makes a request by any method, which is sent in upper case; as `get`.

        A body in a file is sent by the kernel where the connection is a plain socket. An answer that is complete before
        all of the request is sent ends the sending. With the header `expect: 100-continue` the body waits for the
        server's word, a second at most.
        """
        return self._follow(method, url, options)

    async def record(self, method: str, url: str, **options: Unpack[Options]) -> penstock.Dialog:
        """Makes a request, and keeps all of it: both heads as they were sent and received, both bodies, when what
        happened, and the peer's address.

        A body of the request that is at hand is shared; the pieces of an asynchronous iterable, and the parts of a form
        with files, are collected while they are sent, with the same tunables as a response's body. An answer that comes
        early ends that: then a body at hand is recorded whole all the same, and of one that is collected what had been
        given by then. A file that was given by its path is shared, too: it is to stay as it is until the dialog is
        archived. The dialog of a redirected request is the last one, with the others in `trace.history`.

        Header fields are recorded as sent, secrets among them: authorization, cookies, a proxy's credentials.

        Args: As `request`.

        Raises: As `request`, and
            BodyTooLong: What is collected of the request's body is over `Tunables.max_body`.
            HeadTooLong: A head has more than 128 lines; a dialog holds no more.

        Cancelled, the connection is closed, and what was received and collected is dropped.
        """
        from penstock.http.tape import Tape

        async with Tape() as tape:
            await self._follow(method, url, options, tape=tape)
            *history, dialog = tape.dialogs
            return dialog.replace(trace=dataclasses.replace(dialog.trace, history=tuple(history)))

    def stream(
        self, method: str, url: str, **options: Unpack[Options]
    ) -> contextlib.AbstractAsyncContextManager[StreamedResponse]:
        """A response whose body is read while it arrives, and isn't kept, for `async with`.

        It begins when the head is there. No more is received than is read, but for half a MiB, and at most 2 MiB more
        when codings are taken off, as they are unless `decode=False`. `Tunables.max_body` bounds what comes in all;
        nothing goes to a file, and no digests are made.

        Raises:
            RequestError, LimitExceeded: As `get`; `response.stream()` and `read()` raise what happens to the body.

        Left before all of the body has come, or cancelled, the connection is closed.
        """
        return _Streamed(self, method, url, options)

    async def _follow(
        self, method: str, url: str, options: Options, *, streamed: bool = False, tape: Tape | None = None
    ) -> Any:
        """The response in the end, redirects followed: with its whole body, or one that is `streamed`, which is under
        way until whoever asked for it calls `_leave`."""
        began = self._bind().time()
        self._requests += 1
        self._active += 1
        # The responses are of the kind that is asked for.
        history: tuple[Any, ...] = ()
        hooks = request = prepared = None
        response: Response | StreamedResponse | None = None
        try:
            if not isinstance(method, str):
                raise TypeError(f"method: takes a str, not {type(method).__name__}")
            settings = self._settings.overridden(options) if options else self._settings
            hooks = settings.hooks
            if not options or APART.issuperset(options):
                prepared = self._prepared.get((method, url)) or self._preparer.prepare(method, url)
                request = prepared.request
            else:
                request = await self._preparer.make(method, url, options, settings, began)
            while True:
                response = await self._send(request, settings, began, streamed, tape, prepared)
                response.history = history
                follow = response.status >= 300 and settings.follow_redirects
                following = request.following(response) if follow else None
                if following is None:
                    break
                if isinstance(response, StreamedResponse):
                    await response.aclose()
                if len(history) >= settings.max_redirects:
                    raise TooManyRedirects(
                        f"redirected to {brief(following.url)}, beyond max_redirects={settings.max_redirects}",
                        history=(*history, response),
                    )
                log.debug("%s %s: %d, on to %s", request.method, request.url, response.status, following.url)
                self._redirects += 1
                history = (*history, response)
                request, prepared = following, None
        except BaseException as error:
            await self._give_up(response)
            if isinstance(error, RequestError) and error.request is None:
                error.elapsed = asyncio.get_running_loop().time() - began
                asked = (method.upper(), shown(url)) if request is None else (request.method, request.url)
                error.request, error.url = asked
            if request is not None:
                log.debug("%s %s failed: %r", request.method, request.url, error)
                if hooks is not None and hooks.failed is not None:
                    hooks.failed(request, error)
            raise
        if hooks is not None and hooks.done is not None:
            try:
                hooks.done(response)
            except BaseException:
                await self._give_up(response)
                raise
        if not streamed:
            self._leave()
        return response

    async def _give_up(self, response: Response | StreamedResponse | None) -> None:
        """A request has failed, perhaps though it had a response."""
        self._failed += 1
        self._leave()
        if isinstance(response, StreamedResponse):
            await response.aclose()

    def _leave(self) -> None:
        """A request is over."""
        self._active -= 1
        drained = self._drained
        if drained is not None and not self._active and not drained.done() and not drained.get_loop().is_closed():
            drained.set_result(None)

    async def _send(
        self,
        request: Request,
        settings: Settings,
        began: float,
        streamed: bool,
        tape: Tape | None,
        prepared: Prepared | None,
    ) -> Response | StreamedResponse:
        """One response, whatever it says; asked for once more, if the connection turned out to be stale."""
        loop = self._loop
        assert loop is not None  # bound
        hooks, on_head = settings.hooks, None
        if hooks is not None:
            if hooks.request is not None:
                hooks.request(request)
            if hooks.head is not None:
                on_head = functools.partial(hooks.head, request)
        if prepared is None:
            route, head = self._preparer.route(request, settings), None
        else:
            _, route, head = prepared
        if head is None:
            head = head_of(request, route, settings.cookies)
        if settings.transport is not None:
            exchange = Exchange(request, head, settings, began, loop.create_future(), on_head)
            return await self._ask(settings.transport, exchange, streamed, tape)
        if streamed:
            settings = settings.for_stream()
        again = False
        while True:
            exchange = Exchange(request, head, settings, began, loop.create_future(), on_head)
            take = None if tape is None else tape.begin(exchange)
            if streamed:
                exchange.incoming = incoming = Incoming(loop, settings.budget)
                exchange.result.add_done_callback(incoming.wake)
            connection = self._supply.try_take(route, again)
            if not isinstance(connection, Connection):
                connection = await self._supply.take(route, exchange, connection, again)
            reused = connection.used > 0
            peer = None if take is None else connection.peer
            try:
                if exchange.incoming is not None:
                    return await self._begin_stream(connection, exchange)
                connection.start(exchange)
                found, body, codings, ended = await exchange.result
            except (asyncio.CancelledError, GeneratorExit):
                # On a loop that was closed under it, nothing can be ended any more: its collection ends it.
                if not loop.is_closed():
                    exchange.result.cancel()
                    connection.abandon(exchange)
                raise
            except BaseException as error:
                # The server closed an idle connection just as it was taken again: nothing of the request was
                # answered, so it is safe to ask once more (RFC 9110 section 9.2.2).
                stale = isinstance(error, ConnectionLost) and reused and connection.progress == connection.before
                if again or not stale or not request.idempotent:
                    # It has the error, which has this frame: what was received would live until a collection.
                    del exchange
                    raise
                again = True
                self._retried += 1
                log.debug("%s was stale: asking again", route)
                continue
            if codings and settings.decode == "after":
                body = await self._decode_after(body, codings, exchange)
                ended = loop.time()
            response = Response(found, body, request.url, ended - began, codings)
            if tape is not None and take is not None:
                # What was sent may still have to be written to its file.
                async with self._supply.within(exchange, "record of what was sent"):
                    tape.dialogs.append(await take.dialog(exchange, peer, response))
            if settings.cookies is not None:
                keep_cookies(settings.cookies, request, response)
            if hooks is not None:
                _tell_spilled(hooks, request, body)
            return response

    async def _ask(
        self, transport: Transport, exchange: Exchange, streamed: bool, tape: Tape | None
    ) -> Response | StreamedResponse:
        request, settings = exchange.request, exchange.settings
        async with self._supply.within(exchange, "answer"):
            response = await ask(transport, exchange, tape)
        if settings.cookies is not None:
            keep_cookies(settings.cookies, request, response)
        if streamed:
            return StoredResponse(response, settings.policy)
        if settings.hooks is not None:
            _tell_spilled(settings.hooks, request, response.body)
        return response

    async def _begin_stream(self, connection: Connection, exchange: Exchange) -> StreamedResponse:
        assert exchange.incoming is not None  # it is streamed
        request, settings = exchange.request, exchange.settings
        connection.start(exchange)
        try:
            head = await exchange.incoming.head(exchange)
        except BaseException:
            # It has the error, which has this frame.
            del exchange
            raise
        on_failed = None
        if settings.hooks is not None and settings.hooks.failed is not None:
            on_failed = functools.partial(settings.hooks.failed, request)
        elapsed = exchange.now() - exchange.began
        response = StreamedResponse(head, request.url, elapsed, connection, exchange, on_failed)
        if settings.cookies is not None:
            try:
                keep_cookies(settings.cookies, request, response)
            except BaseException:
                # A jar that saves itself may fail.
                await response.aclose()
                raise
        return response

    async def _decode_after(self, body: BodyImage, codings: tuple[str, ...], exchange: Exchange) -> BodyImage:
        settings = exchange.settings
        decode = functools.partial(
            body.decode, codings, tunables=settings.tunables, budget=settings.budget, policy=settings.policy
        )
        try:
            async with self._supply.within(exchange, "decoded body"):
                return await with_patience(decode, settings.timeout.budget)
        except PenstockError as error:
            exchange.describe(error, exchange.now())
            if hasattr(error, "partial"):
                # All that was received, as it came.
                error.partial = body
            raise

    # Its life

    def _bind(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._closed:
            raise ClientClosed("the client is closed")
        if self._loop is None:
            self._loop = loop
            self._supply.bind(loop)
        elif self._loop is not loop:
            raise ClientClosed("the client belongs to another event loop: make one for each")
        if self._drained is not None:
            raise ClientClosed("the client is being closed: it takes no more requests")
        return loop

    def stats(self) -> dict[str, int]:
        """What it has done since its start, and has at hand now; the documentation has a row for each figure."""
        return {
            "requests": self._requests,
            "failed": self._failed,
            "redirects": self._redirects,
            "retried": self._retried,
            "active": self._active,
            **self._supply.stats(),
        }

    async def aclose(self, *, drain: float | None = None) -> None:
        """Closes all connections; requests in flight fail with `ClientClosed`.

        Args:
            drain: Seconds that requests in flight get to end by themselves; new ones are refused meanwhile.

        Raises:
            ClientClosed: The client belongs to another event loop. It stays as it is.
            TypeError, ValueError: `drain` is no number of seconds. It stays as it is.

        Cancelled, it closes at once. Whoever closes ends the wait of all who let it drain.
        """
        if drain is not None:
            if isinstance(drain, bool) or not isinstance(drain, int | float):
                raise TypeError(f"drain={drain!r}: seconds are a number, or None not to wait")
            if not drain >= 0:
                raise ValueError(f"drain={drain!r}: not a number of seconds from 0 on")
        if self._loop not in (None, asyncio.get_running_loop()) and not self._closed:
            # Connections end by calls of their own loop, which would be waited for in vain.
            raise ClientClosed("the client belongs to another event loop: close it there, while that runs")
        try:
            if drain is not None and self._active and not self._closed:
                if self._drained is None:
                    self._drained = asyncio.get_running_loop().create_future()
                await asyncio.wait([self._drained], timeout=drain)
        finally:
            self._closed = True
            if self._drained is not None and not self._drained.done():
                self._drained.set_result(None)
            await self._supply.aclose()

    async def __aenter__(self) -> Self:
        self._bind()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        if self._closed:
            return "<Client closed>"
        return f"<{' '.join(['Client', *(f'{name}={count}' for name, count in self.stats().items() if count)])}>"

    def __del__(self, warn: Callable[..., None] = warnings.warn) -> None:
        if not getattr(self, "_closed", True) and self._supply.pool.open:
            warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=2)


class _Streamed(contextlib.AbstractAsyncContextManager[StreamedResponse]):
    """What `stream` gives. No generator: CPython before 3.13 leaves one as it is when the coroutine that waits in it is
    closed."""

    def __init__(self, client: Client, method: str, url: str, options: Options) -> None:
        self._client = client
        self._asked: tuple[str, str, Options] | None = (method, url, options)

    async def __aenter__(self) -> StreamedResponse:
        if self._asked is None:
            raise RuntimeError("what stream() gives is entered once: call it for each response")
        asked, self._asked = self._asked, None
        response: StreamedResponse = await self._client._follow(*asked, streamed=True)
        self._response = response
        return response

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc_type is not None:
            self._client._failed += 1
        try:
            await self._response.aclose()
        finally:
            self._client._leave()


def _tell_spilled(hooks: Hooks, request: Request, body: BodyImage) -> None:
    if hooks.spilled is not None and body.state == "file":
        hooks.spilled(request, len(body))
