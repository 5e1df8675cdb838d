"""The rows of the native program of benches/rust/floor: the floor, and the scenarios done by hand."""

from collections.abc import Sequence
from pathlib import Path

from penstock.bench import report
from penstock.bench.results import Framing
from penstock.bench.rounds import Variant

from benches.python import native

WAYS = {"ram": "ram", "fs_direct": "fs", "mmap_direct": "mmap"}
"""How the program stores and reads what a scenario does."""


def build() -> Path:
    return native.build("floor", "penstock-floor")


def rows(binary: Path, framing: Framing | None) -> list[Variant]:
    """The floor twice: what differs between the two is noise."""
    command = (str(binary), "forget", "-")
    return [
        Variant(f"floor/{framing}/{name}", "floor", name, command=command, framing=framing)
        for name in ("floor", "floor again")
    ]


def by_hand(binary: Path, session: Sequence[Variant]) -> list[Variant]:
    """For the scenarios of a session, what they cost without a library: one row for each way to store."""
    made = {}
    for row in session:
        if row.kind == "batch" and (way := WAYS.get(row.scenario)) is not None:
            recycled = bool(row.options.get("file_pool"))
            id = report.by_hand(row.scenario, row.framing, row.store, recycled)
            made[id] = Variant(
                id=id,
                scenario=row.scenario,
                client=id.rpartition("/")[2],
                command=(str(binary), f"recycled-{way}" if recycled else way, str(row.options.get("store", "-"))),
                framing=row.framing,
                store=row.store,
            )
    return list(made.values())
