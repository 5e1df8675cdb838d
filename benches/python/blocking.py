"""`python -m benches.python.blocking`: all rows of blocking work beside upstream's own Rust, and the targets."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from penstock.bench.blocking import LOOPS, PACKAGES, Blocking, sessions
from penstock.bench.progress import Progress
from penstock.bench.results import Results
from penstock.bench.rounds import DebugBuildError, Pace

from benches import blocking_report, blocking_targets, targets
from benches.python import native, options

QUICK = Pace(rounds=2, warmup=0, batches=1)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options.parser("blocking", __doc__, rounds=10)
    parser.add_argument("--batches", type=int, default=1, help="times each row's own number (default: %(default)s)")
    parser.add_argument("--loop", choices=LOOPS, help="only this one (default: both)")
    parser.add_argument("--min-iterations", type=int, default=targets.MIN_ITERATIONS, help="for close targets")
    return parser.parse_args(argv)


def upstream() -> Path | None:
    """Upstream's own program; a line says why it can't be built here."""
    try:
        return native.build("upstream", "blocking")
    except native.Unavailable as reason:
        print(f"upstream's Rust is skipped: {reason}", file=sys.stderr)
        return None


def shown(results: Results, min_iterations: int) -> str:
    """What the terminal gets: a line for each row, where the lead ends, the echoes, and the targets."""
    tables = blocking_report.tables(results)
    parts = ["\n".join(blocking_report.lines(results))]
    parts += [tables[name] for name in ("blocking-lead", "blocking-echo") if name in tables]
    return "\n\n".join([*parts, targets.table(results, min_iterations, blocking_targets.TARGETS)])


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    pace = options.pace(arguments, QUICK, arguments.batches)
    program = Path("blocking") if arguments.list else upstream()
    loops = (arguments.loop,) if arguments.loop else LOOPS
    chosen = options.chosen(sessions(loops, program), arguments.rows)
    if arguments.list:
        print(options.listed(chosen))
        return 0
    try:
        results = Blocking(chosen, pace, packages=PACKAGES).run(Progress())
    except DebugBuildError as error:
        print(error, file=sys.stderr)
        return 2
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    print(shown(results, arguments.min_iterations))
    print(f"\nresults: {arguments.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
