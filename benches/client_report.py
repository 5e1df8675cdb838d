"""Tables from the results of the client's benchmarks."""

from collections.abc import Iterable
from statistics import median

from penstock.bench import report
from penstock.bench.figures import Metric, cpu, find, lag_p99, lag_worst, quiet, ratio, spread, values, wall
from penstock.bench.results import Results, Row

from benches import client_targets, targets

KIB = 1024
BASE = "penstock"


def tables(results: Results, close: Results | None = None) -> dict[str, str]:
    """All tables that the run has rows for, by name; `close` is one of those that are to be close to others."""
    rows = [row for row in results["rows"] if quiet(row)]

    def of(name: str) -> list[Row]:
        return [row for row in rows if row["id"].startswith(name) and row["kind"] == "batch"]

    made = {
        "client-targets": targets.table(results, targets=client_targets.TARGETS, close=close),
        "client-small": _requests(results, of("small/")),
        "client-chunks": _costs(results, of("chunks ")),
        "client-gzip": _costs(results, of("gzip/")),
        "client-lag": _lags(row for row in rows if row["kind"] == "lag"),
        "client-tls": _costs(results, of("tls/")),
        "client-idle": _idle(row for row in rows if row["kind"] == "memory"),
        "client-upload": _costs(results, of("upload/")),
        "client-left-out": report.left_out(results),
        "client-environment": report.environment(results),
    }
    return {name: text for name, text in made.items() if text}


def _name(row: Row) -> str:
    return f"**{row['client']}**" if row["client"].startswith(report.OURS) else row["client"]


def _ratio(results: Results, row: Row, metric: Metric) -> str:
    base = find(results, f"{row['id'].rpartition('/')[0]}/{BASE}")
    found = ratio(row, base, metric) if base else None
    return f"{found.median:.2f}" if found else ""


def _spread(row: Row, metric: Metric, factor: float = 1.0) -> str:
    figure = spread([each * factor for each in values(row, metric)])
    return f"{figure.median:.1f} ({figure.low:.1f} to {figure.high:.1f})"


def _costs(results: Results, rows: Iterable[Row]) -> str:
    """CPU and time of a batch, and both as multiples of ours."""
    made = []
    for group in report.groups(rows):
        for row in group.rows:
            cells = [group.title, _name(row)]
            for metric in (cpu, wall):
                cells += [_spread(row, metric), _ratio(results, row, metric)]
            made.append(cells)
    return report.markdown(("what", "client", "CPU ms", "÷ ours", "wall ms", "÷ ours"), made)


def _requests(results: Results, rows: Iterable[Row]) -> str:
    """CPU of a request, and how many a second of it are."""
    made = []
    for group in report.groups(rows):
        for row in group.rows:
            count = int(row["options"]["connections"] or 1) * int(row["options"]["requests"] or 1)
            rate = 1000 * count / median(values(row, cpu))
            made.append(
                (
                    group.title,
                    _name(row),
                    _spread(row, cpu, 1000 / count),
                    f"{rate:,.0f}",
                    _ratio(results, row, cpu),
                    _spread(row, wall, 1000 / count),
                )
            )
    head = ("what", "client", "CPU µs a request", "requests a CPU second", "CPU ÷ ours", "wall µs a request")
    return report.markdown(head, made)


def _lags(rows: Iterable[Row]) -> str:
    made = []
    for group in report.groups(rows):
        for row in group.rows:
            lags = f"{max(values(row, lag_worst)):.1f}"
            made.append((group.title, _name(row), f"{median(values(row, lag_p99)):.2f}", lags))
    return report.markdown(("what", "client", "p99 ms", "worst ms"), made)


def _idle(rows: Iterable[Row]) -> str:
    """What one connection holds of the many."""
    made = []
    for group in report.groups(rows):
        for row in group.rows:
            growth = values(row, lambda sample: sample["growth_bytes"])
            each = median(growth) / int(row["options"]["connections"] or 1) / KIB
            made.append((group.title, _name(row), f"{each:.0f}"))
    return report.markdown(("what", "client", "KiB a connection"), made)
