"""A server that says, byte by byte, what a script says. It runs on the test's own loop, so that its steps and the
client's come in a known order: after `TURN` the client has taken what was sent before.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Final, TypeAlias

from tests.conftest import until

__all__ = [
    "BODY",
    "CLOSE",
    "HANG",
    "RESET",
    "TURN",
    "UNREAD",
    "Script",
    "Server",
    "chunked",
    "cut",
    "head",
    "response",
    "serve",
    "until",
]


class _Step:
    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


TURN: Final = _Step("TURN")
"""Lets the loop turn until the client has taken what was sent."""
CLOSE: Final = _Step("CLOSE")
"""Closes the connection in an orderly way."""
HANG: Final = _Step("HANG")
"""Says nothing until the client closes."""
RESET: Final = _Step("RESET")
"""Closes it by a reset."""
BODY: Final = _Step("BODY")
"""Reads the request's body now; without this or `UNREAD` it is read before the script begins."""
UNREAD: Final = _Step("UNREAD")
"""Leaves the request's body in the socket."""

Step: TypeAlias = bytes | float | asyncio.Event | _Step | Callable[[], Awaitable[None] | None]
Script: TypeAlias = Iterable[Step]
"""Bytes are sent, a number of seconds slept, an event waited for, a function called."""


class _Peer:
    """Reads requests, as a server does that trusts its client."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = bytearray()

    async def _more(self) -> bool:
        data = await asyncio.get_running_loop().sock_recv(self._connection, 1 << 18)
        self._received += data
        return bool(data)

    async def line(self, end: bytes) -> bytes | None:
        while (at := self._received.find(end)) < 0:
            if not await self._more():
                return None
        line = bytes(self._received[:at])
        del self._received[: at + len(end)]
        return line

    async def _rest(self, end: bytes) -> bytes:
        if (line := await self.line(end)) is None:
            raise ConnectionError("the request ended early")
        return line

    async def exactly(self, count: int) -> bytes:
        while len(self._received) < count:
            if not await self._more():
                raise ConnectionError("the request ended early")
        data = bytes(self._received[:count])
        del self._received[:count]
        return data

    async def body(self, request: bytes) -> bytes | None:
        fields = dict(line.lower().split(b": ", 1) for line in request.split(b"\r\n")[1:])
        if fields.get(b"transfer-encoding") == b"chunked":
            body = b""
            while size := int(await self._rest(b"\r\n"), 16):
                body += await self.exactly(size)
                assert await self.exactly(2) == b"\r\n"
            assert await self.exactly(2) == b"\r\n"
            return body
        if (length := fields.get(b"content-length")) is not None:
            return await self.exactly(int(length))
        return None


class Server:
    """Answers each request by the next script; the last one again and again."""

    def __init__(self, scripts: Iterable[Script]) -> None:
        self._scripts = collections.deque(scripts)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._tasks: set[asyncio.Task[None]] = set()
        self.requests: list[bytes] = []
        """The heads of the requests, in the order in which they came."""
        self.bodies: list[bytes] = []
        """The bodies of the requests that had one, without their framing."""
        self.peers: list[socket.socket] = []
        """This side of each connection, in the order in which they were made."""
        self.connections = 0
        """How many connections were made."""
        self.closed = 0
        """How many connections are over."""
        self.sent = 0
        """Bytes that the kernel has taken."""

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self._listener)
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.peers.append(connection)
            self.connections += 1
            task = loop.create_task(self._converse(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _converse(self, connection: socket.socket) -> None:
        peer = _Peer(connection)
        try:
            while True:
                request = await peer.line(b"\r\n\r\n")
                if request is None:
                    return
                self.requests.append(request)
                script = list(self._scripts.popleft() if len(self._scripts) > 1 else self._scripts[0])
                if BODY not in script and UNREAD not in script:
                    script.insert(0, BODY)
                for step in script:
                    if step is BODY and (body := await peer.body(request)) is not None:
                        self.bodies.append(body)
                    if step is CLOSE:
                        return
                    if step is RESET:
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        return
                    await self._do(connection, step)
        except ConnectionError:
            pass
        finally:
            connection.close()
            self.closed += 1

    async def _do(self, connection: socket.socket, step: Step) -> None:
        loop = asyncio.get_running_loop()
        if isinstance(step, bytes):
            # In parts, so that `sent` tells how much was taken when the client stops reading.
            for start in range(0, len(step), 65536):
                part = step[start : start + 65536]
                await loop.sock_sendall(connection, part)
                self.sent += len(part)
        elif isinstance(step, float | int):
            await asyncio.sleep(step)
        elif isinstance(step, asyncio.Event):
            await step.wait()
        elif step is HANG:
            while await loop.sock_recv(connection, 65536):
                pass
        elif step is TURN:
            for _ in range(3):
                await asyncio.sleep(0)
        elif callable(step) and (result := step()) is not None:
            await result

    async def aclose(self) -> None:
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # On a busy machine a task may be cancelled before it begins.
        for connection in self.peers:
            connection.close()
        self._listener.close()


@contextlib.asynccontextmanager
async def serve(*scripts: Script) -> AsyncIterator[Server]:
    server = Server(scripts)
    accepting = asyncio.get_running_loop().create_task(server.run())
    try:
        yield server
    finally:
        accepting.cancel()
        await asyncio.gather(accepting, return_exceptions=True)
        await server.aclose()


def head(*fields: str, status: str = "200 OK", version: str = "HTTP/1.1") -> bytes:
    return "\r\n".join([f"{version} {status}", *fields, "", ""]).encode("latin-1")


def response(body: bytes, *fields: str, **options: str) -> bytes:
    """A response with its Content-Length."""
    return head(f"Content-Length: {len(body)}", *fields, **options) + body


def chunked(body: bytes, size: int, *, extension: str = "", trailers: Iterable[str] = ()) -> bytes:
    """A body in chunks of at most `size` bytes."""
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    chunks = [b"%x%s\r\n%s\r\n" % (len(part), extension.encode(), part) for part in parts]
    end = "".join(f"{trailer}\r\n" for trailer in trailers).encode()
    return b"".join(chunks) + b"0\r\n" + end + b"\r\n"


def cut(wire: bytes, *positions: int) -> list[Step]:
    """A script that sends `wire` in pieces that the client takes one by one."""
    edges = [0, *positions, len(wire)]
    script: list[Step] = []
    for start, end in itertools.pairwise(edges):
        script += [wire[start:end], TURN]
    return [step for step in script if step != b""]
