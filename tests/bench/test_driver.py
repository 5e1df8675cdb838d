"""Small runs with a client that needs nothing: what comes out, and what a row that fails leaves."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from penstock.bench import demo, machine, report
from penstock.bench.driver import Driver, Plan
from penstock.bench.progress import Progress
from penstock.bench.results import Kind, Results, Row
from penstock.bench.rounds import DebugBuildError, Variant

SCHEMA = Path(__file__).parents[2] / "benches" / "schema.json"
PLAN = Plan(rounds=2, warmup=1, batches=2, size=50_000, connections=2, held=5, held_size=50_000)


def variant(name: str, kind: Kind = "batch") -> Variant:
    factory = f"tests.bench.dummy:{name}"
    return Variant(f"ram/length/{name} {kind}", "ram", name, factory=factory, framing="length", kind=kind)


def run(*variants: Variant) -> list[Row]:
    return Driver([variants], PLAN).run(Progress())["rows"]


@pytest.fixture(scope="module")
def results() -> Results:
    """A run with a row of each kind, and one that can't be opened."""
    kinds: tuple[Kind, ...] = ("batch", "lag", "memory")
    rows = [*(variant("whole", kind) for kind in kinds), variant("missing")]
    return Driver([rows], PLAN, packages=("penstock", "no-such-package"), stores=[Path("/")]).run(Progress())


def test_every_round_gives_a_sample_of_its_kind(results: Results) -> None:
    batch, lag, memory, _ = results["rows"]
    for row in (batch, lag, memory):
        assert row["unavailable"] is None
        assert [sample["round"] for sample in row["samples"]] == [0, 1]
        assert all(sample["wall_ms"] > 0 and sample["rss_bytes"] > 0 for sample in row["samples"])
    assert [sample["batches"] for sample in batch["samples"]] == [2, 2]
    assert all(sample["lag_worst_ms"] is None and sample["growth_bytes"] is None for sample in batch["samples"])
    assert all(sample["lag_worst_ms"] is not None for sample in lag["samples"])
    assert all(sample["growth_bytes"] is not None for sample in memory["samples"])


def test_a_row_that_cannot_run_says_why_and_stops_no_other(results: Results) -> None:
    assert results["rows"][-1]["unavailable"] == "ImportError: no such client"
    assert results["rows"][-1]["samples"] == []


def test_results_follow_the_schema(results: Results) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(results, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**results, "more": 1}, schema)


def test_environment_leaves_out_what_is_not_installed(results: Results) -> None:
    assert list(results["environment"]["packages"]) == ["penstock"]
    assert results["environment"]["build_profile"] == "release"
    assert results["settings"]["server"] == "embedded"


def test_results_can_be_reported(results: Results) -> None:
    assert set(report.tables(results)) >= {"environment", "left-out"}


def test_a_row_in_two_sessions_goes_on_counting_its_rounds() -> None:
    both, one, other = variant("whole"), variant("whole", "lag"), variant("missing")
    rows = Driver([[both, one], [both, other]], PLAN).run(Progress())["rows"]
    assert [[sample["round"] for sample in row["samples"]] for row in rows] == [[0, 1, 2, 3], [0, 1], []]


def test_a_body_that_differs_from_the_one_sent_makes_no_row() -> None:
    (row,) = run(variant("forger"))
    assert row["unavailable"] == "a body differs from the one that the server sent"


def test_a_truncated_body_ends_the_row() -> None:
    (row,) = run(variant("truncating"))
    assert row["samples"] == []
    assert row["unavailable"] is not None
    assert "ValueError: read 49999 bytes" in row["unavailable"]


def test_a_program_that_is_no_row_says_how_it_ended() -> None:
    (row,) = run(Variant("floor/length/floor", "floor", "floor", command=("false",), framing="length"))
    assert row["unavailable"] == "ended with status 1"


def test_debug_builds_are_refused() -> None:
    with pytest.raises(DebugBuildError, match=r"'debug'.*make develop"):
        Driver([[variant("whole")]], PLAN, build_profile="debug")


def test_demo_shows_a_row_a_store_and_the_reason_for_none(results: Results) -> None:
    lag = results["rows"][1]
    shown = demo.table([{**lag, "scenario": "fs"}, {**results["rows"][-1], "id": "mmap"}]).splitlines()
    assert shown[0].split("  ")[-1] == "worst ms"
    assert "files" in shown[1]
    assert shown[2] == "mmap: ImportError: no such client"
    assert {len(line) for line in shown[:2]} == {len(shown[0])}


def test_demo_has_a_row_for_each_way_to_store(tmp_path: Path) -> None:
    assert [(each.id, each.kind) for each in demo.variants(tmp_path)] == [
        ("ram", "lag"),
        ("fs", "lag"),
        ("mmap", "lag"),
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's counts of a process are Linux's")
def test_each_write_is_counted_though_its_reader_may_be_woken_before() -> None:
    answering = "import os\nwhile os.read(0, 1): os.write(1, b'.')"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", answering], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as child:
        assert child.stdin
        assert child.stdout
        counts = []
        for _ in range(300):
            child.stdin.write(b"\n")
            assert child.stdout.read(1) == b"."
            counts.append(machine.counters(child.pid)["writes"])
        child.stdin.close()
    assert [count - counts[0] for count in counts] == list(range(300))


@pytest.mark.skipif(shutil.which("git") is None, reason="no git(1)")
def test_what_is_installed_has_no_commit_of_the_tree_that_it_lies_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=A", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    (tmp_path / "theirs").touch()
    for arguments in (["init", "--quiet"], ["add", "theirs"], ["commit", "--quiet", "--message", "Theirs"]):
        subprocess.run([*git, *arguments], check=True)
    ours = tmp_path / "machine.py"
    ours.touch()
    monkeypatch.setattr(machine, "__file__", str(ours))
    assert machine.commit() is None
    subprocess.run([*git, "add", ours.name], check=True)
    assert str(machine.commit()).endswith("+")
