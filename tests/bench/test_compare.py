"""The comparison of languages: which rows it has, that they measure what they say, and what a small run writes."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from penstock.bench import report, sizes
from penstock.bench.driver import Driver, Plan
from penstock.bench.progress import Progress
from penstock.bench.results import Results, Row
from penstock.bench.rounds import Pace

from benches.cross import (
    compare,
    compare_report,
    forwarding,
    published,
    rows,
    stores,
    swapping,
    tls,
    two_cpus,
)
from tests.conftest import ELSEWHERE

BENCHES = Path(__file__).parents[2] / "benches"
NAMES = ("floor", "blocking", "client", "client_mimalloc", "streams", "today", "core")
PROGRAMS = rows.Programs(*map(Path, NAMES))
NONE = rows.Programs(*[None] * 7)
STORES = {"ext4": Path("/on-disk"), "tmpfs huge": Path("/in-huge-pages")}

# The report draws, and that starts threads of its own.
pytest.importorskip("matplotlib.figure")


def clients_of(sessions: list, name: str) -> set[str]:
    return {row.client for session in sessions for row in session if row.id.startswith(f"{name}/")}


def test_each_table_has_both_languages() -> None:
    found = compare.sessions(PROGRAMS, STORES, Plan(rounds=1), quick=False)
    for work in ("noop", "expensive", "sleep"):
        assert clients_of(found["strategies"], work) >= {
            *("upstream direct", "upstream permit", "upstream dispatch_rx", "upstream spawn_blocking"),
            *("today's tokio direct", "penstock-core permit", "penstock-core dispatch"),
            *("penstock direct", "penstock permit", "penstock dispatch", "run_in_executor", "to_thread", "anyio"),
        }
        assert clients_of(found["semaphores"], f"permit {work}") >= {
            *("tokio", "futures-intrusive", "futures-intrusive, Sync", "penstock-core", "penstock permit"),
            *("penstock", "asyncio", "anyio", "aiologic", "penstock direct", "today's tokio direct"),
        }
    for shape in ("free", "contended", "cancelled"):
        assert clients_of(found["semaphores"], f"semaphore {shape}") >= {
            *("tokio", "futures-intrusive", "penstock-core", "penstock", "asyncio", "anyio", "aiologic"),
        }
    for threads in (4, 16, 40, 200):
        assert clients_of(found["queues"], f"queue, sleep x {threads}") == {
            *("crossbeam's channel", "deque, mutex, condvar", "penstock-core"),
        }
    for framing, store in (("length", "ext4"), ("chunked", "ext4"), ("length", "tmpfs huge")):
        for policy in ("direct", "permit", "dispatch"):
            for kind in ("fs", "mmap"):
                found_clients = clients_of(found["clients"], f"{kind}_{policy}/{framing}/{store}")
                assert found_clients >= {"upstream as published", rows.KEPT, rows.TODAY, rows.CORE, "penstock"}
    for policy, as_published in (("direct", True), ("permit", True), ("dispatch", False)):
        found_clients = clients_of(found["clients"], f"mmap_copy_{policy}/length/ext4")
        assert found_clients >= {rows.KEPT, rows.TODAY, rows.CORE, "penstock"}
        assert ("upstream as published" in found_clients) is as_published
    assert clients_of(found["clients"], "mmap_copy_dispatch/chunked/ext4") >= {"aiohttp tuned", "pyreqwest tuned"}
    assert clients_of(found["clients"], "stream") == {
        *("penstock", rows.CORE, rows.TODAY, "aiohttp naive", "aiohttp tuned", "pyreqwest naive", "pyreqwest tuned"),
    }
    assert clients_of(found["clients"], "ram") >= {"aiohttp tuned, MALLOC_ set", "pyreqwest tuned, MALLOC_ set"}


def test_rows_in_ram_are_measured_beside_those_in_files() -> None:
    for session in compare.sessions(PROGRAMS, STORES, Plan(rounds=1), quick=False)["clients"]:
        mapped = {row.id: row for row in session if row.id.startswith("mmap_direct/length/")}
        for client in ("penstock", "upstream as published", rows.KEPT):
            for store in {row.store for row in mapped.values()}:
                beside = {row.id: row for row in session if row.store == store and row.client == client}
                for scenario in ("ram", "ram_gather"):
                    row = beside[f"{scenario}/length/{store}/{client}"]
                    assert "/in-" not in " ".join(row.command) + str(row.options.get("store"))
    found = compare.sessions(PROGRAMS, STORES, Plan(rounds=1), quick=False)
    for part in found.values():
        ids = [row.id for session in part for row in session if row.scenario != report.FLOOR]
        assert len(set(ids)) == len(ids)
    assert not [row.id for session in found["tls"] for row in session if row.store and row.scenario == "TLS ram"]


def test_upstreams_own_ways_to_stream_have_its_rows_alone() -> None:
    found = compare.sessions(PROGRAMS, STORES, Plan(rounds=1), quick=False)["forwarding"]
    for policy in ("direct_ct", "dispatch1", "dispatch1_ql0", "dispatch1_ct", "dispatch1_ct_ql0"):
        assert clients_of(found, f"forward fs_{policy}/ext4") == {forwarding.SAMPLED, forwarding.WHOLE}
    assert clients_of(found, "forward fs_uni_direct/ext4") == {forwarding.SAMPLED, forwarding.WHOLE}
    assert clients_of(found, "forward ram_uni") == {forwarding.SAMPLED, forwarding.WHOLE}


@pytest.mark.parametrize("disk", ["xfs", "overlay"])
def test_a_disk_of_any_type_has_the_rows_of_files_on_disk(disk: str) -> None:
    def ids(name: str) -> list[str]:
        stores = {"tmpfs": Path("/in-shared-memory"), name: Path("/on-disk")}
        found = compare.sessions(PROGRAMS, stores, Plan(rounds=1), quick=True)
        return [row.id.replace(name, "ext4") for part in found.values() for session in part for row in session]

    assert ids(disk) == ids("ext4")


@pytest.mark.parametrize("quick", [True, False])
def test_every_way_of_both_languages_stands_beside_echoes(quick: bool) -> None:
    found = compare.sessions(PROGRAMS, STORES, Plan(rounds=1), quick)["strategies"]
    assert clients_of(found, "echo idle") == {"penstock direct", "tokio"}
    assert bool(clients_of(found, "echo beside noop")) is not quick
    for work in ("expensive", "sleep") if quick else ("noop", "expensive", "sleep"):
        alone = {"penstock native", "futures by hand", "6 threads by hand", "40 threads by hand"}
        assert clients_of(found, f"echo beside {work}") == clients_of(found, work) - alone
    rows_of = {row.id: row for session in found for row in session}
    upstream = rows_of["echo beside sleep/tokio/upstream permit"]
    assert (upstream.kind, upstream.command) == ("echo", ("blocking", "permit", "sleep", "echo", sys.executable))


def test_without_cargo_pythons_rows_are_left() -> None:
    found = compare.sessions(NONE, STORES, Plan(rounds=1), quick=False)
    assert not found["queues"]
    assert clients_of(found["strategies"], "sleep x8") >= {"penstock dispatch", "run_in_executor"}
    assert {row.loop for part in found.values() for session in part for row in session} == {"asyncio"}


def test_an_upstream_row_is_told_where_and_how() -> None:
    found = compare.sessions(PROGRAMS, STORES, Plan(rounds=1), quick=False)["clients"]
    commands = {row.id: row.command for session in found for row in session}
    assert commands["mmap_copy_permit/length/ext4/upstream as published"] == (
        *("client", "mmap_copy", "permit", "fresh", "sampled", "1", "0", "/on-disk"),
    )
    assert commands["ram_gather/chunked/upstream with mimalloc, client kept, all read"] == (
        *("client_mimalloc", "ram_gather", "direct", "shared", "whole", "1", str(8192 * 1025), "-"),
    )


def test_upstreams_crates_are_the_registrys_with_what_they_resolve_to() -> None:
    locked = tomllib.loads((BENCHES / "rust" / "upstream" / "Cargo.lock").read_text())["package"]
    versions = {each["name"]: each["version"] for each in locked if "crates.io-index" in each.get("source", "")}
    for name, version in {
        "blocking-permit": "1.3.",
        "body-image": "2.2.",
        "body-image-futio": "2.2.",
        "barc": "2.2.",
        "tokio": "1.12.",
        "hyper": "0.14.11",
        "httparse": "1.4.",
    }.items():
        assert versions[name].startswith(version)


def test_each_figure_that_upstream_published_has_a_row_in_its_table() -> None:
    found = compare.sessions(PROGRAMS, {**STORES, "tmpfs": Path("/in-shared-memory")}, Plan(rounds=1), quick=False)
    ids = {row.id for part in found.values() for session in part for row in session}
    for store, figures in published.CLIENT.items():
        for scenario in figures:
            where = "length" if store is None else f"length/{store}"
            assert f"{scenario}/{where}/upstream as published" in ids
    for name in published.BLOCKING:
        work, strategy = name.split()
        wrapped = f"permit {work}/tokio/futures-intrusive, Sync"
        assert (wrapped if strategy == "intrusive" else f"{work}/tokio/upstream {strategy}") in ids


def test_a_program_that_cannot_be_built_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    builds = compare.Builds()
    assert builds.all() == NONE
    assert builds.missing["rows of benches/rust/core, penstock-from-rust"] == "cargo is not installed"
    assert "building benches/rust/core" in capsys.readouterr().err


def test_a_store_that_cannot_be_mounted_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(stores, "MOUNT", ("sh", "-c", "echo not permitted >&2; exit 32", "mount"))
    with stores.opened(tmp_path, []) as found:
        assert found.missing[stores.HUGE].startswith("not permitted; run it as root")
        assert stores.HUGE not in found.directories
        directory = next(path for path in found.directories.values() if path.is_relative_to(tmp_path))
        assert directory.is_dir()
    assert not directory.exists()


@pytest.mark.needs_mount
def test_huge_pages_are_mounted_in_a_user_namespace_too(tmp_path: Path) -> None:
    looking = (
        "import sys; from pathlib import Path; from benches.cross import stores\n"
        "with stores.opened(Path(sys.argv[1]), []) as found:\n"
        "    where = str(found.directories[stores.HUGE])\n"
        "    print(*[line for line in Path('/proc/self/mountinfo').read_text().splitlines() if where in line])\n"
    )
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None:
        pytest.skip("unshare(1) is not installed")
    mounting = ["mount", "-t", "tmpfs", "-o", "huge=always", "none", str(tmp_path)]
    tried = subprocess.run([*namespace, *mounting], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"no mounts in a user namespace: {tried.stderr.strip()}")
    done = subprocess.run(
        [*namespace, sys.executable, "-c", looking, str(tmp_path)],
        cwd=BENCHES.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "huge=always" in done.stdout


def test_a_further_store_has_rows_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stores, "MOUNT", ("false",))
    monkeypatch.setattr(compare, "OUTPUT", tmp_path / "out")
    further = tmp_path / "further"
    further.mkdir()
    assert compare.main(["--list", "--store", str(further), "--rows", "^fs_permit/length/"]) == 0
    found = [row for row in capsys.readouterr().out.splitlines() if row.endswith("-further/penstock")]
    assert len(found) == 1


def test_further_stores_of_one_type_have_names_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(stores, "MOUNT", ("false",))
    further = [tmp_path / "one", tmp_path / "two"]
    for each in further:
        each.mkdir()
    with stores.opened(tmp_path, further) as found:
        placed = [path for path in found.directories.values() if path.is_relative_to(tmp_path)]
        assert sorted(path.parent for path in placed) == sorted([tmp_path, *further])
        assert not [name for name in found.directories if "/" in name]
        assert [name for name in found.directories if name.endswith(f"{tmp_path.name}-two")]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of few rows that need no program."""
    path = tmp_path_factory.mktemp("compared") / "compare.json"
    pattern = r"^noop/asyncio/(penstock (direct|dispatch)|run_in_executor)$|^semaphore free/asyncio/(penstock|asyncio)$"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        arguments = ["--quick", "--rounds", "1", "--noise", "1000", "--rows", pattern, "--json", str(path)]
        assert compare.main(arguments) == 0
    return path


def test_a_run_that_fails_keeps_the_parts_that_it_finished(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = compare.measure

    def failing(*args: Any) -> Iterator[tuple[str, Results]]:
        yield next(whole(*args))
        raise RuntimeError("the row failed")

    path = tmp_path / "compare.json"
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(compare, "measure", failing)
    pattern = "^noop/asyncio/penstock direct$|^semaphore free/asyncio/asyncio$"
    with pytest.raises(RuntimeError, match="the row failed"):
        compare.main(["--quick", "--rounds", "1", "--noise", "1000", "--rows", pattern, "--json", str(path)])
    kept = json.loads(path.read_text())
    assert list(kept["parts"]) == ["strategies"]
    assert kept["missing"]["semaphores"] == "the run ended before it"


def test_sessions_that_are_measured_anew_take_the_place_of_their_own(
    monkeypatch: pytest.MonkeyPatch, written: Path, tmp_path: Path
) -> None:
    path = tmp_path / "again.json"
    # It is the very file that the figures go to.
    shutil.copy(written, path)
    monkeypatch.setenv("PATH", "/nowhere")
    arguments = ["--quick", "--rounds", "2", "--noise", "1000", "--rows", "^semaphore free/asyncio/penstock$"]
    assert compare.main([*arguments, "--into", str(path), "--json", str(path)]) == 0
    before, after = (json.loads(each.read_text()) for each in (written, path))
    assert after["parts"]["strategies"] == before["parts"]["strategies"]
    rows = {row["id"]: len(row["samples"]) for row in after["parts"]["semaphores"]["rows"]}
    # The whole session has two rounds now, with rows that it hadn't.
    assert rows["semaphore free/asyncio/penstock"] == rows["semaphore free/asyncio/asyncio"] == 2
    assert "semaphore free/asyncio/anyio" in rows
    (what,) = after["missing"].keys() - before["missing"].keys()
    assert what.endswith(" rows of semaphores, by ^semaphore free/asyncio/penstock$, in the same run as the others")
    assert re.match(r"measured anew, started 20\d\d-.* at commit ", after["missing"][what])


def test_a_part_that_an_earlier_run_had_not_comes_into_it_and_the_reason_goes(
    row: Callable[..., Row], results: Callable[..., Results]
) -> None:
    part = results(row("noop/tokio/penstock", [10.0]))
    missing = {"semaphores": "the run ended before it", swapping.TITLE: "there is no swap", "a row": "not permitted"}
    earlier: Any = {"version": 1, "quick": False, "seconds": 60.0, "parts": {"queues": part}, "missing": missing}
    anew: Any = {**earlier, "parts": {"semaphores": part, "swapping": part}, "missing": {}}
    made = compare.put_into(earlier, anew, "")
    assert list(made["parts"]) == ["queues", "semaphores", "swapping"]
    assert missing.keys() - made["missing"].keys() == {"semaphores", swapping.TITLE}
    assert "1 rows of swapping, by no pattern, in the same run as the others" in made["missing"]


def follows_the_schema(comparison: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    referencing = pytest.importorskip("referencing")
    schema = referencing.Resource.from_contents(json.loads((BENCHES / "schema.json").read_text()))
    validator = jsonschema.Draft202012Validator(
        json.loads((BENCHES / "compare-schema.json").read_text()),
        registry=referencing.Registry().with_resource("schema.json", schema),
    )
    validator.validate(comparison)


def test_a_run_follows_the_schema(written: Path) -> None:
    comparison = json.loads(written.read_text())
    assert list(comparison["parts"]) == ["strategies", "semaphores"]
    follows_the_schema(comparison)


@pytest.mark.parametrize(("name", "quick", "minutes"), [("compare.json", False, 90), ("compare-again.json", True, 15)])
def test_a_published_run_follows_the_schema_and_took_no_longer_than_is_said(
    name: str, quick: bool, minutes: int
) -> None:
    comparison = json.loads((BENCHES / "results" / name).read_text())
    follows_the_schema(comparison)
    assert comparison["quick"] is quick
    assert set(compare.PARTS) - set(comparison["parts"]) <= {two_cpus.PART}
    assert 0 < comparison["seconds"] <= minutes * 60


@pytest.mark.parametrize("name", ["compare.json", "compare-again.json"])
def test_a_published_run_has_figures_or_a_reason_for_each_row(name: str) -> None:
    comparison = json.loads((BENCHES / "results" / name).read_text())
    for results in comparison["parts"].values():
        assert results["rows"]
        assert [row["id"] for row in results["rows"] if not (row["samples"] or row["unavailable"])] == []
    assert all(comparison["missing"].values())


def test_the_page_needs_nothing_beside_it(written: Path) -> None:
    text = written.with_suffix(".html").read_text()
    assert "<h2>Blocking work: noop</h2>" in text
    assert "<svg" in text
    assert "<strong>penstock dispatch</strong>" in text
    assert not re.search(r'(src|href)="(?!#)[^"]*"', re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL))


def test_the_markdown_has_its_pictures_beside_it(written: Path) -> None:
    text = written.with_suffix(".md").read_text()
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert pictures
    assert all((written.parent / picture).is_file() for picture in pictures)
    assert "| penstock from Python on 1 to 200 threads | what is exchanged there is the queue" in text


def test_a_report_is_made_anew_from_a_runs_json(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page_path = written.with_suffix(".html")
    before = page_path.read_text()
    page_path.unlink()
    assert compare.main(["--report", str(written)]) == 0
    assert page_path.read_text() == before
    assert capsys.readouterr().out.splitlines() == [str(page_path), str(written.with_suffix(".md"))]


def test_spilled_and_repeated_bodies_are_read_whole(tmp_path: Path) -> None:
    stores = {"ext4": tmp_path}
    sessions = list(rows.clients(NONE, stores, Plan(rounds=1), quick=True))
    wanted = [
        *("ram, 2 passes/length/ext4/penstock", "fs, 4 passes/length/ext4/penstock"),
        *("spill, 0 %/length/ext4/penstock", "spill, 10 %/length/ext4/penstock"),
    ]
    chosen = [row for row in sessions[-1] if row.id in wanted]
    plan = Plan(rounds=1, warmup=0, batches=1, size=50_000, connections=2, noise=1000.0)
    made = Driver([chosen], plan).run(Progress())
    assert {row["id"]: (row["unavailable"], len(row["samples"])) for row in made["rows"]} == dict.fromkeys(
        wanted, (None, 1)
    )


def test_streamed_bodies_are_read_whole() -> None:
    sessions = list(rows.clients(NONE, {}, Plan(rounds=1), quick=True))
    chosen = [row for row in sessions[0] if row.scenario == "stream" or row.client == "aiohttp tuned, MALLOC_ set"]
    plan = Plan(rounds=1, warmup=0, batches=1, size=50_000, connections=2, noise=1000.0)
    made = Driver([chosen], plan).run(Progress())
    assert [row["unavailable"] for row in made["rows"]] == [None] * 6


@pytest.mark.skipif(sys.platform != "linux", reason="calls are counted by /proc")
def test_writes_to_files_are_in_the_row(tmp_path: Path) -> None:
    wanted = ["fs_direct/chunked/ext4/penstock", "fs_direct/chunked/ext4/aiohttp naive"]
    sessions = rows.clients(NONE, {"ext4": tmp_path}, Plan(rounds=1), quick=False)
    chosen = [row for session in sessions for row in session if row.id in wanted]
    plan = Plan(rounds=1, warmup=0, batches=1, size=400_000, chunk=4096, connections=2, noise=1000.0)
    made = Driver([chosen], plan).run(Progress())
    writes = {row["client"]: [sample["writes"] for sample in row["samples"]] for row in made["rows"]}
    chunks = 2 * 400_000 / 4096
    # Ours gathers; who writes each piece that it gets, which has no more than some chunks in it, writes more often.
    assert 2 <= writes["penstock"][0] < chunks / 4
    assert writes["aiohttp naive"][0] > writes["penstock"][0]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl(1) to make a certificate with")
def test_under_tls_each_of_pythons_clients_trusts_the_server() -> None:
    plan = Plan(rounds=1, warmup=0, batches=1, size=50_000, connections=2, noise=1000.0)
    (session, *_) = tls.rows(rows.clients(NONE, {}, plan, quick=True), quick=True)
    chosen = [row for row in session if row.scenario == "TLS ram"]
    made = tls.Tls([chosen], plan).run(Progress())
    assert {row["client"].partition(" ")[0] for row in made["rows"]} == {
        *("penstock", "aiohttp", "httpx", "niquests", "pyreqwest"),
    }
    assert {row["id"]: row["unavailable"] for row in made["rows"] if row["unavailable"]} == {}


def test_streams_of_written_bodies_are_read_whole(tmp_path: Path) -> None:
    sessions = list(forwarding.rows(NONE, {"ext4": tmp_path}, quick=False))
    assert {row.scenario for row in sessions[0]} == {"forward ram", "forward ram_gather", "forward ram_gathered"}
    chosen = [row for session in sessions for row in session if "permit" not in row.scenario]
    made = forwarding.Forwarding([chosen], Pace(rounds=1, warmup=0, noise=1000.0, batches=1)).run(Progress())
    assert {row["id"]: row["unavailable"] for row in made["rows"]} == dict.fromkeys(row.id for row in chosen)
    assert all(sample["batches"] == forwarding.STREAMS for row in made["rows"] for sample in row["samples"])
    assert {row.client for row in chosen} == {"penstock", "Python's file", "to_thread"}


@pytest.mark.skipif(sys.platform != "linux", reason=f"{ELSEWHERE}: nothing is pinned")
def test_clients_have_two_cpus_as_well_where_there_is_a_third(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for usable, quick in (({3, 5}, False), ({3, 5, 8, 9}, True), ({3, 5, 8, 9}, False)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, found=usable: found)
        sessions = compare.sessions(PROGRAMS, STORES, Plan(rounds=1), quick)[two_cpus.PART]
        assert bool(sessions) is (len(usable) > 2 and not quick)
    assert two_cpus.cpus() == {5, 8}
    ours = {rows.KEPT, rows.TODAY, rows.CORE, "penstock"}
    others = {"aiohttp tuned", "pyreqwest tuned"}
    for policy in ("direct", "permit", "dispatch"):
        peers = others if policy == "dispatch" else set()
        assert clients_of(sessions, f"two CPUs: fs_{policy}/length/ext4") == ours | peers
    assert clients_of(sessions, "two CPUs: ram") == ours | others
    driver = two_cpus.TwoCpus(sessions, Plan(rounds=1))
    assert driver.cpus(sessions[0][0]) == {5, 8}
    assert (driver.settings()["server_cpus"], driver.settings()["client_cpus"]) == ([3], [5, 8])


@pytest.mark.parametrize(("cpus", "told"), [(2, True), (4, False)])
def test_without_a_third_cpu_it_is_said_that_clients_have_one(
    cpus: int, told: bool, row: Callable[..., Row], results: Callable[..., Results]
) -> None:
    made = results(row("ram/length/penstock", [10.0] * 3))
    made["environment"]["cpus"] = cpus
    missing = compare_report.tables({"parts": {"clients": made}, "missing": {}})["compare-missing"]
    assert (f"| {two_cpus.TITLE} | {two_cpus.NO_THIRD} |" in missing) is told


@pytest.mark.parametrize("cpus", [None, frozenset({1, 2})])
def test_how_long_a_run_takes_is_told_first(
    cpus: frozenset[int] | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(two_cpus, "cpus", lambda: cpus)
    for arguments, most in ((["--quick"], 15), ([], 90)):
        assert compare.main([*arguments, "--list"]) == 0
        said = capsys.readouterr()
        count, minutes, building = map(int, re.findall(r"(\d+) (?:rows|minutes|at most)", said.err))
        assert len(said.out.splitlines()) == count
        assert minutes + building <= most


def test_rows_that_joined_after_a_run_are_told(row: Callable[..., Row], results: Callable[..., Results]) -> None:
    found = compare.sessions(PROGRAMS, {"ext4": Path("/on-disk")}, Plan(rounds=1), quick=True)
    parts = {
        part: results(*(row(each.id, [], store=each.store) for session in sessions for each in session))
        for part, sessions in found.items()
    }
    comparison: Any = {"quick": True, "parts": parts}
    assert compare.joined(comparison) == "Every row that the comparison has by now is in this run."
    parts["queues"]["rows"] = [each for each in parts["queues"]["rows"] if " x 200/" not in each["id"]]
    parts["queues"]["rows"].append(row("noop/tokio/penstock", []))
    del parts["forwarding"]
    about, _, _, _, *lines = compare.joined(comparison).splitlines()
    assert about == compare.JOINED
    assert lines[0] == "| queues | 6: queue, noop x 200, queue, sleep x 200 | 1: noop: penstock |"
    assert lines[1].startswith("| forwarding | ")
    assert len(lines) == 2


def test_so_many_of_a_mixed_batch_are_above_the_limit() -> None:
    for spilled in rows.SPILLED:
        assert sum(size > sizes.limit(spilled) for size in sizes.mixed()) == spilled
    assert 15 << 20 < sum(sizes.mixed()) < 25 << 20
