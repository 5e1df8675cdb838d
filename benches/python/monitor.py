"""What it costs to leave `LoopMonitor` on, beside the timer of a millisecond that is often used in its place, and what
the figures of policies cost: CPU time, by loop and load, in rounds in which the variants take turns.

`python -m benches.python.monitor` takes three minutes, wants a quiet machine, and writes
`benches/results/monitor.json`; `python -m benches.publish` makes the table of it.
"""

import asyncio
import contextlib
import datetime
import gc
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import penstock
import uvloop
from penstock.bench import machine
from penstock.bench.report import markdown

RESULTS = Path(__file__).resolve().parents[1] / "results" / "monitor.json"
ROUNDS = 12
SEED = 5
IDLE_SECONDS = 1.0
TURNS = 50_000
JOBS = 20_000

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}


@contextlib.asynccontextmanager
async def nothing() -> AsyncIterator[None]:
    yield


@contextlib.asynccontextmanager
async def monitor() -> AsyncIterator[None]:
    with penstock.LoopMonitor():
        yield


@contextlib.asynccontextmanager
async def timer() -> AsyncIterator[None]:
    """What a program may do by itself: see each millisecond how late it is."""
    worst = 0.0

    async def tick() -> None:
        nonlocal worst
        while True:
            due = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            worst = max(worst, time.perf_counter() - due)

    task = asyncio.create_task(tick())
    yield
    task.cancel()
    await asyncio.wait([task])


async def idle() -> None:
    await asyncio.sleep(IDLE_SECONDS)


async def turning() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def jobs(run: Callable[..., Awaitable[Any]]) -> None:
    for _ in range(JOBS // 100):
        await asyncio.gather(*[run(int) for _ in range(100)])


async def pool_jobs() -> None:
    await jobs(penstock.default_pool().run)


async def policy_jobs() -> None:
    await jobs(penstock.Dispatch().run)


Variant = tuple[Callable[[], Awaitable[None]], Callable[[], contextlib.AbstractAsyncContextManager[None]]]

VARIANTS: Mapping[str, Variant] = {
    "idle": (idle, nothing),
    "idle, monitor": (idle, monitor),
    "idle, timer": (idle, timer),
    "turning": (turning, nothing),
    "turning, monitor": (turning, monitor),
    "turning, timer": (turning, timer),
    "jobs without figures": (pool_jobs, nothing),
    "jobs": (policy_jobs, nothing),
    "jobs, monitor": (policy_jobs, monitor),
}


async def measure(variant: Variant) -> tuple[float, float]:
    """Seconds of CPU and of the clock."""
    work, watching = variant
    async with watching():
        wall, cpu = time.perf_counter(), time.process_time()
        await work()
        return time.process_time() - cpu, time.perf_counter() - wall


def main() -> int:
    if penstock.BUILD_PROFILE != "release":
        print("this is a debug build: make develop")
        return 1
    order = random.Random(SEED)
    turns = [(loop, name) for loop in LOOPS for name in VARIANTS]
    samples: dict[tuple[str, str], list[dict[str, float]]] = {turn: [] for turn in turns}
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    for round_ in range(-1, ROUNDS):
        for loop, name in order.sample(turns, len(turns)):
            gc.collect()
            with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
                cpu, wall = runner.run(measure(VARIANTS[name]))
            if round_ >= 0:  # the first warms up
                samples[loop, name].append({"cpu_s": round(cpu, 6), "wall_s": round(wall, 6)})
    results: dict[str, Any] = {
        "version": 1,
        "started": started,
        "environment": machine.environment(("uvloop",), ()),
        "settings": {"rounds": ROUNDS, "seed": SEED, "idle_s": IDLE_SECONDS, "turns": TURNS, "jobs": JOBS},
        "rows": [{"loop": loop, "variant": name, "samples": samples[loop, name]} for loop, name in turns],
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    return 0


COMPARED = (
    ("an idle loop", "idle, monitor", "idle"),
    ("an idle loop", "idle, timer", "idle"),
    ("a loop that always turns", "turning, monitor", "turning"),
    ("a loop that always turns", "turning, timer", "turning"),
    ("jobs of a `Dispatch`, 100 at a time", "jobs, monitor", "jobs"),
    ("jobs of a `Dispatch`, 100 at a time", "jobs", "jobs without figures"),
)


def table(results: Mapping[str, Any]) -> str:
    """What each addition costs: of the clock's time where the loop rests, else of the CPU time of the same work."""
    found = {(row["loop"], row["variant"]): row["samples"] for row in results["rows"]}
    lines = []
    for load, variant, base in COMPARED:
        what = {"monitor": "`LoopMonitor`", "timer": "a timer of 1 ms"}.get(variant.partition(", ")[2], "figures")
        for loop in LOOPS:
            with_, without = ([sample["cpu_s"] for sample in found[loop, name]] for name in (variant, base))
            # The same work takes the same CPU time; what disturbs a round only adds to it.
            idle_s = results["settings"]["idle_s"]
            rests, works = (median(with_) - median(without)) / idle_s, min(with_) / min(without) - 1
            cost = rests if base == "idle" else works
            lines.append((load, loop, what, f"{100 * cost:.1f} %"))
    return markdown(("load", "loop", "addition", "CPU"), lines)


if __name__ == "__main__":
    sys.exit(main())
