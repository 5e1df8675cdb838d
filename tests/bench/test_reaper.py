"""What a loop notices of large bodies that are dropped: the table of `benches.python.reaper`, and that it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import penstock
import pytest

from benches.python import reaper


def results(**late: list[float]) -> dict[str, Any]:
    """A figure below 0 is that of a round in which others used the machine."""
    rows = [
        {
            "dropped": "16 of 8 MiB",
            "variant": name.replace("_", "'s "),
            "samples": [{"late_ms": abs(each), "noisy": each < 0} for each in figures],
        }
        for name, figures in late.items()
    ]
    return {"settings": {"limit_ms": 5.0}, "rows": rows}


def test_what_penstock_drops_is_judged_by_the_worst_and_what_others_drop_is_not() -> None:
    late = results(nothing=[0.5, 0.1, 0.2], penstock_files=[1.0, 0.5, 5.0], Python_files=[40.0, 41.0, 42.0])
    assert reaper.table(late).splitlines()[2:] == [
        "| 16 of 8 MiB | nothing | 0.20 | 0.50 of 3 |  |  |",
        "| 16 of 8 MiB | penstock's files | 1.00 | 5.00 of 3 | ≤ 5 ms | met |",
        "| 16 of 8 MiB | Python's files | 41.00 | 42.00 of 3 |  |  |",
    ]


@pytest.mark.parametrize(
    ("late", "wanted"), [([1.0, 1.0, 1.0, 1.0, 9.0], "undecided"), ([6.0, 7.0, 8.0, 7.0, 6.0], "missed")]
)
def test_one_late_round_of_many_leaves_it_open_and_most_of_them_do_not(late: list[float], wanted: str) -> None:
    assert reaper.table(results(penstock_mappings=late)).endswith(f"| ≤ 5 ms | {wanted} |")


def test_rounds_in_which_others_used_the_machine_count_only_where_there_is_no_other() -> None:
    assert reaper.table(results(penstock_files=[1.0, -9.0, 2.0])).endswith("| 1.50 | 2.00 of 2 | ≤ 5 ms | met |")
    assert reaper.table(results(penstock_files=[-9.0, -7.0])).endswith("| 8.00 | 9.00 of 2 | ≤ 5 ms | missed |")


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_each_way_to_drop_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reaper, "DROPS", {"2 of 8 MiB": (2, 8 << 20)})
    monkeypatch.setattr(reaper, "LIMIT_MS", 60_000.0)
    out, store = tmp_path / "reaper.json", tmp_path / "store"
    store.mkdir()
    assert reaper.main(["--rounds", "1", "--store", str(store), "--json", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["variant"] for row in rows] == list(reaper.VARIANTS)
    assert all(len(row["samples"]) == 1 for row in rows)
    assert "| 2 of 8 MiB | penstock's files | " in capsys.readouterr().out
    assert list(store.iterdir()) == []


def test_a_limit_that_is_missed_is_the_exit_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "DROPS", {"1 of 8 MiB": (1, 8 << 20)})
    monkeypatch.setattr(reaper, "VARIANTS", {"penstock's files": reaper.penstock_file})
    monkeypatch.setattr(reaper, "LIMIT_MS", -1.0)
    assert reaper.main(["--rounds", "1", "--store", str(tmp_path), "--json", str(tmp_path / "out")]) == 1


def test_a_debug_build_is_not_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(penstock, "BUILD_PROFILE", "debug")
    assert reaper.main([]) == 1
    assert capsys.readouterr().out == "this is a debug build: make develop\n"
