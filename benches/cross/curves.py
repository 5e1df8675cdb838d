"""How costs grow: with the size of bodies, their number at a time, their chunks, and the threads that share work.

A curve is a line or two in logarithms: the exponents are their slopes, and the knee is where they meet.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, log2
from statistics import linear_regression, median
from typing import TYPE_CHECKING, Any

from penstock.bench import report, scenarios
from penstock.bench.driver import MIB, Driver, Plan
from penstock.bench.figures import Metric, cpu, quiet, spread, values, wall
from penstock.bench.results import Framing, Results, Row
from penstock.bench.rounds import Variant

from benches.cross.rows import CORE, KEPT, Programs, core_client, upstream_client

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KIB = 1024
SIZES = tuple(KIB << shift for shift in (0, 3, 6, 9, 12, 15, 18))
CONCURRENCY = (1, 4, 16, 64, 250, 1000)
CHUNKS = tuple(64 << shift for shift in (0, 3, 6, 9, 12, 14))
RAM = 1 << 30
# A turn moves about as many bytes wherever that is possible.
TURN = 16 * MIB
BATCHES = 20
PEER = "aiohttp tuned"
# Two lines are taken for one where they leave at most this share of its error, and differ by so much in slope.
BETTER = 0.5
BEND = 0.25


@dataclass(frozen=True)
class Curve:
    """What grows, in which rows it is seen, and why the curve bends where it does."""

    title: str
    axis: str
    metric: Metric
    below: str
    above: str


CURVES = {
    "size": Curve(
        "size of a body, 2 at a time",
        "bytes of a body",
        cpu,
        "what a request costs whatever its size: a head each way, a task, some turns of a loop",
        "each byte is received once and read once",
    ),
    "concurrency": Curve(
        "bodies at a time, of 64 KiB",
        "bodies at a time",
        cpu,
        "a batch costs the loop's turns, which few requests share",
        "each request costs the same, or more where many sockets and tasks outgrow the caches",
    ),
    "chunk": Curve(
        "size of a chunk, 16 bodies of 1 MiB",
        "bytes of a chunk",
        cpu,
        "each chunk has a head to be parsed and a piece to be moved or kept",
        "the bytes themselves, which are the same in any chunks",
    ),
    "threads": Curve(
        "threads, 1,000 jobs that sleep for microseconds",
        "threads",
        wall,
        "sleeps overlap, more of them with more threads",
        "waking threads costs more than their sleeps: CPUs are what there are too few of",
    ),
}


def rows(programs: Programs, quick: bool) -> Iterator[list[Variant]]:
    """A session for each point of each curve. The points over threads are among the queues."""
    for curve, numbers in (("size", SIZES), ("concurrency", CONCURRENCY), ("chunk", CHUNKS)):
        # The first and the last, and enough between them for two lines.
        for number in (*numbers[:-1:2], numbers[-1]) if quick else numbers:
            yield list(_point(programs, curve, number))


def _point(programs: Programs, curve: str, number: int) -> Iterator[Variant]:
    framing: Framing = "chunked" if curve == "chunk" else "length"
    row = Variant(f"{curve} {number}/{framing}/", f"{curve} {number}", "", framing=framing)
    ours = {"scenario": "ram", "policy": "direct", "max_body_ram": RAM, "connections": max(CONCURRENCY)}
    yield _named(row, "penstock", factory=scenarios.PENSTOCK, options=ours)
    yield _named(row, PEER, factory="penstock.bench.peers.aiohttp:tuned", options={"scenario": "ram"})
    if programs.core:
        yield _named(row, CORE, command=core_client(programs.core, "ram", "direct", 1, RAM, None), loop="tokio")
    if programs.upstream_client:
        command = upstream_client(programs.upstream_client, "ram", "direct", ("shared", "whole"), 1, RAM, None)
        yield _named(row, KEPT, command=command, loop="tokio")


def _named(row: Variant, client: str, **changes: Any) -> Variant:
    return replace(row, id=f"{row.id}{client}", client=client, **changes)


class Curves(Driver):
    """The driver, with a plan of its own for each point."""

    def planned(self, variant: Variant) -> Plan:
        curve, _, number = variant.scenario.partition(" ")
        plan = super().planned(variant)
        match curve:
            case "size":
                plan = replace(plan, size=int(number), connections=2)
            case "concurrency":
                plan = replace(plan, size=64 * KIB, connections=int(number))
            case _:
                plan = replace(plan, size=MIB, chunk=int(number))
        batches = max(1, min(BATCHES, TURN // (plan.size * plan.connections)))
        return replace(plan, batches=batches)


@dataclass(frozen=True)
class Fit:
    """The exponent of a curve before its knee and after it; of one without a knee both are the same."""

    before: float
    after: float
    knee: float | None


def fit(points: Sequence[tuple[float, float]]) -> Fit:
    """One line through the logarithms, or two where these describe them better."""
    logs = [(log2(x), log2(y)) for x, y in points]
    slope, _, whole = _line(logs)
    best = (inf, 0.0, 0.0, 0.0)
    for split in range(2, len(logs) - 1):
        below, above = _line(logs[:split]), _line(logs[split:])
        error = below[2] + above[2]
        if error < best[0] and abs(below[0] - above[0]) > BEND:
            meet = (above[1] - below[1]) / (below[0] - above[0])
            best = (error, below[0], above[0], min(max(meet, logs[split - 1][0]), logs[split][0]))
    if best[0] > BETTER * whole:
        return Fit(slope, slope, None)
    return Fit(best[1], best[2], 2 ** best[3])


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Slope, intercept, and the sum of squares that is left."""
    slope, start = linear_regression(*zip(*points, strict=True))
    return slope, start, sum((y - start - slope * x) ** 2 for x, y in points)


def found(parts: Mapping[str, Results]) -> dict[str, dict[str, dict[int, Row]]]:
    """The rows of each curve, by client and by what grows."""
    made: dict[str, dict[str, dict[int, Row]]] = {}
    for row in (row for part in ("curves", "queues") if part in parts for row in parts[part]["rows"] if quiet(row)):
        curve, number = _placed(row)
        if curve:
            made.setdefault(curve, {}).setdefault(row["client"], {})[number] = row
    return {curve: made[curve] for curve in CURVES if curve in made}


def _placed(row: Row) -> tuple[str, int]:
    """Which curve a row is of, and where."""
    name = row["id"].partition("/")[0]
    if name.startswith("queue, sleep x "):
        return "threads", int(name.rpartition(" ")[2])
    curve, _, number = name.partition(" ")
    return (curve, int(number)) if curve in CURVES else ("", 0)


def table(curve: str, clients: Mapping[str, Mapping[int, Row]]) -> str:
    """Exponents, knees and their causes, a line for each client."""
    about = CURVES[curve]
    lines = []
    for client, rows_by_number in clients.items():
        points = [(number, median(values(row, about.metric))) for number, row in sorted(rows_by_number.items())]
        if len(points) < 4:
            continue
        fitted = fit(points)
        before = f"{fitted.before:.2f}" if fitted.knee else ""
        knee = _shown(fitted.knee, about) if fitted.knee else "none"
        cause = f"{about.below}; then {about.above}" if fitted.knee else about.above
        span = f"{report.short(points[0][1])} to {report.short(points[-1][1])}"
        lines.append((client, span, before, knee, f"{fitted.after:.2f}", cause))
    title = f"{'CPU' if about.metric is cpu else 'wall'} ms a batch, first to last"
    return report.markdown(("how", title, "exponent", f"knee: {about.axis}", "exponent after it", "cause"), lines)


def _shown(number: float, about: Curve) -> str:
    return f"{number / KIB:.3g} Ki" if about.axis.startswith("bytes") else f"{number:.3g}"


def picture(curve: str, clients: Mapping[str, Mapping[int, Row]]) -> "Figure":
    """Each client's curve with its spread, in logarithms; needs matplotlib."""
    from matplotlib.figure import Figure

    about = CURVES[curve]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for (client, rows_by_number), marker in zip(clients.items(), "osD^vX", strict=False):
        numbers = sorted(rows_by_number)
        spreads = [spread(values(rows_by_number[number], about.metric)) for number in numbers]
        colour = report.colour(rows_by_number[numbers[0]])
        axes.plot(numbers, [each.median for each in spreads], marker=marker, color=colour, label=client, markersize=5)
        low, high = [each.low for each in spreads], [each.high for each in spreads]
        axes.fill_between(numbers, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel(about.axis)
    axes.set_ylabel(f"{'CPU' if about.metric is cpu else 'wall'} ms a batch")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure
