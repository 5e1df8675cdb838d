"""`make demo`: 16 concurrent GETs of 8 MiB, to RAM, to files and to mappings, while a ticker watches the loop.

Prints a table and draws a picture; the same driver as the full comparison, with penstock's rows alone.
"""

import tempfile
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from penstock.bench import report
from penstock.bench.driver import MIB, Driver, Plan
from penstock.bench.figures import at_least_noisy, cpu, quiet, values, wall
from penstock.bench.progress import Progress
from penstock.bench.results import Row
from penstock.bench.rounds import Variant

HEAD = ("stored in", "time ms", "CPU ms", "peak MiB", "loop lag p99 ms", "worst ms")


def variants(store: Path) -> list[Variant]:
    """One row a way to store, each with the ticker."""
    return [
        Variant(
            id=scenario,
            scenario=scenario,
            client="penstock",
            factory="penstock.bench.variants:open_client",
            options={"scenario": scenario, "store": str(store)},
            kind="lag",
        )
        for scenario in ("ram", "fs", "mmap")
    ]


def table(rows: list[Row]) -> str:
    """Medians of the rounds, in columns; the reason for a row that could not run."""
    lines = [HEAD]
    reasons = []
    for row in rows:
        shown = at_least_noisy(row)
        samples = quiet(shown)
        if not samples:
            reasons.append(f"{row['id']}: {row['unavailable']}")
            continue
        lines.append(
            (
                {"ram": "RAM", "fs": "files", "mmap": "mapped files"}[row["scenario"]],
                f"{median(values(shown, wall)):.1f}",
                f"{median(values(shown, cpu)):.1f}",
                f"{max(sample['rss_bytes'] for sample in samples) / MIB:.0f}",
                f"{median(values(shown, lambda sample: sample['lag_p99_ms'])):.2f}",
                f"{max(values(shown, lambda sample: sample['lag_worst_ms'])):.2f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(text + reasons)


def run(rounds: int, output: str) -> int:
    """Measure, print and draw; the exit status is 2 if a row could not run."""
    directory = Path(output)
    directory.mkdir(parents=True, exist_ok=True)
    plan = Plan(rounds)
    with tempfile.TemporaryDirectory(dir=directory) as store:
        results = Driver([variants(Path(store))], plan, stores=[Path(store)]).run(Progress())
    rows = results["rows"]
    print(f"{plan.connections} concurrent GETs of {plan.size // MIB} MiB, each stored, read back and summarised:\n")
    print(table(rows))
    drawn = [at_least_noisy(row) for row in rows]
    if find_spec("matplotlib") is None:
        print("\nno picture: matplotlib is missing: pip install matplotlib")
    elif any(quiet(row) for row in drawn):
        path = directory / "demo.png"
        report.picture(drawn, path)
        print(f"\npicture: {path}")
    return 2 if any(row["unavailable"] for row in rows) else 0
