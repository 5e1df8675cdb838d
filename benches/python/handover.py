"""What `block_in_place` costs, and what the loop sees of a task that blocks: calls that return at once, sleeps beside a
ticker, the watch's CPU time, and bodies stored under a permit; in rounds in which the variants take turns.

`python -m benches.python.handover` takes three minutes, wants a quiet machine, writes `benches/results/handover.json`,
and prints the tables of it; `--rounds 3 --json OUT` is a look.
"""

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
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import penstock
from penstock import block_in_place
from penstock.bench import machine, server
from penstock.bench.figures import Interval, bootstrap
from penstock.bench.report import markdown

from benches import targets
from benches.python import options

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
DIRECT, PERMIT = "bodies: Direct", "bodies: Permit"
BATCHES, TURNS = 5, 8
"""Of bodies, in a sample; and samples of them in a round, as their ratio is close to its limit."""

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
    """Milliseconds a batch of bodies that go to files, of the clock and of this process."""
    tunables = penstock.Tunables(max_body_ram=0, temp_dir=store)
    async with penstock.Client(tunables=tunables, policy=policy) as client:

        async def batch() -> None:
            responses = await asyncio.gather(*(client.get(url) for _ in range(BODIES)))
            assert {response.body.state for response in responses} == {"file"}

        # Opens the connections.
        await batch()
        begun, used = time.perf_counter(), time.process_time()
        for _ in range(BATCHES):
            await batch()
        lasted, used = time.perf_counter() - begun, time.process_time() - used
    return {"wall_ms": lasted / BATCHES * 1e3, "cpu_ms": used / BATCHES * 1e3}


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
            DIRECT: lambda: bodies(penstock.Direct(), url, store),
            PERMIT: lambda: bodies(penstock.Permit(penstock.Semaphore(4)), url, store),
        }
        pool.shutdown()


def main(argv: Sequence[str] | None = None) -> int:
    arguments = options.in_turns("handover", __doc__, ROUNDS, RESULTS).parse_args(argv)
    if penstock.BUILD_PROFILE != "release":
        print("this is a debug build: make develop")
        return 1
    order = random.Random(SEED)
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with variants() as found:
        samples: dict[str, list[Sample]] = {name: [] for name in found}
        bodies_apart = [[name for name in found if name not in (DIRECT, PERMIT)], *[[DIRECT, PERMIT]] * TURNS]
        for round_ in range(-1, arguments.rounds):
            for name in chain.from_iterable(order.sample(group, len(group)) for group in bodies_apart):
                gc.collect()
                sample = penstock.run(_measured(found[name]))
                if round_ >= 0:  # the first warms up
                    samples[name].append({key: round(value, 6) for key, value in sample.items()})
    results = {
        "version": 1,
        "started": started,
        "environment": machine.environment((), ()),
        "settings": {
            "rounds": arguments.rounds,
            "seed": SEED,
            "calls": CALLS,
            "hops": HOPS,
            "tasks": TASKS,
            "sleep_s": SLEEP,
            "block_s": BLOCK,
            "tick_s": TICK,
            "bodies": BODIES,
            "batches": BATCHES,
            "turns": TURNS,
        },
        "rows": [{"variant": name, "samples": samples[name]} for name in samples],
    }
    arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    for table in tables(results).values():
        print(table + "\n")
    return 0


async def _measured(variant: Callable[[], Awaitable[Sample]]) -> Sample:
    return await variant()


def tables(results: Mapping[str, Any]) -> dict[str, str]:
    """What was measured, and the targets, judged as all are: a median by its interval, lags by the worst."""
    found = {row["variant"]: row["samples"] for row in results["rows"]}

    def figures(variant: str, metric: str, factor: float = 1) -> list[float]:
        return [factor * sample[metric] for sample in found[variant]]

    def ratios(variant: str, base: str, metric: str) -> list[float]:
        return [value / other for value, other in zip(figures(variant, metric), figures(base, metric), strict=True)]

    units = {"us": "µs", "wall_ms": "ms", "cpu_ms": "ms", "gap_ms": "ms", "cpu_share": "% of a core"}
    names = {
        "us": "a call",
        "wall_ms": "all together",
        "cpu_ms": "CPU, all together",
        "gap_ms": "longest gap of a ticker of 1 ms",
        "cpu_share": "CPU",
    }
    lines = []
    for variant, samples in found.items():
        for metric in samples[0]:
            values = figures(variant, metric, 100 if metric == "cpu_share" else 1)
            cells = (f"{value:.2f}" for value in (median(values), max(values)))
            lines.append((variant, f"{names[metric]}, {units[metric]}", *cells))
    measured = markdown(("what", "figure", "median", "worst"), lines)

    noop, executor = "noop: block_in_place", "noop: run_in_executor, one by one"
    sleeps, known = "sleeps: block_in_place", "sleeps: block_in_place, known slow"
    tick = 1e3 * results["settings"]["tick_s"]
    medians = [
        ("a call that returns at once", figures(noop, "us"), 1.5, "µs"),
        ("the same ÷ `run_in_executor`", ratios(noop, executor, "us"), 1 / 20, ""),
        ("20 tasks that sleep 10 ms", figures(sleeps, "wall_ms"), 30, "ms"),
        ("the watch's CPU while active", figures("watch: active", "cpu_share", 100), 2, "%"),
        ("bodies to files, `Permit` ÷ `Direct`, CPU", ratios(PERMIT, DIRECT, "cpu_ms"), 1.05, ""),
        ("bodies to files, `Permit` ÷ `Direct`, wall", ratios(PERMIT, DIRECT, "wall_ms"), 1.05, ""),
    ]
    worst = [
        ("ticker's longest gap beside them, known slow", figures(known, "gap_ms"), 4, "ms"),
        (
            "a ticker beside one sleep of 200 ms is late by",
            [gap - tick for gap in figures("one sleep: block_in_place", "gap_ms")],
            5,
            "ms",
        ),
        ("the watch's CPU while parked", figures("watch: parked", "cpu_share", 100), 0.05, "%"),
    ]
    rows = []
    for name, values, limit, unit in medians:
        low, high = bootstrap(values)
        # Only what is close to 1 is asked for how many it is of, and that is bodies.
        seen = Interval(median(values), low, high, len(values) * results["settings"]["batches"])
        shown = f"{seen.median:.3g} [{low:.3g}, {high:.3g}] {unit}".strip()
        rows.append((name, f"< {limit:.3g} {unit}".strip(), shown, targets.verdict(seen, limit)))
    for name, values, limit, unit in worst:
        shown = f"{max(values):.3g} {unit} at worst"
        rows.append((name, f"≤ {limit:.3g} {unit}", shown, targets.worst(values, limit)))
    return {"handover": measured, "handover-targets": markdown(("target", "limit", "measured", "verdict"), rows)}


if __name__ == "__main__":
    sys.exit(main())
