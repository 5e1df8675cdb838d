"""Tables from the results of the archive benchmarks, as Markdown; in a case, the quickest row stands first."""

from statistics import median

from penstock.bench import report
from penstock.bench.figures import cpu, find, quiet, ratio, spread, values, wall
from penstock.bench.results import Results, Row

from benches import archive_targets, targets

MIB = 1024 * 1024


def tables(results: Results) -> dict[str, str]:
    """All tables that the run has rows for, by name."""
    rows = [row for row in results["rows"] if quiet(row)]
    made = {
        "archives-targets": targets.table(results, archive_targets.MIN_ITERATIONS, archive_targets.TARGETS),
        "archives": _times(results, [row for row in rows if row["kind"] == "batch"]),
        "archives-memory": _memory([row for row in rows if row["kind"] == "memory"]),
        "archives-left-out": report.left_out(results),
        "archives-environment": report.environment(results),
    }
    return {name: text for name, text in made.items() if text}


def _name(row: Row) -> str:
    return f"**{row['client']}**" if row["client"].startswith(report.OURS) else row["client"]


def _times(results: Results, rows: list[Row]) -> str:
    """Time and CPU of going through the archive once, and how many times as fast as upstream that is."""
    made = []
    for group in report.groups(rows, lambda row: median(values(row, wall))):
        for row in group.rows:
            base = find(results, f"{row['scenario']}/{row['store']}/{archive_targets.UPSTREAM}")
            cells = [group.title, _name(row)]
            for metric in (wall, cpu):
                figure = spread(values(row, metric))
                found = ratio(base, row, metric) if base else None
                cells.append(f"{figure.median:.1f} ({figure.low:.1f} to {figure.high:.1f})")
                cells.append(f"{found.median:.2f}" if found else "")
            cells.append(f"{max(sample['rss_bytes'] for sample in quiet(row)) / MIB:.0f}")
            cells.append(str(sum(sample["batches"] for sample in quiet(row))))
            made.append(cells)
    head = ("case", "by", "wall ms", "times as fast", "CPU ms", "times as cheap", "peak MiB", "batches")
    return report.markdown(head, made)


def _memory(rows: list[Row]) -> str:
    """What the record added to the most memory that was resident."""
    made = []
    for group in report.groups(rows, lambda row: median(values(row, lambda sample: sample["growth_bytes"]))):
        for row in group.rows:
            growth = values(row, lambda sample: sample["growth_bytes"])
            made.append((group.title, _name(row), f"{max(growth) / MIB:.1f}", f"{median(values(row, wall)):.0f}"))
    return report.markdown(("one record of 200 MB", "by", "most MiB", "wall ms"), made)
