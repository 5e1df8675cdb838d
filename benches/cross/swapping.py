"""Cooperative swapping, for which upstream's author puts files into shared memory: bodies that come to twice the limit
of a memory cgroup, kept in RAM, in a tmpfs, or on disk.

None is read before all of a batch are kept: a body that went as soon as it had come would leave its room to the next.
Each row's process has a cgroup of its own; the server isn't in one. All dispatch, as penstock does by default.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from penstock.bench import scenarios
from penstock.bench.driver import MIB, Plan
from penstock.bench.results import Option
from penstock.bench.rounds import Variant

from benches.cross.rows import CORE, Programs, core_client, on_disk, upstream_client
from benches.cross.stores import HUGE

TITLE = "bodies of twice a memory cgroup's limit"
LIMIT = 128 * MIB
SIZE = 8 * MIB
CONNECTIONS = 2 * LIMIT // SIZE
UPSTREAM = "upstream"
NO_SPILLING = "1GiB"


def planned(plan: Plan) -> Plan:
    """A batch takes seconds where it swaps."""
    return replace(plan, size=SIZE, connections=CONNECTIONS, rounds=max(3, plan.rounds // 4), batches=1)


def rows(programs: Programs, stores: Mapping[str, Path]) -> list[Variant]:
    """Each client with its bodies in each place; and penstock as it is by default, which spills in time."""
    disk = next((directory for store, directory in stores.items() if on_disk(store)), None)
    made = [_python("in RAM up to the budget", {"scenario": "spill", "max_body_ram": NO_SPILLING}, disk)]
    for store in (None, *(store for store in stores if store != HUGE)):
        directory, title = (stores[store], f"files on {store}") if store else (None, "in RAM")
        kind, limit = ("fs", 0) if store else ("ram", 1 << 30)
        together = f"{kind}_together"
        options: dict[str, Option] = {"scenario": kind, "max_body_ram": limit, "budget_ram": NO_SPILLING}
        made.append(_python(title, options, directory))
        if programs.core:
            made.append(_rust(CORE, title, core_client(programs.core, together, "dispatch", 1, limit, directory)))
        if programs.upstream_client:
            reading = ("shared", "whole")
            command = upstream_client(programs.upstream_client, together, "dispatch", reading, 1, limit, directory)
            made.append(_rust(UPSTREAM, title, command))
    return made


def _python(title: str, options: Mapping[str, Option], directory: Path | None) -> Variant:
    store = str(directory) if directory else None
    row = _row("penstock", title)
    made: dict[str, Option] = {**options, "policy": "dispatch", "store": store, "together": CONNECTIONS}
    return replace(row, factory=scenarios.PENSTOCK, options=made, kind="lag")


def _rust(client: str, title: str, command: tuple[str, ...]) -> Variant:
    return replace(_row(client, title), command=command, loop="tokio")


def _row(client: str, title: str) -> Variant:
    """Rows are held against those that keep their bodies in the same place."""
    return Variant(f"pressure/{client}, {title}", f"pressure, {title}", f"{client}, {title}", framing=None)
