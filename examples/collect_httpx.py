"""A large download through httpx, kept within bounds by penstock: python examples/collect_httpx.py URL

As with aiohttp; and what to do with a body that is too long: the part that was received is there.
"""

import asyncio
import sys

import httpx
import penstock

TUNABLES = penstock.Tunables(max_body_ram="256KiB", max_body="16MiB")


async def fetch(client: httpx.AsyncClient, url: str) -> penstock.BodyImage:
    async with client.stream("GET", url) as response:
        response.raise_for_status()
        return await penstock.collect(response.aiter_bytes(262144), TUNABLES)


async def main(url: str) -> None:
    async with httpx.AsyncClient() as client:
        try:
            image = await fetch(client, url)
        except penstock.BodyTooLong as error:
            image = error.partial
            print(f"cut: {error}")
    print(f"{len(image)} bytes, in {image.state}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
