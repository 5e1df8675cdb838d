"""`make compare`: upstream's experiments in Rust and in Python in one run, as JSON, a page and Markdown.

Its parts run one after the other, each in interleaved rounds of its own: ways to run blocking work, semaphores, queues,
and clients. A part or a row that can't run here is named in the report with its reason.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from ctypes.util import find_library
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypedDict

from penstock.bench import blocking, page
from penstock.bench.driver import Driver, Plan
from penstock.bench.progress import Progress
from penstock.bench.results import Results
from penstock.bench.rounds import DebugBuildError, Pace, Variant

from benches.cross import compare_report, forwarding, rows, stores, tls
from benches.cross.rows import Programs
from benches.python import native, run

OUTPUT = Path("bench-out")
PACKAGES = tuple(dict.fromkeys((*blocking.PACKAGES, *run.PACKAGES)))
PARTS = ("strategies", "semaphores", "queues", "clients", "tls", "forwarding")

# Parts that download from a server; the others run on both CPUs without.
DRIVERS = {"clients": Driver, "tls": tls.Tls}

PACE = Pace(rounds=20, warmup=1, batches=1)
PLAN = Plan(rounds=20, warmup=1, batches=3)
# About ten minutes on two CPUs.
QUICK_ROUNDS = 4


class Comparison(TypedDict):
    """A whole run: what each part gave, and what isn't there with the reason."""

    version: Literal[1]
    quick: bool
    seconds: float
    parts: dict[str, Results]
    missing: dict[str, str]


@dataclass
class Builds:
    """Programs of benches/rust, as far as they can be built here."""

    missing: dict[str, str] = field(default_factory=dict)

    def all(self) -> Programs:
        return Programs(
            floor=self._build("floor", "penstock-floor"),
            upstream=self._build("upstream", "blocking"),
            upstream_client=self._build("upstream", "client"),
            upstream_mimalloc=self._build("upstream", "client_mimalloc"),
            streams=self._build("upstream", "streams"),
            today=self._build("today", "penstock-today"),
            core=self._build("core", "penstock-from-rust"),
        )

    def _build(self, folder: str, program: str) -> Path | None:
        print(f"building benches/rust/{folder}: {program}", file=sys.stderr, flush=True)
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
    parser.add_argument("--noise", type=float, default=Pace.noise, help="(default: %(default)s)")
    parser.add_argument(
        "--store", action="append", default=[], type=Path, metavar="DIR", help="another; may be repeated"
    )
    parser.add_argument(
        "--json", type=Path, default=OUTPUT / "compare.json", metavar="OUT", help="and .html, .md beside"
    )
    parser.add_argument("--report", type=Path, metavar="JSON", help="measure nothing: make the report of this run anew")
    parser.add_argument("--list", action="store_true", help="print the rows' ids and end")
    return parser.parse_args(argv)


def sessions(
    programs: Programs, directories: Mapping[str, Path], plan: Plan, quick: bool
) -> dict[str, list[list[Variant]]]:
    """The rows of each part."""
    clients = list(rows.clients(programs, directories, plan, quick))
    return {
        "strategies": list(rows.strategies(programs, quick)),
        "semaphores": list(rows.semaphores(programs)),
        "queues": list(rows.queues(programs)),
        "clients": clients,
        "tls": list(tls.rows(clients)),
        "forwarding": list(forwarding.rows(programs, directories)),
    }


def select(
    found: Mapping[str, list[list[Variant]]], parts: Iterable[str], wanted: re.Pattern[str]
) -> dict[str, list[list[Variant]]]:
    chosen = {}
    for part in parts:
        kept = [[row for row in session if wanted.search(row.id)] for session in found[part]]
        if any(kept):
            chosen[part] = [session for session in kept if session]
    return chosen


def measure(
    chosen: Mapping[str, list[list[Variant]]], pace: Pace, plan: Plan, places: Sequence[Path]
) -> dict[str, Results]:
    """Each part in the rounds that suit it: with a server, or on both CPUs without."""

    def started(part: str, rounds: list[list[Variant]]) -> Results:
        print(f"measuring {part}", file=sys.stderr, flush=True)
        if part in DRIVERS:
            return DRIVERS[part](rounds, plan, packages=PACKAGES, stores=places).run(Progress())
        kind = forwarding.Forwarding if part == "forwarding" else blocking.Blocking
        return kind(rounds, pace, packages=PACKAGES).run(Progress())

    return {part: started(part, rounds) for part, rounds in chosen.items()}


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
    start = time.monotonic()
    rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else PACE.rounds)
    pace = replace(PACE, rounds=rounds, noise=arguments.noise)
    plan = replace(PLAN, rounds=rounds, noise=arguments.noise, batches=2 if arguments.quick else PLAN.batches)
    OUTPUT.mkdir(exist_ok=True)
    builds = Builds()
    with stores.opened(OUTPUT, arguments.store) as places:
        programs = builds.all()
        found = sessions(programs, places.directories, plan, arguments.quick)
        chosen = select(found, arguments.part or PARTS, re.compile(arguments.rows))
        if arguments.list:
            print("\n".join(row.id for part in chosen.values() for session in part for row in session))
            return 0
        try:
            parts = measure(chosen, pace, plan, list(places.directories.values()))
        except DebugBuildError as error:
            print(error, file=sys.stderr)
            return 2
    missing = {f"files on {store}": reason for store, reason in places.missing.items()}
    if not find_library("jemalloc"):
        missing["peers with jemalloc"] = rows.NO_JEMALLOC
    missing["penstock-core under TLS"] = tls.NO_CORE
    left = {rows.LEFT_TO_THE_COMPLETE_RUN: "left out of a quick run"} if arguments.quick else {}
    comparison: Comparison = {
        "version": 1,
        "quick": arguments.quick,
        "seconds": round(time.monotonic() - start, 1),
        "parts": parts,
        "missing": {**builds.missing, **missing, **left, **compare_report.NOT_MEASURED},
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(comparison, indent=1) + "\n")
    for path in (arguments.json, *write(comparison, arguments.json)):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
