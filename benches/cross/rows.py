"""The rows of each part, in the sessions that compare them. What Python does is taken from `benches.python`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from penstock.bench.driver import Plan
from penstock.bench.results import Framing
from penstock.bench.rounds import Variant

from benches.python import blocking, floor, scenarios
from benches.python.blocking_worker import TAKES

FRAMINGS: tuple[Framing, ...] = ("length", "chunked")
PERMITS = ("penstock", "tokio", "intrusive", "intrusive_sync")
SHAPES = {"free": blocking.FREE_TAKES, "contended": blocking.TASKS * TAKES, "cancelled": blocking.TASKS}
QUEUES = ("crossbeam", "condvar", "dispatch")
QUEUE_THREADS = (4, 16, 40, 200)
QUEUE_JOBS = 1000
WORKS = tuple(blocking.WORKS)


@dataclass(frozen=True)
class Programs:
    """What was built of benches/rust; None where that failed."""

    floor: Path | None
    upstream: Path | None
    upstream_client: Path | None
    upstream_mimalloc: Path | None
    core: Path | None


def _from_python(name: str) -> list[Variant]:
    """The rows of blocking work whose ids begin so, on the loop of the standard library."""
    rows = (row for session in blocking.sessions(("asyncio",), None) for row in session)
    return [row for row in rows if row.id.startswith(f"{name}/")]


def strategies(programs: Programs, quick: bool) -> Iterator[list[Variant]]:
    """Upstream's first table: ways to run blocking work, from one loop, from eight, and beside echoes."""
    for work in WORKS:
        rows = _from_python(work)
        if programs.upstream:
            rows += [_upstream(programs.upstream, strategy, work) for strategy in blocking.UPSTREAM]
        if programs.core:
            ours = {"direct": "direct", "permit_penstock": "permit", "dispatch": "dispatch"}
            rows += [_core(programs.core, work, way, f"penstock-core {name}") for way, name in ours.items()]
            rows.append(_core(programs.core, work, "spawn_blocking", "spawn_blocking of today's tokio"))
        yield rows
    if not quick:
        for work in WORKS:
            yield _from_python(f"{work} x8")
    yield [*_from_python("echo idle"), *_from_python("echo beside expensive"), *_from_python("echo beside sleep")]


def semaphores(programs: Programs) -> Iterator[list[Variant]]:
    """Upstream's second table: permits for work from other semaphores; and semaphores by themselves."""
    for work in WORKS:
        rows = [row for row in _from_python(work) if row.client in ("penstock direct", "penstock permit")]
        if programs.core:
            rows += [_core(programs.core, work, f"permit_{kind}", _titled(kind)) for kind in PERMITS]
            rows.append(_core(programs.core, work, "direct", "penstock-core direct"))
        yield [replace(row, id=f"permit {row.id}", scenario=f"permit, {work}") for row in rows]
    for shape, jobs in SHAPES.items():
        rows = _from_python(f"semaphore {shape}")
        if programs.core:
            rows += [
                _program(f"semaphore {shape}", _titled(kind), (programs.core, "semaphore", kind, shape, jobs), jobs)
                for kind in PERMITS
            ]
        yield rows


def queues(programs: Programs) -> Iterator[list[Variant]]:
    """The same pool on other queues."""
    if programs.core is None:
        return
    for work, threads in product(("noop", "sleep"), QUEUE_THREADS):
        titles = {"crossbeam": "crossbeam's channel", "condvar": "deque, mutex, condvar", "dispatch": "penstock-core"}
        yield [
            _core(programs.core, work, kind, titles[kind], QUEUE_JOBS, threads, f"queue, {work} x {threads}")
            for kind in QUEUES
        ]


def clients(programs: Programs, stores: Mapping[str, Path], plan: Plan, quick: bool) -> Iterator[list[Variant]]:
    """Upstream's third and fourth tables."""
    for session in scenarios.sessions(FRAMINGS, stores, "asyncio", plan):
        rows = [row for row in session if row.kind == "batch" and not (quick and _left_to_the_complete_run(row))]
        if not rows:
            continue
        places = dict.fromkeys((row.scenario, row.framing, row.store) for row in rows)
        rows += [row for place in places for row in _upstream_clients(programs, *place, stores)]
        if programs.floor:
            rows += floor.rows(programs.floor, rows[0].framing)[:1]
        yield rows


QUICK_STORES = (None, "ext4")
LEFT_TO_THE_COMPLETE_RUN = "copies of mappings, recycled files, chunked bodies in shared memory, work from eight loops"


def _left_to_the_complete_run(row: Variant) -> bool:
    copied = row.scenario.startswith("mmap_copy")
    return copied or bool(row.options.get("file_pool")) or (row.framing == "chunked" and row.store not in QUICK_STORES)


def _upstream_clients(
    programs: Programs, scenario: str, framing: Framing | None, store: str | None, stores: Mapping[str, Path]
) -> Iterator[Variant]:
    """As published: with a client of its own in each batch, whose bodies are sampled; then as the other rows are."""
    kind, _, policy = scenario.rpartition("_")
    if store is None:
        kind, policy = scenario, "direct"
    where = f"{framing}/{store}" if store else framing
    for title, program, reading in (
        ("upstream as published", programs.upstream_client, ("fresh", "sampled")),
        ("upstream, client kept, all read", programs.upstream_client, ("shared", "whole")),
        ("upstream with mimalloc, client kept, all read", programs.upstream_mimalloc, ("shared", "whole")),
    ):
        if program is not None:
            yield Variant(
                id=f"{scenario}/{where}/{title}",
                scenario=scenario,
                client=title,
                command=(str(program), kind, policy, *reading, str(stores[store]) if store else "-"),
                framing=framing,
                store=store,
                loop="tokio",
            )


def _titled(kind: str) -> str:
    return {
        "penstock": "penstock-core",
        "tokio": "tokio",
        "intrusive": "futures-intrusive",
        "intrusive_sync": "futures-intrusive, Sync",
    }[kind]


def _program(name: str, client: str, command: tuple[object, ...], jobs: int) -> Variant:
    return Variant(
        id=f"{name}/tokio/{client}",
        scenario=name,
        client=client,
        command=tuple(map(str, command)),
        options={"jobs": jobs, "batches": blocking.BATCHES},
        framing=None,
        loop="tokio",
    )


def _upstream(program: Path, strategy: str, work: str) -> Variant:
    return _program(work, f"upstream {strategy}", (program, strategy, work), blocking.WORKS[work][0])


def _core(
    program: Path, work: str, strategy: str, client: str, jobs: int = 0, threads: int = 0, name: str = ""
) -> Variant:
    jobs, threads = jobs or blocking.WORKS[work][0], threads or blocking.WORKS[work][1]
    return _program(name or work, client, (program, "blocking", strategy, work, jobs, threads), jobs)
