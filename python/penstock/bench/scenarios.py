"""Which rows there are: every scenario of upstream's client benchmarks, for penstock and for the peers.

A row's id is `SCENARIO/FRAMING[/STORE]/CLIENT`; a scenario with files names its policy, as in `fs_direct`. `run` picks
among them by regular expression; `targets` and the report find them by id.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from penstock.bench.driver import Plan
from penstock.bench.results import Framing, Kind, Option
from penstock.bench.rounds import Variant

PENSTOCK = "penstock.bench.variants:open_client"
POLICIES = ("direct", "permit", "dispatch")
FILES = ("fs", "mmap", "mmap_copy")

RAM_PEERS = ("aiohttp", "httpx", "niquests", "pyreqwest")
FILE_PEERS = ("aiohttp", "pyreqwest")
# With the policy that it comes to: the naive rows write on the loop's thread, the tuned ones on another.
TUNINGS = (("naive", "direct"), ("tuned", "dispatch"))


def sessions(
    framings: tuple[Framing, ...], stores: Mapping[str, Path], loop: str, plan: Plan
) -> Iterator[list[Variant]]:
    """All rows, in the sessions that compare them; `stores` maps the type of a file system to the directory on it."""
    for framing in framings:
        yield list(_in_ram(_Place(framing, loop)))
        for store, directory in stores.items():
            place = _Place(framing, loop, store, directory)
            yield [*_in_files(place), *(_beside(place, plan.held) if framing == "chunked" else ())]


@dataclass(frozen=True)
class _Place:
    """What rows have in common that run on one loop, with one framing, and store in one place."""

    framing: Framing
    loop: str
    store: str | None = None
    directory: Path | None = None

    def row(
        self,
        scenario: str,
        client: str,
        factory: str,
        options: Mapping[str, Option],
        *,
        kind: Kind = "batch",
        loop: str | None = None,
        reads: bool = True,
    ) -> Variant:
        where = f"{self.framing}/{self.store}" if self.store else self.framing
        return Variant(
            id=f"{scenario}/{where}/{client}",
            scenario=scenario,
            client=client,
            factory=factory,
            options={**options, "store": str(self.directory)} if self.directory else options,
            framing=self.framing,
            store=self.store,
            loop=loop or self.loop,
            kind=kind,
            reads=reads,
        )


def _in_ram(place: _Place) -> Iterator[Variant]:
    for scenario in ("ram", "ram_gather"):
        yield place.row(scenario, "penstock", PENSTOCK, {"scenario": scenario})
    for peer, (tuning, _) in product(RAM_PEERS, TUNINGS):
        yield place.row("ram", f"{peer} {tuning}", _peer(peer, tuning), {"scenario": "ram"})


def _in_files(place: _Place) -> Iterator[Variant]:
    for scenario, policy, pooled in product(FILES, POLICIES, (False, True)):
        yield place.row(
            f"{scenario}_{policy}",
            "penstock FilePool" if pooled else "penstock",
            PENSTOCK,
            {"scenario": scenario, "policy": policy, "file_pool": pooled},
        )
    for scenario, peer, (tuning, policy) in product(FILES, FILE_PEERS, TUNINGS):
        yield place.row(f"{scenario}_{policy}", f"{peer} {tuning}", _peer(peer, tuning), {"scenario": scenario})


def _beside(place: _Place, held: int) -> Iterator[Variant]:
    """What files cost beside time: the lag that a ticker on the loop sees, and what many open bodies hold in memory."""
    clients = [("penstock", PENSTOCK)]
    clients += [(f"{peer} {tuning}", _peer(peer, tuning)) for peer, (tuning, _) in product(FILE_PEERS, TUNINGS)]
    for client, factory in clients:
        # Dropped unread: reading on the loop's thread would be seen as lag, and is not what is asked.
        yield place.row("lag", client, factory, {"scenario": "drop"}, kind="lag", reads=False)
    # With the default limit of a body's RAM, then with a small budget for them all, against which a tmpfs would count.
    options: dict[str, Option] = {"scenario": "fs", "max_body_ram": "192KiB", "connections": held + 1}
    yield place.row("held", "penstock", PENSTOCK, options, kind="memory")
    if place.store != "tmpfs":
        yield place.row("held", "penstock Budget", PENSTOCK, {**options, "budget_ram": "32MiB"}, kind="memory")


def _peer(peer: str, tuning: str) -> str:
    return f"penstock.bench.peers.{peer}:{tuning}"
