"""Runs in a process of its own: keeps bodies, and prints what they hold, as JSON.

`python -m tests.memory.measure SOURCE [URL]`, where SOURCE names a function below that gives the bodies to keep.
Resident memory is compared before and after; idle slabs are unmapped first, so that it is what the bodies retain.
"""

from __future__ import annotations

import asyncio
import gc
import json
import math
import os
import random
import sys
from collections.abc import AsyncIterator, Iterator

import penstock
from penstock import _native

ALL_IN_RAM = penstock.Tunables(max_body_ram="4MiB")
LARGEST = 2 << 20
CONTENT = memoryview(random.Random(3).randbytes(LARGEST))


def mixed_sizes(count: int) -> Iterator[int]:
    """From nothing to 2 MiB, as many between 1 and 2 KiB as between 1 and 2 MiB."""
    chance = random.Random(1)
    for _ in range(count):
        yield int(math.exp(chance.uniform(0, math.log(LARGEST + 1)))) - 1


async def pieces_of(size: int, kind: type[bytes] | type[memoryview]) -> AsyncIterator[bytes | memoryview]:
    chance = random.Random(size)
    start = 0
    while start < size:
        end = min(size, start + chance.choice((1, 700, 1460, 4096, 16_384, 65_536, 262_144)))
        yield bytes(CONTENT[start:end]) if kind is bytes else CONTENT[start:end]
        start = end


async def collected(kind: type[bytes] | type[memoryview]) -> list[penstock.BodyImage]:
    kept = []
    for index, size in enumerate(mixed_sizes(10_000)):
        image = await penstock.collect(pieces_of(size, kind), ALL_IN_RAM)
        assert len(image) == size
        if index % 20 == 0:
            kept.append(image)
    return kept


async def collected_bytes(url: str) -> list[penstock.BodyImage]:
    return await collected(bytes)


async def collected_views(url: str) -> list[penstock.BodyImage]:
    return await collected(memoryview)


def heap_sizes() -> list[int]:
    """Of bodies that are large for the heap, and too short for a slab."""
    chance = random.Random(2)
    return [chance.randint(20 << 10, 60 << 10) for _ in range(2000)]


async def heap_collected(url: str) -> list[penstock.BodyImage]:
    return [await penstock.collect(pieces_of(size, bytes), ALL_IN_RAM) for size in heap_sizes()]


async def small_pushed(url: str) -> list[penstock.BodyImage]:
    kept = []
    for _ in range(10_000):
        async with penstock.AsyncBodySink() as sink:
            await sink.write(CONTENT[:500])
            await sink.write(bytes(CONTENT[500:1024]))
            kept.append(await sink.prepare())
    return kept


async def single_bytes_pushed(url: str) -> list[penstock.BodyImage]:
    async with penstock.AsyncBodySink(ALL_IN_RAM) as sink:
        for _ in range(1 << 20):
            await sink.write(b"x")
        return [await sink.prepare()]


async def received(url: str, paths: list[str], keep_every: int = 1) -> list[penstock.BodyImage]:
    kept = []
    order = iter(enumerate(paths))
    async with penstock.Client(base_url=url, tunables=ALL_IN_RAM) as client:

        async def run() -> None:
            for index, path in order:
                response = await client.get(path)
                assert len(response.body) == int(path.split("/")[1])
                if index % keep_every == 0:
                    kept.append(response.body)

        await asyncio.gather(*(run() for _ in range(8)))
    return kept


async def mixed_received(url: str) -> list[penstock.BodyImage]:
    paths = [f"/{size}" if index % 3 else f"/{size}/8192" for index, size in enumerate(mixed_sizes(10_000))]
    return await received(url, paths, 20)


async def heap_received(url: str) -> list[penstock.BodyImage]:
    paths = [f"/{size}" if index % 3 else f"/{size}/8192" for index, size in enumerate(heap_sizes())]
    return await received(url, paths)


async def small_received(url: str) -> list[penstock.BodyImage]:
    return await received(url, ["/1024"] * 10_000)


async def single_bytes_received(url: str) -> list[penstock.BodyImage]:
    return await received(url, [f"/{1 << 20}/1"] * 8)


def resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def tidy() -> None:
    gc.collect()
    _native.settle(10)
    _native.trim()


async def main(source: str, url: str) -> None:
    # Code, pools and caches that come with the first use don't count.
    async with penstock.AsyncBodySink() as sink:
        await sink.write(b"warm")
        warm = await sink.prepare()
    if url:
        await received(url, ["/70000", "/1024/100"])
    tidy()
    before = resident()
    kept = await globals()[source](url)
    tidy()
    del warm
    slabs = penstock.stats()["slabs"]
    print(
        json.dumps(
            {
                "bodies": len(kept),
                "bytes": sum(map(len, kept)),
                "slabs": slabs["held"],
                "resident": resident() - before,
                "states": sorted({image.state for image in kept}),
                "as_sent": all(image.state != "ram" or same(image) for image in kept[:50]),
            }
        )
    )


def same(image: penstock.BodyImage) -> bool:
    found = bytes(image)
    return found == CONTENT[: len(found)] or found == b"x" * len(found)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
