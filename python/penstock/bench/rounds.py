"""Processes that measure, one a row, and the interleaved rounds in which each has its turn.

Each row is a process of its own that lives for a whole session (`penstock.bench.worker`, or a native program that
speaks its protocol), pinned. A round asks every row once, in an order shuffled anew, so that what drifts (clocks,
caches, neighbours) meets all alike and rows can be compared by round. What rows exist, how they are started and what is
asked of them is for the subclasses of `Rounds` to say: `penstock.bench.driver` for downloads, the repository's benches
for blocking work.
"""

import datetime
import json
import random
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import penstock
from penstock.bench import machine
from penstock.bench.progress import Progress
from penstock.bench.results import Framing, Kind, Option, Results, Row, Sample, Settings

# Others' share of a turn is not looked at below this: /proc/stat counts in ticks of 10 ms.
NOISE_MS = 30.0


class DebugBuildError(RuntimeError):
    """Figures of an unoptimised build would mislead whoever reads them."""


class RowError(RuntimeError):
    """A row's process ended or answered what it must not."""


@dataclass(frozen=True)
class Variant:
    """One row to be: a Python factory or the command of a native program; `reads` is false where none reads bodies.

    In a mixed row the bodies of a batch are of the sizes that `penstock.bench.sizes` has. `wrapper` is the command that
    starts it, such as env(1) with variables.
    """

    id: str
    scenario: str
    client: str
    factory: str = ""
    command: tuple[str, ...] = ()
    options: Mapping[str, Option] = field(default_factory=dict)
    framing: Framing | None = "chunked"
    store: str | None = None
    loop: str = "asyncio"
    kind: Kind = "batch"
    reads: bool = True
    mixed: bool = False
    wrapper: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pace:
    """How often each row has its turn."""

    rounds: int
    warmup: int = 2
    batches: int = 3
    seed: int = 1
    # A turn is noisy when others used the CPU for this share of its time.
    noise: float = 0.12


class Child:
    """The process of one row, and what it said last."""

    def __init__(self, variant: Variant, command: Sequence[str], cpus: frozenset[int] | None) -> None:
        self.variant = variant
        # Processes that it has started, whose work is its own.
        self.helpers: list[int] = []
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        with machine.pinned(cpus):
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
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

    def batches(self, count: int) -> dict[str, Any]:
        """Of `count` batches, the means."""
        return self.means(f"batch {count}")

    def means(self, command: str) -> dict[str, Any]:
        """Of the batches that a command runs, the means."""
        answer = self.ask(command)
        count = len(answer["wall_ms"])
        return answer | {
            "batches": count,
            "wall_ms": sum(answer["wall_ms"]) / count,
            "user_ms": answer["user_ms"] / count,
            "system_ms": answer["system_ms"] / count,
            **request_figures(answer.get("request_ms", [])),
        }

    def _failure(self) -> RowError:
        """What a dead process left: the last line of its traceback."""
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return RowError(lines[-1] if lines else f"ended with status {status}")


def request_figures(batches: list[list[float]]) -> dict[str, float]:
    """Of the milliseconds of single requests, by batch: their p99, and how far apart they end."""
    times = sorted(time for batch in batches for time in batch)
    if not times:
        return {}
    return {
        "request_p99_ms": times[len(times) * 99 // 100],
        "request_spread_ms": sum(max(batch) - min(batch) for batch in batches) / len(batches),
    }


class Rounds(ABC):
    """One run: `run()` starts the rows, and ends them.

    Rows run in sessions, one after the other, so that not all processes exist at once. Rows that are to be compared
    belong in one session; a row may be in several (the floor is), and its rounds go on counting.
    """

    def __init__(
        self,
        sessions: Sequence[Sequence[Variant]],
        pace: Pace,
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
        self._pace = pace
        self._packages = packages
        self._stores = stores

    def run(self, progress: Progress) -> Results:
        pace = self._pace
        rows = {variant.id: _row(variant) for session in self._sessions for variant in session}
        shuffler = random.Random(pace.seed)
        started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        progress.expect(sum(map(len, self._sessions)) * (pace.warmup + pace.rounds))
        with self.prepared():
            for number, session in enumerate(self._sessions):
                with ExitStack() as stack:
                    children = []
                    for variant in session:
                        progress.say(f"opening {variant.id}")
                        child = Child(variant, [*self.wrapper(variant), *self.command(variant)], self.cpus(variant))
                        children.append((stack.enter_context(child), rows[variant.id]))
                    self._session(children, number * pace.rounds, shuffler, progress)
        progress.end()
        return {
            "version": 1,
            "started": started,
            "environment": machine.environment(self._packages, self._stores),
            "settings": self.settings(),
            "rows": list(rows.values()),
        }

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Around all sessions."""
        yield

    def wrapper(self, variant: Variant) -> tuple[str, ...]:
        """What its command is started by."""
        return variant.wrapper

    @abstractmethod
    def command(self, variant: Variant) -> list[str]:
        """What starts the row's process."""

    @abstractmethod
    def cpus(self, variant: Variant) -> frozenset[int] | None:
        """Where it runs."""

    def settings(self) -> Settings:
        """How the run is done, without what only a subclass knows."""
        pace = self._pace
        return {
            "rounds": pace.rounds,
            "warmup": pace.warmup,
            "batches": pace.batches,
            "seed": pace.seed,
            "noise": pace.noise,
            "client_cpus": None,
        }

    def open(self, child: Child) -> None:
        """Waits until it can be measured."""
        child.answer()

    def warm(self, child: Child) -> dict[str, Any]:
        """A batch that isn't timed, before those that are: others' turns have cooled this row's memory. It may give
        figures that looking for would disturb a timed batch."""
        child.ask("batch 1")
        return {}

    @abstractmethod
    def measure(self, child: Child) -> dict[str, Any]:
        """One turn: the figures of a sample."""

    def helpers(self) -> list[int] | None:
        """Processes that work for all rows; None where some aren't of this machine, so that noise can't be told."""
        return []

    def _session(
        self, children: list[tuple[Child, Row]], first: int, shuffler: random.Random, progress: Progress
    ) -> None:
        """Rounds of all rows, in which each has its turn; a row that fails has no more."""
        for child, row in children:
            try:
                self.open(child)
            except RowError as error:
                row["unavailable"] = str(error)
        for number in range(-self._pace.warmup, self._pace.rounds):
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

    def _turn(self, child: Child, number: int) -> Sample:
        """One row's turn, with a look at what else used the machine meanwhile."""
        others = self._others_ms(child)
        start = time.perf_counter()
        answer = self.measure(child)
        elapsed = (time.perf_counter() - start) * 1000
        after = self._others_ms(child)
        stolen = after - others if others is not None and after is not None else 0.0
        sample: Sample = {
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
            "noisy": child.variant.kind != "memory" and stolen > max(NOISE_MS, self._pace.noise * elapsed),
        }
        for name in sorted(Sample.__optional_keys__ & answer.keys()):
            sample[name] = answer[name]  # type: ignore[literal-required]
        return sample

    def _others_ms(self, child: Child) -> float | None:
        """CPU time that neither this child nor whoever works for it has used."""
        helpers, busy = self.helpers(), machine.busy_ms()
        if helpers is None or busy is None:
            return None
        return busy - sum(machine.process_ms(pid) for pid in (child.pid, *child.helpers, *helpers))


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
