"""`python -m benches.publish`: brings the published tables in line with the committed results; `--check` only compares.

The numbers in the README and on the results page come from here and nowhere else.
"""

import json
import sys
from pathlib import Path

from penstock.bench import report
from penstock.bench.results import Results

from benches import archive_report, blocking_report, client_report, targets
from benches.cross import agreement, compare, compare_report
from benches.python import handover, monitor, reaper

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benches" / "results"
PAGES = (
    "README.md",
    "docs/results.md",
    "docs/blocking-results.md",
    "docs/client-results.md",
    "docs/archive-results.md",
    "docs/explanation/blocking.md",
    "docs/explanation/findings.md",
    "docs/explanation/handover.md",
    "docs/how-to/find-stalls.md",
)


def load(name: str) -> Results:
    results: Results = json.loads((RESULTS / name).read_text())
    return results


def made() -> dict[str, str]:
    """All tables: those of the runs, and their targets."""
    results = load("bench.json")
    compared, again = (json.loads((RESULTS / name).read_text()) for name in ("compare.json", "compare-again.json"))
    return {
        **report.tables(results),
        "targets": targets.table(results, close=load("close.json")),
        "monitor": monitor.table(json.loads((RESULTS / "monitor.json").read_text())),
        "drops": reaper.table(json.loads((RESULTS / "reaper.json").read_text())),
        **blocking_report.tables(load("blocking.json")),
        **handover.tables(json.loads((RESULTS / "handover.json").read_text())),
        **client_report.tables(load("client.json"), load("client-close.json")),
        **archive_report.tables(load("archives.json")),
        **compare_report.tables(compared),
        **agreement.tables(compared["parts"], again["parts"]),
        "compare-joined": compare.joined(compared),
        "compare-runs": agreement.runs(compared, again),
    }


def main(arguments: list[str]) -> int:
    tables = made()
    stale = []
    for page in PAGES:
        path = ROOT / page
        text = path.read_text()
        filled = report.fill(text, tables)
        if filled != text:
            stale.append(page)
            if "--check" not in arguments:
                path.write_text(filled)
    for page in stale:
        print(f"{page}: {'differs from' if '--check' in arguments else 'now follows'} benches/results")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
