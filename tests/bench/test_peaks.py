"""What rows hold in memory: as a cgroup of their own counts it, and as it is said where they have none."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from penstock.bench import figures, machine
from penstock.bench.driver import Plan
from penstock.bench.progress import Progress
from penstock.bench.results import Results, Row
from penstock.bench.rounds import Variant

from benches.cross import cgroups, compare_report, memory, stores
from tests.conftest import ELSEWHERE

# The report draws, and that starts threads of its own.
pytest.importorskip("matplotlib.figure")

SCHEMA = Path(__file__).parents[2] / "benches" / "schema.json"
MIB = 1 << 20
PLAN = Plan(rounds=2, warmup=0, batches=1, size=50_000, connections=2, noise=1000.0)
# 32 MiB of its own, and 64 in each file.
HOLDER = """
import sys
held = bytearray(b"x") * (32 << 20)
for path in sys.argv[1:]:
    with open(path, "wb") as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def group() -> Iterator[cgroups.Group]:
    with ExitStack() as stack:
        try:
            group = stack.enter_context(cgroups.groups().made("tested"))
        except cgroups.NotPermitted as reason:
            pytest.skip(f"{ELSEWHERE}: {reason}")
        yield group


def variant(name: str = "whole") -> Variant:
    return Variant(f"ram/length/{name}", "ram", name, factory=f"tests.bench.dummy:{name}", framing="length")


def test_what_a_cgroup_holds_is_without_the_cache_of_files_but_with_tmpfs(group: cgroups.Group, tmp_path: Path) -> None:
    if machine.file_system(tmp_path) == "tmpfs":
        pytest.skip(f"{ELSEWHERE}: {tmp_path} is no disk")
    shared = stores.SHARED_MEMORY / f"{tmp_path.name}-held"
    command = [*group.entering, sys.executable, "-c", HOLDER, str(tmp_path / "file"), str(shared)]
    try:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            held, usage = group.held(), int((group.path / group.files.usage).read_text())
            process.communicate()
    finally:
        shared.unlink(missing_ok=True)
    # The interpreter is some MiB more.
    assert 96 * MIB <= held < 126 * MIB
    assert usage - held > 60 * MIB


def test_each_turn_of_a_row_has_a_peak_of_its_cgroup(group: cgroups.Group) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    rounds = memory.Clients([[variant(), variant("truncating")]], PLAN)
    made = rounds.run(Progress())
    (whole, truncating) = made["rows"]
    assert [sample["peak_bytes"] > MIB for sample in whole["samples"]] == [True, True]
    # A row that fails in its turn is left out for its own reason.
    assert truncating["unavailable"] is not None
    assert "ValueError: read 49999 bytes" in truncating["unavailable"]
    assert made["settings"].get("peak_by") == "cgroup"
    assert rounds.refused is None
    jsonschema.validate(made, json.loads(SCHEMA.read_text()))
    assert [each.name for each in group.path.parent.glob(f"{group.path.name.removesuffix('tested')}*")] == [
        group.path.name
    ]


def test_rows_with_a_limit_have_a_peak_in_swap_too(group: cgroups.Group, monkeypatch: pytest.MonkeyPatch) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    monkeypatch.setattr(memory.Clients, "limit", 64 * MIB)
    limits = []
    held = cgroups.Group.held

    def seen(of: cgroups.Group) -> int:
        limits.append(int((of.path / of.files.limit).read_text()))
        return held(of)

    monkeypatch.setattr(cgroups.Group, "held", seen)
    made = memory.Clients([[variant()]], PLAN).run(Progress())
    assert [sample["peak_swap_bytes"] >= 0 for sample in made["rows"][0]["samples"]] == [True, True]
    assert set(limits) == {64 * MIB}
    jsonschema.validate(made, json.loads(SCHEMA.read_text()))


@pytest.mark.parametrize(
    ("files", "swapped"),
    [
        ({"memory.stat": "cache 1\nswap 4096\n"}, 4096),
        ({"memory.stat": "file 1\n", "memory.swap.current": "8192\n"}, 8192),
        ({"memory.stat": "file 1\n"}, 0),
    ],
)
def test_what_is_in_swap_is_told_by_either_version(tmp_path: Path, files: dict[str, str], swapped: int) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert cgroups.Group(tmp_path, cgroups.FILES[2]).swapped() == swapped


def test_rows_with_a_limit_do_not_run_without_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cgroups, "OWN", tmp_path / "no-cgroup")
    with pytest.raises(cgroups.NotPermitted, match="in no cgroup"):
        memory.Swapping([[variant()]], PLAN).run(Progress())


def test_without_cgroups_the_peak_is_of_resident_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cgroups, "OWN", tmp_path / "no-cgroup")
    rounds = memory.Clients([[variant()]], PLAN)
    made = rounds.run(Progress())
    assert made["rows"][0]["unavailable"] is None
    assert [("peak_bytes" in sample, sample["rss_bytes"] > 0) for sample in made["rows"][0]["samples"]] == [
        (False, True)
    ] * 2
    assert made["settings"].get("peak_by") == "rss"
    assert rounds.refused is not None
    assert rounds.refused.startswith("this process is in no cgroup that controls memory; the tables have the peak of")


def test_a_page_says_which_peak_its_tables_have(
    row: Callable[..., Row], sample: Callable[..., object], results: Callable[..., Results]
) -> None:
    counted = row("ram/length/penstock", [], samples=[sample(0, 10.0, peak_bytes=77 * MIB)])
    assert figures.peak(counted) == 77 * MIB
    clients, work = results(counted), results(row("noop/asyncio/penstock direct", [10.0]))
    clients["settings"]["peak_by"] = "cgroup"
    reading, *others = compare_report.sections({"clients": clients, "strategies": work}, {})
    assert "`peak MiB` is, of clients, the most that the cgroup of the row's process held" in reading.text
    assert "it is looked at every 2 ms while a batch runs that isn't timed" in reading.text
    assert "`peak MiB` is, of blocking work, the most memory that was resident" in reading.text
    assert any(" | 77 |" in section.table for section in others)
