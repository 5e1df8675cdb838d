"""Runs rows against one server, in interleaved rounds, and returns the samples.

Each row is a process of its own that lives for the whole run (`penstock.bench.worker`, or a native program that speaks
its protocol), pinned away from the server. A round asks every row once, in an order shuffled anew, so that what drifts
(clocks, caches, neighbours) meets all alike and rows can be compared by round. What rows exist is for the callers to
say: the demo here, the full comparison in the repository's benches.
"""

import datetime
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import penstock
from penstock.bench import machine, server
from penstock.bench.progress import Progress
from penstock.bench.results import Framing, Kind, Option, Results, Row, Sample
from penstock.bench.worker import Spec

MIB = 1024 * 1024
CHUNK = 8192

# Others' share of a turn is not looked at below this: /proc/stat counts in ticks of 10 ms.
NOISE_MS = 30.0
HOLD_SECONDS = 60.0


class DebugBuildError(RuntimeError):
    """Figures of an unoptimised build would mislead whoever reads them."""


class RowError(RuntimeError):
    """A row's process ended or answered what it must not."""


@dataclass(frozen=True)
class Variant:
    """One row to be: a Python factory or the command of a native program; `reads` is false where none reads bodies."""

    id: str
    scenario: str
    client: str
    factory: str = ""
    command: tuple[str, ...] = ()
    options: Mapping[str, Option] = field(default_factory=dict)
    framing: Framing = "chunked"
    store: str | None = None
    loop: str = "asyncio"
    kind: Kind = "batch"
    reads: bool = True


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int
    warmup: int = 2
    batches: int = 3
    size: int = 8 * MIB
    chunk: int = CHUNK
    connections: int = 16
    seed: int = 1
    held: int = 500
    held_size: int = MIB
    # A turn is noisy when others used the CPU for this share of its time.
    noise: float = 0.12


class Child:
    """The process of one row, and what it said last."""

    def __init__(self, variant: Variant, plan: Plan, address: server.Address, cpus: frozenset[int] | None) -> None:
        self.variant = variant
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        with machine.pinned(cpus):
            self._process = subprocess.Popen(
                _command(variant, plan, address.url),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
            )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._errors, self._process as process:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()

    def ask(self, command: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            print(command, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._failure() from None
        return self.answer()

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failure()
        message: dict[str, Any] = json.loads(line)
        return message

    def _failure(self) -> RowError:
        """What a dead process left: the last line of its traceback."""
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return RowError(lines[-1] if lines else f"ended with status {status}")


def _command(variant: Variant, plan: Plan, url: str) -> list[str]:
    chunk = plan.chunk if variant.framing == "chunked" else 0
    if variant.command:
        return [*variant.command, url, str(plan.size), str(chunk), str(plan.connections)]
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
    )
    return [sys.executable, "-m", "penstock.bench.worker", json.dumps(asdict(spec))]


class Driver:
    """One run: `run()` starts the server and the rows, and ends them.

    Rows run in sessions, one after the other, so that not all processes exist at once. Rows that are to be compared
    belong in one session; a row may be in several (the floor is), and its rounds go on counting.
    """

    def __init__(
        self,
        sessions: Sequence[Sequence[Variant]],
        plan: Plan,
        *,
        packages: Sequence[str] = ("penstock",),
        stores: Sequence[Path] = (),
        build_profile: str = penstock.BUILD_PROFILE,
    ) -> None:
        if build_profile != "release":
            raise DebugBuildError(
                f"penstock was built with the profile {build_profile!r}; benchmarks need 'release': run `make develop`"
            )
        self._sessions = sessions
        self._plan = plan
        self._packages = packages
        self._stores = stores
        self._address = server.Address("", None)
        self._expected = ""

    def run(self, progress: Progress) -> Results:
        plan = self._plan
        server_cpus, client_cpus = machine.processors()
        rows = {variant.id: _row(variant) for session in self._sessions for variant in session}
        shuffler = random.Random(plan.seed)
        started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        progress.expect(sum(map(len, self._sessions)) * (plan.warmup + plan.rounds))
        with server.running(plan.size, plan.chunk, server_cpus) as self._address:
            self._expected = self._digest()
            for number, session in enumerate(self._sessions):
                with ExitStack() as stack:
                    children = []
                    for variant in session:
                        progress.say(f"opening {variant.id}")
                        child = stack.enter_context(Child(variant, plan, self._address, client_cpus))
                        children.append((child, rows[variant.id]))
                    self._session(children, number * plan.rounds, shuffler, progress)
        progress.end()
        return {
            "version": 1,
            "started": started,
            "environment": machine.environment(self._packages, self._stores),
            "settings": {
                "size": plan.size,
                "chunk": plan.chunk,
                "connections": plan.connections,
                "rounds": plan.rounds,
                "warmup": plan.warmup,
                "batches": plan.batches,
                "seed": plan.seed,
                "noise": plan.noise,
                "server_cpus": sorted(server_cpus) if server_cpus else None,
                "client_cpus": sorted(client_cpus) if client_cpus else None,
                "server": "embedded" if self._address.pid else self._address.url,
            },
            "rows": list(rows.values()),
        }

    def _session(
        self, children: list[tuple[Child, Row]], first: int, shuffler: random.Random, progress: Progress
    ) -> None:
        """Rounds of all rows, in which each has its turn; a row that fails has no more."""
        for child, row in children:
            try:
                self._open(child)
            except RowError as error:
                row["unavailable"] = str(error)
        for number in range(-self._plan.warmup, self._plan.rounds):
            shuffler.shuffle(children)
            for child, row in children:
                progress.step(child.variant.id)
                if row["unavailable"] is not None:
                    continue
                try:
                    sample = self._turn(child, first + number)
                except RowError as error:
                    row["unavailable"] = str(error)
                    continue
                if number >= 0:
                    row["samples"].append(sample)

    def _open(self, child: Child) -> None:
        """Wait for the row's client, and prove that it reads what was sent: what is fast otherwise is no row."""
        child.answer()
        # The floor keeps nothing, and a held body is checked by its summary alone.
        if child.variant.command or child.variant.kind == "memory" or not child.variant.reads:
            return
        if any(digest != self._expected for digest in child.ask("check")["sha256"]):
            raise RowError("a body differs from the one that the server sent")

    def _turn(self, child: Child, number: int) -> Sample:
        """One row's turn, with a look at what else used the machine meanwhile."""
        others = self._others_ms(child)
        start = time.perf_counter()
        # The batch before those measured warms this row's memory, which others' turns have cooled.
        answer = self._hold(child) if child.variant.kind == "memory" else self._batches(child)
        elapsed = (time.perf_counter() - start) * 1000
        after = self._others_ms(child)
        stolen = after - others if others is not None and after is not None else 0.0
        return {
            "round": number,
            "batches": answer["batches"],
            "wall_ms": answer["wall_ms"],
            "user_ms": answer["user_ms"],
            "system_ms": answer["system_ms"],
            "rss_bytes": answer["rss_bytes"],
            "lag_worst_ms": answer.get("lag_worst_ms"),
            "lag_p99_ms": answer.get("lag_p99_ms"),
            "growth_bytes": answer.get("growth_bytes"),
            # What a row holds in memory doesn't depend on who else computes.
            "noisy": child.variant.kind != "memory" and stolen > max(NOISE_MS, self._plan.noise * elapsed),
        }

    def _batches(self, child: Child) -> dict[str, Any]:
        child.ask("batch 1")
        answer = child.ask(f"batch {self._plan.batches}")
        count = len(answer["wall_ms"])
        return answer | {
            "batches": count,
            "wall_ms": sum(answer["wall_ms"]) / count,
            "user_ms": answer["user_ms"] / count,
            "system_ms": answer["system_ms"] / count,
        }

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

    def _digest(self) -> str:
        url = f"{self._address.url}/{self._plan.size}/0"
        with urllib.request.urlopen(url, timeout=60) as response:
            return hashlib.file_digest(response, "sha256").hexdigest()

    def _others_ms(self, child: Child) -> float | None:
        """CPU time that neither the server nor this child has used; unknown with a server that isn't ours."""
        if self._address.pid is None or (busy := machine.busy_ms()) is None:
            return None
        return busy - machine.process_ms(self._address.pid) - machine.process_ms(child.pid)


def _row(variant: Variant) -> Row:
    return {
        "id": variant.id,
        "kind": variant.kind,
        "scenario": variant.scenario,
        "client": variant.client,
        "framing": variant.framing,
        "store": variant.store,
        "loop": variant.loop,
        "options": dict(variant.options),
        "unavailable": None,
        "samples": [],
    }
