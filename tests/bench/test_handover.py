"""The tables of `benches.python.handover`: medians, worst values, and what is held to be reached."""

from __future__ import annotations

from typing import Any

from benches.python import handover

FIGURES: dict[str, list[dict[str, float]]] = {
    "noop: block_in_place": [{"us": 1.2}, {"us": 1.4}, {"us": 9.0}],
    "noop: run_in_executor, one by one": [{"us": 40.0}],
    "sleeps: block_in_place": [{"wall_ms": 20.0, "gap_ms": 9.0}],
    "sleeps: block_in_place, known slow": [{"wall_ms": 12.0, "gap_ms": 2.0}, {"wall_ms": 12.0, "gap_ms": 8.0}],
    "one sleep: block_in_place": [{"gap_ms": 2.0}, {"gap_ms": 5.5}],
    "watch: active": [{"cpu_share": 0.015}],
    "watch: parked": [{"cpu_share": 0.0}],
    "bodies: Direct": [{"wall_ms": 100.0}],
    "bodies: Permit": [{"wall_ms": 104.0}],
}


def judged(figures: dict[str, list[dict[str, float]]]) -> list[tuple[str, str]]:
    results: dict[str, Any] = {
        "settings": {"tick_s": 0.001},
        "rows": [{"variant": name, "samples": samples} for name, samples in figures.items()],
    }
    lines = handover.tables(results)["handover-targets"].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    return [(measured, verdict) for _, _, measured, verdict in cells]


def test_targets_are_judged_by_medians_or_by_the_worst() -> None:
    assert judged(FIGURES) == [
        ("1.4 µs", "met"),
        ("0.035", "met"),
        ("20 ms", "met"),
        ("5 ms", "**missed**"),
        ("4.5 ms", "met"),
        ("1.5 %", "met"),
        ("0 %", "met"),
        ("1.04", "met"),
    ]


def test_what_is_not_reached_is_shown() -> None:
    slower = {**FIGURES, "noop: block_in_place": [{"us": 2.1}], "bodies: Permit": [{"wall_ms": 110.0}]}
    verdicts = [verdict for _, verdict in judged(slower)]
    assert verdicts == ["**missed**", "**missed**", "met", "**missed**", "met", "met", "met", "**missed**"]
