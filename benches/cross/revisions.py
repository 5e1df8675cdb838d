"""`make bench-compare BASE=REVISION`: penstock as it is beside penstock as it was, row by row in the same rounds.

The base is built from its tree into a folder of its own, which its rows have on their path. Printed are the rows that
moved by more than the run's uncertainty.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from penstock.bench import machine, report, scenarios
from penstock.bench.driver import Driver, Plan
from penstock.bench.figures import find
from penstock.bench.progress import Progress
from penstock.bench.results import Results
from penstock.bench.rounds import DebugBuildError, Variant

from benches.cross import verdict
from benches.python import options

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / "target" / "base"
PLAN = Plan(rounds=15)
NOW, BASE = "now", "base"


def build(revision: str) -> Path:
    """A folder that holds the package of that revision, and no more."""
    commit = _git("rev-parse", "--verify", f"{revision}^{{commit}}")
    site = BUILT / commit
    if site.is_dir():
        return site
    with tempfile.TemporaryDirectory(dir=BUILT.parent) as folder:
        tree, wheels = Path(folder) / "tree", Path(folder) / "wheels"
        tree.mkdir()
        _git("archive", "--output", f"{tree}.tar", commit)
        shutil.unpack_archive(f"{tree}.tar", tree, filter="data")
        _run("maturin", "build", "--release", "--quiet", "--out", str(wheels), cwd=tree)
        (wheel,) = wheels.glob("*.whl")
        made = Path(folder) / "site"
        _run(
            sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(made), str(wheel), cwd=tree
        )
        BUILT.mkdir(exist_ok=True)
        shutil.move(made, site)
    return site


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _run(*command: str, cwd: Path) -> None:
    """With this interpreter's programs first, and what it builds beside what is built anyway."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, "CARGO_TARGET_DIR": str(BUILT.parent / "base-build")}
    subprocess.run(command, check=True, cwd=cwd, env=environment)


def sessions(store: Path, plan: Plan, site: Path) -> Iterator[list[Variant]]:
    """Each row of ours that downloads, twice: with the package as it is, and with the base's."""
    stores = {machine.file_system(store): store}
    for session in scenarios.sessions(("length", "chunked"), stores, "asyncio", plan):
        ours = [row for row in session if row.kind == "batch" and row.client.startswith(report.OURS)]
        named = [replace(row, scenario=f"{row.scenario}, {row.client}") for row in ours]
        yield [
            replace(row, id=f"{row.id}/{whose}", client=whose, wrapper=wrapper)
            for row in named
            for whose, wrapper in ((NOW, ()), (BASE, ("env", f"PYTHONPATH={site}")))
        ]


def moved(results: Results) -> str:
    """The rows whose ratio's interval doesn't hold 1, as Markdown, by how far they moved."""
    lines = []
    for row in results["rows"]:
        base = find(results, f"{row['id'].rpartition('/')[0]}/{BASE}")
        if row["client"] != NOW or base is None:
            continue
        for measure, metric in verdict.MEASURES:
            times = verdict.paired(row, base, metric)
            if times is not None and not times.low <= 1 <= times.high:
                lines.append((times.median, row["id"].rpartition("/")[0], measure, verdict.shown(times)))
    lines.sort(key=lambda line: -abs(line[0] - 1))
    return report.markdown(("row", "by", "now ÷ base"), [cells for _, *cells in lines])


def unmeasured(results: Results) -> Iterable[str]:
    return (f"{row['id']}: {row['unavailable']}" for row in results["rows"] if row["unavailable"])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benches.cross.revisions", description=__doc__)
    parser.add_argument("base", help="a revision that git knows")
    parser.add_argument("--rounds", type=int, default=PLAN.rounds, help="(default: %(default)s)")
    parser.add_argument("--rows", default="", metavar="REGEX", help="only rows whose id matches")
    arguments = parser.parse_args(argv)
    plan = replace(PLAN, rounds=arguments.rounds)
    site = build(arguments.base)
    with tempfile.TemporaryDirectory(dir=ROOT / "target") as store:
        chosen = options.chosen(sessions(Path(store), plan, site), arguments.rows)
        try:
            results = Driver(chosen, plan).run(Progress())
        except DebugBuildError as error:
            print(error, file=sys.stderr)
            return 2
    print(moved(results) or "No row moved by more than the run's uncertainty.")
    print("\n".join(unmeasured(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
