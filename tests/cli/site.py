"""A site to fetch and record: `python -m tests.cli.site` prints its URL and serves until standard input closes.

| path | answer |
|---|---|
| `/text/N`, `/text/N/SIZE` | "text N, ", again and again, to SIZE bytes |
| `/gzip` | "zipped " a thousand times, coded |
| `/compress` | a body in a coding that nobody takes off |
| `/status/CODE` | that status, with a body |
| `/to/...` | a redirect to what follows |
| `/cut` | half of a body |
| `/twice` | "hello", its length told twice |
| `/`, `/text/`, `/text/..`, `/.` | "index" |
| `/held` | nothing, until the client goes |
| `/half/SIZE` | half of that many bytes, then nothing until the client goes |
| `/count` | how many requests there were for other paths |
| `/heads` | the heads of these requests |
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ZIPPED = b"zipped " * 1000


def text(number: int, size: int | None = None) -> bytes:
    line = b"text %d, " % number
    return line if size is None else (line * (size // len(line) + 1))[:size]


class Peer(asyncio.Protocol):
    heads: list[str] = []  # noqa: RUF012, of all peers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        while b"\r\n\r\n" in self.received:
            head, self.received = self.received.split(b"\r\n\r\n", 1)
            self.answer(head.decode())

    def answer(self, head: str) -> None:
        path = head.split()[1].partition("?")[0]
        if path not in ("/count", "/heads"):
            self.heads.append(head)
        match path.strip("/").split("/"):
            case [""] | ["text"] | ["."] | ["text", ".."]:
                self.send(b"index")
            case ["text", number]:
                self.send(text(int(number)))
            case ["text", number, size]:
                self.send(text(int(number), int(size)))
            case ["gzip"]:
                self.send(gzip.compress(ZIPPED), fields="Content-Encoding: gzip\r\n")
            case ["compress"]:
                self.send(b"what?", fields="Content-Encoding: compress\r\n")
            case ["status", code]:
                self.send(b"sorry\n", status=f"{code} Sorry")
            case ["to", *target]:
                self.send(b"elsewhere", status="302 Found", fields=f"Location: /{'/'.join(target)}\r\n")
            case ["cut"]:
                self.send(b"half", length=8)
                self.transport.close()
            case ["half", size]:
                self.send(bytes(int(size) // 2), length=int(size))
            case ["twice"]:
                self.send(b"hello", fields="Content-Length: 5\r\n")
            case ["held"]:
                pass
            case ["count"]:
                self.send(str(len(self.heads)).encode())
            case ["heads"]:
                self.send("\n\n".join(self.heads).encode())
            case _:
                self.send(b"no such path\n", status="404 Not Found")

    def send(self, body: bytes, status: str = "200 OK", fields: str = "", length: int | None = None) -> None:
        length = len(body) if length is None else length
        self.transport.write(
            f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n{fields}\r\n".encode() + body
        )


async def serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Peer, "127.0.0.1", 0, backlog=1024, family=socket.AF_INET)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    ended = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(ended), sys.stdin)
    await ended.read()


@contextlib.contextmanager
def running() -> Iterator[str]:
    """The URL of a site in a process of its own."""
    command = [sys.executable, "-m", "tests.cli.site"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()  # type: ignore[union-attr]


if __name__ == "__main__":
    asyncio.run(serve())
