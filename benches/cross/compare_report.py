"""The sections of the comparison's page: findings, losing rows, each of upstream's tables, and what isn't there."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from operator import itemgetter
from statistics import median
from typing import Any

from penstock.bench import report, sizes
from penstock.bench.figures import (
    Metric,
    cpu,
    held,
    lag_p50,
    lag_p99,
    lag_worst,
    major_faults,
    peak,
    ratio,
    spread,
    swapped,
    values,
    wall,
)
from penstock.bench.page import Section
from penstock.bench.report import Group
from penstock.bench.results import Results, Row

from benches.cross import curves, findings, forwarding, memory, published, rows, two_cpus, verdict

MIB = 1024 * 1024
# Parts whose rows download bodies of one size.
DOWNLOADS = ("clients", two_cpus.PART, "tls")
TABLES = (
    "compare-findings",
    "compare-lost",
    "compare-policies",
    "compare-requests",
    "compare-spills",
    "compare-swapping",
    *(f"compare-curve-{curve}" for curve in curves.CURVES),
    "compare-missing",
    "compare-environment-strategies",
)
NOTHING = "Nothing in this run."
COMMIT = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{28}\b")
BARS = {"CPU ms a batch": cpu, "wall ms a batch": wall}
ECHO_BARS = {"p50 of a round trip, ms": lag_p50, "p99 of a round trip, ms": lag_p99}

# Rows that look at some bytes, where all others read every one; and floors, which do no jobs, or had them dealt out
# before.
LESS = ("upstream as published", forwarding.SAMPLED, report.BY_HAND)

# Of a group, the row with the first of these clients is what the others are held against.
BASES = (
    rows.KEPT,
    forwarding.WHOLE,
    "upstream direct",
    "upstream permit",
    "upstream dispatch_rx",
    "tokio",
    "deque, mutex, condvar",
)

READING = (
    "Rows are processes of their own that take turns in shuffled rounds. A bar is the median of its rounds, and the "
    "range that nine in ten of them lie in. Dark blue is penstock from Python, light blue penstock-core from Rust, "
    "orange others' Rust, grey others' Python. Rows of one group do the same; groups that penstock loses stand first."
    " What a client in Python reads is verified by SHA-256 before it is timed, and by its length and greatest byte "
    "each time; programs in Rust check these two, upstream's client as published the length alone."
)

BY_CGROUP = (
    " `peak MiB` is, of {}, the most that the cgroup of the row's process held, without the cache of files but with "
    "what is in tmpfs and what the kernel keeps for the process; it is looked at every {} ms while a batch runs that "
    "isn't timed."
)
BY_RESIDENCE = " `peak MiB` is, of {}, the most memory that was resident: with mapped files, without those in tmpfs."

CURVES = (
    "A straight line of slope 1 is a cost in proportion to what grows, one of slope 0 a cost that doesn't know it. The "
    "exponents are these slopes before and after the knee, which is where two lines that fit better than one meet. "
    "These are measured; a cause is an explanation, which isn't."
)

# In no run, of what stands beside it; with the reasons.
NOT_MEASURED = {
    "hyper 1 and Python's others where memory is short": "the part is about where bodies are kept, which penstock, its "
    "core and upstream each have in all places",
    "penstock from Python on 1 to 200 threads": "what is exchanged there is the queue, within Rust; from Python, pools "
    "of 4 and 40 threads are among the results of blocking work",
    "bodies above a limit, dispatched": "which bodies go to files is asked with all else alike: on the thread that "
    "receives; what a dispatch costs is told by the policies",
    "futures-intrusive's semaphore within upstream's crate": "the crate is built with tokio's; the two are compared "
    "without what it puts around a permit",
    "upstream's streams that yield between pieces": "`ram_gather_yield`, `fs_yield` and `mmap_yield` aren't in the "
    "tables that were published",
    "upstream's streams of files by 8 KiB to 4 MiB, and its clients with one thread or three to dispatch to": "its "
    "benchmarks have them behind a feature that is off",
}


def sections(parts: Mapping[str, Results], missing: Mapping[str, str]) -> list[Section]:
    made = [Section("How to read this", READING + _peaks(parts)), *_summaries(parts).values()]
    for part, results in parts.items():
        made += _part(part, results, _groups(part, results)) if part != "curves" else ()
    for curve, clients in curves.found(parts).items():
        title = f"How costs grow: {curves.CURVES[curve].title}"
        made.append(Section(title, CURVES, curves.table(curve, clients), curves.picture(curve, clients)))
    made.append(Section("Not here", "", _missing(parts, missing)))
    left_out = [report.left_out(results) for results in parts.values()]
    made += [Section(f"Left out of {part}", "", text) for part, text in zip(parts, left_out, strict=True) if text]
    made += [
        Section(f"Machine and settings of {part}", "", report.environment(results)) for part, results in parts.items()
    ]
    return [section for section in made if section.text or section.table]


def _peaks(parts: Mapping[str, Results]) -> str:
    """Which figure stands for the peak of memory, by part."""
    shown = {part: TITLES[part].lower() for part in parts if part in TITLES and part != "swapping"}
    counted = [title for part, title in shown.items() if parts[part]["settings"].get("peak_by") == "cgroup"]
    others = [title for title in shown.values() if title not in counted]
    said = BY_CGROUP.format(", ".join(counted), round(memory.TICK * 1000)) if counted else ""
    return said + (BY_RESIDENCE.format(", ".join(others)) if others else "")


def tables(comparison: Mapping[str, Any]) -> dict[str, str]:
    """The tables of the page on upstream's findings, by name; those that the run has nothing for say so."""
    parts: Mapping[str, Results] = comparison["parts"]
    made = {
        **{name: section.table for name, section in _summaries(parts).items()},
        **({"compare-swapping": _pressed(_groups("swapping", parts["swapping"]))} if "swapping" in parts else {}),
        **{f"compare-curve-{curve}": curves.table(curve, each) for curve, each in curves.found(parts).items()},
        "compare-missing": _missing(parts, comparison["missing"]),
        **{f"compare-environment-{part}": report.environment(results) for part, results in parts.items()},
    }
    return {name: abbreviated(made.get(name) or NOTHING) for name in TABLES}


def abbreviated(text: str) -> str:
    """With commits as they are read: twelve digits are unique."""
    return COMMIT.sub(r"\1", text)


def _summaries(parts: Mapping[str, Results]) -> dict[str, Section]:
    """What is said of all rows together."""
    groups = [group for part, results in parts.items() if part != "curves" for group in _groups(part, results)]
    made = {
        "compare-findings": Section("Upstream's findings", findings.TEXT, findings.table(parts)),
        "compare-lost": Section(
            "Where penstock loses",
            "Each of penstock's rows that another of its group beats by more than the run's uncertainty (the 95 % "
            "interval of the ratio, paired by round, lies above 1): the one that beats it most, and how many do. "
            "Rows that do less, without a permit, with a look at some bytes or as floors by hand, don't count among "
            "the others.",
            verdict.lost(map(_rivals, groups)),
        ),
    }
    if "clients" in parts:
        downloaded = parts["clients"]["rows"]
        made["compare-policies"] = Section(
            "What policies cost",
            "The same client with another policy, as multiples of doing it on the thread that receives.",
            verdict.costs(downloaded),
        )
        made["compare-requests"] = Section(
            "What policies do to single requests",
            "As above, of single requests: their p99, which of the 16 or 32 of a turn is the slowest, and how far "
            "apart the 16 of a batch end.",
            verdict.costs(downloaded, verdict.SINGLE),
        )
        made["compare-spills"] = Section(
            "What spilling costs",
            "100 bodies at a time of log-normal sizes, 64 KiB in the middle and 3 MiB at the top, of which the "
            "greatest, or the ten greatest, go to a file and are mapped, all on the thread that receives: as multiples "
            "of keeping all in RAM. `peak memory` is what a cgroup of the row's own held at most.",
            verdict.spills(parts["clients"], findings.stores(parts["clients"]), ("penstock", rows.CORE, rows.KEPT)),
        )
    return made


def _rivals(group: Group) -> Group:
    """Without the rows that do less than the others: no permit, a look at some bytes, or a floor."""
    less = (" direct", *LESS) if group.title.startswith("permit") else LESS
    return replace(group, rows=[row for row in group.rows if not row["client"].endswith(less)])


def _missing(parts: Mapping[str, Results], missing: Mapping[str, str]) -> str:
    few = any(results["environment"]["cpus"] < two_cpus.NEEDED for results in parts.values())
    more = {two_cpus.TITLE: two_cpus.NO_THIRD} if few else {}
    return report.markdown(("what", "why"), list({**missing, **more, **NOT_MEASURED}.items()))


def _groups(part: str, results: Results) -> list[Group]:
    """The rows of a part that may be compared with each other, those that penstock loses first."""
    named: list[Row] = [{**row, "scenario": _scenario(part, row)} for row in results["rows"]]
    return report.groups((row for row in named if row["scenario"] != report.FLOOR), _cost)


def _cost(row: Row) -> float:
    return median(values(row, lag_p99 if row["kind"] == "echo" else wall))


def _scenario(part: str, row: Row) -> str:
    """Blocking work is compared by what is done with it: a thread of the loop's, a permit, or other threads."""
    name = row["id"].partition("/")[0]
    if part in (*DOWNLOADS, "forwarding", "swapping"):
        return row["scenario"]
    if part != "strategies" or row["kind"] == "echo":
        return name
    ways = {"direct": "directly", "permit": "under a permit"}
    return f"{name}, {next((title for way, title in ways.items() if way in row['client']), 'on other threads')}"


def _part(part: str, results: Results, groups: Iterable[Group]) -> Iterable[Section]:
    """A section for each family of groups: a kind of work, or a place that files go to."""
    families: dict[str, list[Group]] = {}
    for group in groups:
        families.setdefault(_family(part, group), []).append(group)

    def place(family: tuple[str, list[Group]]) -> tuple[str, int]:
        title, members = family
        return title.removesuffix(f", {(row := members[0].rows[0])['framing']}"), verdict.framed(row)

    for family, members in sorted(families.items(), key=place):
        echo = members[0].rows[0]["kind"] == "echo"
        yield Section(
            f"{TITLES[part]}: {family}",
            TEXTS["echo" if echo else "spilling" if family.startswith("spilling") else part],
            _echoes(members) if echo else _pressed(members) if part == "swapping" else _table(part, results, members),
            report.bars(members, ECHO_BARS if echo else BARS),
        )


def _family(part: str, group: Group) -> str:
    row = group.rows[0]
    if part in DOWNLOADS:
        kind = "spilling" if row["scenario"].startswith("spill") else "passes" if "pass" in row["scenario"] else ""
        return ", ".join(filter(None, (kind, row["store"] or "RAM", row["framing"])))
    if part == "forwarding":
        return row["store"] or "RAM"
    if part == "swapping":
        return "twice the limit"
    if part == "queues":
        return row["scenario"].removeprefix("queue, ").partition(" x ")[0]
    return "beside echoes" if row["kind"] == "echo" else row["scenario"].partition(",")[0].removeprefix("permit ")


# From Python and from Rust.
DIRECT = ("penstock direct", rows.DIRECT)
TITLES = {
    "strategies": "Blocking work",
    "semaphores": "Semaphores",
    "queues": "Queues",
    "clients": "Clients",
    two_cpus.PART: "Clients on two CPUs",
    "tls": "Clients under TLS",
    "forwarding": "Stream forwarding",
    "swapping": "Cooperative swapping",
}
TEXTS = {
    "strategies": "Batches of 100 jobs (200 sleeps of 1 to 49 µs) on 4 threads beside the loop's (40 for sleeps), in "
    "Rust from tokio's 4 threads, directly from as many as both, in Python from one loop, or eight that share them: "
    "but for anyio, whose threads are one loop's, so that eight loops have eight and not 4. All sleep as long; a "
    "shuffle has its language's generator, and takes Python more than ten times as long. What is by hand is a floor: "
    "futures that a callback settles without any job, or threads that had the jobs dealt out before. `published` is "
    + published.SOURCE
    + ".",
    "echo": "200 connections echo every 50 ms while batches of jobs run, one every 25 ms or when the last has ended: "
    "how long a round trip takes. Shuffles take Python more than ten times as long, and so does what waits behind "
    "them. The loop that the jobs are called from serves them, in Rust the tokio runtime; their clients are the same "
    "process for all.",
    "semaphores": "Jobs under a permit of each semaphore, from Python on the loop's own thread but for `penstock "
    "permit`, which has them done on others; beside the same jobs without one, and what that adds to them. Then each "
    "semaphore by itself: free, contended by 1,000 tasks for 4 permits, and with waiters that are cancelled. Those of "
    "Rust are on today's tokio, and without what upstream's crate puts around a permit. "
    "`published` is " + published.SOURCE + ".",
    "queues": "1,000 jobs on a pool of threads, from tokio's 4 threads: the same pool on crossbeam's channel for many "
    "consumers and on a deque under a mutex with a condition variable, and penstock-core's own.",
    "clients": "16 concurrent GETs of 8 MiB, stored, read back and summarised; server and client on a CPU each. "
    "Upstream as published makes a client for each batch and looks at each 1973rd byte; its other rows, and all "
    "others', keep their clients and read every byte, and multiples are of upstream's that does. All but the naive "
    "rows have 2 threads or permits beside those that receive. `writes` are calls of "
    "write(2) and its kin in a batch, to files and to wake other threads. `published` is "
    + published.SOURCE
    + ", and a server on another machine.",
    "spilling": f"{sizes.COUNT} concurrent GETs of log-normal sizes, {sum(sizes.mixed()) / MIB:.0f} MiB together, of "
    "which none, the greatest, or the ten greatest are above the limit for RAM, go to a file, and are mapped to be "
    "read, all on the thread that receives. Server and client have a CPU each, clients are kept, all bytes are read.",
    two_cpus.PART: "As above, on two CPUs beside the server's: what is handed to other threads has one to itself.",
    "tls": "As above, from a server that speaks TLS: upstream's Rust and Python by OpenSSL, hyper 1 and pyreqwest by "
    "rustls.",
    "forwarding": "A body of 8 MiB that was written before is streamed and summarised: scattered in RAM, gathered by "
    "each stream or before (`ram_gathered`), read from its file, or mapped by each stream or before (`mmap_kept`). "
    "Upstream as published looks at each 1973rd byte, all others at every one.",
    "swapping": "32 concurrent GETs of 8 MiB in a process that may hold 128 MiB of memory, with swap beyond it: kept "
    "in RAM in spite of that, in files in shared memory, which the kernel may swap out, or in files on disk; and as "
    "penstock does by default, in RAM up to its budget and on disk beyond. None is read before all are kept, and all "
    "dispatch. Peaks are what the cgroup held in memory, and in swap. Lag is that of a ticker on the loop, whose turns "
    "are in penstock's times; rows in Rust have none.",
}


def _table(part: str, results: Results, groups: Iterable[Group]) -> str:
    lines = []
    clients = part in DOWNLOADS
    for group in groups:
        base = _base(group)
        for row in group.rows:
            user, system = (median(values(row, itemgetter(key))) for key in ("user_ms", "system_ms"))
            times = [ratio(row, base, metric) if base and row is not base else None for metric in (cpu, wall)]
            lines.append(
                (
                    group.title,
                    f"**{verdict.named(row)}**" if row["client"].startswith(report.OURS) else verdict.named(row),
                    _spread(row, cpu),
                    f"{user:.3g} + {system:.3g}",
                    verdict.shown(times[0]) if times[0] else "",
                    _spread(row, wall),
                    verdict.shown(times[1]) if times[1] else "",
                    _published(part, row),
                    *([_rate(results, row), _writes(row)] if clients else []),
                    *([_overhead(group, row)] if part == "semaphores" else []),
                    f"{peak(row) / MIB:.0f}",
                )
            )
    more = ("GiB/s (Gib/s)", "writes") if clients else ("added to direct, ms",) if part == "semaphores" else ()
    against = {"semaphores": "tokio", "queues": "condvar"}.get(part, "upstream")
    head = ("group", "how", "CPU ms", "user + system", f"÷ {against}", "wall ms", f"÷ {against}", "published", *more)
    return report.markdown((*head, "peak MiB"), lines)


def _base(group: Group) -> Row | None:
    bases = [row for row in group.rows if row["client"] in BASES]
    return min(bases, key=lambda row: BASES.index(row["client"]), default=None)


def held_against(part: str, results: Results) -> Iterator[tuple[Row, Row]]:
    """Each row that the tables give as multiples of another of its group, with that one."""
    for group in _groups(part, results):
        if (base := _base(group)) is not None:
            yield from ((row, base) for row in group.rows if row is not base)


def _overhead(group: Group, row: Row) -> str:
    """What a permit adds to the same jobs without one, in the same language: CPU and wall time."""
    direct = next((other for other in group.rows if other["client"] == DIRECT[row["loop"] == "tokio"]), None)
    if direct is None or row["client"] in DIRECT:
        return ""
    cost = [median(values(row, metric)) - median(values(direct, metric)) for metric in (cpu, wall)]
    return f"{cost[0]:.2g} CPU, {cost[1]:.2g} wall"


def _echoes(groups: Iterable[Group]) -> str:
    lines = []
    for group in groups:
        for row in group.rows:
            lags = [_spread(row, metric) for metric in (lag_p50, lag_p99)]
            lines.append(
                (group.title, verdict.named(row), *lags, f"{max(values(row, lag_worst)):.3g}", _spread(row, wall))
            )
    return report.markdown(("group", "how", "p50 ms", "p99 ms", "worst ms", "batch: wall ms"), lines)


def _pressed(groups: Iterable[Group]) -> str:
    """Rows with too little memory: how long they take, how often they wait for pages, and what the loop sees of it."""
    lines = []
    for group in groups:
        for row in group.rows:
            faults = values(row, major_faults)
            peaks = [values(row, metric) for metric in (held, swapped)]
            lags = [_spread(row, metric) if values(row, metric) else "" for metric in (lag_p99, lag_worst)]
            lines.append(
                (
                    verdict.named(row),
                    _spread(row, wall),
                    _spread(row, cpu),
                    f"{median(faults):.0f}" if faults else "",
                    *(f"{max(each) / MIB:.0f}" if each else "" for each in peaks),
                    *lags,
                )
            )
    head = (
        "bodies",
        "wall ms",
        "CPU ms",
        "major faults",
        "peak MiB",
        "peak in swap, MiB",
        "lag p99 ms",
        "worst lag ms",
    )
    return report.markdown(head, lines)


def _spread(row: Row, metric: Metric) -> str:
    return verdict.ranged(spread(values(row, metric)))


def _rate(results: Results, row: Row) -> str:
    settings = results["settings"]
    mixed = row["scenario"].startswith("spill")
    batch = sum(sizes.mixed()) if mixed else settings["size"] * settings["connections"]
    rate = batch / (median(values(row, wall)) / 1000) / 2**30
    return f"{rate:.2f} ({rate * 8:.1f})"


def _writes(row: Row) -> str:
    """Calls of write(2) and its kin, a batch."""
    counts = values(row, lambda sample: sample.get("writes"))
    return f"{median(counts):.0f}" if counts else ""


def _published(part: str, row: Row) -> str:
    """What upstream's author had for the same."""
    figure = None
    if part == "clients" and row["client"] == "upstream as published" and row["framing"] == "length":
        figure = published.CLIENT.get(row["store"], {}).get(row["scenario"])
    elif part == "strategies" and row["client"].startswith("upstream "):
        figure = published.BLOCKING.get(f"{row['id'].partition('/')[0]} {row['client'].removeprefix('upstream ')}")
    elif part == "semaphores" and row["id"].startswith("permit "):
        work = row["id"].partition("/")[0].removeprefix("permit ")
        strategy = {"tokio": "permit", "futures-intrusive, Sync": "intrusive"}.get(row["client"])
        figure = published.BLOCKING.get(f"{work} {strategy}")
    return f"{figure:.3g}" if figure else ""
