"""What dropping large bodies does to a loop: the worst delay of a 1 ms ticker while it happens, in milliseconds.

`python -m benches.python.reaper [FOLDER]`. For comparison, the same files and mappings are dropped as Python has them,
where the thread that lets go of the last reference frees.
"""

from __future__ import annotations

import asyncio
import gc
import mmap
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import penstock
from penstock import _native

MiB = 1 << 20
PIECE = bytes(8 * MiB)


def nothing(folder: str, size: int) -> Any:
    """The noise: the same work before, nothing to free."""
    python_file(folder, size).close()


def penstock_file(folder: str, size: int) -> Any:
    with penstock.BodySink(penstock.Tunables(max_body_ram=0, max_body="2GiB", temp_dir=folder)) as sink:
        for _ in range(size // len(PIECE)):
            sink.write(PIECE)
        return sink.prepare()


def penstock_mapping(folder: str, size: int) -> Any:
    return penstock_file(folder, size).mmap()


def python_file(folder: str, size: int) -> Any:
    file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (dropped, not closed: that is measured)
    for _ in range(size // len(PIECE)):
        file.write(PIECE)
    return file


def python_mapping(folder: str, size: int) -> Any:
    with python_file(folder, size) as file:
        mapped = mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ)
    for start in range(0, size, mmap.PAGESIZE):
        mapped[start]
    return mapped


async def worst_delay(drop: Callable[[], None]) -> float:
    """The longest that a ticker of 1 ms came late, from before the drop until everything is freed."""
    worst = 0.0
    stop = False

    async def tick() -> None:
        nonlocal worst
        while not stop:
            due = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            worst = max(worst, time.perf_counter() - due)

    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0.05)
    drop()
    await asyncio.to_thread(_native.settle, 60)
    await asyncio.sleep(0.05)
    stop = True
    await ticker
    return worst * 1000


async def measure(make: Callable[[str, int], Any], folder: str, count: int, size: int) -> float:
    kept = await asyncio.to_thread(lambda: [make(folder, size) for _ in range(count)])
    return await worst_delay(kept.clear)


def main() -> None:
    if _native.BUILD_PROFILE != "release":
        sys.exit("this is a debug build: make develop")
    gc.disable()
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else "/var/tmp") as folder:
        print(f"{'worst delay of a 1 ms ticker, ms':<40} {'16 x 8 MiB':>12} {'1 x 1 GiB':>12}")
        for make in (nothing, penstock_file, penstock_mapping, python_file, python_mapping):
            figures = [
                min(asyncio.run(measure(make, folder, count, size)) for _ in range(3))
                for count, size in ((16, 8 * MiB), (1, 1024 * MiB))
            ]
            print(f"{make.__name__.replace('_', ', '):<40} {figures[0]:>12.2f} {figures[1]:>12.2f}", flush=True)


if __name__ == "__main__":
    main()
