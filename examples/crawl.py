"""Many GETs at once that can't run you out of anything: python examples/crawl.py URL..., or URLs on stdin

How many bodies come and how large they are is the servers' choice. What they may take is ours: connections, memory
of a body, memory and disk of all together, and time.
"""

import asyncio
import hashlib
import sys
from collections.abc import Iterable

import penstock

TUNABLES = penstock.Tunables(max_body_ram="64KiB", max_body="64MiB")
BUDGET = penstock.Budget(ram="32MiB", disk="2GiB", files=200)
TIMEOUTS = penstock.Timeouts(connect=5, idle=20, total=120)
LIMITS = penstock.Limits(connections=50)


async def digest(image: penstock.BodyImage) -> str:
    """Reads a body piece by piece, from memory or from its file; the loop goes on in between."""
    found = hashlib.sha256()
    async for view in image.stream(65536, yield_between=True):
        found.update(view)
    return found.hexdigest()


async def visit(client: penstock.Client, url: str, places: asyncio.Semaphore) -> str:
    async with places:
        try:
            response = await client.get(url)
        except (penstock.RequestError, penstock.LimitExceeded, penstock.BudgetExceeded) as error:
            return f"{url}: {type(error).__name__}: {error}"
        # The body is dropped here, and gives back its memory or its file.
        return f"{url}: {response.status}, {len(response.body)} bytes, sha256 {await digest(response.body)}"


async def crawl(urls: Iterable[str]) -> int:
    """Visits all URLs; returns how many."""
    places = asyncio.Semaphore(200)
    async with penstock.Client(tunables=TUNABLES, budget=BUDGET, timeout=TIMEOUTS, limits=LIMITS) as client:
        visits = [asyncio.create_task(visit(client, url, places)) for url in urls]
        for done in asyncio.as_completed(visits):
            print(await done)
        print(f"{client.stats()['connected']} connections", file=sys.stderr)
    return len(visits)


if __name__ == "__main__":
    given = sys.argv[1:] or [line.strip() for line in sys.stdin if line.strip()]
    asyncio.run(crawl(given))
