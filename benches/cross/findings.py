"""What upstream's author found with the published figures, and whether a comparison shows it: by ratios of its rows.

A finding holds where the 95 % interval of a ratio lies on its side of 1; one that isn't measured says so.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal

from penstock.bench import report
from penstock.bench.figures import Interval, Metric, apart, find, lag_p99, request_p99, request_spread, wall
from penstock.bench.results import Results, Row

from benches.cross import rows, swapping, verdict
from benches.cross.stores import HUGE

TEXT = (
    "What upstream's author concluded, and the ratios here that would show it, in wall time unless another measure is "
    "named. A ratio counts where its 95 % interval lies on one side of 1."
)

# Figures this far apart are of another size.
SIZE = 1.5
STORES = ("ext4", "tmpfs", HUGE)

Parts = Mapping[str, Results]


@dataclass(frozen=True)
class Finding:
    """A claim, and the ratios that are on this side of 1 where it holds; `published` is upstream's ratio."""

    claim: str
    side: Literal["above", "below", "level"]
    ratios: list[Interval]
    published: float | None = None

    @property
    def verdict(self) -> str:
        if not self.ratios:
            return "not measured"
        if self.side == "level" and any(each.high > each.low * SIZE for each in self.ratios):
            return "not told: the interval is too wide"
        sides = [_side(each) for each in self.ratios]
        holds = [side for side in sides if side == self.side]
        fails = [side for side in sides if side not in (self.side, "level")]
        if not holds:
            return "not reproduced" if fails else "not reproduced: no difference is seen"
        if len(holds) < len(self.ratios):
            return f"reproduced in {len(holds)} of {len(self.ratios)}, the contrary in {len(fails)}"
        if self.published is not None and not any(
            each.low / SIZE <= self.published <= each.high * SIZE for each in self.ratios
        ):
            return "reproduced, but not in its size"
        return "reproduced"

    @property
    def seen(self) -> str:
        if len(self.ratios) <= 1:
            return "".join(verdict.shown(each) for each in self.ratios)
        medians = sorted(each.median for each in self.ratios)
        return f"{medians[0]:.2f} to {medians[-1]:.2f} ({len(self.ratios)} ratios)"


def _side(found: Interval) -> str:
    return "above" if found.low > 1 else "below" if found.high < 1 else "level"


def table(parts: Parts) -> str:
    """One line a finding, as Markdown."""
    lines = [
        (each.claim, f"{each.published:.3g}" if each.published else "", each.seen, each.verdict)
        for each in findings(parts)
    ]
    return report.markdown(("finding", "published", "here", "verdict"), lines)


def findings(parts: Parts) -> list[Finding]:
    upstream, ours = "upstream as published", "penstock"
    sleep = "permit sleep/tokio"
    return [
        Finding("Direct is fastest, upstream's client: others ÷ direct", "above", _policies(parts, upstream, wall)),
        Finding("Direct is fastest, upstream's blocking work: others ÷ direct", "above", _strategies(parts)),
        Finding("Direct is fastest, penstock's client: others ÷ direct", "above", _policies(parts, ours, wall)),
        *(
            Finding(
                f"Permits reduce variance, {whose}: permit ÷ direct, {what}",
                "below",
                _policies(parts, client, metric, 1),
            )
            for whose, client in (("upstream's client", upstream), ("penstock's client", ours))
            for what, metric in (("spread of a batch's requests", request_spread), ("p99 of requests", request_p99))
        ),
        Finding(
            "dispatch_rx beats spawn_blocking on sleeps: dispatch_rx ÷ spawn_blocking",
            "below",
            _paired(parts, "strategies", [("sleep/tokio/upstream dispatch_rx", "sleep/tokio/upstream spawn_blocking")]),
            0.61,
        ),
        Finding(
            "futures-intrusive's semaphore is much worse on sleeps: ÷ tokio's",
            "above",
            _paired(parts, "semaphores", [(f"{sleep}/futures-intrusive, Sync", f"{sleep}/tokio")]),
            8.51,
        ),
        Finding(
            "Its Sync wrapper costs nothing measurable: with ÷ without",
            "level",
            _paired(parts, "semaphores", [(f"{sleep}/futures-intrusive, Sync", f"{sleep}/futures-intrusive")]),
        ),
        Finding(
            "crossbeam's channel is slower, most with many threads: ÷ deque, sleeps on 40 and 200 threads",
            "above",
            _paired(
                parts,
                "queues",
                [
                    (f"{queue}/crossbeam's channel", f"{queue}/deque, mutex, condvar")
                    for queue in ("queue, sleep x 40/tokio", "queue, sleep x 200/tokio")
                ],
            ),
        ),
        *(
            Finding(
                f"With huge pages a mapping costs little more than RAM, {whose}: mmap_direct ÷ ram",
                "above",
                _across(parts, f"mmap_direct/length/{HUGE}/{client}", f"ram/length/{client}"),
                1.36,
            )
            for whose, client in (("upstream's client", upstream), ("penstock's client", ours))
        ),
        Finding(
            "With huge pages a mapping beats gathering, upstream's client: mmap_direct ÷ ram_gather",
            "below",
            _across(parts, f"mmap_direct/length/{HUGE}/{upstream}", f"ram_gather/length/{upstream}"),
            0.93,
        ),
        *(
            Finding(
                f"Spilling 1 % of the bodies costs next to nothing, {whose}: 1 % ÷ none",
                "level",
                _paired(
                    parts,
                    "clients",
                    [
                        (f"spill, 1 %/length/{store}/{client}", f"spill, 0 %/length/{store}/{client}")
                        for store in STORES
                    ],
                ),
                1.0036,
            )
            for whose, client in (("upstream's client", rows.KEPT), ("penstock's client", ours))
        ),
        *(
            Finding(
                f"Cooperative swapping: short of memory, bodies do better in tmpfs than in RAM, {whose}: tmpfs ÷ RAM",
                "below",
                _paired(
                    parts, "swapping", [(f"pressure/{client}, files on tmpfs", f"pressure/{client}, in RAM")], metric
                ),
            )
            for whose, client, metric in (
                ("upstream's client", swapping.UPSTREAM, wall),
                ("penstock's client", ours, wall),
                ("lag of penstock's loop", ours, lag_p99),
            )
        ),
    ]


def _paired(parts: Parts, part: str, pairs: Iterable[tuple[str, str]], metric: Metric = wall) -> list[Interval]:
    """Of rows by their ids, as far as they were measured: wall times, unless said otherwise."""
    results = parts.get(part)
    if results is None:
        return []
    return _ratios([(find(results, row), find(results, base)) for row, base in pairs], metric)


def _policies(parts: Parts, client: str, metric: Metric, others: int = 2) -> list[Interval]:
    """Permit, and with two `others` dispatch, against direct: of all files, stores and framings."""
    results = parts.get("clients")
    if results is None:
        return []
    pairs = [
        (
            find(results, f"{kind}_{policy}/{framing}/{store}/{client}"),
            find(results, f"{kind}_direct/{framing}/{store}/{client}"),
        )
        for kind, policy, framing, store in product(
            ("fs", "mmap"), ("permit", "dispatch")[:others], rows.FRAMINGS, STORES
        )
    ]
    return _ratios(pairs, metric)


def _strategies(parts: Parts) -> list[Interval]:
    results = parts.get("strategies")
    if results is None:
        return []
    pairs = [
        (find(results, f"{work}/tokio/upstream {way}"), find(results, f"{work}/tokio/upstream direct"))
        for work, way in product(rows.WORKS, ("permit", "dispatch_rx", "spawn_blocking"))
    ]
    return _ratios(pairs, wall)


def _across(parts: Parts, row: str, base: str) -> list[Interval]:
    """Of rows that were measured in different sessions."""
    results = parts.get("clients")
    if results is None:
        return []
    over, under = find(results, row), find(results, base)
    found = apart(over, under, wall) if over and under else None
    return [found] if found else []


def _ratios(pairs: Iterable[tuple[Row | None, Row | None]], metric: Metric) -> list[Interval]:
    found = [verdict.paired(row, base, metric) for row, base in pairs if row and base]
    return [each for each in found if each is not None]
