"""Statistics of samples: medians, spreads, and the interval within which a ratio of two rows lies.

Ratios are paired by round, since rounds differ more than rows do: the floor measured against itself moves by a tenth
from one round to the next. What a figure is then held against is not decided here.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import exp, log, sqrt
from operator import itemgetter
from statistics import median, stdev
from typing import TypeAlias

from penstock.bench.results import Results, Row, Sample

RESAMPLES = 2000
CONFIDENCE = 0.95
# So few figures have the true median between them, or the next figure, less often than is said of a range here: of
# three, in three cases of four, and in one of two. Theirs is by Student's t, which takes their logarithms for normal.
NINE_IN_TEN = {3: 2.920, 4: 2.353, 5: 2.132}
CONFIDENT = {3: 4.303, 4: 3.182, 5: 2.776}

Metric: TypeAlias = Callable[[Sample], float | None]


def cpu(sample: Sample) -> float:
    """Milliseconds of CPU a batch."""
    return sample["user_ms"] + sample["system_ms"]


def wall(sample: Sample) -> float:
    """Milliseconds from the first request to the last answer."""
    return sample["wall_ms"]


def lag_p50(sample: Sample) -> float | None:
    return sample.get("lag_p50_ms")


def lag_p99(sample: Sample) -> float | None:
    return sample["lag_p99_ms"]


def lag_worst(sample: Sample) -> float | None:
    return sample["lag_worst_ms"]


def request_p99(sample: Sample) -> float | None:
    return sample.get("request_p99_ms")


def request_spread(sample: Sample) -> float | None:
    """Milliseconds from the first of the requests that run at once to end until the last does."""
    return sample.get("request_spread_ms")


def major_faults(sample: Sample) -> float | None:
    return sample.get("major_faults")


def held(sample: Sample) -> float | None:
    """The most memory of the row's cgroup."""
    return sample.get("peak_bytes")


def swapped(sample: Sample) -> float | None:
    """The most of it that was in swap."""
    return sample.get("peak_swap_bytes")


@dataclass(frozen=True)
class Spread:
    """A median with the range that nine rounds in ten lie in."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Interval:
    """A median with the interval that it lies in at 95 % confidence, and how many batches of a row stand behind it."""

    median: float
    low: float
    high: float
    iterations: int


def quiet(row: Row) -> list[Sample]:
    """The samples of the rounds in which others left the machine alone."""
    return [sample for sample in row["samples"] if not sample["noisy"]]


def at_least_noisy(row: Row) -> Row:
    """The row, with all its samples counted if none was quiet: what a busy machine has to show."""
    return row if quiet(row) else {**row, "samples": [{**sample, "noisy": False} for sample in row["samples"]]}


def peak(row: Row) -> int:
    """The most memory, in bytes: as a cgroup of the row's own counts it, where it had one, else what was resident."""
    return max(sample.get("peak_bytes", sample["rss_bytes"]) for sample in quiet(row))


def values(row: Row, metric: Metric) -> list[float]:
    return [value for sample in quiet(row) if (value := metric(sample)) is not None]


def spread(figures: Sequence[float]) -> Spread:
    ordered = sorted(figures)
    count = len(ordered)
    if count in NINE_IN_TEN and ordered[0] > 0:
        return Spread(median(ordered), *_around(ordered, NINE_IN_TEN[count] * sqrt(1 + 1 / count)))
    return Spread(median(ordered), ordered[round((count - 1) * 0.05)], ordered[round((count - 1) * 0.95)])


def _around(figures: Sequence[float], deviations: float) -> tuple[float, float]:
    """As many standard deviations below and above their median, by logarithms: they are times and ratios."""
    reach = exp(deviations * stdev([log(figure) for figure in figures]))
    return median(figures) / reach, median(figures) * reach


@cache
def _draws(count: int, seed: int) -> list[Callable[[Sequence[float]], Sequence[float]]]:
    """Each gives as many of so many figures, with replacement. Most rows have the same count: they are drawn once."""
    source = random.Random(seed)
    return [itemgetter(*source.choices(range(count), k=count)) for _ in range(RESAMPLES)]


def bootstrap(figures: Sequence[float], seed: int = 1) -> tuple[float, float]:
    """The 95 % percentile interval of the median, by resampling with replacement."""
    if len(figures) == 1:
        return figures[0], figures[0]
    # statistics.median takes as long as the sorting in it, and there are a thousand intervals to a report.
    half = len(figures) // 2
    drawn = (sorted(draw(figures)) for draw in _draws(len(figures), seed))
    medians = sorted(each[half] if len(figures) % 2 else (each[half - 1] + each[half]) / 2 for each in drawn)
    tail = round(RESAMPLES * (1 - CONFIDENCE) / 2)
    return medians[tail], medians[-1 - tail]


def interval(figures: Sequence[float], iterations: int) -> Interval | None:
    if not figures:
        return None
    count = len(figures)
    few = count in CONFIDENT and min(figures) > 0
    low, high = _around(figures, CONFIDENT[count] / sqrt(count)) if few else bootstrap(figures)
    return Interval(median(figures), low, high, iterations)


def ratios(row: Row, base: Row, metric: Metric, base_metric: Metric | None = None) -> tuple[list[float], int]:
    """`row` ÷ `base`, round by round where both were quiet, and the row's batches in these."""
    bases = {sample["round"]: (base_metric or metric)(sample) for sample in quiet(base)}
    found = []
    iterations = 0
    for sample in quiet(row):
        value, other = metric(sample), bases.get(sample["round"])
        if value is not None and other:
            found.append(value / other)
            iterations += sample["batches"]
    return found, iterations


def ratio(row: Row, base: Row, metric: Metric, base_metric: Metric | None = None) -> Interval | None:
    """`row` ÷ `base`, over the rounds that were quiet for both; None without any."""
    return interval(*ratios(row, base, metric, base_metric))


def find(results: Results, row_id: str) -> Row | None:
    """The row of that id, if it was run and has anything to show."""
    for row in results["rows"]:
        if row["id"] == row_id and quiet(row):
            return row
    return None
