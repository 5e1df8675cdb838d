"""Bombs: responses that come as little and become 10 GiB, made while they are sent. And the program, run in a process
of its own, that asks for them and prints how far each got and what memory that took, as JSON.

`python -m tests.memory.bombs URL STORE DECODE`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import re
import socket
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import penstock

SIZE = 10 << 30
MIB = 1 << 20
ZEROS = bytes(MIB)
CODINGS = ("gzip", "br", "zstd")
FRAMINGS = ("length", "chunked")
STORES = ("ram", "drained", "windows", "direct")

Bomb = tuple[bytes, bytes, int]
"""How it begins, what goes on, and how often that comes."""


def gzip_bomb() -> Bomb:
    # Flushed fully, the encoder begins anew: the same bytes again.
    encoder = zlib.compressobj(9, wbits=31)
    start = encoder.compress(b"") + encoder.flush(zlib.Z_FULL_FLUSH)
    blocks = [encoder.compress(ZEROS) + encoder.flush(zlib.Z_FULL_FLUSH) for _ in range(2)]
    assert blocks[0] == blocks[1]
    assert zlib.decompressobj(wbits=31).decompress(start + blocks[0] * 3) == ZEROS * 3
    return start, blocks[0], SIZE // MIB


def br_bomb() -> Bomb:
    import brotli

    encoder = brotli.Compressor(quality=5)
    blocks = [encoder.process(ZEROS) + encoder.flush() for _ in range(5)]
    assert blocks[3] == blocks[4]
    start, block = b"".join(blocks[:3]), blocks[3]
    assert brotli.Decompressor().process(start + block * 3) == ZEROS * 6
    return start, block, SIZE // MIB


def zstd_bomb() -> Bomb:
    # RFC 8878: a frame with a window of 128 KiB, and blocks that say how often their one byte comes.
    start = bytes.fromhex("28b52ffd0038")
    block = (128 * 1024 << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    return start, block * 8, SIZE // MIB


BOMBS: dict[str, Callable[[], Bomb]] = {"gzip": gzip_bomb, "br": br_bomb, "zstd": zstd_bomb}


def send(connection: socket.socket, bombs: dict[str, Bomb]) -> None:
    """Answers requests for `/CODING/FRAMING` until the client has had enough."""
    with connection, contextlib.suppress(ConnectionError):
        received = b""
        while b"\r\n\r\n" not in received:
            if not (data := connection.recv(65536)):
                return
            received += data
        _, coding, framing = received.split(b" ", 2)[1].decode().split("/")
        start, block, count = bombs[coding]
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\n"
        group = max(1, 65536 // len(block))
        if framing == "length":
            head += f"Content-Length: {len(start) + len(block) * count}\r\n\r\n"
            connection.sendall(head.encode() + start)
            for _ in range(count // group):
                connection.sendall(block * group)
            connection.sendall(block * (count % group))
        else:
            connection.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(start))
            for _ in range(count // group):
                connection.sendall(chunk(block * group))
            connection.sendall(chunk(block * (count % group)) + b"0\r\n\r\n")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def resident(what: str) -> int:
    match = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) << 10


async def main(url: str, store: str, decode: Any) -> None:
    cap = 16 * MIB if store == "ram" else 96 * MIB
    tunables = penstock.Tunables(max_body_ram=cap if store == "ram" else "192KiB", max_body=cap)
    pool = penstock.DispatchPool(threads=2, drain_threads=1 if store == "drained" else 0)
    policy: Any = penstock.Direct() if store == "direct" else penstock.Dispatch(pool)
    found = []
    async with pool, penstock.Client(base_url=url, tunables=tunables, policy=policy, decode=decode) as client:
        before = resident("VmRSS")
        for coding in CODINGS:
            for framing in FRAMINGS:
                try:
                    await client.get(f"/{coding}/{framing}")
                except penstock.DecodedTooLong as error:
                    reached = None if error.partial is None else len(error.partial)
                    found.append([coding, framing, error.seen, reached])
                # An error and the future that it came through hold each other, and the error what was received.
                gc.collect()
        peak = resident("VmHWM")
    print(json.dumps({"cap": cap, "found": found, "grown": peak - before}))


if __name__ == "__main__":
    _, url, store, when = sys.argv
    asyncio.run(main(url, store, when if when == "after" else True))
