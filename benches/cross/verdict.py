"""Where penstock loses, and what each policy costs whom: from the rows of a comparison, group by group."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from penstock.bench import report
from penstock.bench.figures import Interval, Metric, cpu, lag_p99, ratio, wall
from penstock.bench.report import Group
from penstock.bench.results import Row

MEASURES: tuple[tuple[str, Metric], ...] = (("CPU", cpu), ("wall", wall))
ECHO: tuple[tuple[str, Metric], ...] = (("round trip p99", lag_p99),)


class Loss(NamedTuple):
    """One of our rows, and who beats it most, by one measure."""

    group: str
    ours: str
    measure: str
    winner: str
    times: Interval
    winners: int


def losses(groups: Iterable[Group]) -> list[Loss]:
    """The worst first. A loss is a ratio whose whole interval lies above 1."""
    found = []
    for group in groups:
        others = [row for row in group.rows if not row["client"].startswith((report.OURS, report.FLOOR))]
        for row in group.rows:
            if not row["client"].startswith(report.OURS):
                continue
            for measure, metric in ECHO if row["kind"] == "echo" else MEASURES:
                better = [
                    (times, named(other))
                    for other in others
                    if (times := ratio(row, other, metric)) is not None and times.low > 1
                ]
                if better:
                    times, winner = max(better, key=lambda each: each[0].median)
                    found.append(Loss(group.title, named(row), measure, winner, times, len(better)))
    return sorted(found, key=lambda loss: -loss.times.median)


def lost(groups: Iterable[Group]) -> str:
    lines = [
        (loss.group, loss.ours, loss.measure, loss.winner, shown(loss.times), str(loss.winners))
        for loss in losses(groups)
    ]
    return report.markdown(("group", "ours", "by", "best other", "ours ÷ it", "others that are better"), lines)


@dataclass(frozen=True)
class Policies:
    """One client's rows of a scenario, by policy."""

    title: str
    rows: dict[str, Row]


def policies(rows: Iterable[Row]) -> list[Policies]:
    """Rows of the clients' part that differ by their policy alone."""
    found: dict[str, Policies] = {}
    for row in rows:
        kind, _, policy = row["scenario"].rpartition("_")
        if row["store"] and policy in ("direct", "permit", "dispatch") and row["client"].startswith(TAKEN):
            title = f"{kind}, {row['framing']}, {row['store']}: {named(row)}"
            found.setdefault(title, Policies(title, {})).rows[policy] = row
    return [found[title] for title in sorted(found) if len(found[title].rows) == 3]


# Peers have no policy: their rows are of two kinds that differ by more.
TAKEN = (report.OURS, "upstream")


def costs(rows: Sequence[Row]) -> str:
    """Permit and dispatch as multiples of direct."""
    lines = []
    for each in policies(rows):
        cells = [each.title]
        for policy in ("permit", "dispatch"):
            for _, metric in MEASURES:
                times = ratio(each.rows[policy], each.rows["direct"], metric)
                cells.append(shown(times) if times else "")
        lines.append(cells)
    head = ("bodies", "permit ÷ direct, CPU", "wall", "dispatch ÷ direct, CPU", "wall")
    return report.markdown(head, lines)


def named(row: Row) -> str:
    return f"{row['client']} (Rust)" if row["loop"] == "tokio" else row["client"]


def shown(times: Interval) -> str:
    return f"{times.median:.2f} [{times.low:.2f}, {times.high:.2f}]"
