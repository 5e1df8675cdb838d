"""Runs rows that download from one server, in the rounds of `penstock.bench.rounds`, and returns the samples.

The rows are pinned away from the server. What rows exist is for the callers to say: the demo here, the full comparison
in the repository's benches.
"""

import hashlib
import json
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import penstock
from penstock.bench import machine, server
from penstock.bench.results import Settings
from penstock.bench.rounds import Child, Pace, Rounds, RowError, Variant
from penstock.bench.sizes import mixed
from penstock.bench.worker import Spec

MIB = 1024 * 1024
CHUNK = 8192

HOLD_SECONDS = 60.0
# Mixed bodies are smaller: as many bytes take more of them.
MIXED_BATCHES = 6


@dataclass(frozen=True)
class Plan(Pace):
    """How much is measured."""

    size: int = 8 * MIB
    chunk: int = CHUNK
    connections: int = 16
    held: int = 500
    held_size: int = MIB


class Driver(Rounds):
    """One run: `run()` starts the server, unless `url` names one, and the rows, and ends them."""

    def __init__(
        self,
        sessions: Sequence[Sequence[Variant]],
        plan: Plan,
        *,
        packages: Sequence[str] = ("penstock",),
        stores: Sequence[Path] = (),
        build_profile: str = penstock.BUILD_PROFILE,
        url: str | None = None,
    ) -> None:
        super().__init__(sessions, plan, packages=packages, stores=stores, build_profile=build_profile)
        self._plan = plan
        self._url = url
        self._server_cpus, self._client_cpus = machine.processors()
        self._address = server.Address("", None)
        self._digests: dict[int, str] = {}

    @contextmanager
    def prepared(self) -> Iterator[None]:
        with server.running(self._plan.size, self._plan.chunk, self._server_cpus, self._url) as self._address:
            yield

    def planned(self, _variant: Variant) -> Plan:
        """How much is measured of a row."""
        return self._plan

    def command(self, variant: Variant) -> list[str]:
        plan, url = self.planned(variant), self._address.url
        chunk = plan.chunk if variant.framing == "chunked" else 0
        sizes = mixed() if variant.mixed else []
        if variant.command:
            length = ",".join(map(str, sizes)) or str(plan.size)
            return [*variant.command, url, length, str(chunk), str(plan.connections)]
        size = plan.held_size if variant.kind == "memory" else plan.size
        spec = Spec(
            factory=variant.factory,
            options=dict(variant.options),
            url=f"{url}/hold/{size}/{chunk}" if variant.kind == "memory" else f"{url}/{size}/{chunk}",
            size=size,
            connections=plan.connections,
            loop=variant.loop,
            ticker=variant.kind == "lag",
            reads=variant.reads,
            sizes=tuple(sizes),
        )
        # Without what is as usual, a worker of an older package understands it.
        said = {each.name: value for each in fields(spec) if (value := getattr(spec, each.name)) != each.default}
        return [sys.executable, "-m", "penstock.bench.worker", json.dumps(said)]

    def cpus(self, _variant: Variant) -> frozenset[int] | None:
        return self._client_cpus

    def settings(self) -> Settings:
        plan = self._plan
        return {
            **super().settings(),
            "size": plan.size,
            "chunk": plan.chunk,
            "connections": plan.connections,
            "server_cpus": sorted(self._server_cpus) if self._server_cpus else None,
            "client_cpus": sorted(self._client_cpus) if self._client_cpus else None,
            "server": "embedded" if self._address.pid else self._address.url,
        }

    def open(self, child: Child) -> None:
        """Wait for the row's client, and prove that it reads what was sent: what is fast otherwise is no row."""
        child.answer()
        # The floor keeps nothing, and a held body is checked by its summary alone.
        if child.variant.command or child.variant.kind == "memory" or not child.variant.reads:
            return
        plan = self.planned(child.variant)
        sizes = mixed() if child.variant.mixed else [plan.size] * plan.connections
        if child.ask("check")["sha256"] != [self._digest(size) for size in sizes]:
            raise RowError("a body differs from the one that the server sent")

    def measure(self, child: Child) -> dict[str, Any]:
        if child.variant.kind == "memory":
            return self._hold(child)
        warmed = self.warm(child)
        count = self.planned(child.variant).batches * (MIXED_BATCHES if child.variant.mixed else 1)
        before = machine.counters(child.pid)
        answer = child.batches(count)
        after = machine.counters(child.pid)
        # Its answer was a write, too.
        counted = {name: after[name] - before[name] - (name == "writes") for name in before}
        return answer | warmed | {name: value / count for name, value in counted.items()}

    def helpers(self) -> list[int] | None:
        return None if self._address.pid is None else [self._address.pid]

    def _hold(self, child: Child) -> dict[str, Any]:
        """The memory of many bodies at once, all of which the server says are open and half sent."""
        count = self._plan.held
        start = time.perf_counter()
        child.ask(f"hold {count}")
        deadline = time.monotonic() + HOLD_SECONDS
        while (held := int(self._control("held"))) < count:
            if time.monotonic() > deadline:
                raise RowError(f"the server holds {held} of {count} bodies after {HOLD_SECONDS:.0f} s")
            time.sleep(0.02)
        child.ask("settle")
        if (connections := int(self._control("connections"))) < count:
            raise RowError(f"the server has {connections} open connections; expected at least {count}")
        self._control("release")
        answer = child.ask("finish")
        return answer | {
            "batches": 1,
            "wall_ms": (time.perf_counter() - start) * 1000,
        }

    def _control(self, path: str) -> str:
        with urllib.request.urlopen(f"{self._address.url}/{path}", timeout=10) as response:
            text: str = response.read().decode()
            return text

    def _digest(self, size: int) -> str:
        """Of the body of that size, as another client reads it."""
        if size not in self._digests:
            with urllib.request.urlopen(f"{self._address.url}/{size}/0", timeout=60) as response:
                self._digests[size] = hashlib.file_digest(response, "sha256").hexdigest()
        return self._digests[size]
