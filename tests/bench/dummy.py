"""Clients without dependencies, for driving the benchmarks' machinery: one that works, and ones that don't.

The driver's children import this by name from the repository's root; nothing else should.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from penstock.bench.reading import Fetch, Take


@asynccontextmanager
async def whole() -> AsyncIterator[Fetch]:
    """Reads a body with a Content-Length over a connection of its own."""

    async def fetch(url: str, take: Take) -> None:
        take(await _get(url))

    yield fetch


@asynccontextmanager
async def forger() -> AsyncIterator[Fetch]:
    """Hands over a body of the right length and greatest byte that isn't the one that was sent."""

    async def fetch(url: str, take: Take) -> None:
        take(bytes(len(await _get(url)) - 1) + b"\xff")

    yield fetch


@asynccontextmanager
async def truncating() -> AsyncIterator[Fetch]:
    """Works until it is measured, then loses the last byte."""
    calls = 0

    async def fetch(url: str, take: Take) -> None:
        nonlocal calls
        calls += 1
        body = await _get(url)
        take(body if calls <= 2 else body[:-1])

    yield fetch


@asynccontextmanager
async def missing() -> AsyncIterator[Fetch]:
    """Can't be opened."""
    raise ImportError("no such client")
    yield


async def _get(url: str) -> bytes:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return await reader.readexactly(length)
    finally:
        writer.close()
        await writer.wait_closed()
