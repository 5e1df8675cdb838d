"""`python -m benches.python.run`: the rows asked for, and the floor, as JSON, tables, a picture and the targets."""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from penstock.bench import figures, machine, report, scenarios
from penstock.bench.driver import Driver, Plan
from penstock.bench.progress import Progress
from penstock.bench.results import Framing, Results
from penstock.bench.rounds import DebugBuildError, Variant

from benches import targets
from benches.python import floor

FRAMINGS: tuple[Framing, ...] = ("chunked", "length")
PACKAGES = ("penstock", "aiohttp", "httpx", "niquests", "pyreqwest", "uvloop")
SHARED_MEMORY = Path("/dev/shm")
OUTPUT = Path("bench-out")

# Small enough to see within two minutes that everything runs; the figures are only an indication.
QUICK = Plan(rounds=3, warmup=1, batches=2)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benches.python.run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that everything runs")
    parser.add_argument("--rows", default="", metavar="REGEX", help="only rows whose id matches, beside the floor")
    parser.add_argument("--rounds", type=int, default=12, help="(default: %(default)s)")
    parser.add_argument("--batches", type=int, default=3, help="of a row in a round (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the rows' order (default: %(default)s)")
    parser.add_argument(
        "--noise", type=float, default=Plan.noise, help="drop turns with more of others' CPU (default: %(default)s)"
    )
    parser.add_argument("--store", action="append", type=Path, metavar="DIR", help="where files go; may be repeated")
    parser.add_argument("--framing", choices=FRAMINGS, help="only this one (default: both)")
    parser.add_argument("--loop", choices=("asyncio", "uvloop", "penstock"), default="asyncio", help="of all rows")
    parser.add_argument("--min-iterations", type=int, default=targets.MIN_ITERATIONS, help="for close targets")
    parser.add_argument(
        "--json", type=Path, default=OUTPUT / "bench.json", metavar="OUT", help="(default: %(default)s)"
    )
    parser.add_argument("--list", action="store_true", help="print the rows' ids and end")
    return parser.parse_args(argv)


def select(arguments: argparse.Namespace, stores: dict[str, Path], plan: Plan) -> list[list[Variant]]:
    """The rows that were asked for, by session; sessions without any are left out."""
    framings: tuple[Framing, ...] = (arguments.framing,) if arguments.framing else FRAMINGS
    wanted = re.compile(arguments.rows)
    sessions = scenarios.sessions(framings, stores, arguments.loop, plan)
    chosen = [[row for row in session if wanted.search(row.id)] for session in sessions]
    return [session for session in chosen if session]


def describe_floor(results: Results) -> list[str]:
    """What the server delivers at the most, and how far the floor is from itself."""
    lines = []
    size = results["settings"]["size"] * results["settings"]["connections"]
    for framing in FRAMINGS:
        row = figures.find(results, f"floor/{framing}/floor")
        again = figures.find(results, f"floor/{framing}/floor again")
        if row is None or again is None:
            continue
        wall = figures.spread(figures.values(row, figures.wall))
        rate = size / (wall.median / 1000) / 2**30
        lines.append(f"floor, {framing}: {wall.median:.1f} ms; the server delivers {rate:.2f} GiB/s")
        noise = figures.ratio(again, row, figures.wall)
        if noise is not None:
            lines.append(f"floor against itself: {noise.median:.3f} [{noise.low:.3f}, {noise.high:.3f}]")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    plan = (
        replace(QUICK, seed=arguments.seed, noise=arguments.noise)
        if arguments.quick
        else Plan(arguments.rounds, batches=arguments.batches, seed=arguments.seed, noise=arguments.noise)
    )
    OUTPUT.mkdir(exist_ok=True)
    directories = arguments.store or [OUTPUT, *([SHARED_MEMORY] if SHARED_MEMORY.is_dir() else [])]
    # Rows are told apart by the type of their store: of two directories on one type the last counts.
    stores = {machine.file_system(directory): directory for directory in directories}
    sessions = select(arguments, stores, plan)
    if arguments.list:
        print("\n".join(row.id for session in sessions for row in session))
        return 0
    binary = floor.build()
    for session in sessions:
        session.extend([*floor.by_hand(binary, session), *floor.rows(binary, session[0].framing)])
    try:
        results = Driver(sessions, plan, packages=PACKAGES, stores=list(stores.values())).run(Progress())
    except DebugBuildError as error:
        print(error, file=sys.stderr)
        return 2
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    print("\n".join(describe_floor(results)))
    for title, table in report.tables(results).items():
        print(f"\n{title}\n\n{table}")
    print(f"\n{targets.table(results, arguments.min_iterations)}")
    picture = arguments.json.with_suffix(".png")
    report.picture([row for row in results["rows"] if row["kind"] == "batch"], picture)
    print(f"\nresults: {arguments.json}, picture: {picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
