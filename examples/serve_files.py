"""Serves the files of a directory over HTTP, and holds up nobody for a disk: python examples/serve_files.py DIRECTORY

What may wait for the disk is one job of the pool for each request: to resolve the name, to open the file, to take its
size. Its content is then streamed; what the page cache has is sent without a job, what it hasn't is read on the pool.
It prints its address, and ends with its standard input.
"""

import asyncio
import sys
from pathlib import Path
from urllib.parse import unquote

import penstock

POOL = penstock.DispatchPool(threads=8, queue_length=256, overflow="refuse", drain_threads=0, name_prefix="files-")
READS = penstock.Dispatch(POOL)


def opened(root: Path, target: str) -> penstock.BodyImage:
    """On a thread of the pool. Raises OSError for what isn't there, or isn't below the root."""
    path = (root / unquote(target).lstrip("/")).resolve()
    if not path.is_relative_to(root):
        raise PermissionError(target)
    return penstock.BodyImage.from_path(path, policy=READS)


async def answer(root: Path, target: str, writer: asyncio.StreamWriter) -> None:
    try:
        image = await POOL.run(opened, root, target)
    except OSError as error:
        status = "403 Forbidden" if isinstance(error, PermissionError) else "404 Not Found"
        writer.write(f"HTTP/1.0 {status}\r\n\r\n".encode())
        return
    except penstock.PoolFull:
        # 256 requests wait for the disk: to say so now is kinder than to be late for all.
        writer.write(b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 1\r\n\r\n")
        return
    writer.write(f"HTTP/1.0 200 OK\r\nContent-Length: {len(image)}\r\n\r\n".encode())
    async for view in image.stream(65536):
        writer.write(view)
        await writer.drain()


async def converse(root: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        async with asyncio.timeout(60):
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
            if method == "GET":
                await answer(root, target, writer)
            else:
                writer.write(b"HTTP/1.0 405 Method Not Allowed\r\nAllow: GET\r\n\r\n")
            await writer.drain()
    except (ConnectionError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass  # the peer's fault, or its absence
    finally:
        writer.close()


async def main(root: Path) -> None:
    server = await asyncio.start_server(lambda reader, writer: converse(root, reader, writer), "127.0.0.1", 0)
    async with server, POOL:
        print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        await penstock.run_blocking(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]).resolve()))
