"""A large download through aiohttp, kept within bounds by penstock: python examples/collect_aiohttp.py URL

The client stays as it is. Its stream goes to `penstock.collect`, which holds a small body in memory and moves a larger
one to a file, whatever the server announced.
"""

import asyncio
import sys

import aiohttp
import penstock

TUNABLES = penstock.Tunables(max_body_ram="256KiB", max_body="2GiB", digests=("sha256",))


async def fetch(session: aiohttp.ClientSession, url: str) -> penstock.BodyImage:
    async with session.get(url) as response:
        response.raise_for_status()
        return await penstock.collect(response.content.iter_chunked(262144), TUNABLES)


async def main(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        image = await fetch(session, url)
    # The body outlives the connection and the client.
    print(f"{len(image)} bytes, in {image.state}, sha256 {image.digests['sha256']}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
