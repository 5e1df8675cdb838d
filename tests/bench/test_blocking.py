"""Small runs of the rows of blocking work: what comes out, and that every way runs the same work."""

import asyncio
import json
import re
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Literal

import pytest
from penstock.bench import blocking, blocking_worker, strategies
from penstock.bench.progress import Progress
from penstock.bench.results import Results
from penstock.bench.rounds import DebugBuildError, Pace

from benches import blocking_report, blocking_targets, targets
from benches.python import blocking as command
from benches.python import native

BENCHES = Path(__file__).parents[2] / "benches"
SCHEMA = BENCHES / "schema.json"
PACE = Pace(rounds=1, warmup=0, noise=1000.0)
ROWS = (
    "noop/asyncio/penstock dispatch",
    "noop/asyncio/run_in_executor",
    "noop one by one/asyncio/penstock native",
    "noop x8/asyncio/to_thread",
    "noop/asyncio/futures by hand",
    "sleep/asyncio/6 threads by hand",
    "sleep 100 µs x 4/asyncio/penstock dispatch",
    "sleep 100 µs x 4/asyncio/run_in_executor",
    "in flight/asyncio/penstock dispatch",
    "semaphore free/asyncio/penstock",
    "semaphore contended/asyncio/asyncio",
    "semaphore cancelled/asyncio/penstock",
    "echo beside sleep/asyncio/penstock permit",
)
ALL = {row.id: row for session in blocking.sessions(blocking.LOOPS, Path("blocking")) for row in session}

# Whichever test is first in its process waits for the run.
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def results() -> Results:
    return blocking.Blocking([[ALL[name] for name in ROWS]], PACE).run(Progress())


def test_every_kind_of_row_gives_a_sample(results: Results) -> None:
    assert [(row["id"], row["unavailable"], len(row["samples"])) for row in results["rows"]] == [
        (name, None, 1) for name in ROWS
    ]
    for row in results["rows"]:
        (sample,) = row["samples"]
        assert sample["wall_ms"] > 0
        # There is a lag wherever a loop can be late.
        assert (sample["lag_p99_ms"] is None) == row["scenario"].startswith("semaphore")
    echo = results["rows"][-1]["samples"][0]
    # 200 connections that ask every 50 ms for 0.3 s; a busy machine may spare some.
    assert 200 <= echo["batches"] <= 1200
    assert echo["lag_p50_ms"] <= (echo["lag_p99_ms"] or 0)


def test_results_follow_the_schema(results: Results) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(results, json.loads(SCHEMA.read_text()))


def test_results_are_shown_as_lines_and_as_tables(results: Results) -> None:
    lines = blocking_report.lines(results)
    assert lines[0].startswith("test noop_asyncio_penstock_dispatch ")
    assert " ns/iter (+/- 0); loop lag p99 " in lines[0]
    assert "; round trip p99 " in lines[-1]
    tables = blocking_report.tables(results)
    assert "| noop, asyncio | **penstock dispatch** | " in tables["blocking-matrix"]
    assert "| noop, asyncio | a job, wall µs |  |  | " in tables["blocking-policies"]
    assert "| echo beside sleep, asyncio | round trip, p99 ms |  | " in tables["blocking-policies"]
    assert "| sleep 100 µs x 4, asyncio | " in tables["blocking-lead"]
    assert "| in flight, asyncio | **penstock dispatch** | " in tables["blocking-fairness"]
    assert "| semaphore contended, asyncio | asyncio | " in tables["blocking-semaphores"]
    assert "| echo beside sleep, asyncio | **penstock permit** | " in tables["blocking-echo"]
    assert "| noop, asyncio: 10 times cheaper | CPU | < 0.1 | " in tables["blocking-targets"]
    assert "| noop, asyncio: futures by hand | CPU | < 0.0833 | " in tables["blocking-floors"]
    # A run in which nothing loses has no such table.
    assert "by hand" not in tables.get("blocking-lost", "")


def test_where_the_lead_ends_is_told_of_sleeps_that_get_longer_only(results: Results) -> None:
    rows = results["rows"]
    others = [{**row, "id": row["id"].replace("noop/", "sleep x8/"), "scenario": "sleep x8"} for row in rows[:2]]
    lead = blocking_report.tables({**results, "rows": [*others, *rows]})["blocking-lead"]  # type: ignore[list-item]
    assert "| sleep 100 µs x 4, asyncio | " in lead
    assert "sleep x8" not in lead


def test_the_command_prints_lines_where_the_lead_ends_the_echoes_and_the_targets(results: Results) -> None:
    lines, *tables = command.shown(results, targets.MIN_ITERATIONS).split("\n\n")
    assert lines == "\n".join(blocking_report.lines(results))
    made = blocking_report.tables(results)
    assert tables == [made[f"blocking-{name}"] for name in ("lead", "echo", "targets")]


def test_a_row_that_loses_is_named_with_its_winner(results: Results) -> None:
    ours, theirs = results["rows"][:2]
    slow = {**ours, "samples": [{**ours["samples"][0], "wall_ms": theirs["samples"][0]["wall_ms"] * 2}]}
    lost = blocking_report.tables({**results, "rows": [slow, theirs]})["blocking-lost"]  # type: ignore[list-item]
    assert "| noop, asyncio | run_in_executor | wall | 2.00 |" in lost


def test_every_target_names_rows_that_exist() -> None:
    for target in [*blocking_targets.TARGETS, *blocking_targets.FLOORS]:
        assert target.row in ALL
        if isinstance(target, targets.Ratio):
            assert target.base in ALL


def test_echoes_are_judged_beside_every_way_that_is_measured() -> None:
    for loop in blocking.LOOPS:
        for name in ("echo beside expensive", "echo beside sleep"):
            ours = f"{name}/{loop}/penstock dispatch"
            judged = {
                target.base
                for target in blocking_targets.TARGETS
                if isinstance(target, targets.Ratio) and target.row == ours
            }
            assert judged | {ours} == {row_id for row_id in ALL if row_id.startswith(f"{name}/{loop}/")}


def test_the_matrix_has_every_strategy_for_every_work_on_every_loop() -> None:
    for loop in blocking.LOOPS:
        for work in ("noop", "expensive", "sleep", "noop x8", "expensive x8", "sleep x8"):
            clients = {row_id.rpartition("/")[2] for row_id in ALL if row_id.startswith(f"{work}/{loop}/")}
            assert clients >= {f"penstock {ours}" for ours in ("direct", "permit", "dispatch")}
            assert clients >= {"run_in_executor", "to_thread", "anyio"}


@pytest.mark.asyncio
@pytest.mark.parametrize("strategy", strategies.STRATEGIES)
async def test_every_strategy_runs_the_work(strategy: str) -> None:
    with strategies.STRATEGIES[strategy](2, 1) as bind:
        run = bind()
        for work in ("noop", "expensive", "sleep", "sleep 100 µs"):
            results = await asyncio.gather(*[run(*job) for job in strategies.jobs(work, 3, strategy)])
            assert results == [100 if work == "expensive" else None] * 3


def test_all_sleep_the_same() -> None:
    first, *others = (
        [delay for _, delay in strategies.jobs("sleep", 200, strategy)] for strategy in strategies.STRATEGIES
    )
    assert all(other == first for other in others)
    assert set(first) == {delay / 1e6 for delay in strategies.DELAYS}


def test_programs_sleep_as_long_as_pythons_rows() -> None:
    text = (BENCHES / "rust" / "protocol" / "src" / "work.rs").read_text()
    (listed,) = re.findall(r"const SLEEPS: \[u64; 200\] = \[(.*?)\];", text, re.DOTALL)
    jobs, _ = blocking.WORKS["sleep"]
    assert [int(each) / 1e6 for each in re.findall(r"\d+", listed)] == [
        delay for _, delay in strategies.jobs("sleep", jobs, "to_thread")
    ]


@pytest.mark.asyncio
@pytest.mark.parametrize("steps", [0, 3])
async def test_waiters_are_cancelled_once_all_of_them_wait(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Even where a loop takes several turns to begin with them."""
    waiting = cancelled = 0

    class Counting(asyncio.Semaphore):
        async def acquire(self) -> Literal[True]:
            nonlocal waiting, cancelled
            if self._value:
                return await super().acquire()
            waiting += 1
            try:
                return await super().acquire()
            except asyncio.CancelledError:
                cancelled += waiting == 50
                raise

    create = asyncio.create_task

    async def later(work: Coroutine[Any, Any, None]) -> None:
        for _ in range(steps):
            await asyncio.sleep(0)
        await work

    monkeypatch.setattr(asyncio, "create_task", lambda work: create(later(work)))
    await blocking_worker.take_in_vain(Counting(4), 4, 50)
    assert (waiting, cancelled) == (50, 50)


def test_debug_builds_are_refused() -> None:
    with pytest.raises(DebugBuildError, match="make develop"):
        blocking.Blocking([], PACE, build_profile="debug")


def test_a_program_that_cannot_be_built_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(native.Unavailable, match="cargo is not installed"):
        native.build("floor", "penstock-floor")
    assert command.upstream() is None
    assert capsys.readouterr().err == "upstream's Rust is skipped: cargo is not installed\n"
