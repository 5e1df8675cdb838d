"""Lines and tables from the results of the blocking benchmarks: upstream's form for a terminal, Markdown for the pages.

In a table, the rows of one loop and one kind of work stand together, the quickest first.
"""

import re
from collections.abc import Iterable
from statistics import median

from penstock.bench import report
from penstock.bench.figures import (
    Metric,
    cpu,
    find,
    lag_p50,
    lag_p99,
    lag_worst,
    quiet,
    ratio,
    spread,
    values,
    wall,
)
from penstock.bench.results import Results, Row

from benches import blocking_targets, targets

EXECUTOR = "run_in_executor"
# Floors, not ways to run jobs.
BY_HAND = "by hand"
# Ours, that a peer may beat.
CONTENDERS = ("penstock dispatch", "penstock")
# Side by side where it is told when to take which.
WAYS = {
    "Direct": "penstock direct",
    "Permit": "penstock permit",
    "Dispatch": "penstock dispatch",
    EXECUTOR: EXECUTOR,
}
MEASURES: tuple[tuple[str, Metric], ...] = (("wall", wall), ("CPU", cpu), ("lag p99", lag_p99))


def lines(results: Results) -> list[str]:
    """A row a line, as `cargo bench` has them (the spread is that of nine turns in ten), with the loop's lag."""
    shown = [row for row in results["rows"] if quiet(row)]
    names = {row["id"]: re.sub(r"\W+", "_", row["id"].replace("µs", "us")) for row in shown}
    width = max(map(len, names.values()), default=0)
    made = []
    for row in shown:
        figure = spread([each * 1e6 for each in values(row, wall)])
        line = f"test {names[row['id']]:<{width}} ... bench: {figure.median:>13,.0f} ns/iter"
        line += f" (+/- {(figure.high - figure.low):,.0f})"
        lags = values(row, lag_p99)
        if lags:
            what = "round trip" if row["kind"] == "echo" else "loop lag"
            line += f"; {what} p99 {median(lags):.2f} ms, worst {max(values(row, lag_worst)):.2f} ms"
        made.append(line)
    made += [f"test {row['id']} left out: {row['unavailable']}" for row in results["rows"] if row["unavailable"]]
    return made


def tables(results: Results) -> dict[str, str]:
    """All tables that the run has rows for, by name."""
    rows = [row for row in results["rows"] if quiet(row)]

    def named(*names: str) -> list[Row]:
        return [row for row in rows if row["id"].partition("/")[0] in names]

    made = {
        "blocking-matrix": _costs(results, named("noop", "expensive", "sleep"), EXECUTOR),
        "blocking-policies": _policies(
            named("noop", "sleep", "expensive", "echo beside sleep", "echo beside expensive")
        ),
        "blocking-eight": _costs(results, named("noop x8", "expensive x8", "sleep x8"), EXECUTOR),
        "blocking-single": _costs(results, named("noop one by one"), EXECUTOR),
        "blocking-lead": _lead(results),
        "blocking-fairness": _lags(named("in flight")),
        "blocking-semaphores": _costs(
            results, named("semaphore free", "semaphore contended", "semaphore cancelled"), "asyncio"
        ),
        "blocking-echo": _lags(named("echo idle", "echo beside expensive", "echo beside sleep")),
        "blocking-lost": _lost(results, rows),
        "blocking-targets": targets.table(results, targets=blocking_targets.TARGETS),
        "blocking-floors": targets.table(results, targets=blocking_targets.FLOORS),
        "blocking-left-out": report.left_out(results),
        "blocking-environment": report.environment(results),
    }
    return {name: text for name, text in made.items() if text}


def _name(row: Row) -> str:
    return f"**{row['client']}**" if row["client"].startswith(report.OURS) else row["client"]


def _wall(row: Row) -> float:
    return median(values(row, wall))


def _sibling(results: Results, row: Row, client: str) -> Row | None:
    """The row that differs by its client alone."""
    return find(results, f"{row['id'].rpartition('/')[0]}/{client}")


def _costs(results: Results, rows: Iterable[Row], base: str) -> str:
    """Time and CPU of a job, and both as multiples of the base's; the lag that the loop had."""
    made = []
    for group in report.groups(rows, _wall):
        for row in group.rows:
            jobs = int(row["options"]["jobs"] or 1)
            other = _sibling(results, row, base)
            cells = [group.title, _name(row)]
            for metric in (wall, cpu):
                figure = spread([each * 1000 / jobs for each in values(row, metric)])
                found = ratio(row, other, metric) if other else None
                cells.append(f"{figure.median:.2f} ({figure.low:.2f} to {figure.high:.2f})")
                cells.append(f"{found.median:.3f}" if found else "")
            lags = values(row, lag_p99)
            cells.append(f"{median(lags):.2f}" if lags else "")
            cells.append(f"{max(values(row, lag_worst)):.1f}" if lags else "")
            made.append(cells)
    head = ("work", "how", "wall µs", f"÷ {base}", "CPU µs", f"÷ {base}", "lag p99 ms", "worst ms")
    return report.markdown(head, made)


def _policies(rows: Iterable[Row]) -> str:
    """By each policy, what a job costs, or how late others are meanwhile."""
    made = []
    shown = [row for row in rows if row["client"] in WAYS.values()]
    for group in sorted(report.groups(shown), key=lambda group: group.title):
        by_client = {row["client"]: row for row in group.rows}
        echo = group.rows[0]["kind"] == "echo"
        cells = [group.title, "round trip, p99 ms" if echo else "a job, wall µs"]
        for client in WAYS.values():
            row = by_client.get(client)
            if row is None:
                cells.append("")
            elif echo:
                cells.append(f"{median(values(row, lag_p99)):.2f}")
            else:
                cells.append(f"{_wall(row) * 1000 / int(row['options']['jobs'] or 1):.2f}")
        made.append(cells)
    return report.markdown(("work", "figure", *(f"`{way}`" for way in WAYS)), made)


def _lead(results: Results) -> str:
    """Dispatch ÷ executor for sleeps that get longer: the lead ends where the interval reaches 1."""
    made = []
    for row in results["rows"]:
        base = _sibling(results, row, EXECUTOR)
        if row["client"] != "penstock dispatch" or base is None or "µs" not in row["id"]:
            continue
        cells = [row["scenario"]]
        for metric in (wall, cpu):
            found = ratio(row, base, metric)
            if found is None:
                break
            state = "leads" if found.high < 1 else "loses" if found.low > 1 else "level"
            cells += [f"{found.median:.3f} [{found.low:.3f}, {found.high:.3f}]", state]
        else:
            made.append(cells)
    return report.markdown(("jobs", "wall", "", "CPU", ""), made)


def _lags(rows: Iterable[Row]) -> str:
    """How late a ticker or an echo is, and what the jobs took meanwhile."""
    made = []
    for group in report.groups(rows, lambda row: median(values(row, lag_p99))):
        for row in group.rows:
            lags = [f"{median(values(row, metric)):.2f}" for metric in (lag_p50, lag_p99)]
            worst = f"{max(values(row, lag_worst)):.1f}"
            made.append((group.title, _name(row), *lags, worst, f"{_wall(row):.1f}", f"{median(values(row, cpu)):.1f}"))
    head = ("work", "how", "p50 ms", "p99 ms", "worst ms", "batch: wall ms", "CPU ms")
    return report.markdown(head, made)


def _lost(results: Results, rows: Iterable[Row]) -> str:
    """Where another is better than dispatch, upstream's own among them, or than the semaphore."""
    made = []
    for row in rows:
        name, loop, client = row["id"].split("/")
        others = [other for other in rows if other["id"].startswith((f"{name}/{loop}/", f"{name}/tokio/dispatch_rx"))]
        for other in others:
            if client not in CONTENDERS or other["client"].startswith(report.OURS) or other["client"].endswith(BY_HAND):
                continue
            for measure, metric in MEASURES:
                found = ratio(row, other, metric)
                if found is not None and found.low > 1:
                    title = other["client"] if other["loop"] == loop else f"upstream's Rust, {other['client']}"
                    made.append((row["scenario"], title, measure, f"{found.median:.2f}"))
    return report.markdown(("work", "is better", "by", "ours ÷ it"), made)
