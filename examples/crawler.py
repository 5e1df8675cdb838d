"""A crawler that stays within what it was given, for as long as it runs: python examples/crawler.py URL-PREFIX

It visits ten thousand URLs of one server, and then visits them again until its time is over: most bodies are small, a
tenth is larger than memory may hold, and some are broken. Meanwhile it watches itself: memory, threads, descriptors,
and how late the event loop is. When a bound is broken it says which and ends with status 1.

The server is to know URL-PREFIX/body/NUMBER/SIZE, a body of that size; /broken/NUMBER/SIZE, one that ends early; and
/missing/NUMBER/SIZE, a 404. tests/ground/test_examples.py has one in a few lines.
"""

import argparse
import asyncio
import collections
import itertools
import random
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import penstock

TUNABLES = penstock.Tunables(max_body_ram="64KiB", max_body="4MiB")
BUDGET = penstock.Budget(ram="32MiB", disk="512MiB", files=100)
TIMEOUTS = penstock.Timeouts(connect=5, first_byte=10, idle=10, total=60)
LIMITS = penstock.Limits(connections=32)
WORKERS = 48
PROC = Path("/proc/self")

MOST = {"rss_mib": 200, "threads": 24, "descriptors": 400, "lag_ms": 250}
"""What it may take. The lag is the second worst of all that were seen: one stall of the machine proves nothing."""


def paths(count: int, seed: int = 1) -> list[str]:
    """As web pages are: a long tail, a tenth over what memory may hold; a hundredth ends early, another is missing."""
    chance = random.Random(seed)
    found = []
    for number in range(count):
        if number % 10 == 0:
            size = chance.randrange(70_000, 1_000_000)
        else:
            size = min(int(chance.lognormvariate(8.5, 1.2)), 60_000)
        kind = {7: "broken", 57: "missing"}.get(number % 100, "body")
        found.append(f"/{kind}/{number}/{size}")
    return found


class Watch:
    """The worst that was seen of each figure."""

    def __init__(self) -> None:
        self.worst = dict.fromkeys(MOST, 0.0)
        self.lags: list[float] = []

    async def look(self) -> None:
        while True:
            due = time.monotonic() + 0.02
            await asyncio.sleep(0.02)
            self.lags = sorted([*self.lags, (time.monotonic() - due) * 1000])[-2:]
            now = taken() | {"lag_ms": self.lags[0]}
            self.worst = {name: max(self.worst[name], now[name]) for name in MOST}


def taken() -> dict[str, float]:
    pages = int((PROC / "statm").read_text().split()[1])
    return {
        "rss_mib": pages * resource.getpagesize() / 2**20,
        "threads": sum(1 for _ in (PROC / "task").iterdir()),
        "descriptors": sum(1 for _ in (PROC / "fd").iterdir()),
    }


def visits(urls: list[str], end: float) -> Iterator[str]:
    """Each of them once, however long that takes, and then again and again until `end`."""
    yield from urls
    for url in itertools.cycle(urls):
        if time.monotonic() >= end:
            return
        yield url


async def work(client: penstock.Client, urls: Iterator[str], seen: collections.Counter[str]) -> None:
    for url in urls:
        try:
            response = await client.get(url)
        except (penstock.RequestError, penstock.LimitExceeded, penstock.BudgetExceeded) as error:
            seen[type(error).__name__] += 1
            continue
        total = 0
        async for view in response.body.stream():
            total += len(view)
        assert total == len(response.body)
        seen[f"{response.status} {response.body.state}"] += 1


async def crawl(prefix: str, seconds: float, count: int) -> int:
    began = time.monotonic()
    urls = visits([prefix.rstrip("/") + path for path in paths(count)], began + seconds)
    seen: collections.Counter[str] = collections.Counter()
    watch = Watch()
    async with penstock.Client(tunables=TUNABLES, budget=BUDGET, timeout=TIMEOUTS, limits=LIMITS) as client:
        looking = asyncio.create_task(watch.look())
        await asyncio.gather(*[work(client, urls, seen) for _ in range(WORKERS)])
        looking.cancel()
        took = time.monotonic() - began
        figures = client.stats()
    for name, number in sorted(seen.items()):
        print(f"{name}: {number}")
    print(f"{sum(seen.values()) / took:.0f} a second over {figures['connected']} connections")
    broken = [name for name, most in MOST.items() if watch.worst[name] > most]
    for name, most in MOST.items():
        print(f"{name}: {watch.worst[name]:.0f} of {most}", file=sys.stderr if name in broken else sys.stdout)
    return 1 if broken else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("prefix")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--urls", type=int, default=10_000)
    given = parser.parse_args()
    sys.exit(asyncio.run(crawl(given.prefix, given.seconds, given.urls)))
