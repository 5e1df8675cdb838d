"""A CPU-bound parser beside an event loop: python examples/parse.py FILE.csv...

Adds up the column `amount` of each file. Parsing in Python holds the interpreter's lock, so more threads make it no
faster; one thread is enough to keep the loop turning meanwhile. How late the loop was at worst is printed in the end.
"""

import asyncio
import csv
import sys
import time
from pathlib import Path
from typing import NamedTuple

import penstock

TICK = 0.005


class Parsed(NamedTuple):
    path: Path
    rows: int
    amount: int


def parse(path: Path) -> Parsed:
    """On a thread of the pool: takes as long as it takes."""
    rows = amount = 0
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            rows += 1
            amount += int(row["amount"])
    return Parsed(path, rows, amount)


async def worst_lateness() -> None:
    """Until it is cancelled; stands for everything else that the loop has to do."""
    worst = 0.0
    try:
        while True:
            due = time.monotonic() + TICK
            await asyncio.sleep(TICK)
            worst = max(worst, time.monotonic() - due)
    finally:
        print(f"the loop was late by {worst * 1000:.1f} ms at most", file=sys.stderr)


async def main(paths: list[Path]) -> None:
    watching = asyncio.create_task(worst_lateness())
    async with penstock.DispatchPool(threads=1, name_prefix="parse-") as pool:
        # However many files there are, four are under way, and their results come one by one.
        async for parsed in pool.map_unordered(parse, paths, window=4):
            print(f"{parsed.path.name}: {parsed.rows} rows, {parsed.amount}")
    watching.cancel()
    await asyncio.wait([watching])


if __name__ == "__main__":
    asyncio.run(main([Path(name) for name in sys.argv[1:]]))
