"""What a replay server reads and writes: requests as they come, and recorded responses with a framing of its own."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator
from typing import NamedTuple

from penstock._native import Tunables
from penstock.blocking.policy import Policy
from penstock.body.collect import collect
from penstock.body.image import BodyImage
from penstock.dialog import EMPTY, Dialog, phrase_of
from penstock.headers import codings_in
from penstock.http.transport import codings_left
from penstock.http.writer import settle

__all__ = ["PIECE", "Asked", "Peer", "Reply", "plain", "read_body", "read_head", "recorded"]

HEAD = 64 << 10
"""Bytes of a request's head, and of a line, or the trailers, of a chunked body."""
IDLE = 60.0
"""Seconds that a connection waits for more of a request, and for the peer to take more of an answer."""
LINGER = 5.0
"""Seconds that a peer has, from the last answer on, to stop talking and to read that."""
PIECE = 256 << 10
"""Bytes that are read and written at once."""
TURN = 0.002
"""Seconds that a peer which says one thing after the other has the loop to itself."""

OURS = frozenset(b"connection content-length keep-alive proxy-connection te trailer transfer-encoding upgrade".split())
"""Fields about one connection and its framing, which are made anew."""
BODILESS = (204, 304)

# `int` would take signs and underscores, too.
LENGTH = re.compile(rb"[0-9]{1,18}")
# They would do things to a terminal that shows what is asked.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;.*)?", re.DOTALL)


class Peer:
    """The other end of a connection. One that says, or takes, nothing for `IDLE` seconds is a `TimeoutError`; once it
    has gone, everything is a `ConnectionError`."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._turned = self._loop.time()

    async def _turn(self) -> None:
        """Lets others have the loop, once in a while: what lies in the socket is had without a wait."""
        if self._loop.time() - self._turned > TURN:
            await asyncio.sleep(0)
            self._turned = self._loop.time()

    async def _more(self) -> None:
        async with asyncio.timeout(IDLE):
            data = await self._loop.sock_recv(self._connection, PIECE)
        if not data:
            raise ConnectionResetError("the peer has gone")
        self._received += data

    async def until(self, end: bytes) -> bytes:
        """What comes before `end`.

        Raises:
            ValueError: It is long.
        """
        await self._turn()
        while (at := self._received.find(end)) < 0 and len(self._received) <= HEAD:
            await self._more()
        if not 0 <= at <= HEAD:
            raise ValueError(f"a head or a line is over the limit of {HEAD} bytes")
        found = bytes(self._received[:at])
        del self._received[: at + len(end)]
        return found

    async def exactly(self, length: int) -> AsyncIterator[bytes]:
        """So many bytes, in pieces."""
        while length > 0:
            await self._turn()
            if not self._received:
                await self._more()
            piece = bytes(self._received[:length])
            del self._received[:length]
            length -= len(piece)
            yield piece

    async def send(self, data: bytes | memoryview) -> None:
        left = memoryview(data)
        while left:
            try:
                left = left[self._connection.send(left) :]
            except BlockingIOError:
                await self._room()

    async def leave(self) -> None:
        """Ends what is sent, and drops what comes until the peer has ended, too. To close the socket at once, with
        something unread, would take the last answer away from the peer (RFC 9112 section 9.6)."""
        with contextlib.suppress(OSError):
            # It may have gone.
            self._connection.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(LINGER):
            while await self._loop.sock_recv(self._connection, PIECE):
                pass

    async def _room(self) -> None:
        room = self._loop.create_future()
        self._loop.add_writer(self._connection, settle, room)
        try:
            async with asyncio.timeout(IDLE):
                await room
        finally:
            self._loop.remove_writer(self._connection)


class Asked(NamedTuple):
    """A request's head."""

    method: str
    url: str
    whole: bool
    """Whether it names that, and not a path only."""
    fields: list[tuple[bytes, bytes]]
    length: int | None
    """Of its body; `None` says that it comes in chunks."""
    waits: bool
    """Whether its body waits for a word of the server's."""
    keep: bool
    """Whether the connection stays open."""


async def read_head(peer: Peer, own: str) -> Asked:
    """The next request on a connection; `own` is the URL of this server.

    Raises:
        ValueError: It isn't one that can be answered; the message says why.
        TimeoutError, ConnectionError: There is none.
    """
    # Some send a line end behind a body (RFC 9112 section 2.2).
    head = (await peer.until(b"\r\n\r\n")).removeprefix(b"\r\n")
    line, *lines = head.split(b"\r\n")
    match line.decode("latin-1").split(" "):
        case [method, target, ("HTTP/1.1" | "HTTP/1.0") as version] if method and target:
            pass
        case _:
            raise ValueError(f"{line!r} is no request line of HTTP/1.1")
    fields = []
    for text in lines:
        name, colon, value = text.partition(b":")
        if not colon or not name or name.strip() != name:
            raise ValueError(f"{text!r} is no header line")
        fields.append((name.lower(), value.strip(b" \t")))
    known: dict[bytes, bytes] = {}
    for name, value in fields:
        if name in (b"content-length", b"transfer-encoding", b"host") and name in known:
            raise ValueError(f"two lines of {name.decode('latin-1')}")
        known[name] = value
    coding, announced = known.get(b"transfer-encoding"), known.get(b"content-length", b"0")
    if coding is not None and (coding.lower() != b"chunked" or b"content-length" in known):
        raise ValueError("transfer-encoding is chunked, and goes without a content-length")
    if not LENGTH.fullmatch(announced):
        raise ValueError(f"content-length {announced!r} is not a number of at most 18 digits")
    whole = not target.startswith("/")
    if not whole:
        host = known.get(b"host", b"").decode("latin-1")
        url = f"http://{host}{target}" if host else own + target
    elif "://" in target:
        url = target
    else:
        raise ValueError(f"{method} {target!r}: neither a path nor a URL; tunnels to https aren't made here")
    if CONTROL.search(method + url):
        raise ValueError(f"{method!r} of {url!r} has control characters")
    options = b",".join(value for name, value in fields if name == b"connection").lower().split(b",")
    keep = version == "HTTP/1.1" and b"close" not in (option.strip() for option in options)
    # One of HTTP/1.0 would take a word for the answer (RFC 9110 section 10.1.1).
    waits = version == "HTTP/1.1" and known.get(b"expect", b"").lower() == b"100-continue"
    return Asked(method, url, whole, fields, None if coding is not None else int(announced), waits, keep)


async def read_body(asked: Asked, peer: Peer, tunables: Tunables, policy: Policy | None) -> BodyImage:
    """A request's body, without its framing.

    Raises:
        ValueError: It isn't framed as it says.
        BodyTooLong: It is over `max_body`.
        TimeoutError, ConnectionError: The peer said no more.
    """
    if asked.length == 0:
        return EMPTY
    if asked.waits:
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    pieces = _chunks(peer) if asked.length is None else peer.exactly(asked.length)
    return await collect(pieces, tunables, policy=policy, size_hint=asked.length)


async def _chunks(peer: Peer) -> AsyncIterator[bytes]:
    while True:
        line = await peer.until(b"\r\n")
        size = CHUNK.fullmatch(line)
        if size is None:
            raise ValueError(f"{line!r} is no chunk size")
        length = int(size[1], 16)
        if length == 0:
            break
        async for piece in peer.exactly(length):
            yield piece
        if await peer.until(b"\r\n"):
            raise ValueError("a chunk is longer than its size says")
    left = HEAD
    while trailer := await peer.until(b"\r\n"):
        left -= len(trailer) + 2
        if left < 0:
            raise ValueError(f"trailers are over the limit of {HEAD} bytes")


class Reply(NamedTuple):
    """A response to be sent."""

    status: int
    head: bytes
    body: BodyImage


def plain(status: int, text: str) -> Reply:
    """A response in a few words."""
    body = text.encode()
    head = f"HTTP/1.1 {status} {phrase_of(status)}\r\ncontent-type: text/plain; charset=utf-8\r\n"
    return Reply(status, f"{head}content-length: {len(body)}\r\n\r\n".encode(), BodyImage.from_bytes(body))


def recorded(dialog: Dialog, method: str) -> Reply:
    """A recorded response, with what is about its connection and framing made anew."""
    if dialog.status < 200:
        # A client would wait for the answer behind it.
        return plain(501, f"what was recorded is a {dialog.status}, which is no answer by itself\n")
    head = dialog.response()._head
    line, *lines = (dialog.trace.res_head or head.raw)[:-4].split(b"\r\n")
    left, coded = codings_left(dialog), tuple(codings_in(head, "content-encoding"))
    gone = OURS | {name.strip().lower().encode("latin-1") for name in ",".join(head.get_all("connection")).split(",")}
    if left != coded:
        gone |= {b"content-encoding"}
    kept = [b"HTTP/1.1" + line[len(b"HTTP/1.1") :]]
    kept += [text for text in lines if text.partition(b":")[0].lower() not in gone]
    if left != coded and left:
        kept.append(b"content-encoding: " + ", ".join(left).encode())
    length: int | str | None = len(dialog.res_body)
    if method == "HEAD" and not length:
        # Of a body that was never asked for.
        length = head.get("content-length")
    if dialog.status not in BODILESS and length is not None:
        kept.append(f"content-length: {length}".encode())
    body = EMPTY if dialog.status in BODILESS else dialog.res_body
    return Reply(dialog.status, b"\r\n".join([*kept, b"", b""]), body)
