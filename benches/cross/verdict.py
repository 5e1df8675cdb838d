"""Where penstock loses, and what each policy costs whom: from the rows of a comparison, group by group."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import NamedTuple, TypeAlias

from penstock.bench import report
from penstock.bench.figures import (
    Interval,
    Metric,
    Spread,
    cpu,
    find,
    held,
    lag_p99,
    quiet,
    ratio,
    ratios,
    request_p99,
    request_spread,
    wall,
)
from penstock.bench.report import Group
from penstock.bench.results import Results, Row

from benches.cross.rows import FRAMINGS, SPILLED

Measures: TypeAlias = tuple[tuple[str, Metric], ...]

MEASURES: Measures = (("CPU", cpu), ("wall", wall))
ECHO: Measures = (("round trip p99", lag_p99),)
SINGLE: Measures = (("p99", request_p99), ("spread", request_spread))
NET: Measures = (*MEASURES, ("peak memory", held))

# An interval of fewer rounds than these says nothing.
MIN_ROUNDS = 3


def paired(row: Row, base: Row, metric: Metric) -> Interval | None:
    """`row` ÷ `base`, if there are rounds enough that were quiet for both."""
    common = {sample["round"] for sample in quiet(row)} & {sample["round"] for sample in quiet(base)}
    return ratio(row, base, metric) if len(common) >= MIN_ROUNDS else None


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
                    if (rounds := ratios(row, other, metric)[0])
                    and median(rounds) > 1
                    and (times := paired(row, other, metric)) is not None
                    and times.low > 1
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

    def place(row: Row) -> tuple[str, int, str, str]:
        return row["scenario"].rpartition("_")[0], framed(row), row["store"] or "", named(row)

    for row in sorted(rows, key=place):
        kind, _, policy = row["scenario"].rpartition("_")
        if row["store"] and policy in ("direct", "permit", "dispatch") and row["client"].startswith(TAKEN):
            title = f"{kind}, {row['framing']}, {row['store']}: {named(row)}"
            found.setdefault(title, Policies(title, {})).rows[policy] = row
    return [each for each in found.values() if len(each.rows) == 3]


# Peers have no policy: their rows are of two kinds that differ by more.
TAKEN = (report.OURS, "upstream")


def costs(rows: Sequence[Row], measures: Measures = MEASURES) -> str:
    """Permit and dispatch as multiples of direct."""
    lines = []
    for each in policies(rows):
        cells = [each.title]
        for policy in ("permit", "dispatch"):
            for _, metric in measures:
                times = paired(each.rows[policy], each.rows["direct"], metric)
                cells.append(shown(times) if times else "")
        lines.append(cells)
    head = ("bodies", *(f"{policy} ÷ direct, {name}" for policy in ("permit", "dispatch") for name, _ in measures))
    return report.markdown(head, lines)


def spills(results: Results, stores: Iterable[str], clients: Sequence[str]) -> str:
    """What it costs when some bodies of a batch are above the limit, as multiples of none."""
    lines = []
    for store, client in product(stores, clients):
        none, *some = (find(results, f"spill, {spilled} %/length/{store}/{client}") for spilled in SPILLED)
        times = [paired(row, none, metric) if row and none else None for row, (_, metric) in product(some, NET)]
        if any(times):
            lines.append((store, client, *(shown(each) if each else "" for each in times)))
    head = ("files on", "client", *(f"{spilled} %: {name}" for spilled in SPILLED[1:] for name, _ in NET))
    return report.markdown(head, lines)


def framed(row: Row) -> int:
    """The place of the row's framing: a Content-Length, which upstream's server sends, before chunks."""
    return FRAMINGS.index(row["framing"]) if row["framing"] else len(FRAMINGS)


def named(row: Row) -> str:
    return f"{row['client']} (Rust)" if row["loop"] == "tokio" else row["client"]


def shown(times: Interval) -> str:
    return f"{times.median:.2f} [{times.low:.2f}, {times.high:.2f}]"


def ranged(figure: Spread | Interval) -> str:
    return f"{report.short(figure.median)} ({report.short(figure.low)} to {report.short(figure.high)})"
