"""`make compare`: upstream's experiments in Rust and in Python in one run, as JSON, a page and Markdown.

Its parts run one after the other, each in interleaved rounds of its own: ways to run blocking work, semaphores, queues,
and clients. A part or a row that can't run here is named in the report with its reason.
"""

import argparse
import json
import re
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ctypes.util import find_library
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Literal, TypedDict

from penstock.bench import blocking, page, report
from penstock.bench.driver import Plan
from penstock.bench.progress import Progress
from penstock.bench.results import Results
from penstock.bench.rounds import DebugBuildError, Pace, Variant

from benches.cross import (
    agreement,
    cgroups,
    compare_report,
    curves,
    findings,
    forwarding,
    memory,
    rows,
    stores,
    swapping,
    tls,
    two_cpus,
)
from benches.cross.rows import Programs
from benches.python import native, run

OUTPUT = Path("bench-out")
PACKAGES = tuple(dict.fromkeys((*blocking.PACKAGES, *run.PACKAGES)))
PARTS = ("strategies", "semaphores", "queues", "clients", two_cpus.PART, "tls", "forwarding", "swapping", "curves")

PACE = Pace(rounds=10, warmup=1, batches=1)
PLAN = Plan(rounds=10, warmup=1, batches=2)
QUICK_ROUNDS = 3
# Of a row's turn and of its start, on two CPUs: what the time that a run will take is estimated by.
TURN_SECONDS = {
    "strategies": 0.25,
    "semaphores": 0.2,
    "queues": 0.25,
    "clients": 0.3,
    two_cpus.PART: 0.3,
    "tls": 0.45,
    "forwarding": 0.2,
    "swapping": 2.0,
    "curves": 0.35,
}
START_SECONDS = 0.3
BUILDING = 300
JOINED = (
    "Rows that joined the comparison after this run have no figures yet. Of those that left it, or have another name "
    "now, the tables still show the figures."
)


class Comparison(TypedDict):
    """A whole run: what each part gave, and what isn't there with the reason."""

    version: Literal[1]
    quick: bool
    seconds: float
    parts: dict[str, Results]
    missing: dict[str, str]


# In the order of the fields.
PROGRAMS = (
    ("floor", "penstock-floor"),
    ("upstream", "blocking"),
    ("upstream", "client"),
    ("upstream", "client_mimalloc"),
    ("upstream", "streams"),
    ("today", "penstock-today"),
    ("core", "penstock-from-rust"),
)


@dataclass
class Builds:
    """Programs of benches/rust, as far as they can be built here."""

    missing: dict[str, str] = field(default_factory=dict)

    def all(self) -> Programs:
        folders: dict[str, list[str]] = {}
        for folder, program in PROGRAMS:
            folders.setdefault(folder, []).append(program)
        # Two at a time, and the programs of each: the last step of one takes one CPU, and most of the time.
        with ThreadPoolExecutor(2) as builders:
            built = dict(chain.from_iterable(builders.map(self._build, folders, folders.values())))
        return Programs(*(built[program] for _, program in PROGRAMS))

    def _build(self, folder: str, programs: Sequence[str]) -> list[tuple[str, Path | None]]:
        print(f"building benches/rust/{folder}: {', '.join(programs)}", file=sys.stderr, flush=True)
        # Whichever of them fails is found below.
        with suppress(native.Unavailable):
            native.build(folder, *programs)
        return [(program, self._built(folder, program)) for program in programs]

    def _built(self, folder: str, program: str) -> Path | None:
        try:
            return native.build(folder, program)
        except native.Unavailable as reason:
            self.missing[f"rows of benches/rust/{folder}, {program}"] = str(reason)
            return None


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benches.cross.compare", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds and fewer rows: within a quarter of an hour")
    parser.add_argument("--rounds", type=int, help=f"(default: {PACE.rounds}, with --quick {QUICK_ROUNDS})")
    parser.add_argument("--part", action="append", choices=PARTS, help="only these; may be repeated")
    parser.add_argument("--rows", default="", metavar="REGEX", help="only rows whose id matches")
    parser.add_argument(
        "--into",
        type=Path,
        metavar="JSON",
        help="measure the sessions that have these rows anew, whole, and put them into this run in place of its own",
    )
    parser.add_argument("--noise", type=float, default=Pace.noise, help="(default: %(default)s)")
    parser.add_argument(
        "--store", action="append", default=[], type=Path, metavar="DIR", help="another; may be repeated"
    )
    parser.add_argument(
        "--json", type=Path, default=OUTPUT / "compare.json", metavar="OUT", help="and .html, .md beside"
    )
    parser.add_argument("--report", type=Path, metavar="JSON", help="measure nothing: make the report of this run anew")
    parser.add_argument("--list", action="store_true", help="print the rows' ids and how long they would take, and end")
    return parser.parse_args(argv)


def sessions(
    programs: Programs, directories: Mapping[str, Path], plan: Plan, quick: bool
) -> dict[str, list[list[Variant]]]:
    """The rows of each part."""
    clients = list(rows.clients(programs, directories, plan, quick))
    quick_stores = {store: each for store, each in directories.items() if not quick or rows.on_disk(store)}
    return {
        "strategies": list(rows.strategies(programs, quick)),
        "semaphores": list(rows.semaphores(programs)),
        "queues": list(rows.queues(programs)),
        "clients": clients,
        two_cpus.PART: [] if quick else list(two_cpus.rows(clients)),
        "tls": list(tls.rows(clients, quick)),
        "forwarding": list(forwarding.rows(programs, quick_stores, quick)),
        "swapping": [swapping.rows(programs, directories)],
        "curves": list(curves.rows(programs, quick)),
    }


def select(
    found: Mapping[str, list[list[Variant]]], parts: Iterable[str], wanted: re.Pattern[str], whole: bool = False
) -> dict[str, list[list[Variant]]]:
    """The sessions with a row that is wanted: those rows of them, or the `whole` session."""
    chosen = {}
    for part in parts:
        kept = [[row for row in session if wanted.search(row.id)] for session in found[part]]
        if whole:
            kept = [session if some else [] for session, some in zip(found[part], kept, strict=True)]
        if any(kept):
            chosen[part] = [session for session in kept if session]
    return chosen


def estimate(chosen: Mapping[str, list[list[Variant]]], pace: Pace, plan: Plan) -> str:
    """About how long each part takes, and all of them."""
    seconds = {}
    planned = {"swapping": swapping.planned(plan), two_cpus.PART: two_cpus.planned(plan)}
    for part, rounds in chosen.items():
        turns = planned.get(part, pace).rounds + pace.warmup
        batches = plan.batches if part in compare_report.DOWNLOADS else 1
        number = sum(map(len, rounds))
        seconds[part] = number * (START_SECONDS + turns * TURN_SECONDS[part] * (1 + batches) / 2)
    parts = ", ".join(f"{part} {each / 60:.1f}" for part, each in seconds.items())
    count = sum(len(session) for part in chosen.values() for session in part)
    total = sum(seconds.values()) / 60
    return f"{count} rows, about {total:.0f} minutes: {parts}; before them {BUILDING // 60} at most for builds"


def measure(
    chosen: Mapping[str, list[list[Variant]]], pace: Pace, plan: Plan, places: Sequence[Path], missing: dict[str, str]
) -> Iterator[tuple[str, Results]]:
    """Each part in the rounds that suit it: with a server, or on both CPUs. One that isn't permitted is missing."""

    def started(part: str, rounds: list[list[Variant]]) -> Results:
        print(f"measuring {part}", file=sys.stderr, flush=True)
        match part:
            case "clients":
                return accounted(memory.Clients(rounds, plan, packages=PACKAGES, stores=places))
            case two_cpus.PART:
                return accounted(memory.TwoCpus(rounds, two_cpus.planned(plan), packages=PACKAGES, stores=places))
            case "tls":
                return accounted(memory.Tls(rounds, plan, packages=PACKAGES, stores=places))
            case "curves":
                return curves.Curves(rounds, plan, packages=PACKAGES).run(Progress())
            case "swapping":
                return accounted(memory.Swapping(rounds, swapping.planned(plan), packages=PACKAGES, stores=places))
            case "forwarding":
                return accounted(memory.Forwarding(rounds, pace, packages=PACKAGES, stores=places))
            case _:
                return accounted(memory.Work(rounds, pace, packages=PACKAGES))

    def accounted(rounds: memory.Accounted) -> Results:
        results = rounds.run(Progress())
        if rounds.refused:
            missing[memory.TITLE] = rounds.refused
        return results

    for part, rounds in chosen.items():
        try:
            yield part, started(part, rounds)
        except cgroups.NotPermitted as reason:
            missing[swapping.TITLE] = str(reason)


def merge(results: Results, anew: Results) -> Results:
    """The results with whole sessions in place of their own: rows are compared with those of their session alone."""
    rows = {row["id"]: row for row in anew["rows"]}
    return {**results, "rows": [rows.pop(row["id"], row) for row in results["rows"]] + list(rows.values())}


def put_into(earlier: Comparison, comparison: Comparison, rows: str) -> Comparison:
    """An earlier run with what was measured anew. Which rows these are stands among what its one run doesn't have."""
    there = set(comparison["parts"]) | ({swapping.TITLE} if "swapping" in comparison["parts"] else set())
    missing = {what: why for what, why in earlier["missing"].items() if what not in there}
    parts = dict(earlier["parts"])
    for part, results in comparison["parts"].items():
        parts[part] = merge(parts[part], results) if part in parts else results
        what = f"{len(results['rows'])} rows of {part}, by {rows or 'no pattern'}, in the same run as the others"
        commit = results["environment"]["commit"]
        missing[what] = f"{agreement.ANEW}, started {results['started']}, at commit {commit}"
    return {**earlier, "parts": parts, "missing": missing}


def joined(comparison: Comparison) -> str:
    """Which rows a run of its kind has by now and this one hadn't, and the other way round, as Markdown."""
    parts = comparison["parts"]
    programs = Programs(*(Path(name) for _, name in PROGRAMS))
    directories = {store: Path(store) for store in findings.stores(parts["clients"])}
    lines = []
    for part, found in sessions(programs, directories, PLAN, comparison["quick"]).items():
        # What depends on the machine, its allocators or its CPUs, isn't looked for.
        if part == two_cpus.PART:
            continue
        now = {row.id: row.id.partition("/")[0] for session in found for row in session if not row.wrapper}
        rows_then = parts[part]["rows"] if part in parts else []
        then = {row["id"]: f"{row['id'].partition('/')[0]}: {row['client']}" for row in rows_then}
        new = [name for id, name in now.items() if id not in then]
        wrapped = (", MALLOC_ set", ", jemalloc")
        gone = [name for id, name in then.items() if id not in now and not id.endswith(wrapped)]
        if new or gone:
            lines.append(
                (part, *(f"{len(each)}: {', '.join(sorted(set(each)))}" if each else "" for each in (new, gone)))
            )
    if not lines:
        return "Every row that the comparison has by now is in this run."
    return f"{JOINED}\n\n{report.markdown(('part', 'joined since', 'left since'), lines)}"


def unreached(chosen: Iterable[str], comparison: Comparison) -> dict[str, str]:
    return {part: "the run ended before it" for part in chosen if part not in comparison["parts"]}


def write(comparison: Comparison, path: Path) -> list[Path]:
    """The page and the Markdown with its pictures, beside the JSON."""
    sections = compare_report.sections(comparison["parts"], comparison["missing"])
    return page.write("penstock beside upstream's Rust and Python's own ways", sections, path)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    if arguments.report:
        for path in write(json.loads(arguments.report.read_text()), arguments.report):
            print(path)
        return 0
    # What was set up is taken down again, too, when the run is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    start = time.monotonic()
    # Before anything is written: it may be the very file that the figures go to.
    earlier: Comparison | None = json.loads(arguments.into.read_text()) if arguments.into else None
    rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else PACE.rounds)
    warmup = 0 if arguments.quick else PACE.warmup
    pace = replace(PACE, rounds=rounds, warmup=warmup, noise=arguments.noise)
    plan = replace(
        PLAN, rounds=rounds, warmup=warmup, noise=arguments.noise, batches=1 if arguments.quick else PLAN.batches
    )
    OUTPUT.mkdir(exist_ok=True)
    builds = Builds()
    with stores.opened(OUTPUT, arguments.store) as places:
        programs = Programs(*(Path(name) for _, name in PROGRAMS)) if arguments.list else builds.all()
        found = sessions(programs, places.directories, plan, arguments.quick)
        chosen = select(found, arguments.part or PARTS, re.compile(arguments.rows), whole=earlier is not None)
        if arguments.list:
            print("\n".join(row.id for part in chosen.values() for session in part for row in session))
            print(estimate(chosen, pace, plan), file=sys.stderr)
            return 0
        print(estimate(chosen, pace, plan), file=sys.stderr, flush=True)
        missing = {f"files on {store}": reason for store, reason in places.missing.items()}
        missing |= {**rows.WITHOUT, "penstock-core under TLS": tls.NO_CORE}
        if not find_library("jemalloc"):
            missing["peers with jemalloc"] = rows.NO_JEMALLOC
        if two_cpus.cpus() is None:
            missing[two_cpus.TITLE] = two_cpus.NO_THIRD
        elif arguments.quick:
            missing[two_cpus.TITLE] = "left out of a quick run"
        if arguments.quick:
            missing[rows.LEFT_TO_THE_COMPLETE_RUN] = "left out of a quick run"
        comparison: Comparison = {"version": 1, "quick": arguments.quick, "seconds": 0, "parts": {}, "missing": {}}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)

        def save(more: Mapping[str, str]) -> Comparison:
            """What there is so far, put into the earlier run if there is one."""
            comparison["seconds"] = round(time.monotonic() - start, 1)
            comparison["missing"] = {**builds.missing, **missing, **more}
            kept = put_into(earlier, comparison, arguments.rows) if earlier else comparison
            arguments.json.write_text(json.dumps(kept, indent=1) + "\n")
            return kept

        try:
            for part, results in measure(chosen, pace, plan, list(places.directories.values()), missing):
                comparison["parts"][part] = results
                # Kept as far as it came: an hour's figures aren't lost to the one row that fails.
                save(unreached(chosen, comparison))
        except DebugBuildError as error:
            print(error, file=sys.stderr)
            return 2
        kept = save(compare_report.NOT_MEASURED)
    for path in (arguments.json, *write(kept, arguments.json)):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
