"""What dropping large bodies does to a loop: how late a ticker of a millisecond is at the worst until all is freed, in
rounds in which the variants take turns. The same files and mappings are dropped as Python has them, too, where the
thread that lets go of the last reference frees.

`python -m benches.python.reaper` takes a minute, wants a quiet machine and 2 GiB of disk, writes
`benches/results/reaper.json`, and prints the table of it; `--rounds 1 --json OUT` is a look. The exit status is 1 if
the limit is missed.
"""

import asyncio
import datetime
import gc
import json
import mmap
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import penstock
from penstock import _native
from penstock.bench import machine
from penstock.bench.report import markdown
from penstock.bench.rounds import NOISE_MS, Pace

from benches import targets
from benches.python import options

RESULTS = Path(__file__).resolve().parents[1] / "results" / "reaper.json"
ROUNDS = 10
SEED = 7
TICK = 0.001
LIMIT_MS = 5.0
MIB = 1024 * 1024
PIECE = bytes(8 * MIB)

DROPS = {"16 of 8 MiB": (16, 8 * MIB), "1 of 1 GiB": (1, 1024 * MIB)}
"""How many, of which size."""

Sample = dict[str, Any]


def nothing(folder: str, size: int) -> None:
    """The noise: the same work before, nothing to free."""
    python_file(folder, size).close()


def penstock_file(folder: str, size: int) -> penstock.BodyImage:
    with penstock.BodySink(penstock.Tunables(max_body_ram=0, max_body="2GiB", temp_dir=folder)) as sink:
        for _ in range(size // len(PIECE)):
            sink.write(PIECE)
        return sink.prepare()


def penstock_mapping(folder: str, size: int) -> penstock.BodyImage:
    return penstock_file(folder, size).mmap()


def python_file(folder: str, size: int) -> Any:
    file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (dropped, not closed: that is measured)
    for _ in range(size // len(PIECE)):
        file.write(PIECE)
    return file


def python_mapping(folder: str, size: int) -> mmap.mmap:
    with python_file(folder, size) as file:
        mapped = mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ)
    for start in range(0, size, mmap.PAGESIZE):
        mapped[start]
    return mapped


VARIANTS: Mapping[str, Callable[[str, int], object]] = {
    "nothing": nothing,
    "penstock's files": penstock_file,
    "penstock's mappings": penstock_mapping,
    "Python's files": python_file,
    "Python's mappings": python_mapping,
}


async def worst_delay(drop: Callable[[], None]) -> float:
    """Milliseconds that a ticker came late at the most, from before the drop until everything is freed."""
    worst = 0.0
    stop = False

    async def tick() -> None:
        nonlocal worst
        while not stop:
            due = time.perf_counter() + TICK
            await asyncio.sleep(TICK)
            worst = max(worst, time.perf_counter() - due)

    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0.05)
    drop()
    await asyncio.to_thread(_native.settle, 60)
    await asyncio.sleep(0.05)
    stop = True
    await ticker
    return worst * 1e3


def others_ms() -> float:
    """CPU time that others have used on this machine; the kernel's threads are others."""
    return (machine.busy_ms() or 0.0) - machine.process_ms(os.getpid())


async def measure(make: Callable[[str, int], object], folder: str, count: int, size: int) -> Sample:
    kept = await asyncio.to_thread(lambda: [make(folder, size) for _ in range(count)])
    gc.collect()
    gc.disable()
    others, begun = others_ms(), time.perf_counter()
    try:
        late = await worst_delay(kept.clear)
    finally:
        gc.enable()
    lasted, others = (time.perf_counter() - begun) * 1e3, others_ms() - others
    return {"late_ms": round(late, 3), "noisy": others > max(NOISE_MS, Pace.noise * lasted)}


def main(argv: Sequence[str] | None = None) -> int:
    parser = options.in_turns("reaper", __doc__, ROUNDS, RESULTS)
    parser.add_argument("--store", type=Path, default=Path("/var/tmp"), metavar="DIR", help="(default: %(default)s)")
    arguments = parser.parse_args(argv)
    if penstock.BUILD_PROFILE != "release":
        print("this is a debug build: make develop")
        return 1
    order = random.Random(SEED)
    turns = [(dropped, name) for dropped in DROPS for name in VARIANTS]
    samples: dict[tuple[str, str], list[Sample]] = {turn: [] for turn in turns}
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with tempfile.TemporaryDirectory(dir=arguments.store) as folder:
        for round_ in range(-1, arguments.rounds):
            for dropped, name in order.sample(turns, len(turns)):
                sample = asyncio.run(measure(VARIANTS[name], folder, *DROPS[dropped]))
                if round_ >= 0:  # the first warms up
                    samples[dropped, name].append(sample)
    results: dict[str, Any] = {
        "version": 1,
        "started": started,
        "environment": machine.environment((), (arguments.store,)),
        "settings": {"rounds": arguments.rounds, "seed": SEED, "tick_s": TICK, "limit_ms": LIMIT_MS},
        "rows": [{"dropped": dropped, "variant": name, "samples": samples[dropped, name]} for dropped, name in turns],
    }
    arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    return int(any(verdict(row, LIMIT_MS) == "missed" for row in results["rows"]))


def late(row: Mapping[str, Any]) -> list[float]:
    """Of the rounds in which others left the machine alone; of all if there was none."""
    samples: list[Sample] = row["samples"]
    return [sample["late_ms"] for sample in samples if not sample["noisy"]] or [each["late_ms"] for each in samples]


def verdict(row: Mapping[str, Any], limit: float) -> str:
    """By the worst, as all lags are judged; nothing is promised of others."""
    return targets.worst(late(row), limit) if row["variant"].startswith("penstock") else ""


def table(results: Mapping[str, Any]) -> str:
    limit = results["settings"]["limit_ms"]
    lines = []
    for row in results["rows"]:
        figures, judged = late(row), verdict(row, limit)
        shown = (f"{median(figures):.2f}", f"{max(figures):.2f} of {len(figures)}", f"≤ {limit:g} ms" if judged else "")
        lines.append((row["dropped"], row["variant"], *shown, judged))
    return markdown(("dropped at once", "kept as", "median ms", "worst ms", "limit", "verdict"), lines)


if __name__ == "__main__":
    sys.exit(main())
