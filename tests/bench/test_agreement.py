"""Whether two runs say the same: by the ranges that they print."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from penstock.bench.results import Results, Row, Sample

from benches.cross import agreement, rows

Make = Callable[..., Results]


def test_rows_agree_whose_ranges_have_a_part_in_common(row: Callable[..., Row], results: Make) -> None:
    old = results(row("fs/length/ext4/penstock", [10.0, 10.1, 10.2]), row("ram/length/penstock", [10.0, 10.1, 10.2]))
    new = results(row("fs/length/ext4/penstock", [10.4, 10.5, 10.6]), row("ram/length/penstock", [13.0, 13.1, 13.2]))
    found = {(each.row, each.measure): each for each in agreement.figures({"clients": old}, {"clients": new})}
    assert found["fs/length/ext4/penstock", "CPU"].agrees
    assert found["fs/length/ext4/penstock", "wall"].agrees
    assert not found["ram/length/penstock", "CPU"].agrees
    assert not found["ram/length/penstock", "wall"].agrees


def test_rows_of_one_run_alone_and_without_a_quiet_round_do_not_count(row: Callable[..., Row], results: Make) -> None:
    both = row("ram/length/penstock", [10.0, 11.0, 12.0])
    noisy = row("fs/length/ext4/penstock", [10.0])
    noisy["samples"][0]["noisy"] = True
    old = {"clients": results(both, noisy), "queues": results(both)}
    new = {"clients": results(both, row("fs/length/ext4/penstock", [10.0]), row("more/length/penstock", [1.0]))}
    assert {(each.part, each.row) for each in agreement.figures(old, new)} == {("clients", "ram/length/penstock")}


def test_echoes_are_held_against_each_other_by_their_round_trips(
    row: Callable[..., Row], results: Make, sample: Callable[..., Sample]
) -> None:
    samples = [sample(number, 10.0, lag_p50_ms=0.5, lag_p99_ms=2.0) for number in range(3)]
    echo = row("echo beside sleep/asyncio/direct", [], kind="echo", samples=samples)
    found = list(agreement.figures({"strategies": results(echo)}, {"strategies": results(echo)}))
    assert [(each.measure, each.old.median) for each in found] == [("round trip p50", 0.5), ("round trip p99", 2.0)]


def test_multiples_of_the_row_that_a_group_is_held_against_agree_by_their_intervals(
    row: Callable[..., Row], results: Make
) -> None:
    def run(upstream: float, ours: float) -> Results:
        rounds = (1.0, 1.01, 0.99)
        times = {rows.KEPT: upstream, "penstock": ours, "penstock FilePool": 7.0}
        return results(
            *(row(f"fs/length/ext4/{name}", [time * each for each in rounds]) for name, time in times.items())
        )

    # The machine was half as fast: that changes no multiple, but for the row that was as fast as ever.
    found = agreement.figures({"clients": run(10.0, 5.0)}, {"clients": run(20.0, 10.0)})
    agreeing = {each.row: each.agrees for each in found if each.measure == "CPU, multiples"}
    assert agreeing == {
        "fs/length/ext4/penstock ÷ " + rows.KEPT: True,
        "fs/length/ext4/penstock FilePool ÷ " + rows.KEPT: False,
    }


def test_what_does_not_agree_is_listed_with_the_farthest_first(row: Callable[..., Row], results: Make) -> None:
    names = ("same", "half", "triple")
    old = results(*(row(f"{name}/length/penstock", [10.0] * 3) for name in names))
    new = results(
        *(
            row(f"{name}/length/penstock", [times * each for each in [10.0] * 3])
            for name, times in zip(names, (1, 0.5, 3), strict=True)
        )
    )
    made = agreement.tables({"clients": old}, {"clients": new})
    assert "| clients | CPU | 1 of 3 | 1.00 (0.50 to 3.00) |" in made["compare-agreement"]
    listed = [line.split(" | ")[1:3] for line in made["compare-apart"].splitlines()[2:]]
    assert listed == [
        *(["triple/length/penstock", measure] for measure in ("CPU", "wall")),
        *(["half/length/penstock", measure] for measure in ("CPU", "wall")),
    ]
    assert "10 (10 to 10) | 30 (30 to 30) | 3.00 |" in made["compare-apart"]


def test_the_command_prints_both_tables_and_refuses_runs_without_a_common_row(
    row: Callable[..., Row], results: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {"old": [10.0], "new": [11.0]}
    paths = [tmp_path / name for name in (*runs, "other")]
    parts = [{"clients": results(row("ram/length/penstock", each))} for each in runs.values()]
    for path, each in zip(paths, (*parts, {}), strict=True):
        path.write_text(json.dumps({"parts": each}))
    assert agreement.main([str(path) for path in paths[:2]]) == 0
    assert "0 of 1" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        agreement.main([str(paths[0]), str(paths[2])])
    assert f"{paths[0]} and {paths[2]} have no row in common" in capsys.readouterr().err


def test_when_each_run_was_made_is_told_with_what_was_put_into_it(row: Callable[..., Row], results: Make) -> None:
    part = results(row("ram/length/penstock", [10.0]))
    later = {**part, "started": "2026-01-02T04:05:06+00:00"}
    first = {"quick": False, "seconds": 3600.0, "parts": {"clients": part, "tls": later}}
    commit = "0123456789abcdef0123456789abcdef01234567"
    missing = {"9 rows": f"measured anew, at {commit}", "a row": "not permitted"}
    made = agreement.runs({**first, "missing": missing}, {**first, "quick": True, "missing": {}})
    assert made.splitlines()[2:] == [
        "| first, complete | 2026-01-02T03:04:05+00:00 | abc | 4 | 60 | 9 rows: measured anew, at 0123456789ab |",
        "| second, quick | 2026-01-02T03:04:05+00:00 | abc | 4 | 60 |  |",
    ]
    one_run_each = agreement.runs({**first, "missing": {}}, {**first, "quick": True, "missing": {}})
    assert "not in this run" not in one_run_each
    assert one_run_each.splitlines()[-1] == "| second, quick | 2026-01-02T03:04:05+00:00 | abc | 4 | 60 |"


def test_the_published_runs_agree_as_often_as_their_ranges_promise() -> None:
    results = Path(__file__).parents[2] / "benches" / "results"
    runs = [json.loads((results / name).read_text())["parts"] for name in ("compare.json", "compare-again.json")]
    found = list(agreement.figures(*runs))
    multiples = [each for each in found if each.measure.endswith("multiples")]
    for figures in (multiples, found):
        assert len(figures) > 100
        assert sum(each.agrees for each in figures) >= 0.95 * len(figures)
