"""The clients of the client's benchmarks, each by the way that its documentation advises; every option of a tuned row
stands with its source. A row is an async context manager over a `penstock.bench.reading.Fetch`.

`shape` says what is done: "small" reads the status, two headers and the body of each response; "body" the body, as it
lies in memory; "upload" sends the file at `file`, and reads what the server says that it got; "idle" is "small", of
which the connections are kept.
"""

import asyncio
import functools
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import penstock
from penstock.bench import server
from penstock.bench.reading import PIECE, Fetch, Take
from pyreqwest.client import ClientBuilder

# Files are sent, or read, by so much at a time where the client's user says so.
SENT = 1 << 20
BUFFER = 1 << 20
# zlib's wbits for the gzip format with the largest window.
GZIP = 31


@functools.cache
def sent(size: int) -> bytes:
    return server.body(size)


@asynccontextmanager
async def upload_file(size: int) -> AsyncIterator[Path]:
    """A file to send, in the page cache."""
    with tempfile.NamedTemporaryFile(dir=".") as file:
        await asyncio.to_thread(file.write, sent(size))
        file.flush()
        yield Path(file.name)


def confirm(answer: str, size: int) -> None:
    """What was sent has come, up to its last byte."""
    if answer != f"{size} {0xFF}":
        raise ValueError(f"the server got {answer!r}; expected {size} bytes up to 255")


def trusting(certificate: str | None) -> ssl.SSLContext | None:
    return ssl.create_default_context(cafile=certificate) if certificate else None


@asynccontextmanager
async def open_penstock(shape: str, certificate: str | None = None, size: int = 0) -> AsyncIterator[Fetch]:
    tunables = penstock.Tunables(max_body_ram="64MiB")
    limits = penstock.Limits(connections=600)
    async with penstock.Client(tunables=tunables, limits=limits, ssl_context=trusting(certificate)) as client:

        async def small(url: str, take: Take) -> None:
            response = await client.get(url)
            read_head(response.status, response.headers)
            take(await response.read())

        async def body(url: str, take: Take) -> None:
            response = await client.get(url)
            for view in response.body.chunks(PIECE):
                take(view)

        if shape == "upload":
            async with upload_file(size) as path:
                image = penstock.BodyImage.from_path(path)

                async def upload(url: str, _: Take) -> None:
                    response = await client.post(url, content=image)
                    confirm(await response.text(), size)

                yield upload
        else:
            yield body if shape == "body" else small


def read_head(status: int, headers: Any) -> None:
    if status != 200 or headers["content-type"] != "application/octet-stream" or headers["content-length"] != "1024":
        raise ValueError(f"status {status}, headers {headers!r}")


@asynccontextmanager
async def open_aiohttp(
    shape: str, certificate: str | None = None, size: int = 0, tuned: bool = True, zlib: str | None = None
) -> AsyncIterator[Fetch]:
    options: dict[str, Any] = {}
    context = trusting(certificate)
    if tuned:
        # No limit to wait at: https://docs.aiohttp.org/en/stable/client_advanced.html#limiting-connection-pool-size
        options["connector"] = aiohttp.TCPConnector(limit=0, ssl=context or True)
        # https://docs.aiohttp.org/en/stable/client_reference.html#aiohttp.DummyCookieJar
        options["cookie_jar"] = aiohttp.DummyCookieJar()
        # https://docs.aiohttp.org/en/stable/client_reference.html#aiohttp.ClientSession
        options["read_bufsize"] = BUFFER
    elif context is not None:
        options["connector"] = aiohttp.TCPConnector(ssl=context)
    if zlib is not None:
        # https://docs.aiohttp.org/en/stable/client_reference.html#aiohttp.set_zlib_backend
        aiohttp.set_zlib_backend(_zlib(zlib))
    async with aiohttp.ClientSession(**options) as session:

        async def small(url: str, take: Take) -> None:
            async with session.get(url) as response:
                read_head(response.status, response.headers)
                take(await response.read())

        async def pieces(url: str, take: Take) -> None:
            # https://docs.aiohttp.org/en/stable/streams.html#aiohttp.StreamReader.iter_any
            async with session.get(url) as response:
                chunks = [chunk async for chunk in response.content.iter_any()]
            for chunk in chunks:
                take(chunk)

        async def whole(url: str, take: Take) -> None:
            async with session.get(url) as response:
                take(await response.read())

        if shape == "upload":
            async with upload_file(size) as path:
                yield _aiohttp_upload(session, path, size, tuned)
        elif shape == "body":
            yield pieces if tuned else whole
        else:
            yield small


def _aiohttp_upload(session: aiohttp.ClientSession, path: Path, size: int, tuned: bool) -> Fetch:
    async def read_by_large_pieces() -> AsyncIterator[bytes]:
        with path.open("rb") as file:
            while piece := await asyncio.to_thread(file.read, SENT):
                yield piece

    async def upload(url: str, _: Take) -> None:
        # https://docs.aiohttp.org/en/stable/client_quickstart.html#streaming-uploads
        if tuned:
            headers = {"content-length": str(size)}
            async with session.post(url, data=read_by_large_pieces(), headers=headers) as response:
                confirm(await response.text(), size)
        else:
            with path.open("rb") as file:
                async with session.post(url, data=file) as response:
                    confirm(await response.text(), size)

    return upload


def _zlib(name: str) -> Any:
    if name == "isal":
        from isal import isal_zlib

        return isal_zlib
    from zlib_ng import zlib_ng

    return zlib_ng


@asynccontextmanager
async def open_decoder(shape: str, zlib: str | None = None) -> AsyncIterator[Fetch]:
    """No client, but what each has to do beside everything else: bytes that were received once, before anything is
    timed, are decoded in memory, by penstock's decoder or another."""
    tunables = penstock.Tunables(max_body_ram="64MiB")
    received: dict[str, penstock.BodyImage] = {}
    async with penstock.Client(decode=False, tunables=tunables) as client:

        async def body(url: str, take: Take) -> None:
            if url not in received:
                received[url] = (await client.get(url)).body
            if zlib is None:
                image = await received[url].decode("gzip", policy=penstock.Direct(), tunables=tunables)
                for view in image.chunks(PIECE):
                    take(view)
            else:
                decoder = _zlib(zlib).decompressobj(GZIP)
                for view in received[url].chunks(PIECE):
                    take(decoder.decompress(view))

        yield body


@asynccontextmanager
async def open_pyreqwest(shape: str, certificate: str | None = None, gzip: bool = False) -> AsyncIterator[Fetch]:
    # https://markussintonen.github.io/pyreqwest/pyreqwest/client.html#BaseClientBuilder
    builder = ClientBuilder().no_proxy().gzip(gzip).brotli(False).zstd(False).deflate(False)
    if certificate:
        builder = builder.add_root_certificate_pem(await asyncio.to_thread(Path(certificate).read_bytes))
    async with builder.build() as client:
        get: Callable[[str], Awaitable[Any]] = lambda url: client.get(url).build().send()  # noqa: E731

        async def small(url: str, take: Take) -> None:
            response = await get(url)
            read_head(response.status, response.headers)
            take(await response.bytes())

        async def body(url: str, take: Take) -> None:
            response = await get(url)
            take(await response.bytes())

        yield body if shape == "body" else small
