"""What must hold, and whether a run shows it: `python -m benches.targets bench.json`.

A ratio's 95 % interval must lie below its limit, for CPU time and for wall time; where it lies above, the target is
missed, else the run can't tell. Limits close to 1 need many iterations, since the floor alone moves by a tenth: a run
of their rows alone may have as many. Sizes and lags count by the worst that was seen. Nothing is measured here.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal

from penstock.bench import report
from penstock.bench.figures import Interval, Metric, bootstrap, cpu, find, ratio, values, wall
from penstock.bench.results import Results, Row

Verdict = Literal["met", "missed", "undecided", "no samples"]

MIN_ITERATIONS = 400
# Limits within this of 1 are close.
CLOSE = 0.2

MIB = 1024 * 1024
KIB = 1024
HELD = 500
MAX_BODY_RAM = 192 * KIB


MEASURES: tuple[tuple[str, Metric], ...] = (("CPU", cpu), ("wall", wall))


@dataclass(frozen=True)
class Ratio:
    """`row` ÷ `base` must be below `limit`, by each of the measures."""

    name: str
    row: str
    base: str
    limit: float
    measures: tuple[tuple[str, Metric], ...] = MEASURES


@dataclass(frozen=True)
class Bound:
    """The worst that `row` shows of `metric` must be at most `limit`."""

    name: str
    row: str
    metric: Literal["lag_worst_ms", "lag_p99_ms", "growth_bytes"]
    limit: float


@dataclass(frozen=True)
class Judgement:
    """One line of the table: a target, by one measure."""

    name: str
    measure: str
    limit: str
    seen: str
    verdict: Verdict


def _stored(store: str, fs: float, mmap: float) -> list[Ratio | Bound]:
    """The targets that exist once a file system; `fs` and `mmap` are the limits of fresh files."""
    chunked, length = f"chunked/{store}", f"length/{store}"
    floor, floor_length = "floor/chunked/floor", "floor/length/floor"
    return [
        Ratio(f"fs_direct, {store}", f"fs_direct/{chunked}/penstock", floor, fs),
        Ratio(f"mmap_direct, {store}", f"mmap_direct/{chunked}/penstock", floor, mmap),
        Ratio(f"fs with FilePool, {store}", f"fs_direct/{length}/penstock FilePool", floor_length, 1.8),
        Ratio(f"mmap with FilePool, {store}", f"mmap_direct/{length}/penstock FilePool", floor_length, 1.6),
        *(
            Ratio(
                f"{kind}, {framing}: {policy} ÷ direct, {store}",
                f"{kind}_{policy}/{framing}/{store}/penstock",
                f"{kind}_direct/{framing}/{store}/penstock",
                1.05,
            )
            for kind in ("fs", "mmap")
            for framing in ("chunked", "length")
            for policy in ("dispatch", "permit")
        ),
        Bound(
            f"{HELD} connections, {store}",
            f"held/{chunked}/penstock",
            "growth_bytes",
            40 * MIB + HELD * (MAX_BODY_RAM + 64 * KIB),
        ),
        Bound(f"loop lag, {store}", f"lag/{chunked}/penstock", "lag_worst_ms", 5),
    ]


TARGETS: list[Ratio | Bound] = [
    Ratio("ram, chunked", "ram/chunked/penstock", "floor/chunked/floor", 1.4),
    Ratio("ram, chunked: half of aiohttp", "ram/chunked/penstock", "ram/chunked/aiohttp naive", 0.5),
    Ratio("ram, chunked: half of aiohttp tuned", "ram/chunked/penstock", "ram/chunked/aiohttp tuned", 0.5),
    Ratio("ram, length: below aiohttp tuned", "ram/length/penstock", "ram/length/aiohttp tuned", 1.0),
    Ratio("ram, length: below pyreqwest", "ram/length/penstock", "ram/length/pyreqwest naive", 1.0),
    Ratio("ram, length: below pyreqwest tuned", "ram/length/penstock", "ram/length/pyreqwest tuned", 1.0),
    Ratio("ram_gather, chunked", "ram_gather/chunked/penstock", "floor/chunked/floor", 1.7),
    *_stored("ext4", fs=2.4, mmap=2.3),
    Bound(f"{HELD} connections in 32 MiB, ext4", "held/chunked/ext4/penstock Budget", "growth_bytes", 90 * MIB),
    *_stored("tmpfs", fs=2.9, mmap=2.8),
]


def judge(
    results: Results,
    min_iterations: int = MIN_ITERATIONS,
    targets: Sequence[Ratio | Bound] = TARGETS,
    close: Results | None = None,
) -> list[Judgement]:
    """Every target by every measure: CPU time before wall time. Those that are close are judged by a run of their own
    that has their rows."""
    judged: list[Judgement] = []
    for target in targets:
        if isinstance(target, Bound):
            judged.append(_bound(target, find(results, target.row)))
            continue
        run = results
        if close is not None and is_close(target.limit) and find(close, target.row) and find(close, target.base):
            run = close
        row, base = find(run, target.row), find(run, target.base)
        judged.extend(_ratio(target, measure, metric, row, base, min_iterations) for measure, metric in target.measures)
    return judged


def _ratio(
    target: Ratio, measure: str, metric: Metric, row: Row | None, base: Row | None, min_iterations: int
) -> Judgement:
    # The floor is a time: what the bytes take to come at the least, however much of it the receiver rests.
    base_metric = wall if base and base["scenario"] == report.FLOOR else metric
    found = ratio(row, base, metric, base_metric) if row and base else None
    limit = f"< {target.limit:.3g}"
    if found is None:
        return Judgement(target.name, measure, limit, "", "no samples")
    seen = f"{found.median:.3f} [{found.low:.3f}, {found.high:.3f}] of {found.iterations}"
    return Judgement(target.name, measure, limit, seen, verdict(found, target.limit, min_iterations))


def is_close(limit: float) -> bool:
    return abs(limit - 1) < CLOSE


def verdict(found: Interval, limit: float, min_iterations: int = MIN_ITERATIONS) -> Verdict:
    """Whether an interval lies below the limit; never a yes or no near 1 from few iterations."""
    if is_close(limit) and found.iterations < min_iterations:
        return "undecided"
    if found.high < limit:
        return "met"
    return "missed" if found.low > limit else "undecided"


def _bound(target: Bound, row: Row | None) -> Judgement:
    unit, factor = ("MiB", MIB) if target.metric == "growth_bytes" else ("ms", 1)
    limit = f"≤ {target.limit / factor:g} {unit}"
    figures = values(row, lambda sample: sample[target.metric]) if row else []
    if not figures:
        return Judgement(target.name, "worst", limit, "", "no samples")
    seen = f"{max(figures) / factor:.1f} {unit} of {len(figures)}"
    return Judgement(target.name, "worst", limit, seen, worst(figures, target.limit))


def worst(figures: Sequence[float], limit: float) -> Verdict:
    """Whether the worst figure is at most the limit."""
    if max(figures) <= limit:
        return "met"
    # One outlier in many rounds may be the machine's; most rounds above the limit are not.
    low, _ = bootstrap(figures)
    return "missed" if low > limit else "undecided"


def table(
    results: Results,
    min_iterations: int = MIN_ITERATIONS,
    targets: Sequence[Ratio | Bound] = TARGETS,
    close: Results | None = None,
) -> str:
    """The judgements as Markdown."""
    head = ("target", "measure", "limit", "seen", "verdict")
    judged = judge(results, min_iterations, targets, close)
    return report.markdown(head, [astuple(each) for each in judged if each.verdict != "no samples"])


def main(argv: Sequence[str]) -> int:
    """Print the table of a results file; the exit status is 1 if a target is missed."""
    results: Results = json.loads(Path(argv[0]).read_text())
    print(table(results))
    return int(any(each.verdict == "missed" for each in judge(results)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
