"""pyreqwest (Rust's reqwest on a tokio runtime of its own), as its README and its documentation show it."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pyreqwest.client import ClientBuilder

from penstock.bench.peers import files
from penstock.bench.reading import Fetch, Take

# Larger pieces, fewer hops: https://markussintonen.github.io/pyreqwest/pyreqwest/response.html#ResponseBodyReader.read
PIECE = 1024 * 1024


@asynccontextmanager
async def naive(scenario: str, store: str | None = None) -> AsyncIterator[Fetch]:
    async with ClientBuilder().build() as client:

        async def ram(url: str, take: Take) -> None:
            # https://github.com/MarkusSintonen/pyreqwest#quickstart
            response = await client.get(url).build().send()
            take(await response.bytes())

        async def stored(url: str, take: Take) -> None:
            # https://markussintonen.github.io/pyreqwest/pyreqwest/response.html#ResponseBodyReader.read_chunk
            with tempfile.TemporaryFile(dir=store) as file:
                async with client.get(url).build_streamed() as response:
                    while (chunk := await response.body_reader.read_chunk()) is not None:
                        file.write(chunk)
                files.read(scenario, file, take)

        async def stream(url: str, take: Take) -> None:
            async with client.get(url).build_streamed() as response:
                while (chunk := await response.body_reader.read_chunk()) is not None:
                    take(chunk)

        yield {"ram": ram, "stream": stream}.get(scenario, stored)


@asynccontextmanager
async def tuned(scenario: str, store: str | None = None) -> AsyncIterator[Fetch]:
    files.set_threads()
    # Nothing here needs a decoder or a proxy; more threads cost more here, and reading by pieces does too:
    # https://markussintonen.github.io/pyreqwest/pyreqwest/client.html#BaseClientBuilder
    builder = ClientBuilder().no_proxy().gzip(False).brotli(False).zstd(False).deflate(False)
    async with builder.build() as client:

        async def ram(url: str, take: Take) -> None:
            response = await client.get(url).build().send()
            take(await response.bytes())

        async def stored(url: str, take: Take) -> None:
            # Off the loop: https://docs.python.org/3/library/asyncio-dev.html#running-blocking-code
            with await asyncio.to_thread(files.create, store) as file:
                async with client.get(url).build_streamed() as response:
                    while (chunk := await response.body_reader.read(PIECE)) is not None:
                        await asyncio.to_thread(file.write, chunk)
                await asyncio.to_thread(files.read, scenario, file, take)

        async def stream(url: str, take: Take) -> None:
            async with client.get(url).build_streamed() as response:
                while (chunk := await response.body_reader.read(PIECE)) is not None:
                    take(chunk)

        yield {"ram": ram, "stream": stream}.get(scenario, stored)
