"""The tables of `benches.python.handover`: medians, worst values, and what is held to be reached."""

from __future__ import annotations

from typing import Any

from benches.python import handover

FIGURES: dict[str, list[dict[str, float]]] = {
    "noop: block_in_place": [{"us": 1.2}, {"us": 1.4}, {"us": 9.0}],
    "noop: run_in_executor, one by one": [{"us": 40.0}] * 3,
    "sleeps: block_in_place": [{"wall_ms": 20.0, "gap_ms": 9.0}],
    "sleeps: block_in_place, known slow": [{"wall_ms": 12.0, "gap_ms": 2.0}, {"wall_ms": 12.0, "gap_ms": 8.0}],
    "one sleep: block_in_place": [{"gap_ms": 2.0}, {"gap_ms": 5.5}],
    "watch: active": [{"cpu_share": 0.015}],
    "watch: parked": [{"cpu_share": 0.0}],
    "bodies: Direct": [{"wall_ms": 100.0, "cpu_ms": 50.0}],
    "bodies: Permit": [{"wall_ms": 104.0, "cpu_ms": 50.0}],
}


def judged(figures: dict[str, list[dict[str, float]]], batches: int = 400) -> list[tuple[str, str]]:
    results: dict[str, Any] = {
        "settings": {"tick_s": 0.001, "batches": batches},
        "rows": [{"variant": name, "samples": samples} for name, samples in figures.items()],
    }
    lines = handover.tables(results)["handover-targets"].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    return [(measured, verdict) for _, _, measured, verdict in cells]


def test_medians_are_judged_by_their_intervals_and_lags_by_the_worst() -> None:
    assert judged(FIGURES) == [
        ("1.4 [1.2, 9] µs", "undecided"),
        ("0.035 [0.03, 0.225]", "undecided"),
        ("20 [20, 20] ms", "met"),
        ("1.5 [1.5, 1.5] %", "met"),
        ("1 [1, 1]", "met"),
        ("1.04 [1.04, 1.04]", "met"),
        ("8 ms at worst", "undecided"),
        ("4.5 ms at worst", "met"),
        ("0 % at worst", "met"),
    ]


def test_what_is_not_reached_is_shown() -> None:
    slower = {
        **FIGURES,
        "noop: block_in_place": [{"us": 2.1}] * 3,
        "one sleep: block_in_place": [{"gap_ms": 6.5}],
        "bodies: Permit": [{"wall_ms": 110.0, "cpu_ms": 50.0}],
    }
    verdicts = [verdict for _, verdict in judged(slower)]
    assert verdicts == ["missed", "missed", "met", "met", "met", "missed", "undecided", "missed", "met"]


def test_a_ratio_close_to_1_of_few_batches_is_undecided() -> None:
    assert [verdict for _, verdict in judged(FIGURES, batches=399)][4:6] == ["undecided"] * 2
