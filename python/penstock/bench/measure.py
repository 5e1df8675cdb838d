"""`penstock bench client` and `penstock bench blocking`: what they measure, print and write, without a checkout.

Their rows are those of the repository's benches, with the same driver; these have more of them, and the targets.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from penstock.bench import blocking as work
from penstock.bench import machine, page, report, scenarios
from penstock.bench.driver import MIB, Driver, Plan
from penstock.bench.figures import Metric, at_least_noisy, cpu, lag_p99, peak, spread, values, wall
from penstock.bench.progress import Progress
from penstock.bench.results import Results, Row
from penstock.bench.rounds import Pace, Rounds, Variant

BUSY = "A row of which no round was left counts all of them: measure again on a quiet machine."
PACKAGES = ("penstock", "aiohttp", "httpx", "niquests", "pyreqwest", "anyio")
WORKS = tuple(work.WORKS)
PLAN = Plan(rounds=10)
QUICK_PLAN = Plan(rounds=3, warmup=0, batches=1)
PACE = Pace(rounds=10, warmup=1, batches=1)
QUICK_PACE = Pace(rounds=3, warmup=0, batches=1)


@dataclass(frozen=True)
class Output:
    """Files to write beside what is printed."""

    json: Path | None
    html: Path | None


def client(output: Output, quick: bool, peers: bool, url: str | None = None, store: Path | None = None) -> int:
    """Bodies of 8 MiB in RAM, files and mappings; the exit status is 2 if a row of ours could not run."""
    plan = QUICK_PLAN if quick else PLAN
    with tempfile.TemporaryDirectory(dir=store) as directory:
        stores = {machine.file_system(Path(directory)): Path(directory)}
        sessions = [
            [row for row in session if row.kind == "batch" and _wanted(row, peers) and not (quick and _rare(row))]
            for session in scenarios.sessions(("length",), stores, "asyncio", plan)
        ]
        driver = Driver(sessions, plan, packages=PACKAGES, stores=list(stores.values()), url=url)
        title = f"{plan.connections} concurrent GETs of {plan.size // MIB} MiB, each stored, read back and summarised"
        return _measure(driver, title, output)


def blocking(output: Output, quick: bool, peers: bool) -> int:
    """Short blocking functions from one loop; the exit status is 2 if a row of ours could not run."""
    sessions = [
        [row for row in session if _plain(row) and _wanted(row, peers)] for session in work.sessions(("asyncio",), None)
    ]
    pace = QUICK_PACE if quick else PACE
    rounds = work.Blocking([session for session in sessions if session], pace, packages=PACKAGES)
    return _measure(rounds, "Batches of 100 short functions (200 that sleep), gathered on one loop", output)


def _wanted(row: Variant, peers: bool) -> bool:
    return peers or report.ours(row.client)


def _rare(row: Variant) -> bool:
    return row.scenario.startswith("mmap_copy") or bool(row.options.get("file_pool"))


def _plain(row: Variant) -> bool:
    return row.id.partition("/")[0] in WORKS


def _measure(rounds: Rounds, title: str, output: Output) -> int:
    results = rounds.run(Progress())
    left_out = report.left_out(results)
    shown: Results = {**results, "rows": [at_least_noisy(row) for row in results["rows"]]}
    table = _table(shown)
    print(f"{title}:\n\n{table}")
    if left_out:
        print(f"\n{left_out}\n\n{BUSY}")
    if output.json:
        output.json.write_text(json.dumps(results, indent=1) + "\n")
    if output.html:
        output.html.write_text(_page(shown, title, table, left_out))
    failed = [row for row in results["rows"] if row["unavailable"] and report.ours(row["client"])]
    return 2 if failed else 0


def _table(results: Results) -> str:
    """A line a row, those that do the same together and the cheapest of them first."""
    lines = []
    for group in report.groups(results["rows"]):
        for row in group.rows:
            lags = values(row, lag_p99)
            lag = f"{spread(lags).median:.2f}" if lags else ""
            most = f"{peak(row) / MIB:.0f}"
            lines.append((group.title, report.name_of(row), _spread(row, cpu), _spread(row, wall), lag, most))
    return report.markdown(("what", "how", "CPU ms", "wall ms", "loop lag p99 ms", "peak MiB"), lines)


def _spread(row: Row, metric: Metric) -> str:
    figure = spread(values(row, metric))
    return f"{figure.median:.3g} ({figure.low:.3g} to {figure.high:.3g})"


def _page(results: Results, title: str, table: str, left_out: str) -> str:
    found = report.groups(results["rows"])
    text = "Median of a batch, and the range of nine rounds in ten; groups that penstock loses stand first."
    figure = report.bars(found, {"CPU ms a batch": cpu, "wall ms a batch": wall}) if found else None
    return page.render(
        title,
        [
            page.Section("Results", text, table, figure),
            *([page.Section("Left out", BUSY, left_out)] if left_out else []),
            page.Section("Machine and settings", "", report.environment(results)),
        ],
    )
