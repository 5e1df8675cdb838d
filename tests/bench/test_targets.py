"""Statistics and verdicts on made-up samples."""

import math
import random
from collections.abc import Callable

import pytest
from penstock.bench import figures
from penstock.bench.figures import Interval
from penstock.bench.results import Results, Row

from benches import targets

Make = Callable[..., Row]


def noisy_rounds(count: int = 40, seed: int = 3) -> list[float]:
    """Rounds that differ far more from each other than rows do."""
    source = random.Random(seed)
    return [30 * source.uniform(0.8, 1.6) for _ in range(count)]


def test_ratios_are_paired_by_round(row: Make) -> None:
    rounds = noisy_rounds()
    base = row("floor/chunked/floor", rounds)
    found = figures.ratio(row("ram/chunked/penstock", [1.1 * each for each in rounds]), base, figures.cpu)
    assert found is not None
    assert found.low == pytest.approx(1.1)
    assert found.high == pytest.approx(1.1)
    assert found.iterations == 400


def test_rounds_that_were_noisy_for_either_are_left_out(row: Make) -> None:
    base = row("floor/chunked/floor", [10.0, 10.0, 10.0, 10.0])
    other = row("ram/chunked/penstock", [20.0, 500.0, 500.0, 20.0])
    other["samples"][1]["noisy"] = True
    base["samples"][2]["noisy"] = True
    found = figures.ratio(other, base, figures.wall)
    assert found is not None
    assert (found.median, found.iterations) == (2.0, 20)


def test_no_common_round_gives_no_ratio(row: Make) -> None:
    base = row("floor/chunked/floor", [10.0])
    base["samples"][0]["round"] = 7
    assert figures.ratio(row("ram/chunked/penstock", [20.0]), base, figures.cpu) is None


def test_bootstrap_is_repeatable_and_narrows_with_more_figures() -> None:
    source = random.Random(5)
    many = [source.gauss(1, 0.1) for _ in range(400)]
    assert figures.bootstrap(many) == figures.bootstrap(many)
    low, high = figures.bootstrap(many)
    assert low < 1.01
    assert high > 0.99
    few_low, few_high = figures.bootstrap(many[:20])
    assert few_high - few_low > high - low


def test_spread_is_the_range_of_nine_in_ten() -> None:
    assert figures.spread([float(each) for each in range(101)]) == figures.Spread(50, 5, 95)


@pytest.mark.parametrize("count", [3, 4, 5])
def test_ranges_of_a_few_rounds_hold_what_they_say_as_often_as_they_say(count: int) -> None:
    source = random.Random(count)
    median_held = next_held = 0
    for _ in range(2000):
        rounds = [source.lognormvariate(3, 0.2) for _ in range(count)]
        interval, spread = figures.interval(rounds, 1), figures.spread(rounds)
        assert interval is not None
        assert spread.low < interval.low < interval.median < interval.high < spread.high or count == 3
        median_held += interval.low <= math.exp(3) <= interval.high
        next_held += spread.low <= source.lognormvariate(3, 0.2) <= spread.high
    assert median_held / 2000 == pytest.approx(0.95, abs=0.02)
    assert next_held / 2000 == pytest.approx(0.90, abs=0.03)


def test_rounds_without_any_are_a_spread_too() -> None:
    assert figures.spread([0.0, 1.0, 2.0]) == figures.Spread(1.0, 0.0, 2.0)


@pytest.mark.parametrize(
    ("low", "high", "limit", "iterations", "wanted"),
    [
        (1.2, 1.3, 1.4, 60, "met"),
        (1.5, 1.6, 1.4, 60, "missed"),
        (1.3, 1.5, 1.4, 60, "undecided"),
        (0.9, 0.95, 1.0, 60, "undecided"),
        (0.9, 0.95, 1.0, 400, "met"),
        (1.1, 1.2, 1.05, 400, "missed"),
        (1.1, 1.2, 1.05, 399, "undecided"),
        (0.3, 0.4, 0.5, 60, "met"),
    ],
)
def test_verdicts(low: float, high: float, limit: float, iterations: int, wanted: str) -> None:
    assert targets.verdict(Interval((low + high) / 2, low, high, iterations), limit) == wanted


def judged(results: Results, name: str) -> list[tuple[str, str]]:
    return [(each.measure, each.verdict) for each in targets.judge(results) if each.name == name]


def test_ratio_targets_are_judged_by_cpu_first_and_by_wall(row: Make, results: Callable[..., Results]) -> None:
    rounds = noisy_rounds()
    made = results(
        row("floor/chunked/floor", rounds),
        row("ram/chunked/penstock", [1.2 * each for each in rounds]),
        row("ram/chunked/aiohttp naive", [4.0 * each for each in rounds]),
    )
    for sample in made["rows"][1]["samples"]:
        sample["wall_ms"] *= 2
    assert judged(made, "ram, chunked") == [("CPU", "met"), ("wall", "missed")]
    assert judged(made, "ram, chunked: half of aiohttp") == [("CPU", "met"), ("wall", "missed")]
    assert judged(made, "ram_gather, chunked") == [("CPU", "no samples"), ("wall", "no samples")]


def test_close_targets_are_judged_by_a_run_of_their_own(row: Make, results: Callable[..., Results]) -> None:
    """What is far is judged by the complete run all the same."""
    few, many = ([10.0] * count for count in (4, 40))
    chunked, base = "fs_dispatch/chunked/ext4/penstock", "fs_direct/chunked/ext4/penstock"
    whole = results(
        row(base, few), row(chunked, [20.0] * 4), row("floor/chunked/floor", few), row("ram/chunked/penstock", few)
    )
    close = results(row(base, many), row(chunked, many), row("ram/chunked/penstock", [20.0] * 40))
    for name, seen, verdict in (
        ("fs, chunked: dispatch ÷ direct, ext4", "1.000 [1.000, 1.000] of 400", "met"),
        ("ram, chunked", "1.000 [1.000, 1.000] of 40", "met"),
    ):
        found = [each for each in targets.judge(whole, close=close) if each.name == name and each.measure == "wall"]
        assert [(each.seen, each.verdict) for each in found] == [(seen, verdict)]


@pytest.mark.parametrize(
    ("lags", "wanted"),
    [([2.0] * 40, "met"), ([2.0] * 39 + [9.0], "undecided"), ([7.0, 8.0] * 20, "missed")],
)
def test_bounds_are_judged_by_the_worst(
    row: Make, results: Callable[..., Results], lags: list[float], wanted: str
) -> None:
    made = results(row("lag/chunked/ext4/penstock", [50.0] * len(lags), kind="lag"))
    for sample, lag in zip(made["rows"][0]["samples"], lags, strict=True):
        sample["lag_worst_ms"] = lag
    assert judged(made, "loop lag, ext4") == [("worst", wanted)]


def test_every_target_names_rows_that_exist() -> None:
    from pathlib import Path

    from penstock.bench import scenarios
    from penstock.bench.driver import Plan

    stores = {"ext4": Path("/a"), "tmpfs": Path("/b")}
    sessions = scenarios.sessions(("chunked", "length"), stores, "asyncio", Plan(1))
    known = {each.id for session in sessions for each in session}
    known |= {f"floor/{framing}/floor" for framing in ("chunked", "length")}
    for target in targets.TARGETS:
        assert target.row in known
        if isinstance(target, targets.Ratio):
            assert target.base in known


def test_table_says_what_was_seen(row: Make, results: Callable[..., Results]) -> None:
    made = results(row("floor/chunked/floor", [10.0] * 4), row("ram/chunked/penstock", [12.0] * 4))
    # The floor is a time: CPU time is held against it as wall time is.
    assert "| ram, chunked | CPU | < 1.4 | 0.960 [0.960, 0.960] of 40 | met |" in targets.table(made)
    assert "| ram, chunked | wall | < 1.4 | 1.200 [1.200, 1.200] of 40 | met |" in targets.table(made)
