"""The sizes of the bodies in a mixed batch: as those of the web are, many small ones and a few that are large."""

from math import exp, log
from statistics import NormalDist

COUNT = 100
MEDIAN = 64 * 1024
# Of the logarithm: the largest of a hundred is some fifty times the median, and they are 20 MiB together.
DEVIATION = 1.5


def mixed() -> list[int]:
    """The hundred quantiles of a log-normal distribution, the smallest first."""
    spread = NormalDist(log(MEDIAN), DEVIATION)
    return [round(exp(spread.inv_cdf((number + 0.5) / COUNT))) for number in range(COUNT)]


def limit(spilled: int) -> int:
    """The size that so many of the hundred are above."""
    return mixed()[COUNT - 1 - spilled]
