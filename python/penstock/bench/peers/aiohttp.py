"""aiohttp, as its quickstart shows it and as its documentation advises."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from penstock.bench.peers import files
from penstock.bench.reading import Fetch, Take

# 64 KiB is what asyncio's streams read at a time, and upstream's file buffer.
PIECE = 64 * 1024
BUFFER = 1024 * 1024


@asynccontextmanager
async def naive(scenario: str, store: str | None = None) -> AsyncIterator[Fetch]:
    async with aiohttp.ClientSession() as session:

        async def ram(url: str, take: Take) -> None:
            async with session.get(url) as response:
                take(await response.read())

        async def stored(url: str, take: Take) -> None:
            # https://docs.aiohttp.org/en/stable/client_quickstart.html#streaming-response-content
            with tempfile.TemporaryFile(dir=store) as file:
                async with session.get(url) as response:
                    async for chunk in response.content.iter_chunked(PIECE):
                        file.write(chunk)
                files.read(scenario, file, take)

        async def stream(url: str, take: Take) -> None:
            async with session.get(url) as response:
                async for chunk in response.content.iter_chunked(PIECE):
                    take(chunk)

        yield {"ram": ram, "stream": stream}.get(scenario, stored)


@asynccontextmanager
async def tuned(scenario: str, store: str | None = None) -> AsyncIterator[Fetch]:
    files.set_threads()
    # No limit to wait at: https://docs.aiohttp.org/en/stable/client_advanced.html#limiting-connection-pool-size
    connector = aiohttp.TCPConnector(limit=0)
    # Nothing is encoded, and a larger buffer pauses reading less often:
    # https://docs.aiohttp.org/en/stable/client_reference.html#aiohttp.ClientSession
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False, read_bufsize=BUFFER) as session:

        async def ram(url: str, take: Take) -> None:
            # As received, without joining: https://docs.aiohttp.org/en/stable/streams.html#aiohttp.StreamReader.iter_any
            async with session.get(url) as response:
                chunks = [chunk async for chunk in response.content.iter_any()]
            for chunk in chunks:
                take(chunk)

        async def stored(url: str, take: Take) -> None:
            # Off the loop: https://docs.python.org/3/library/asyncio-dev.html#running-blocking-code
            with await asyncio.to_thread(files.create, store) as file:
                async with session.get(url) as response:
                    async for chunk in response.content.iter_any():
                        await asyncio.to_thread(file.write, chunk)
                await asyncio.to_thread(files.read, scenario, file, take)

        async def stream(url: str, take: Take) -> None:
            async with session.get(url) as response:
                async for chunk in response.content.iter_any():
                    take(chunk)

        yield {"ram": ram, "stream": stream}.get(scenario, stored)
