"""What came back: `Response`. Nothing of a head is made into Python values until somebody looks."""

from __future__ import annotations

import abc
import json
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, Self

from penstock._native import Head
from penstock.body.image import BodyImage
from penstock.errors import HTTPStatusError
from penstock.headers import Headers, brief
from penstock.http.charset import Decoder, charset_of
from penstock.http.marks import asynchronous

__all__ = ["PIECE", "Answer", "Response"]

PIECE = 256 << 10
"""Bytes that are decoded before the event loop gets a turn."""


class Answer(abc.ABC):
    """What responses have, whether their body is there or still comes."""

    __slots__ = ("_head", "decoded", "elapsed", "history", "status", "url")

    def __init__(self, head: Head, url: str, elapsed: float, decoded: tuple[str, ...] = ()) -> None:
        self._head = head
        self.status: int = head.status
        """The status code."""
        self.decoded: tuple[str, ...] = decoded
        """The codings that were taken off the body, in the order in which they were applied; the headers are as they
        came."""
        self.url: str = url
        """The URL that was asked for, the last one if there were redirects."""
        self.elapsed: float = elapsed
        """Seconds from the call to the body's last byte (with `decode="after"`, until it is decoded), or to the head of
        a stream."""
        self.history: tuple[Answer, ...] = ()
        """The redirects that led here, in order."""

    @property
    def reason(self) -> str:
        """The reason phrase as the server sent it, possibly empty."""
        return self._head.reason

    @property
    def version(self) -> str:
        """`"HTTP/1.1"` or `"HTTP/1.0"`."""
        return self._head.version

    @property
    def headers(self) -> Headers:
        return Headers(self._head)

    @property
    def trailers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Fields that followed a chunked body."""
        return self._head.trailers()

    @abc.abstractmethod
    async def read(self, limit: int | str | None = None) -> bytes:
        """The first `limit` bytes of the body, or all."""

    @abc.abstractmethod
    def _pieces(self) -> AsyncGenerator[memoryview, None]:
        """The body piece by piece, with turns for the event loop."""

    async def text(self) -> str:
        """The body as text, by the charset of its content type, else UTF-8; what can't be decoded is replaced.

        It is decoded piece by piece, and the event loop has its turns in between.
        """
        decoder = Decoder(charset_of(self.headers) or "utf-8")
        parts = [decoder.decode(bytes(piece)) async for piece in self._pieces()]
        return "".join((*parts, decoder.decode(b"", final=True)))

    async def json(self) -> Any:
        """The body parsed as JSON, in one go: `json` lets nothing else run meanwhile, in no thread.

        Raises:
            ValueError: It isn't JSON, or not in UTF-8, 16 or 32.
            RecursionError: It is nested too deeply.
        """
        return json.loads(await self.read())

    def raise_for_status(self) -> Self:
        """Raises `HTTPStatusError` for a status of 400 or more; else gives the response."""
        if self.status >= 400:
            message = f"{self.status} {brief(self.reason)} for {brief(self.url)}"
            retryable = self.status in (429, 503)
            raise HTTPStatusError(message, response=self, url=self.url, elapsed=self.elapsed, retryable=retryable)
        return self


class Response(Answer):
    """A response with its body. The body stays good when the client is closed."""

    __slots__ = ("body",)

    history: tuple[Response, ...]

    def __init__(self, head: Head, body: BodyImage, url: str, elapsed: float, decoded: tuple[str, ...] = ()) -> None:
        Answer.__init__(self, head, url, elapsed, decoded)
        self.body: BodyImage = body
        """The body, in memory, in a file, or mapped."""

    @asynchronous
    def read(self, limit: int | str | None = None) -> Coroutine[Any, Any, bytes]:
        """The first `limit` bytes of the body, or all."""
        return self.body.read(limit)

    def _pieces(self) -> AsyncGenerator[memoryview, None]:
        return self.body.stream(PIECE, yield_between=len(self.body) > PIECE)

    def __repr__(self) -> str:
        return f"<Response {self.status} {brief(self.reason)} {self.body!r}>"
