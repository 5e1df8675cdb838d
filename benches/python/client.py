"""`python -m benches.python.client`: penstock's client beside the others, and the targets.

Small responses by the thousand, bodies in chunks of 64 bytes to 64 KiB, compressed ones, TLS, uploads from files, and
what idle TLS connections hold. Each row is a process of its own on one CPU, the server (`benches.python.origin`) on
another; what is read and what is sent is verified before it is timed, and its length and end each time.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from penstock.bench import machine, server
from penstock.bench.progress import Progress
from penstock.bench.results import Kind, Option, Settings
from penstock.bench.rounds import Child, DebugBuildError, Pace, Rounds, RowError, Variant
from penstock.bench.worker import Spec

from benches import client_report, targets
from benches.python import options, origin

LOOPS = ("asyncio", "uvloop")
PACKAGES = ("penstock", "aiohttp", "pyreqwest", "uvloop", "isal", "zlib-ng")
MIB = 1 << 20
CHUNKS = (64, 256, 1024, 4096, 16384, 65536)
IDLE = 500
STORES = ("fs", "mmap")
# By the size of a chunk; 0 sends the length instead.
FRAMINGS = {"length": 0, "chunked": 65536}
SCHEMES = {"tls": "https", "plain": "http"}
POLICIES = ("direct", "permit", "dispatch")
# How bodies for files come. By asyncio on plain sockets they do in `benches.python.run`.
WAYS = (("tls", "asyncio"), ("tls", "uvloop"), ("plain", "uvloop"))

QUICK = Pace(rounds=2, warmup=0, batches=1)


@dataclass(frozen=True)
class Load:
    """What is asked for, and how often in a batch."""

    path: str
    size: int
    connections: int = 16
    requests: int = 1
    scheme: str = "http"
    gzip: bool = False
    # Of a round's batches, one in so many: these take long.
    share: int = 1


LOADS = {
    "small": Load("/1024/0", 1024, connections=64, requests=25),
    **{f"chunks of {chunk}": Load(f"/{MIB}/{chunk}", MIB) for chunk in CHUNKS},
    "gzip": Load(f"/gzip/{8 * MIB}", 8 * MIB, gzip=True, share=4),
    "tls": Load(f"/{8 * MIB}/0", 8 * MIB, scheme="https"),
    **{
        f"{sockets} {store}, {framing}": Load(f"/{8 * MIB}/{chunk}", 8 * MIB, connections=8, scheme=scheme)
        for (sockets, scheme), store, (framing, chunk) in product(SCHEMES.items(), STORES, FRAMINGS.items())
    },
    "upload": Load("/", 8 * MIB),
    "idle tls": Load("/1024/0", 1024, connections=IDLE, scheme="https"),
}
"""By the first part of a row's id."""


def _row(load: str, client: str, loop: str, factory: str, kind: Kind = "batch", **options: Option) -> Variant:
    """The row `LOAD/LOOP/CLIENT`, or `LOAD lag/LOOP/CLIENT`."""
    name = f"{load} lag" if kind == "lag" else load
    shape = load if load in ("small", "upload") else "small" if kind == "memory" else "body"
    asked = LOADS[load]
    if shape == "upload":
        options["size"] = asked.size
    return Variant(
        id=f"{name}/{loop}/{client}",
        scenario=f"{name}, {loop}",
        client=client,
        factory=f"benches.python.exchanges:open_{factory}",
        options={"shape": shape, **options, "connections": asked.connections, "requests": asked.requests},
        framing=None,
        loop=loop,
        kind=kind,
        reads=shape != "upload",
    )


def _stored(sockets: str, loop: str, store: str, framing: str, policy: str) -> Variant:
    """The row `SOCKETS STORE, FRAMING/LOOP/penstock POLICY`: bodies that go to a file."""
    load = f"{sockets} {store}, {framing}"
    asked = LOADS[load]
    return Variant(
        id=f"{load}/{loop}/penstock {policy}",
        scenario=f"{load}, {loop}",
        client=f"penstock {policy}",
        factory="penstock.bench.variants:open_client",
        options={
            "scenario": store,
            "policy": policy,
            "store": str(options.OUTPUT),
            "connections": asked.connections,
            "requests": asked.requests,
        },
        framing=None,
        loop=loop,
    )


def sessions(loops: Sequence[str]) -> Iterator[list[Variant]]:
    """All rows, in the sessions that compare them."""
    for loop in loops:
        yield [_row("small", client, loop, client) for client in ("penstock", "aiohttp", "pyreqwest")]
    clients = ("penstock", "aiohttp", "pyreqwest")
    yield [_row(f"chunks of {chunk}", client, "asyncio", client) for chunk, client in product(CHUNKS, clients)]
    for loop in loops:
        compressed: list[tuple[str, str, dict[str, Any]]] = [
            ("penstock", "penstock", {}),
            ("aiohttp", "aiohttp", {}),
            ("aiohttp isal", "aiohttp", {"zlib": "isal"}),
            ("aiohttp zlib-ng", "aiohttp", {"zlib": "zlib_ng"}),
            ("pyreqwest", "pyreqwest", {"gzip": True}),
        ]
        alone: list[tuple[str, str, dict[str, Any]]] = [
            ("zlib-rs alone", "decoder", {}),
            ("isal alone", "decoder", {"zlib": "isal"}),
        ]
        yield [_row("gzip", client, loop, factory, **options) for client, factory, options in (*compressed, *alone)]
        yield [_row("gzip", client, loop, factory, "lag", **options) for client, factory, options in compressed[:3]]
        yield [_row("tls", client, loop, client) for client in clients]
        yield [
            _row("upload", "penstock", loop, "penstock"),
            _row("upload", "aiohttp", loop, "aiohttp", tuned=False),
            _row("upload", "aiohttp, large pieces", loop, "aiohttp"),
        ]
        yield [_row("idle tls", client, loop, client, "memory") for client in clients]
    for (sockets, loop), store, framing in product(WAYS, STORES, FRAMINGS):
        if loop in loops:
            yield [_stored(sockets, loop, store, framing, policy) for policy in POLICIES]


class Exchanges(Rounds):
    """One run: `run()` starts the server and the rows, and ends them."""

    _origin: origin.Origin

    @contextmanager
    def prepared(self) -> Iterator[None]:
        options.OUTPUT.mkdir(exist_ok=True)
        server_cpus, _ = machine.processors()
        with origin.running(server_cpus) as self._origin:
            yield

    def command(self, variant: Variant) -> list[str]:
        load = _load(variant)
        options = {name: value for name, value in variant.options.items() if name not in ("connections", "requests")}
        if load.scheme == "https":
            options["certificate"] = self._origin.certificate
        spec = Spec(
            factory=variant.factory,
            options=options,
            url=(self._origin.https if load.scheme == "https" else self._origin.http) + load.path,
            size=load.size,
            connections=load.connections,
            requests=load.requests,
            loop=variant.loop,
            ticker=variant.kind == "lag",
            reads=variant.reads,
        )
        return [sys.executable, "-m", "penstock.bench.worker", json.dumps(asdict(spec))]

    def cpus(self, _variant: Variant) -> frozenset[int] | None:
        return machine.processors()[1]

    def settings(self) -> Settings:
        server_cpus, client_cpus = machine.processors()
        return {
            **super().settings(),
            "server_cpus": sorted(server_cpus) if server_cpus else None,
            "client_cpus": sorted(client_cpus) if client_cpus else None,
        }

    def open(self, child: Child) -> None:
        """Wait for the row's client, and prove that it reads what was sent; an upload is confirmed by the server."""
        child.answer()
        if not child.variant.reads or child.variant.kind == "memory":
            return
        load = _load(child.variant)
        body = origin.text(load.size) if load.gzip else server.body(load.size)
        expected = hashlib.sha256(body).hexdigest()
        if any(digest != expected for digest in child.ask("check")["sha256"]):
            raise RowError("a body differs from the one that the server sent")

    def measure(self, child: Child) -> dict[str, Any]:
        if child.variant.kind == "memory":
            return child.means("rest")
        child.ask("batch 1")
        return child.batches(max(1, self._pace.batches // _load(child.variant).share))

    def helpers(self) -> list[int] | None:
        return [self._origin.pid]


def _load(variant: Variant) -> Load:
    return LOADS[variant.id.partition("/")[0].removesuffix(" lag")]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options.parser("client", __doc__, rounds=12)
    parser.add_argument("--batches", type=int, default=4, help="of a row in a round (default: %(default)s)")
    parser.add_argument("--loop", choices=LOOPS, help="only this one (default: both)")
    parser.add_argument("--min-iterations", type=int, default=targets.MIN_ITERATIONS, help="for close targets")
    parser.add_argument("--add", action="store_true", help="keep the other rows that are in the file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    pace = options.pace(arguments, QUICK, arguments.batches)
    loops = (arguments.loop,) if arguments.loop else LOOPS
    chosen = options.chosen(sessions(loops), arguments.rows)
    if arguments.list:
        print(options.listed(chosen))
        return 0
    kept = options.kept(arguments.json) if arguments.add else []
    try:
        results = Exchanges(chosen, pace, packages=PACKAGES).run(Progress())
    except DebugBuildError as error:
        print(error, file=sys.stderr)
        return 2
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    measured = {row["id"] for row in results["rows"]}
    results["rows"] = [*(row for row in kept if row["id"] not in measured), *results["rows"]]
    arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    for title, table in client_report.tables(results).items():
        print(f"\n{title}\n\n{table}")
    print(f"\nresults: {arguments.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
