"""What upstream's author found with the published figures, and whether a comparison shows it: by ratios of its rows.

A finding holds where the 95 % interval of a ratio lies on its side of 1, or within what it allows; one that isn't
measured says so. Both rows of a ratio took turns in one session; places for files did not, and are held against each
other by way of bodies in RAM.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import Literal

from penstock.bench import report
from penstock.bench.figures import (
    Interval,
    Metric,
    find,
    lag_p99,
    major_faults,
    request_p99,
    request_spread,
    values,
    wall,
)
from penstock.bench.results import Results

from benches.cross import published, rows, swapping, verdict
from benches.cross.stores import HUGE

# Figures this far apart are of another size.
SIZE = 1.5
# So far from 1 is level with it, or close to it; so much above the published ratio is at most that.
LEVEL = 0.05
CLOSE = 0.1
MORE = 1.1
# A row that waited for fewer pages than this in a batch had room for its bodies.
FAULTS = 100

TEXT = (
    "What upstream's author concluded, and the ratios here that would show it, in wall time unless another measure is "
    "named, of rows that took turns in one session. A ratio counts where its 95 % interval lies on one side of 1. "
    f"Where something is said to cost nothing, the interval has to lie within {LEVEL * 100:.0f} % of 1, where two are "
    f"said to be close, within {CLOSE * 100:.0f} %, and one on a side of 1 that doesn't is to the contrary; where it "
    "is said to be nearly free, the interval has to end below the published ratio and a tenth of it. Of twenty such "
    "intervals one lies beside the true ratio by chance: one or two of many say little. Places for files are held "
    "against each other as multiples of bodies in RAM, which took turns with both."
)

KINDS = ("fs", "mmap", "mmap_copy")
OTHERS = ("permit", "dispatch")

Parts = Mapping[str, Results]


@dataclass(frozen=True)
class Finding:
    """A claim, and the ratios that are on this side of 1 where it holds; `published` are upstream's."""

    claim: str
    side: Literal["above", "below", "level", "at most"]
    ratios: list[Interval]
    published: Sequence[float] = ()
    within: float = LEVEL

    @property
    def verdict(self) -> str:
        if not self.ratios:
            return "not measured"
        shown = [self._shown_by(each) for each in self.ratios]
        holds, fails, count = shown.count(True), shown.count(False), len(shown)
        if not holds and not fails:
            one_sided = self.side in ("above", "below")
            return "not reproduced: no difference is seen" if one_sided else "not told: the interval is too wide"
        if not holds:
            return "not reproduced" + (f": the contrary in {fails} of {count}" if fails < count else "")
        if holds < count:
            return f"reproduced in {holds} of {count}, the contrary in {fails}"
        return "reproduced" if self._of_its_size else "reproduced, but not in its size"

    def _shown_by(self, ratio: Interval) -> bool | None:
        """Whether the ratio is as the claim has it; None where its interval leaves that open."""
        above, below = ratio.low > 1, ratio.high < 1
        match self.side:
            case "above":
                holds, fails = above, below
            case "below":
                holds, fails = below, above
            case "level":
                holds, fails = ratio.low >= 1 - self.within and ratio.high <= 1 + self.within, above or below
            case "at most":
                most = max(self.published, default=1.0) * MORE
                holds, fails = ratio.high <= most, ratio.low > most
        return holds or (False if fails else None)

    @property
    def _of_its_size(self) -> bool:
        """Of several, each has a size of its own, which isn't judged."""
        if len(self.published) != 1 or self.side in ("level", "at most"):
            return True
        (size,) = self.published
        return any(each.low / SIZE <= size <= each.high * SIZE for each in self.ratios)

    @property
    def told(self) -> str:
        return _range(self.published) if len(self.published) > 1 else "".join(f"{each:g}" for each in self.published)

    @property
    def seen(self) -> str:
        if len(self.ratios) <= 1:
            return "".join(verdict.shown(each) for each in self.ratios)
        return _range([each.median for each in self.ratios])


def _range(ratios: Sequence[float]) -> str:
    return f"{min(ratios):.2f} to {max(ratios):.2f} ({len(ratios)} ratios)"


def stores(results: Results) -> list[str]:
    """Where the rows have their files, on disk before in memory."""
    found = {row["store"] for row in results["rows"] if row["store"]}
    return sorted(found, key=lambda store: (not rows.on_disk(store), store))


def table(parts: Parts) -> str:
    """One line a finding, as Markdown."""
    lines = [(each.claim, each.told, each.seen, each.verdict) for each in findings(parts)]
    return report.markdown(("finding", "published", "here", "verdict"), lines)


def findings(parts: Parts) -> list[Finding]:
    upstream, ours = "upstream as published", "penstock"
    ways = ("permit", "dispatch_rx", "spawn_blocking")
    return [
        Finding(
            "Direct is fastest, upstream's client: others ÷ direct",
            "above",
            _policies(parts, upstream, wall),
            _published_policies(),
        ),
        Finding(
            "Direct is fastest, upstream's blocking work: others ÷ direct",
            "above",
            _strategies(parts, "tokio/upstream", ways),
            [
                published.BLOCKING[f"{work} {way}"] / published.BLOCKING[f"{work} direct"]
                for work, way in product(rows.WORKS, ways)
            ],
        ),
        Finding("Direct is fastest, penstock's client: others ÷ direct", "above", _policies(parts, ours, wall)),
        Finding(
            "Direct is fastest, penstock's blocking work: others ÷ direct",
            "above",
            _strategies(parts, "asyncio/penstock", OTHERS),
        ),
        *(
            Finding(
                f"Permits reduce variance, {whose}: permit ÷ direct, {what}",
                "below",
                _policies(parts, client, metric, ("permit",)),
            )
            for whose, client in (("upstream's client", upstream), ("penstock's client", ours))
            for what, metric in (("spread of a batch's requests", request_spread), ("p99 of requests", request_p99))
        ),
        Finding(
            "dispatch_rx beats spawn_blocking on sleeps: dispatch_rx ÷ spawn_blocking",
            "below",
            _strategies(parts, "tokio/upstream", ("dispatch_rx",), "spawn_blocking", ("sleep",)),
            (0.61,),
        ),
        Finding(
            "dispatch_rx and spawn_blocking are close on noop and expensive: dispatch_rx ÷ spawn_blocking",
            "level",
            _strategies(parts, "tokio/upstream", ("dispatch_rx",), "spawn_blocking", ("noop", "expensive")),
            (1.08, 0.98),
            CLOSE,
        ),
        Finding(
            "futures-intrusive's semaphore is much worse on sleeps: ÷ tokio's",
            "above",
            _permits(parts, ("sleep",), "tokio"),
            (8.51,),
        ),
        Finding(
            "futures-intrusive's semaphore is slower on noop and expensive, too: ÷ tokio's",
            "above",
            _permits(parts, ("noop", "expensive"), "tokio"),
            (1.02, 1.03),
        ),
        Finding(
            "Its Sync wrapper costs nothing measurable: with ÷ without",
            "level",
            _permits(parts, rows.WORKS, "futures-intrusive"),
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
                f"With huge pages a mapping is nearly free, {whose}: mmap_direct ÷ ram",
                "at most",
                _paired(parts, "clients", [(_in_huge_pages("mmap_direct", client), _in_huge_pages("ram", client))]),
                (1.36,),
            )
            for whose, client in (("upstream's client", upstream), ("penstock's client", ours))
        ),
        Finding(
            "With huge pages a mapping beats gathering, upstream's client: mmap_direct ÷ ram_gather",
            "below",
            _paired(
                parts, "clients", [(_in_huge_pages("mmap_direct", upstream), _in_huge_pages("ram_gather", upstream))]
            ),
            (0.93,),
        ),
        *(
            Finding(
                f"In huge pages files cost less than on disk, {whose}: file ÷ RAM, as a multiple of that on disk",
                "below",
                _places(parts, client),
                _published_places() if client == upstream else (),
            )
            for whose, client in (("upstream's client", upstream), ("penstock's client", ours))
        ),
        *(
            Finding(
                f"Spilling 1 % of the bodies costs next to nothing, {whose}: 1 % ÷ none",
                "level",
                _spilled(parts, client),
                (1.0036,),
            )
            for whose, client in (("upstream's client", rows.KEPT), ("penstock's client", ours))
        ),
        *(
            Finding(
                f"Cooperative swapping: short of memory, bodies do better in tmpfs than in RAM, {whose}: tmpfs ÷ RAM",
                "below",
                _pressed(parts, client, metric),
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
    found = [(find(results, row), find(results, base)) for row, base in pairs]
    ratios = [verdict.paired(row, base, metric) for row, base in found if row and base]
    return [each for each in ratios if each is not None]


def _pressed(parts: Parts, client: str, metric: Metric) -> list[Interval]:
    """Files in tmpfs against bodies in RAM, if these were short of it."""
    pair = (f"pressure/{client}, files on tmpfs", f"pressure/{client}, in RAM")
    base = find(parts["swapping"], pair[1]) if "swapping" in parts else None
    faults = values(base, major_faults) if base else []
    return _paired(parts, "swapping", [pair], metric) if faults and median(faults) >= FAULTS else []


def _policies(parts: Parts, client: str, metric: Metric, policies: Sequence[str] = OTHERS) -> list[Interval]:
    """The policies against direct: of all files, stores and framings."""
    places = stores(parts["clients"]) if "clients" in parts else ()
    pairs = [
        (f"{kind}_{policy}/{framing}/{store}/{client}", f"{kind}_direct/{framing}/{store}/{client}")
        for kind, policy, framing, store in product(KINDS, policies, rows.FRAMINGS, places)
    ]
    return _paired(parts, "clients", pairs, metric)


def _published_policies() -> list[float]:
    """The same, as far as upstream's author has them."""
    return [
        figures[f"{kind}_{policy}"] / figures[f"{kind}_direct"]
        for figures, kind, policy in product(published.CLIENT.values(), KINDS, OTHERS)
        if f"{kind}_{policy}" in figures
    ]


def _places(parts: Parts, client: str) -> list[Interval]:
    """Files in huge pages against those on disk, by way of bodies in RAM, which took turns with both."""
    disk = next(filter(rows.on_disk, stores(parts["clients"])), None) if "clients" in parts else None

    def beside_ram(scenario: str, store: str | None) -> list[Interval]:
        return _paired(parts, "clients", [(f"{scenario}/length/{store}/{client}", f"ram/length/{store}/{client}")])

    found = []
    for kind, policy in product(KINDS, ("direct", *OTHERS)):
        there, here = (beside_ram(f"{kind}_{policy}", store) for store in (HUGE, disk))
        for huge, other in zip(there, here, strict=False):
            low, high = huge.low / other.high, huge.high / other.low
            found.append(Interval(huge.median / other.median, low, high, min(huge.iterations, other.iterations)))
    return found


def _published_places() -> list[float]:
    """The same, as far as upstream's author has them."""
    huge, disk = published.CLIENT[HUGE], published.CLIENT["ext4"]
    files = [scenario for scenario in disk if not scenario.startswith("ram")]
    return [huge[each] / huge["ram"] / (disk[each] / disk["ram"]) for each in files]


def _spilled(parts: Parts, client: str) -> list[Interval]:
    """One of a hundred bodies above the limit, against none: in each place for files."""
    places = stores(parts["clients"]) if "clients" in parts else ()
    pairs = [(f"spill, 1 %/length/{store}/{client}", f"spill, 0 %/length/{store}/{client}") for store in places]
    return _paired(parts, "clients", pairs)


def _strategies(
    parts: Parts, whose: str, ways: Iterable[str], base: str = "direct", works: Iterable[str] = rows.WORKS
) -> list[Interval]:
    """Ways to do blocking work against another."""
    pairs = [(f"{work}/{whose} {way}", f"{work}/{whose} {base}") for work, way in product(works, ways)]
    return _paired(parts, "strategies", pairs)


def _permits(parts: Parts, works: Iterable[str], base: str) -> list[Interval]:
    """Work under permits of futures-intrusive's semaphore, as upstream had it, against that under another's."""
    pairs = [(f"permit {work}/tokio/futures-intrusive, Sync", f"permit {work}/tokio/{base}") for work in works]
    return _paired(parts, "semaphores", pairs)


def _in_huge_pages(scenario: str, client: str) -> str:
    """A row of their session, in which bodies in RAM take turns, too."""
    return f"{scenario}/length/{HUGE}/{client}"
