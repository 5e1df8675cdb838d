"""Which rows there are of blocking work beside a loop, in upstream's form, and the rounds in which they are measured.

The matrix is upstream's: nothing, a shuffle and sort of 300, and sleeps of 1 to 49 µs, in batches of 100 (200 for
sleep), on 4 threads (40 for sleep), from one loop and from eight loops in eight threads. Beside it stand jobs one by
one, longer sleeps, native jobs, upstream's own Rust, many jobs in flight, semaphores, and echoes served meanwhile.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

from penstock.bench import machine
from penstock.bench.blocking_worker import TAKES, Shape, Spec
from penstock.bench.results import Kind, Settings
from penstock.bench.rounds import Child, Rounds, Variant
from penstock.bench.strategies import SEMAPHORES

LOOPS = ("asyncio", "uvloop")
PACKAGES = ("penstock", "anyio", "aiologic", "uvloop")

STRATEGIES = ("direct", "permit", "dispatch", "run_in_executor", "to_thread", "anyio")
OURS = ("direct", "permit", "dispatch", "native")
UPSTREAM = ("direct", "permit", "dispatch_rx", "spawn_blocking")
WORKS = {"noop": (100, 4), "expensive": (100, 4), "sleep": (200, 40)}
ONE_BY_ONE = 20
# Threads that sleep without a pool.
BY_HAND = (6, 40)
# Jobs that release the GIL: microseconds and threads.
SLEEPS = (100, 1000, 10_000)
SLEEPERS = (4, 40)
IN_FLIGHT = 2000
# How often one task takes a free permit, and how many share four, or wait for one in vain.
FREE_TAKES = 5000
TASKS = 1000

# What a target close to 1 is judged by has more than the iterations that it needs in ten rounds.
CLOSE_BATCHES = 45
BATCHES = 8


def _row(
    name: str,
    strategy: str,
    shape: Shape,
    loop: str,
    *,
    work: str = "",
    jobs: int = 0,
    threads: int = 4,
    loops: int = 1,
    batches: int = BATCHES,
    kind: Kind = "batch",
) -> Variant:
    """The row `NAME/LOOP/CLIENT`; the client says whose the strategy is."""
    client = f"penstock {strategy}" if strategy in OURS else strategy
    return Variant(
        id=f"{name}/{loop}/{client}",
        scenario=f"{name}, {loop}",
        client=client,
        options={
            "shape": shape,
            "strategy": strategy,
            "work": work,
            "jobs": jobs,
            "threads": threads,
            "loops": loops,
            "batches": batches,
        },
        framing=None,
        loop=loop,
        kind=kind,
    )


def _matrix(loop: str) -> Iterator[Variant]:
    for work, (jobs, threads) in WORKS.items():
        for strategy in (*STRATEGIES, "native"):
            close = work == "expensive" and strategy in ("dispatch", "run_in_executor")
            batches = CLOSE_BATCHES if close else BATCHES
            yield _row(work, strategy, "gathered", loop, work=work, jobs=jobs, threads=threads, batches=batches)
    for strategy in (*STRATEGIES[1:], "native"):
        yield _row("noop one by one", strategy, "one by one", loop, work="noop", jobs=ONE_BY_ONE)
    # What cannot be had cheaper by any pool.
    yield _row("noop", "futures by hand", "gathered", loop, work="noop", jobs=WORKS["noop"][0])
    for threads in BY_HAND:
        jobs = WORKS["sleep"][0]
        yield _row("sleep", f"{threads} threads by hand", "by hand", loop, work="sleep", jobs=jobs, threads=threads)


def _upstream(program: Path) -> Iterator[Variant]:
    rows: list[tuple[str, str, tuple[str, ...], int]]
    rows = [(work, strategy, (work,), WORKS[work][0]) for work, strategy in product(WORKS, UPSTREAM)]
    rows += [("noop one by one", strategy, ("noop", str(ONE_BY_ONE)), ONE_BY_ONE) for strategy in UPSTREAM[1:]]
    for name, strategy, arguments, jobs in rows:
        yield Variant(
            id=f"{name}/tokio/{strategy}",
            scenario=f"{name}, tokio",
            client=strategy,
            command=(str(program), strategy, *arguments),
            options={"jobs": jobs, "batches": BATCHES},
            framing=None,
            loop="tokio",
        )


def _eight_loops(loop: str) -> Iterator[Variant]:
    for (work, (jobs, threads)), strategy in product(WORKS.items(), STRATEGIES):
        yield _row(f"{work} x8", strategy, "gathered", loop, work=work, jobs=jobs, threads=threads, loops=8)


def _sleeps(loop: str) -> Iterator[Variant]:
    """Jobs that release the GIL for longer: two for each thread."""
    for microseconds, threads in product(SLEEPS, SLEEPERS):
        for strategy in ("dispatch", "run_in_executor"):
            yield _row(
                f"sleep {microseconds} µs x {threads}",
                strategy,
                "gathered",
                loop,
                work=f"sleep {microseconds} µs",
                jobs=2 * threads,
                threads=threads,
                batches=CLOSE_BATCHES,
            )


def _fairness(loop: str) -> Iterator[Variant]:
    for strategy in STRATEGIES[1:]:
        yield _row("in flight", strategy, "gathered", loop, work="expensive", jobs=IN_FLIGHT, kind="lag")


def _semaphores(loop: str) -> Iterator[Variant]:
    for client in SEMAPHORES:
        yield _row("semaphore free", client, "semaphore, free", loop, jobs=FREE_TAKES)
        close = client in ("penstock", "asyncio")
        yield _row(
            "semaphore contended",
            client,
            "semaphore, contended",
            loop,
            jobs=TASKS * TAKES,
            batches=CLOSE_BATCHES if close else BATCHES // 2,
        )
        yield _row("semaphore cancelled", client, "semaphore, cancelled", loop, jobs=TASKS)


def under_permits(work: str, loop: str) -> Iterator[Variant]:
    """Jobs on the loop's own thread, each under a permit of several semaphores. They aren't among the `sessions`."""
    jobs, threads = WORKS[work]
    for client in SEMAPHORES:
        row = _row(f"permit {work}", f"permit of {client}", "gathered", loop, work=work, jobs=jobs, threads=threads)
        yield replace(row, id=f"permit {work}/{loop}/{client}", client=client)


def _echoes(loop: str) -> Iterator[Variant]:
    yield _row("echo idle", "direct", "echo", loop, kind="echo")
    for (work, (jobs, threads)), strategy in product(WORKS.items(), STRATEGIES):
        name = f"echo beside {work}"
        yield _row(name, strategy, "echo", loop, work=work, jobs=jobs, threads=threads, kind="echo")


def sessions(loops: Sequence[str], upstream: Path | None) -> Iterator[list[Variant]]:
    """All rows, in the sessions that compare them."""
    for loop in loops:
        yield [*_matrix(loop), *(_upstream(upstream) if upstream else ())]
        yield list(_eight_loops(loop))
        yield list(_sleeps(loop))
        yield [*_fairness(loop), *_semaphores(loop)]
        yield list(_echoes(loop))


class Blocking(Rounds):
    """The rounds of these rows."""

    def command(self, variant: Variant) -> list[str]:
        if variant.command:
            return list(variant.command)
        options = {name: value for name, value in variant.options.items() if name != "batches"}
        spec = Spec(**options, loop=variant.loop)  # type: ignore[arg-type]
        return [sys.executable, "-m", "penstock.bench.blocking_worker", json.dumps(asdict(spec))]

    def cpus(self, variant: Variant) -> frozenset[int] | None:
        """Two, as upstream had."""
        first, second = machine.processors()
        return first | second if first and second else None

    def settings(self) -> Settings:
        first, second = machine.processors()
        return {**super().settings(), "client_cpus": sorted(first | second) if first and second else None}

    def open(self, child: Child) -> None:
        super().open(child)
        if child.variant.kind == "echo":
            child.helpers = child.ask("helpers")["helpers"]

    def measure(self, child: Child) -> dict[str, Any]:
        if child.variant.kind == "echo":
            return child.ask("echo")
        if child.variant.kind == "lag":
            return child.means("lag")
        figures = self.warm(child)
        figures |= child.batches(int(child.variant.options["batches"] or 0) * self._pace.batches)
        # A program has no loop of ours, and a semaphore's rows do nothing that a loop could wait for.
        return {**child.ask("lag"), **figures} if child.variant.options.get("work") else figures
