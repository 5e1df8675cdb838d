"""The native programs of the benchmarks, each run as its rows are, once; `make test-programs` builds them.

What they read they check themselves: a row that fails has its reason.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from penstock.bench import driver
from penstock.bench.blocking import Blocking
from penstock.bench.driver import Driver, Plan
from penstock.bench.progress import Progress
from penstock.bench.rounds import Pace, Rounds, Variant

from benches import archive_targets
from benches.cross import compare, forwarding, rows, swapping, tls
from benches.python import archives
from tests.conftest import check_traced

ROOT = Path(__file__).parents[2]
PACE = Pace(rounds=1, warmup=0, batches=1, noise=1000.0)
PLAN = Plan(rounds=1, warmup=0, batches=1, size=50_000, connections=2, noise=1000.0)


def built(folder: str, program: str) -> Path:
    return ROOT / "target" / folder / "debug" / program


PROGRAMS = rows.Programs(*(built(*each) for each in compare.PROGRAMS))
ARCHIVES = {
    client: built(folder, "archive")
    for client, folder in (
        (archive_targets.UPSTREAM, "upstream"),
        (archive_targets.CORE, "core"),
        (archive_targets.BY_HAND, "floor"),
    )
}


def up_to_date(program: Path) -> bool:
    """By the list of what it is made of, which cargo keeps beside it."""
    if not program.exists():
        return False
    _, _, sources = program.with_suffix(".d").read_text().partition(": ")
    # Spaces within a name have a backslash before them.
    paths = [Path(each.replace("\\ ", " ")) for each in re.split(r"(?<!\\) ", sources.strip())]
    return all(path.exists() and path.stat().st_mtime <= program.stat().st_mtime for path in paths)


pytestmark = pytest.mark.skipif(
    not all(map(up_to_date, (*vars(PROGRAMS).values(), *ARCHIVES.values()))),
    reason="the native programs of the benchmarks aren't built as they are now: make test-programs",
)


def chosen(sessions: Iterable[Iterable[Variant]], pattern: str) -> list[Variant]:
    """The rows of programs whose id has it, each once."""
    programs = set(map(str, vars(PROGRAMS).values()))
    found = {row.id: row for session in sessions for row in session if re.search(pattern, row.id)}
    return [row for row in found.values() if row.command and row.command[0] in programs]


def run(rounds: Rounds, count: int) -> None:
    made = rounds.run(Progress())["rows"]
    assert {row["id"]: row["unavailable"] for row in made if row["unavailable"]} == {}
    assert [len(row["samples"]) for row in made] == [1] * count


@pytest.mark.parametrize(
    ("part", "pattern", "count"),
    [
        ("strategies", "^noop/", 8),
        ("strategies", "^expensive/", 8),
        ("strategies", "^sleep/", 8),
        ("strategies", "^echo beside sleep/.*(upstream|penstock-core) permit$", 2),
        ("semaphores", "^permit noop/", 5),
        ("semaphores", "^semaphore (free|contended)/", 8),
        # Who is cancelled before he waits ends the program.
        ("semaphores", "^semaphore cancelled/", 4),
        ("queues", "^queue, (noop x 4|sleep x 200)/", 6),
    ],
)
def test_each_way_to_do_work_does_it(part: str, pattern: str, count: int) -> None:
    of_part = {
        "strategies": lambda: rows.strategies(PROGRAMS, False),
        "semaphores": lambda: rows.semaphores(PROGRAMS),
        "queues": lambda: rows.queues(PROGRAMS),
    }
    run(Blocking([chosen(of_part[part](), pattern)], PACE), count)


@pytest.mark.parametrize(
    ("client", "count"), [(rows.PUBLISHED, 11), (rows.KEPT, 16), (rows.MIMALLOC, 12), (rows.TODAY, 13), (rows.CORE, 17)]
)
def test_each_client_reads_what_was_sent_however_it_keeps_it(
    client: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "MIXED_BATCHES", 1)
    sessions = rows.clients(PROGRAMS, {"ext4": tmp_path}, PLAN, quick=False)
    ways = r"(ram|ram_gather|stream)/length|(fs|mmap|mmap_copy)_\w+/length/ext4|fs_dispatch/chunked/ext4"
    more = r"\w+, 2 passes/length/ext4|spill, 10 %/length/ext4"
    run(Driver([chosen(sessions, f"^({ways}|{more})/{re.escape(client)}$")], PLAN), count)


def test_the_floor_receives_what_was_sent() -> None:
    run(Driver([chosen(rows.clients(PROGRAMS, {}, PLAN, quick=True), "^floor/")], PLAN), 2)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl(1) to make a certificate with")
def test_under_tls_each_client_in_rust_trusts_the_server() -> None:
    sessions = tls.rows(rows.clients(PROGRAMS, {}, PLAN, quick=True), quick=True)
    run(tls.Tls([chosen(sessions, "^TLS ")], PLAN), 5)


@pytest.mark.parametrize(("client", "count"), [(forwarding.SAMPLED, 18), (forwarding.WHOLE, 5), (rows.CORE, 11)])
def test_each_stream_reads_what_was_written(
    client: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "STREAMS", 1)
    sessions = forwarding.rows(PROGRAMS, {"ext4": tmp_path}, quick=False)
    ways = r"ram\w*|fs_direct" if client == forwarding.WHOLE else r"\w+"
    pattern = f"^forward ({ways})(/ext4)?/{re.escape(client)}$"
    run(forwarding.Forwarding([chosen(sessions, pattern)], PACE), count)


def test_bodies_that_are_kept_together_are_read_in_rust_too(tmp_path: Path) -> None:
    found = swapping.rows(PROGRAMS, {"ext4": tmp_path, "tmpfs": tmp_path})
    run(Driver([chosen([found], "^pressure/")], PLAN), 6)


def test_archives_are_read_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"small": (20, 16_384), "large": (2, 300_000), "huge": (1, 1_000_000)}
    monkeypatch.setattr(archives, "SIZES", sizes)
    monkeypatch.setattr(archives, "HUGE", 1_000_000)
    folder = tmp_path / "archives"
    found = list(archives.sessions([folder], {client: (str(program),) for client, program in ARCHIVES.items()}))
    run(archives.Archives(found, PACE, [folder]), sum(map(len, found)))


@pytest.mark.skipif(sys.platform != "linux", reason="calls are looked at by strace")
def test_both_languages_sleep_by_the_same_call(tmp_path: Path) -> None:
    if (strace := shutil.which("strace")) is None:
        pytest.skip("strace is not installed")
    trace = tmp_path / "trace"
    program = [str(PROGRAMS.core), "blocking", "direct", "sleep", "200", "4"]
    for command in (program, [sys.executable, "-S", "-c", "import time; input(); time.sleep(12e-6)"]):
        tracing = [strace, "-f", "-o", str(trace), "-e", "trace=nanosleep,clock_nanosleep"]
        done = subprocess.run([*tracing, *command], input="batch 1\n", capture_output=True, text=True, check=False)
        check_traced(done)
        assert set(re.findall(r" (\w+)\(", trace.read_text())) == {"clock_nanosleep"}
