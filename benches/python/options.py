"""What the programs here that run rounds have in common: their options, the pace that these ask for, and the rows."""

import argparse
import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from penstock.bench import machine
from penstock.bench.results import Results, Row
from penstock.bench.rounds import Pace, Variant

OUTPUT = Path("bench-out")


def parser(name: str, about: str | None, rounds: int) -> argparse.ArgumentParser:
    """The options of `python -m benches.python.NAME`, whose results go to bench-out/NAME.json."""
    made = argparse.ArgumentParser(prog=f"python -m benches.python.{name}", description=about)
    made.add_argument("--quick", action="store_true", help="few rounds, to see that everything runs")
    made.add_argument("--rows", default="", metavar="REGEX", help="only rows whose id matches")
    made.add_argument("--rounds", type=int, default=rounds, help="(default: %(default)s)")
    made.add_argument("--seed", type=int, default=1, help="of the rows' order (default: %(default)s)")
    made.add_argument("--noise", type=float, default=Pace.noise, help="(default: %(default)s)")
    made.add_argument("--json", type=Path, default=OUTPUT / f"{name}.json", metavar="OUT")
    made.add_argument("--list", action="store_true", help="print the rows' ids and end")
    return made


def in_turns(name: str, about: str | None, rounds: int, results: Path) -> argparse.ArgumentParser:
    """The options of `python -m benches.python.NAME`, whose variants take turns in its own process."""
    made = argparse.ArgumentParser(prog=f"python -m benches.python.{name}", description=about)
    made.add_argument("--rounds", type=int, default=rounds, help="(default: %(default)s)")
    made.add_argument("--json", type=Path, default=results, metavar="OUT", help="(default: the committed results)")
    return made


def pace(arguments: argparse.Namespace, quick: Pace, batches: int = 1) -> Pace:
    """What was asked for; with --quick that one."""
    asked = Pace(arguments.rounds, warmup=1, batches=batches)
    return replace(quick if arguments.quick else asked, seed=arguments.seed, noise=arguments.noise)


def chosen(sessions: Iterable[list[Variant]], pattern: str) -> list[list[Variant]]:
    """The rows whose ids match; sessions without any are left out."""
    wanted = re.compile(pattern)
    kept = ([row for row in session if wanted.search(row.id)] for session in sessions)
    return [session for session in kept if session]


def listed(sessions: Iterable[list[Variant]]) -> str:
    return "\n".join(row.id for session in sessions for row in session)


def kept(path: Path) -> list[Row]:
    """The rows of a file to which others are to be added. All are of one commit: the file names no more."""
    if not path.exists():
        return []
    before: Results = json.loads(path.read_text())
    # What has changed since may be that file alone.
    there, here = (str(commit).removesuffix("+") for commit in (before["environment"]["commit"], machine.commit()))
    if there != here:
        raise SystemExit(f"--add: {path} has rows of commit {there}, and this is {here}")
    return before["rows"]
