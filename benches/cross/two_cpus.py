"""The clients' rows once more with two CPUs, as upstream's had them, where the machine has a third for the server.

With one CPU a client pays for handing its work to other threads, and gains nothing by it: on two, they run beside it.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace

from penstock.bench.driver import Driver, Plan
from penstock.bench.results import Settings
from penstock.bench.rounds import Variant

from benches.cross.rows import CORE, KEPT, TODAY, on_disk
from benches.cross.verdict import MIN_ROUNDS

PART = "two-cpus"
NEEDED = 3
TITLE = "wall time of clients on two CPUs"
CLIENTS = ("penstock", CORE, KEPT, TODAY, "aiohttp tuned", "pyreqwest tuned")
NO_THIRD = "server and clients have a CPU each; with two for the clients the server needs a third, which isn't there"


def cpus() -> frozenset[int] | None:
    """The clients', beside the first, which is the server's."""
    usable = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
    return frozenset(usable[1:NEEDED]) if len(usable) >= NEEDED else None


def rows(plain: Iterable[list[Variant]]) -> Iterator[list[Variant]]:
    """Bodies with a Content-Length in RAM, and by each policy in files on disk; none without the CPUs."""
    for session in plain if cpus() else ():
        chosen = [row for row in session if _wanted(row)]
        if chosen:
            yield [replace(row, id=f"two CPUs: {row.id}", scenario=f"two CPUs: {row.scenario}") for row in chosen]


def _wanted(row: Variant) -> bool:
    in_ram = row.scenario == "ram" and row.store is None
    in_files = row.scenario.startswith("fs_") and on_disk(row.store)
    return row.client in CLIENTS and row.framing == "length" and (in_ram or in_files)


def planned(plan: Plan) -> Plan:
    """Half of the rounds: it is one question, and not each row's figure."""
    return replace(plan, rounds=max(MIN_ROUNDS, plan.rounds // 2))


class TwoCpus(Driver):
    """The driver, with a CPU more for the clients."""

    def cpus(self, _variant: Variant) -> frozenset[int] | None:
        return cpus()

    def settings(self) -> Settings:
        return {**super().settings(), "client_cpus": sorted(cpus() or ())}
