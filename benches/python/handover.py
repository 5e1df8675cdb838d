"""What `block_in_place` costs, and what the loop sees of a task that blocks: calls that return at once, sleeps beside a
ticker, the watch's CPU time, and bodies stored under a permit; in rounds in which the variants take turns.

`python -m benches.python.handover` takes a minute, wants a quiet machine, writes `benches/results/handover.json`, and
prints the tables of it; `--rounds 3 --json OUT` is a look.
"""

import argparse
import asyncio
import datetime
import gc
import json
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import penstock
from penstock import block_in_place
from penstock.bench import machine, server
from penstock.bench.report import markdown

RESULTS = Path(__file__).resolve().parents[1] / "results" / "handover.json"
ROUNDS = 12
SEED = 8
CALLS = 20_000
HOPS = 2_000
TASKS, SLEEP = 20, 0.01
BLOCK = 0.2
TICK = 0.001
WATCHED_SECONDS = 0.5
BODIES, MIB = 16, 1024 * 1024

Sample = dict[str, float]


def noop() -> None:
    pass


async def calls(call: Callable[[Callable[[], None]], object], n: int = CALLS) -> Sample:
    """Microseconds a call, all of one task."""
    begun = time.perf_counter()
    for _ in range(n):
        call(noop)
    return {"us": (time.perf_counter() - begun) / n * 1e6}


async def hops(run: Callable[[Callable[[], None]], Awaitable[None]]) -> Sample:
    """Microseconds an awaited call."""
    begun = time.perf_counter()
    for _ in range(HOPS):
        await run(noop)
    return {"us": (time.perf_counter() - begun) / HOPS * 1e6}


def in_executor(fn: Callable[[], None]) -> Awaitable[None]:
    return asyncio.get_running_loop().run_in_executor(None, fn)


class Ticker:
    """How long a task that wants to run each millisecond has to wait beyond that."""

    def __init__(self) -> None:
        self.worst, self._task = 0.0, asyncio.create_task(self._run())

    async def _run(self) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(TICK)
            now = time.perf_counter()
            self.worst, last = max(self.worst, now - last), now

    async def stop(self) -> float:
        """Milliseconds of the longest gap."""
        await asyncio.sleep(2 * TICK)
        self._task.cancel()
        await asyncio.wait([self._task])
        return self.worst * 1e3


async def ticker() -> Ticker:
    made = Ticker()
    await asyncio.sleep(5 * TICK)
    made.worst = 0.0
    return made


async def in_place(seconds: float) -> None:
    block_in_place(time.sleep, seconds)


async def sleepers(run: Callable[[float], Awaitable[None]], *, known: bool = False) -> Sample:
    """Milliseconds for all tasks together, and the ticker's longest gap; `known`: it was seen before."""
    if known:
        await asyncio.gather(*(run(SLEEP) for _ in range(TASKS)))
    beside = await ticker()
    begun = time.perf_counter()
    await asyncio.gather(*(run(SLEEP) for _ in range(TASKS)))
    return {"wall_ms": (time.perf_counter() - begun) * 1e3, "gap_ms": await beside.stop()}


def to_thread(seconds: float) -> Awaitable[None]:
    return asyncio.to_thread(time.sleep, seconds)


async def one_block() -> Sample:
    beside = await ticker()
    await in_place(BLOCK)
    return {"gap_ms": await beside.stop()}


def carriers_cpu() -> float:
    """Seconds of CPU that carriers have used, the watch among them."""
    used = 0
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text().startswith("penstock-carry"):
            used += int((task / "schedstat").read_text().split()[0])
    return used / 1e9


async def watch(pause: float) -> Sample:
    """The watch's share of a core, while functions are called that it needn't take over."""
    block_in_place(noop)
    await asyncio.sleep(0.1)
    used, begun = carriers_cpu(), time.perf_counter()
    while (lasted := time.perf_counter() - begun) < WATCHED_SECONDS:
        if pause < WATCHED_SECONDS:
            block_in_place(noop)
        await asyncio.sleep(pause)
    return {"cpu_share": (carriers_cpu() - used) / lasted}


async def bodies(policy: penstock.Policy, url: str, store: str) -> Sample:
    """Milliseconds for bodies that go to files."""
    tunables = penstock.Tunables(max_body_ram=0, temp_dir=store)
    async with penstock.Client(tunables=tunables, policy=policy) as client:

        async def batch() -> None:
            responses = await asyncio.gather(*(client.get(url) for _ in range(BODIES)))
            assert {response.body.state for response in responses} == {"file"}

        # Opens the connections.
        await batch()
        begun = time.perf_counter()
        await batch()
    return {"wall_ms": (time.perf_counter() - begun) * 1e3}


@contextmanager
def variants() -> Iterator[Mapping[str, Callable[[], Awaitable[Sample]]]]:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as store, server.running(8 * MIB, 64 * 1024) as address:
        url = address.url
        pool = penstock.DispatchPool(threads=TASKS)
        yield {
            "noop: a call": lambda: calls(lambda fn: fn()),
            "noop: block_in_place": lambda: calls(block_in_place),
            "noop: DispatchPool.run, one by one": lambda: hops(pool.run),
            "noop: run_in_executor, one by one": lambda: hops(in_executor),
            "sleeps: block_in_place": lambda: sleepers(in_place),
            "sleeps: block_in_place, known slow": lambda: sleepers(in_place, known=True),
            "sleeps: DispatchPool.run": lambda: sleepers(lambda seconds: pool.run(time.sleep, seconds)),
            "sleeps: to_thread": lambda: sleepers(to_thread, known=True),
            "one sleep: block_in_place": one_block,
            "watch: active": lambda: watch(0.002),
            "watch: parked": lambda: watch(WATCHED_SECONDS),
            "bodies: Direct": lambda: bodies(penstock.Direct(), url, store),
            "bodies: Permit": lambda: bodies(penstock.Permit(penstock.Semaphore(4)), url, store),
        }
        pool.shutdown()


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benches.python.handover", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="OUT")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    if penstock.BUILD_PROFILE != "release":
        print("this is a debug build: make develop")
        return 1
    order = random.Random(SEED)
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with variants() as found:
        samples: dict[str, list[Sample]] = {name: [] for name in found}
        for round_ in range(-1, options.rounds):
            for name in order.sample(list(found), len(found)):
                gc.collect()
                sample = penstock.run(_measured(found[name]))
                if round_ >= 0:  # the first warms up
                    samples[name].append({key: round(value, 6) for key, value in sample.items()})
    results = {
        "version": 1,
        "started": started,
        "environment": machine.environment((), ()),
        "settings": {
            "rounds": options.rounds,
            "seed": SEED,
            "calls": CALLS,
            "hops": HOPS,
            "tasks": TASKS,
            "sleep_s": SLEEP,
            "block_s": BLOCK,
            "tick_s": TICK,
            "bodies": BODIES,
        },
        "rows": [{"variant": name, "samples": samples[name]} for name in samples],
    }
    options.json.write_text(json.dumps(results, indent=1) + "\n")
    for table in tables(results).values():
        print(table + "\n")
    return 0


async def _measured(variant: Callable[[], Awaitable[Sample]]) -> Sample:
    return await variant()


def tables(results: Mapping[str, Any]) -> dict[str, str]:
    """The medians of what was measured, and how the targets were met."""
    found = {row["variant"]: row["samples"] for row in results["rows"]}

    def middle(variant: str, metric: str) -> float:
        return median(sample[metric] for sample in found[variant])

    def worst(variant: str, metric: str) -> float:
        return float(max(sample[metric] for sample in found[variant]))

    units = {"us": "µs", "wall_ms": "ms", "gap_ms": "ms", "cpu_share": "% of a core"}
    names = {
        "us": "a call",
        "wall_ms": "all together",
        "gap_ms": "longest gap of a ticker of 1 ms",
        "cpu_share": "CPU",
    }
    lines = []
    for variant, samples in found.items():
        for metric in samples[0]:
            factor = 100 if metric == "cpu_share" else 1
            values = (factor * middle(variant, metric), factor * worst(variant, metric))
            lines.append((variant, f"{names[metric]}, {units[metric]}", *(f"{value:.2f}" for value in values)))
    measured = markdown(("what", "figure", "median", "worst"), lines)

    noop_us = middle("noop: block_in_place", "us")
    known, first = "sleeps: block_in_place, known slow", "sleeps: block_in_place"
    late = worst("one sleep: block_in_place", "gap_ms") - 1e3 * results["settings"]["tick_s"]
    parked = worst("watch: parked", "cpu_share")
    ratio = middle("bodies: Permit", "wall_ms") / middle("bodies: Direct", "wall_ms")
    judged: list[tuple[str, float, float, str]] = [
        ("a call that returns at once", noop_us, 1.5, "µs"),
        ("the same ÷ `run_in_executor`", noop_us / middle("noop: run_in_executor, one by one", "us"), 1 / 20, ""),
        ("20 tasks that sleep 10 ms", middle(first, "wall_ms"), 30, "ms"),
        ("ticker's longest gap beside them, known slow", middle(known, "gap_ms"), 4, "ms"),
        ("a ticker beside one sleep of 200 ms is late by, at worst", late, 5, "ms"),
        ("the watch's CPU while active", 100 * middle("watch: active", "cpu_share"), 2, "%"),
        ("the watch's CPU while parked, worst", 100 * parked, 0.05, "%"),
        ("bodies to files, `Permit` ÷ `Direct`", ratio, 1.05, ""),
    ]
    rows = [
        (name, f"{limit:.3g} {unit}".strip(), f"{seen:.3g} {unit}".strip(), "met" if seen <= limit else "**missed**")
        for name, seen, limit, unit in judged
    ]
    return {"handover": measured, "handover-targets": markdown(("target", "at most", "measured", ""), rows)}


if __name__ == "__main__":
    sys.exit(main())
