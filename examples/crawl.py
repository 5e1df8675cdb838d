"""Many GETs at once that can't run you out of anything: python examples/crawl.py URL..., or URLs on stdin

How many bodies come and how large they are is the servers' choice. What they may take is ours: visits at a time,
connections, memory of a body, memory and disk of all together, and time. A URL that fails is told of, and the others
are visited all the same.
"""

import asyncio
import hashlib
import sys
from collections.abc import Iterable, Iterator

import penstock

TUNABLES = penstock.Tunables(max_body_ram="64KiB", max_body="64MiB")
BUDGET = penstock.Budget(ram="32MiB", disk="2GiB", files=200)
TIMEOUTS = penstock.Timeouts(connect=5, idle=20, total=120)
LIMITS = penstock.Limits(connections=50)
WORKERS = 64


async def digest(image: penstock.BodyImage) -> str:
    """Reads a body piece by piece, from memory or from its file; the loop goes on in between."""
    found = hashlib.sha256()
    async for view in image.stream(65536, yield_between=True):
        found.update(view)
    return found.hexdigest()


async def visit(client: penstock.Client, url: str) -> str:
    try:
        response = await client.get(url)
    except (penstock.RequestError, penstock.LimitExceeded, penstock.BudgetExceeded, OSError) as error:
        # OSError: the file system has no room for a body, or something else against its file.
        return f"{url}: {type(error).__name__}: {error}"
    # The body is dropped here, and gives back its memory or its file.
    return f"{url}: {response.status}, {len(response.body)} bytes, sha256 {await digest(response.body)}"


async def work(client: penstock.Client, urls: Iterator[str]) -> None:
    """One of some workers that take from one iterator: there are as many visits as workers, not one for each URL."""
    for url in urls:
        print(await visit(client, url))


async def crawl(urls: Iterable[str]) -> None:
    waiting = iter(urls)
    async with penstock.Client(tunables=TUNABLES, budget=BUDGET, timeout=TIMEOUTS, limits=LIMITS) as client:
        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(work(client, waiting))
        print(f"{client.stats()['connected']} connections", file=sys.stderr)


if __name__ == "__main__":
    given = sys.argv[1:] or [line.strip() for line in sys.stdin if line.strip()]
    asyncio.run(crawl(given))
