"""Tables and pictures from a run's JSON; nothing is shown that isn't in it, and what loses comes first.

The README's tables are made here too: `fill` replaces what stands between `<!-- table:NAME -->` and `<!-- /table -->`.
The demo, the full run and whoever writes documentation call it.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from penstock.bench.figures import (
    Interval,
    Metric,
    Spread,
    cpu,
    find,
    lag_p99,
    lag_worst,
    peak,
    quiet,
    ratio,
    spread,
    values,
    wall,
)
from penstock.bench.results import Framing, Results, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIB = 1024 * 1024

OURS = "penstock"
FLOOR = "floor"
BY_HAND = "by hand"

MARKED = re.compile(r"(<!-- table:(?P<name>[\w-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)

OUR_COLOUR = "#1f6f8b"
OUR_RUST_COLOUR = "#7fb6c9"
PEER_COLOUR = "#b8b8b8"
RUST_COLOUR = "#d9a05b"
BAR_INCHES = 0.28


@dataclass(frozen=True)
class Group:
    """The rows of one scenario, framing and store: those that may be compared with each other. Cheapest first."""

    title: str
    rows: list[Row]

    @property
    def lost(self) -> bool:
        """A peer costs less than the best of ours."""
        clients = [row["client"] for row in self.rows if BY_HAND not in row["client"]]
        return any(map(ours, clients)) and not ours(clients[0])


def ours(client: str) -> bool:
    return client.startswith(OURS)


def _cpu(row: Row) -> float:
    return median(values(row, cpu))


def groups(rows: Iterable[Row], cost: Callable[[Row], float] = _cpu) -> list[Group]:
    """Rows that have samples, grouped; the groups that penstock loses come first."""

    def title(row: Row) -> str:
        return ", ".join(part for part in (row["scenario"], row["framing"], row["store"]) if part)

    shown = sorted((row for row in rows if quiet(row)), key=title)
    found = [Group(name, sorted(members, key=cost)) for name, members in groupby(shown, key=title)]
    return sorted(found, key=lambda group: not group.lost)


def by_hand(scenario: str, framing: Framing | None, store: str | None, recycled: bool) -> str:
    """The id of the row that does the same as a scenario's without a library, on its own thread."""
    storing = "ram" if store is None else f"{scenario.partition('_')[0]}_direct"
    client = f"{BY_HAND}, recycled" if recycled else BY_HAND
    return "/".join(part for part in (storing, framing, store, client) if part)


def tables(results: Results) -> dict[str, str]:
    """All tables that the run has rows for, by name: readme, ram, files, lag, memory, left-out, environment."""
    batches = [row for row in results["rows"] if row["kind"] == "batch" and row["scenario"] != FLOOR]
    made = {
        "readme": _headlines(results),
        "ram": _times(results, [row for row in batches if row["store"] is None]),
        "files": _times(results, [row for row in batches if row["store"] is not None]),
        "lag": _lags(row for row in results["rows"] if row["kind"] == "lag"),
        "memory": _memory(row for row in results["rows"] if row["kind"] == "memory"),
        "left-out": left_out(results),
        "environment": environment(results),
    }
    return {name: text for name, text in made.items() if text}


# The three rows of the README: what is done with 16 bodies of 8 MiB, by our row and tuned peers, with the framing that
# is the better one for these.
HEADLINES = (
    ("kept in RAM", "ram/length"),
    ("spilled to files", "fs_dispatch/length/ext4"),
    ("memory-mapped", "mmap_dispatch/length/ext4"),
)
HEADLINE_PEERS = ("aiohttp tuned", "pyreqwest tuned")


def _headlines(results: Results) -> str:
    """Wall time as multiples of the floor's: nothing, unless each row has at least ours."""
    lines = []
    for title, place in HEADLINES:
        floor = find(results, f"{FLOOR}/{place.split('/')[1]}/{FLOOR}")
        rows = [find(results, f"{place}/{client}") for client in (OURS, *HEADLINE_PEERS)]
        cells = [_ratio(ratio(row, floor, wall)) if row and floor else "" for row in rows]
        if not cells[0]:
            return ""
        lines.append((title, f"**{cells[0]}**", *cells[1:]))
    title = "16 bodies of 8 MiB, length known: time ÷ that of receiving and forgetting them"
    return markdown((title, OURS, *HEADLINE_PEERS), lines)


def fill(text: str, made: Mapping[str, str]) -> str:
    """`text` with its marked tables replaced; a KeyError for a name that the results have no table for."""
    return MARKED.sub(lambda match: f"{match[1]}{made[match['name']]}\n{match[3]}", text)


def _times(results: Results, rows: list[Row]) -> str:
    lines = []
    for group in groups(rows):
        for row in group.rows:
            base = find(results, f"{FLOOR}/{row['framing']}/{FLOOR}")
            recycled = bool(row["options"].get("file_pool"))
            hand = find(results, by_hand(row["scenario"], row["framing"], row["store"], recycled))
            lines.append(
                (
                    group.title,
                    name_of(row),
                    _spread(spread(values(row, cpu))),
                    _ratio(ratio(row, base, cpu, wall) if base else None),
                    _spread(spread(values(row, wall))),
                    _ratio(ratio(row, base, wall) if base else None),
                    _ratio(ratio(row, hand, wall) if hand and not row["client"].startswith(BY_HAND) else None),
                    f"{peak(row) / MIB:.0f}",
                    f"{sum(sample['batches'] for sample in quiet(row))}",
                )
            )
    head = ("scenario", "client", "CPU ms", "÷ floor", "wall ms", "÷ floor", "÷ by hand", "peak MiB", "batches")
    return markdown(head, lines)


def _lags(rows: Iterable[Row]) -> str:
    lines = []
    for group in groups(rows):
        for row in group.rows:
            worst = values(row, lag_worst)
            p99 = values(row, lag_p99)
            lines.append((group.title, name_of(row), f"{max(worst):.1f}", _spread(spread(worst)), _spread(spread(p99))))
    return markdown(("scenario", "client", "worst ms", "worst of a round", "p99 of a round"), lines)


def _memory(rows: Iterable[Row]) -> str:
    lines = []
    for group in groups(rows):
        for row in group.rows:
            growth = values(row, lambda sample: sample["growth_bytes"])
            lines.append((group.title, name_of(row), f"{max(growth) / MIB:.0f}", f"{median(growth) / MIB:.0f}"))
    return markdown(("scenario", "client", "most MiB", "median MiB"), lines)


def left_out(results: Results) -> str:
    """Rows that could not run, and turns that were dropped since others used the machine."""
    lines = []
    for row in results["rows"]:
        noisy = len(row["samples"]) - len(quiet(row))
        if row["unavailable"]:
            lines.append((row["id"], row["unavailable"].replace("|", "\\|")))
        elif noisy:
            lines.append((row["id"], f"{noisy} of {len(row['samples'])} rounds: the machine was busy"))
    return markdown(("row", "left out"), lines)


def environment(results: Results) -> str:
    """The machine, the versions and the settings."""
    lines: list[tuple[str, str]] = []
    for name, value in {**results["environment"], **results["settings"]}.items():
        shown = ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else str(value)
        if value is not None:
            lines.append((name.replace("_", " "), shown))
    return markdown(("setting", "value"), lines)


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table, or nothing without lines."""
    if not lines:
        return ""
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))


def name_of(row: Row) -> str:
    """The client as tables have it: ours in bold, and its loop if that isn't asyncio's."""
    name = row["client"] if row["loop"] == "asyncio" else f"{row['client']} ({row['loop']} loop)"
    return f"**{name}**" if ours(row["client"]) else name


def _spread(figure: Spread) -> str:
    return f"{figure.median:.1f} ({figure.low:.1f} to {figure.high:.1f})"


def _ratio(figure: Interval | None) -> str:
    return f"{figure.median:.2f}" if figure else ""


def picture(rows: Iterable[Row], path: Path) -> None:
    """Draw the CPU time of each row as a bar with its spread into `path`; needs matplotlib."""
    bars(groups(rows), {"CPU ms a batch: median, and the range of nine rounds in ten": cpu}).savefig(path, dpi=120)


def bars(found: Sequence[Group], metrics: Mapping[str, Metric]) -> "Figure":
    """A bar for each row, with its spread, and a panel for each metric, by its label; needs matplotlib."""
    # Only who draws needs matplotlib: it is the extra `bench`, and takes half a second to import.
    from matplotlib.figure import Figure

    # From the bottom up, as the axis goes, with a gap between groups.
    places: list[tuple[float, Group, Row]] = []
    place = 0.0
    for group in reversed(found):
        for row in reversed(group.rows):
            places.append((place, group, row))
            place += 1
        place += 0.6
    figure = Figure(figsize=(4.5 + 4.5 * len(metrics), 1 + BAR_INCHES * place), layout="constrained")
    panels = figure.subplots(ncols=len(metrics), sharey=True, squeeze=False)[0]
    for axes, (label, metric) in zip(panels, metrics.items(), strict=True):
        spreads = [spread(values(row, metric)) for _, _, row in places]
        drawn = axes.barh(
            [place for place, _, _ in places],
            [each.median for each in spreads],
            xerr=[[each.median - each.low for each in spreads], [each.high - each.median for each in spreads]],
            color=[colour(row) for _, _, row in places],
            error_kw={"elinewidth": 1, "capsize": 2},
        )
        axes.bar_label(drawn, [short(each.median) for each in spreads], padding=3, fontsize=7)
        axes.set_xlabel(label)
        axes.margins(x=0.1, y=0.02)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(
        [place for place, _, _ in places], [f"{group.title}: {row['client']}" for _, group, row in places]
    )
    return figure


def short(number: float) -> str:
    """With three digits, or all that stand before the point."""
    return f"{number:.3g}" if abs(number) < 1000 else f"{number:,.0f}"


def colour(row: Row) -> str:
    """What its language, and whose it is, look like in all pictures."""
    if ours(row["client"]):
        return OUR_RUST_COLOUR if row["loop"] == "tokio" else OUR_COLOUR
    return RUST_COLOUR if row["loop"] == "tokio" else PEER_COLOUR
