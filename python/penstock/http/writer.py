"""The sending half of a connection: bodies piece by piece, as fast as the peer takes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from typing import Any

from penstock._native import Upload
from penstock.blocking._ops import perform
from penstock.blocking.policy import Policy
from penstock.body.image import TURN, BodyImage
from penstock.errors import Truncated
from penstock.http.beneath import beneath
from penstock.http.content import SMALL, Content, piece_of

__all__ = ["Stopped", "Writer", "settle"]

PIECE = 256 << 10
"""Bytes that are given to the transport at once."""


class Stopped(Exception):
    """More was to be sent, and nobody wants it or takes it."""


class Writer:
    """Sends bodies through a transport, and from files by the kernel where the transport is a plain socket.

    Its memory is bounded: no more than a piece is given to the transport before it has taken the ones before.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        self._loop = loop
        self._transport = transport
        self._socket = beneath(transport)
        self._plain = transport.get_extra_info("sslcontext") is None
        self._given = 0
        self._turn_at = TURN
        """What is given until the loop has a turn."""
        self._room: asyncio.Future[None] | None = None
        self.waiting = False
        """Whether the peer is to take something before more can be sent."""
        self.left: int | None = None
        """Bytes of a known length that a source hasn't given yet; at 0, that it ends is of no interest."""
        self.stopping = False
        """Whether what is under way is the last that is sent: the answer is there."""

    @property
    def taken(self) -> int:
        """Bytes that the kernel has taken."""
        return self._given - self._transport.get_write_buffer_size()

    # The protocol's calls

    def pause(self) -> None:
        if self._room is None:
            self._room = self._loop.create_future()

    def resume(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    # Sending

    async def send(self, content: Content, length: int | None, policy: Policy) -> None:
        """Sends all of it: `length` bytes, or chunks if that is `None`.

        Raises:
            Stopped: The answer was there, or the connection gone, before all of it was sent.
            ValueError: The source gave more or less than it said.
            Truncated: A file has become shorter.
            Exception: What the source raised.
        """
        if content.source is not None:
            content.begun = True
            await self._send_source(content.source, length)
            return
        for part in content.parts:
            if isinstance(part, bytes):
                await self._send_view(memoryview(part))
            else:
                await self._send_image(part, policy)

    async def _send_source(self, source: AsyncIterable[Any], length: int | None) -> None:
        self.left = left = length
        pieces = aiter(source)
        try:
            async for piece in pieces:
                data = piece_of(piece)
                if left is not None:
                    left -= len(data)
                    if left < 0:
                        raise ValueError(f"content gave more than the {length} bytes of its content-length")
                    await self._send_view(memoryview(data))
                    self.left = left
                elif 0 < len(data) <= SMALL:
                    # A copy is cheaper than two more writes.
                    await self._send_view(memoryview(b"%x\r\n%b\r\n" % (len(data), data)))
                elif data:
                    self._write(b"%x\r\n" % len(data))
                    await self._send_view(memoryview(data))
                    self._write(b"\r\n")
        finally:
            if (close := getattr(pieces, "aclose", None)) is not None:
                await close()
        if left:
            raise ValueError(f"content gave {left} bytes less than the {length} of its content-length")
        if length is None:
            self._write(b"0\r\n\r\n")

    async def _send_view(self, view: memoryview) -> None:
        for start in range(0, len(view), PIECE):
            if self._given >= self._turn_at:
                # uvloop's TLS doesn't know that its connection is gone before the loop has told it: it takes all, and
                # waits for nothing, for as long as there is something.
                self._turn_at = self._given + TURN
                await asyncio.sleep(0)
            self._write(view[start : start + PIECE])
            await self._drained()

    async def _send_image(self, image: BodyImage, policy: Policy) -> None:
        try:
            await self._send_file(image, policy)
        except Truncated as error:
            # As it is, it could be the response's.
            error.args = (f"the request's {error}",)
            raise

    async def _send_file(self, image: BodyImage, policy: Policy) -> None:
        upload = None
        if self._plain and image.state == "file":
            upload = Upload.of(image, self._transport.get_extra_info("socket").fileno())
        if upload is None:
            async for view in image.stream(PIECE, policy=policy):
                self._write(view)
                await self._drained()
            return
        # What the transport still has comes first: it holds the protocol up until it has nothing.
        self._transport.set_write_buffer_limits(0)
        await self._drained()
        self._transport.set_write_buffer_limits()
        left = len(image)
        while left:
            try:
                sent = await perform(policy, upload.step())
            except ConnectionError as error:
                # The peer's; one that a source raises is of something else.
                raise Stopped from error
            self._given += sent
            left -= sent
            if left and self.stopping:
                raise Stopped
            if not sent:
                await self._writable(upload.fd)

    def _write(self, data: bytes | memoryview) -> None:
        # A transport whose write has failed swallows what it is given, complains of it, and pauses nobody.
        if self.stopping or self._transport.is_closing() or self._socket.is_closing():
            raise Stopped
        self._given += len(data)
        self._transport.write(data)

    async def _drained(self) -> None:
        if self._room is not None:
            self.waiting = True
            await self._room
            self.waiting = False

    async def _writable(self, fd: int) -> None:
        room = self._loop.create_future()
        self._loop.add_writer(fd, settle, room)
        self.waiting = True
        try:
            await room
        finally:
            self._loop.remove_writer(fd)
        self.waiting = False


def settle(future: asyncio.Future[None]) -> None:
    """For who waits for a descriptor, and may be cancelled meanwhile."""
    if not future.done():
        future.set_result(None)
