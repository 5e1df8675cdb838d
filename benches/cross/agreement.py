"""`python -m benches.cross.agreement OLD NEW`: whether two runs of the comparison say the same of the same rows.

A row's time agrees where the ranges that its table prints in both runs, of nine rounds in ten, have a part in common;
its multiple of the row that its group is held against, where the 95 % intervals have. The runs may differ in their
rounds, as a complete run and a quick one do; rows of one of them alone don't count.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from penstock.bench import report
from penstock.bench.figures import Interval, Spread, find, lag_p50, lag_p99, spread, values
from penstock.bench.results import Results

from benches.cross import compare_report, verdict

# Begins the reason why a row isn't of the run that it stands in.
ANEW = "measured anew"
ECHO: verdict.Measures = (("round trip p50", lag_p50), ("round trip p99", lag_p99))


class Figure(NamedTuple):
    """One figure of a row, as each run prints it."""

    part: str
    row: str
    measure: str
    old: Spread | Interval
    new: Spread | Interval

    @property
    def agrees(self) -> bool:
        return self.old.low <= self.new.high and self.new.low <= self.old.high

    @property
    def times(self) -> float:
        """New ÷ old."""
        return self.new.median / self.old.median


def figures(old: Mapping[str, Results], new: Mapping[str, Results]) -> Iterator[Figure]:
    """Those of the rows that are in both runs, part by part."""
    for part in (part for part in new if part in old):
        yield from _times(part, old[part], new[part])
        yield from _multiples(part, old[part], new[part])


def _times(part: str, old: Results, new: Results) -> Iterator[Figure]:
    for row in new["rows"]:
        before = find(old, row["id"])
        for measure, metric in ECHO if row["kind"] == "echo" else verdict.MEASURES:
            after = values(row, metric)
            if before and after and (was := values(before, metric)):
                yield Figure(part, row["id"], measure, spread(was), spread(after))


def _multiples(part: str, old: Results, new: Results) -> Iterator[Figure]:
    if part == "curves":
        return
    before = {(row["id"], base["id"]): (row, base) for row, base in compare_report.held_against(part, old)}
    for row, base in compare_report.held_against(part, new):
        if row["kind"] == "echo" or (was := before.get((row["id"], base["id"]))) is None:
            continue
        for measure, metric in verdict.MEASURES:
            earlier, later = verdict.paired(*was, metric), verdict.paired(row, base, metric)
            if earlier and later:
                yield Figure(part, f"{row['id']} ÷ {base['client']}", f"{measure}, multiples", earlier, later)


def tables(old: Mapping[str, Results], new: Mapping[str, Results]) -> dict[str, str]:
    """How many agree, part by part, and those that don't, the farthest apart first."""
    found = sorted(figures(old, new), key=lambda each: (each.part, each.measure))
    counts = []
    for (part, measure), group in groupby(found, key=lambda each: (each.part, each.measure)):
        each = list(group)
        times = [figure.times for figure in each]
        low, high = min(times), max(times)
        agreeing = sum(figure.agrees for figure in each)
        counts.append((part, measure, f"{agreeing} of {len(each)}", f"{median(times):.2f} ({low:.2f} to {high:.2f})"))
    apart = sorted((each for each in found if not each.agrees), key=lambda each: -max(each.times, 1 / each.times))
    lines = [(*each[:3], verdict.ranged(each.old), verdict.ranged(each.new), f"{each.times:.2f}") for each in apart]
    return {
        "compare-agreement": report.markdown(("part", "by", "rows that agree", "new ÷ old"), counts),
        "compare-apart": report.markdown(("part", "row", "by", "old", "new", "new ÷ old"), lines),
    }


def runs(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """When each was made, of what, and how: a comparison may have been put together from several."""
    lines = []
    for title, comparison in (("first", old), ("second", new)):
        parts: Sequence[Results] = list(comparison["parts"].values())
        commits = dict.fromkeys(part["environment"]["commit"] or "?" for part in parts)
        rounds = sorted({part["settings"]["rounds"] for part in parts})
        anew = [f"{what}: {how}" for what, how in comparison["missing"].items() if how.startswith(ANEW)]
        lines.append(
            (
                f"{title}, {'quick' if comparison['quick'] else 'complete'}",
                min(part["started"] for part in parts),
                ", ".join(commit[:7] for commit in commits),
                ", ".join(map(str, rounds)),
                f"{comparison['seconds'] / 60:.0f}",
                "; ".join(anew),
            )
        )
    head = ("run", "started", "commit", "rounds", "minutes", "not in this run")
    shown = len(head) if any(line[-1] for line in lines) else -1
    made = report.markdown(head[:shown], [line[:shown] for line in lines])
    return compare_report.abbreviated(made)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benches.cross.agreement", description=__doc__)
    parser.add_argument("old", type=Path, metavar="OLD", help="the JSON of a run")
    parser.add_argument("new", type=Path, metavar="NEW", help="that of another")
    arguments = parser.parse_args(argv)
    made = tables(*(json.loads(path.read_text())["parts"] for path in (arguments.old, arguments.new)))
    if not made["compare-agreement"]:
        parser.error(f"{arguments.old} and {arguments.new} have no row in common")
    print("\n\n".join(filter(None, made.values())))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
