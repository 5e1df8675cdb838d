"""The rows of each part, in the sessions that compare them. What Python does is taken from `penstock.bench`."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ctypes.util import find_library
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from penstock.bench import blocking, scenarios, sizes
from penstock.bench.blocking_worker import TAKES
from penstock.bench.driver import Plan
from penstock.bench.results import Framing, Option
from penstock.bench.rounds import Variant

from benches.python import floor

FRAMINGS: tuple[Framing, ...] = ("length", "chunked")
PERMITS = ("penstock", "tokio", "intrusive", "intrusive_sync")
SHAPES = {"free": blocking.FREE_TAKES, "contended": blocking.TASKS * TAKES, "cancelled": blocking.TASKS}
QUEUES = ("crossbeam", "condvar", "dispatch")
QUEUE_THREADS = (1, 4, 16, 40, 200)
QUEUE_JOBS = 1000
WORKS = tuple(blocking.WORKS)
CORE = "penstock-core"
# Without a thread or a permit there is nothing of ours in it.
DIRECT = "today's tokio direct"
PUBLISHED = "upstream as published"
KEPT = "upstream, client kept, all read"
MIMALLOC = "upstream with mimalloc, client kept, all read"
TODAY = "hyper 1, gathered writes"
# Those whose files are held against their RAM.
BESIDE = ("penstock", PUBLISHED, KEPT)
# What file systems in memory are called, with huge pages or without.
SHARED_MEMORY = "tmpfs"
# As upstream's benchmarks have it.
MAX_BODY_RAM = 0x2000 * 1025
# How many of a hundred bodies are above the limit.
SPILLED = (0, 1, 10)
# glibc keeps what was freed, for bodies of any size here: https://man7.org/linux/man-pages/man3/mallopt.3.html
MALLOC = ("MALLOC_MMAP_THRESHOLD_=33554432", "MALLOC_TRIM_THRESHOLD_=1073741824", "MALLOC_TOP_PAD_=67108864")
# Of what upstream has, or the rows beside; with the reasons.
WITHOUT = {
    "rows of upstream's client under `stream`": "it gives a body when all of it is kept",
    "rows of httpx and niquests in files": "their bodies are written to files by hand, as in the rows of aiohttp",
    "`mmap_copy_dispatch` as published": "no release of upstream's has it: its row there does what the others' do",
    "echoes beside eight loops": "they would be on one of the loops, and tell of its eighth of the jobs alone",
    "streams forwarded by one thread alone, but in upstream's Rust": "penstock's policies have two threads or permits, "
    "and Python's loop is one thread",
}
NO_JEMALLOC = "libjemalloc isn't installed (on Debian: apt install libjemalloc2)"


@dataclass(frozen=True)
class Programs:
    """What was built of benches/rust; None where that failed."""

    floor: Path | None
    upstream: Path | None
    upstream_client: Path | None
    upstream_mimalloc: Path | None
    streams: Path | None
    today: Path | None
    core: Path | None


def _from_python(name: str) -> list[Variant]:
    """The rows of blocking work whose ids begin so, on the loop of the standard library."""
    rows = (row for session in blocking.sessions(("asyncio",), None) for row in session)
    return [row for row in rows if row.id.startswith(f"{name}/")]


def strategies(programs: Programs, quick: bool) -> Iterator[list[Variant]]:
    """Upstream's first table: ways to run blocking work, from one loop, from eight, and beside echoes."""
    for work in WORKS:
        yield [*_from_python(work), *_strategies_in_rust(programs, work)]
    if not quick:
        for work in WORKS:
            yield _from_python(f"{work} x8")
    yield list(_echoes(programs, ("expensive", "sleep") if quick else WORKS))


def _strategies_in_rust(programs: Programs, work: str) -> Iterator[Variant]:
    if programs.upstream:
        for strategy in blocking.UPSTREAM:
            yield _upstream(programs.upstream, strategy, work)
    if programs.core:
        for way, name in {"permit_penstock": "permit", "dispatch": "dispatch"}.items():
            yield _core(programs.core, work, way, f"penstock-core {name}")
        for way, client in {"direct": DIRECT, "spawn_blocking": "spawn_blocking of today's tokio"}.items():
            yield _core(programs.core, work, way, client)


def _echoes(programs: Programs, works: Iterable[str]) -> Iterator[Variant]:
    """Echoes from a loop, or from tokio's threads, without anything and with blocking work beside them."""
    yield from _from_python("echo idle")
    if programs.core:
        command = (programs.core, "blocking", "direct", "noop", 0, blocking.WORKS["noop"][1])
        yield _with_echoes("echo idle", _program("echo idle", "tokio", command, 0))
    for work in works:
        name = f"echo beside {work}"
        yield from _from_python(name)
        for row in _strategies_in_rust(programs, work):
            yield _with_echoes(name, row)


def _with_echoes(name: str, row: Variant) -> Variant:
    """The same while its runtime serves echoes, to the clients that Python's rows have."""
    id = f"{name}/{row.loop}/{row.client}"
    return replace(row, id=id, scenario=name, kind="echo", command=(*row.command, "echo", sys.executable))


def semaphores(programs: Programs) -> Iterator[list[Variant]]:
    """Upstream's second table: permits for work from other semaphores; and semaphores by themselves."""
    for work in WORKS:
        rows = [row for row in _from_python(work) if row.client in ("penstock direct", "penstock permit")]
        if programs.core:
            rows += [_core(programs.core, work, f"permit_{kind}", _titled(kind)) for kind in PERMITS]
            rows.append(_core(programs.core, work, "direct", DIRECT))
        named = [replace(row, id=f"permit {row.id}") for row in rows]
        yield [replace(row, scenario=f"permit, {work}") for row in (*named, *blocking.under_permits(work, "asyncio"))]
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
    in_ram: dict[Framing | None, list[Variant]] = {}
    for session in scenarios.sessions(FRAMINGS, stores, "asyncio", plan):
        rows = [row for row in session if row.kind == "batch" and not (quick and _left_to_the_complete_run(row))]
        if not rows:
            continue
        places = dict.fromkeys((row.scenario, row.framing, row.store) for row in rows)
        upstream = [row for place in places for row in _upstream_clients(programs, *place, stores)]
        rows += [row for row in upstream if not (quick and row.store and row.client == MIMALLOC)]
        if rows[0].store is None:
            rows += _streamed(rows[0].framing)
            rows += _with_allocators(rows) if rows[0].framing == "length" else ()
        rows += _in_rust(programs, [row for row in rows if row.client == "penstock"], stores)
        if store := rows[0].store:
            rows += () if quick else _beside(in_ram.get(rows[0].framing, ()), store)
        else:
            in_ram[rows[0].framing] = rows
        if programs.floor:
            rows += floor.rows(programs.floor, rows[0].framing)[:1]
        yield rows
    for place in stores.items():
        if not quick or on_disk(place[0]):
            yield [*_passes(programs, *place), *_spills(programs, *place)]


def _beside(rows: Sequence[Variant], store: str) -> Iterator[Variant]:
    """Rows in RAM once more, in the rounds of those in files: what a mapping costs is told by both."""
    for row in rows:
        if row.framing == "length" and row.scenario in ("ram", "ram_gather") and row.client in BESIDE:
            yield replace(row, id=f"{row.scenario}/length/{store}/{row.client}", store=store)


def _passes(programs: Programs, store: str, directory: Path) -> Iterator[Variant]:
    """Bodies that are read more than once."""
    for kind, passes in product(("ram", "fs", "mmap"), (1, 2, 4)):
        name = f"{kind}, {passes} passes/length/{store}"
        options: dict[str, Option] = {"scenario": kind, "policy": "direct", "passes": passes, "store": str(directory)}
        yield _client(f"{name}/penstock", factory=scenarios.PENSTOCK, options=options)
        limit = MAX_BODY_RAM if kind == "ram" else 0
        if programs.core:
            command = core_client(programs.core, kind, "direct", passes, limit, directory)
            yield _client(f"{name}/{CORE}", command=command)
        if programs.upstream_client:
            command = upstream_client(
                programs.upstream_client, kind, "direct", ("shared", "whole"), passes, limit, directory
            )
            yield _client(f"{name}/{KEPT}", command=command)


def _spills(programs: Programs, store: str, directory: Path) -> Iterator[Variant]:
    """Bodies of many sizes, of which none, the greatest, or the ten greatest are above the limit."""
    for spilled in SPILLED:
        name, limit = f"spill, {spilled} %/length/{store}", sizes.limit(spilled)
        options: dict[str, Option] = {"scenario": "spill", "policy": "direct", "max_body_ram": limit}
        options["store"] = str(directory)
        yield _client(f"{name}/penstock", factory=scenarios.PENSTOCK, options=options, mixed=True)
        if programs.core:
            command = core_client(programs.core, "spill", "direct", 1, limit, directory)
            yield _client(f"{name}/{CORE}", command=command, mixed=True)
        if programs.upstream_client:
            command = upstream_client(
                programs.upstream_client, "spill", "direct", ("shared", "whole"), 1, limit, directory
            )
            yield _client(f"{name}/{KEPT}", command=command, mixed=True)


def _client(
    id: str,
    *,
    factory: str = "",
    command: tuple[str, ...] = (),
    options: Mapping[str, Option] | None = None,
    mixed: bool = False,
) -> Variant:
    scenario, _, store, client = id.split("/")
    return Variant(
        id=id,
        scenario=scenario,
        client=client,
        factory=factory,
        command=command,
        options=options or {},
        framing="length",
        store=store,
        loop="tokio" if command else "asyncio",
        mixed=mixed,
    )


def upstream_client(
    program: Path,
    kind: str,
    policy: str,
    reading: tuple[str, str],
    passes: int,
    limit: int,
    directory: Path | None,
) -> tuple[str, ...]:
    return (str(program), kind, policy, *reading, str(passes), str(limit), str(directory or "-"))


def on_disk(store: str | None) -> bool:
    """Whether these files cost no memory; the disk's type of file system is the machine's choice."""
    return store is not None and not store.startswith(SHARED_MEMORY)


LEFT_TO_THE_COMPLETE_RUN = (
    "copies of mappings, bodies in RAM beside those in files, recycled files, chunked bodies in files but dispatched "
    "ones, work from eight loops, echoes beside no work, streams of upstream's own, every other point of a curve; in "
    "shared memory chunked bodies, permits, several passes, spilling, streams of written bodies, and Python's others; "
    "upstream with mimalloc in files; under TLS all policies but dispatch"
)


def _left_to_the_complete_run(row: Variant) -> bool:
    _, _, policy = row.scenario.partition("_")
    chunked = row.framing == "chunked"
    if row.store is None or on_disk(row.store):
        left = chunked and row.store and row.scenario != "fs_dispatch"
        return bool(left or "copy" in policy or row.options.get("file_pool"))
    return chunked or "permit" in policy or "copy" in policy or row.client != "penstock"


def _upstream_clients(
    programs: Programs, scenario: str, framing: Framing | None, store: str | None, stores: Mapping[str, Path]
) -> Iterator[Variant]:
    """As published: with a client of its own in each batch, whose bodies are sampled; then as the other rows are."""
    kind, _, policy = scenario.rpartition("_")
    if store is None:
        kind, policy = scenario, "direct"
    where = f"{framing}/{store}" if store else framing
    for title, program, reading in (
        (PUBLISHED, programs.upstream_client, ("fresh", "sampled")),
        (KEPT, programs.upstream_client, ("shared", "whole")),
        (MIMALLOC, programs.upstream_mimalloc, ("shared", "whole")),
    ):
        # Which no release of upstream's has.
        if program is not None and (scenario, title) != ("mmap_copy_dispatch", PUBLISHED):
            directory = stores[store] if store else None
            yield Variant(
                id=f"{scenario}/{where}/{title}",
                scenario=scenario,
                client=title,
                command=upstream_client(program, kind, policy, reading, 1, 0 if store else MAX_BODY_RAM, directory),
                framing=framing,
                store=store,
                loop="tokio",
            )


def _streamed(framing: Framing | None) -> Iterator[Variant]:
    """Bodies that are read while they come, and not kept. Upstream's client has no such way."""
    factories = {"penstock": scenarios.PENSTOCK}
    for peer, tuning in product(scenarios.FILE_PEERS, ("naive", "tuned")):
        factories[f"{peer} {tuning}"] = f"penstock.bench.peers.{peer}:{tuning}"
    for client, factory in factories.items():
        yield Variant(
            id=f"stream/{framing}/{client}",
            scenario="stream",
            client=client,
            factory=factory,
            options={"scenario": "stream"},
            framing=framing,
        )


def _with_allocators(rows: Sequence[Variant]) -> Iterator[Variant]:
    """The tuned peers in RAM once more: with an allocator that is told to keep memory, and with another allocator."""
    wrappers: dict[str, tuple[str, ...]] = {"MALLOC_ set": ("env", *MALLOC)}
    if jemalloc := find_library("jemalloc"):
        wrappers["jemalloc"] = ("env", f"LD_PRELOAD={jemalloc}")
    peers = [row for row in rows if row.scenario == "ram" and row.client.endswith(" tuned")]
    for row, (how, wrapper) in product(peers, wrappers.items()):
        yield replace(row, id=f"{row.id}, {how}", client=f"{row.client}, {how}", wrapper=wrapper)


def _in_rust(programs: Programs, ours: Sequence[Variant], stores: Mapping[str, Path]) -> Iterator[Variant]:
    """What penstock-core and hyper 1, both on tokio, do with the bodies of rows of ours."""
    for row in ours:
        kind, _, policy = row.scenario.rpartition("_") if row.store else (row.scenario, "", "direct")
        directory = stores[row.store] if row.store else None
        if programs.core:
            limit = 0 if row.store else MAX_BODY_RAM
            yield _with_command(row, CORE, core_client(programs.core, kind, policy, 1, limit, directory))
        if programs.today:
            yield _with_command(row, TODAY, (str(programs.today), kind, policy, str(directory or "-")))


def _with_command(row: Variant, client: str, command: tuple[str, ...]) -> Variant:
    """The row, by a program."""
    id = f"{row.id.rpartition('/')[0]}/{client}"
    return replace(row, id=id, client=client, factory="", command=command, options={}, loop="tokio")


def core_client(
    program: Path, kind: str, policy: str, passes: int, limit: int, directory: Path | None
) -> tuple[str, ...]:
    return (str(program), "client", kind, policy, str(passes), str(limit), str(directory or "-"))


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
