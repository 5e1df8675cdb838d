"""The comparison of languages: which rows it has, what a small run writes, and what is said of who loses."""

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
from penstock.bench import page, report, rounds, sizes
from penstock.bench.driver import Driver, Plan
from penstock.bench.progress import Progress
from penstock.bench.results import Results, Row, Sample
from penstock.bench.rounds import Pace

from benches.cross import (
    compare,
    compare_report,
    findings,
    forwarding,
    published,
    revisions,
    rows,
    stores,
    tls,
    two_cpus,
    verdict,
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
    monkeypatch.setenv("PATH", "/nowhere")
    arguments = ["--quick", "--rounds", "2", "--noise", "1000", "--rows", "^semaphore free/asyncio/penstock$"]
    assert compare.main([*arguments, "--into", str(written), "--json", str(path)]) == 0
    before, after = (json.loads(each.read_text()) for each in (written, path))
    assert after["parts"]["strategies"] == before["parts"]["strategies"]
    rows = {row["id"]: len(row["samples"]) for row in after["parts"]["semaphores"]["rows"]}
    # The whole session has two rounds now, with rows that it hadn't.
    assert rows["semaphore free/asyncio/penstock"] == rows["semaphore free/asyncio/asyncio"] == 2
    assert "semaphore free/asyncio/anyio" in rows
    (what,) = after["missing"].keys() - before["missing"].keys()
    assert what.endswith(" rows of semaphores, by ^semaphore free/asyncio/penstock$, in the same run as the others")
    assert re.match(r"measured anew, started 20\d\d-.* at commit ", after["missing"][what])


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


def test_losses_are_told_with_the_best_other(row: Callable[..., Row]) -> None:
    ours = row("fs_direct/length/ext4/penstock", [20.0, 22.0, 21.0])
    group = report.groups(
        [
            ours,
            row("fs_direct/length/ext4/upstream as published", [10.0, 11.0, 10.5], loop="tokio"),
            row("fs_direct/length/ext4/aiohttp tuned", [15.0, 16.0, 15.5]),
            row("fs_direct/length/ext4/aiohttp naive", [40.0, 41.0, 40.5]),
        ]
    )
    loss = verdict.losses(group)[0]
    assert (loss.ours, loss.winner, loss.winners) == ("penstock", "upstream as published (Rust)", 2)
    assert loss.times.median == pytest.approx(2.0)
    assert not verdict.losses(report.groups([ours, row("fs_direct/length/ext4/aiohttp", [40.0, 41.0, 40.5])]))


def test_echoes_of_both_languages_are_held_against_each_other(
    row: Callable[..., Row], results: Callable[..., Results], sample: Callable[..., Sample]
) -> None:
    def echoes(client: str, loop: str, p99: float) -> Row:
        lags = {"lag_p50_ms": p99 / 4, "lag_p99_ms": p99, "lag_worst_ms": p99 * 2}
        samples = [sample(number, 1.0, **lags) for number in range(3)]
        return row(f"echo beside sleep/{loop}/{client}", [], kind="echo", framing=None, loop=loop, samples=samples)

    parts = {"strategies": results(echoes("penstock direct", "asyncio", 8.0), echoes("upstream direct", "tokio", 0.5))}
    lost = compare_report.tables({"parts": parts, "missing": {}})["compare-lost"]
    assert "| echo beside sleep | penstock direct | round trip p99 | upstream direct (Rust) | 16.00" in lost
    (table,) = [
        each.table for each in compare_report.sections(parts, {}) if each.title == "Blocking work: beside echoes"
    ]
    assert "| echo beside sleep | upstream direct (Rust) | 0.125 (0.125 to 0.125) | 0.5 (0.5 to 0.5) | 1 |" in table


def test_semaphores_lose_to_semaphores_and_not_to_doing_without(
    row: Callable[..., Row], results: Callable[..., Results]
) -> None:
    rows = [
        row("permit noop/penstock permit", [20.0, 22.0, 21.0], scenario="permit, noop"),
        row("permit noop/futures-intrusive", [10.0, 11.0, 10.5], scenario="permit, noop"),
        row("permit noop/penstock direct", [1.0, 1.1, 1.05], scenario="permit, noop"),
    ]
    lost = compare_report.tables({"parts": {"semaphores": results(*rows)}, "missing": {}})["compare-lost"]
    assert "| penstock permit | wall | futures-intrusive | 2.00" in lost
    assert "penstock direct" not in lost


def test_a_permit_is_told_by_what_it_adds_to_the_same_jobs_of_its_language(
    row: Callable[..., Row], results: Callable[..., Results]
) -> None:
    jobs = {"scenario": "permit, noop"}
    made = results(
        row("permit noop/asyncio/penstock permit", [20.0] * 3, **jobs),
        row("permit noop/asyncio/penstock direct", [12.0] * 3, **jobs),
        row("permit noop/tokio/tokio", [5.0] * 3, loop="tokio", **jobs),
        row(f"permit noop/tokio/{rows.DIRECT}", [4.0] * 3, loop="tokio", **jobs),
    )
    (table,) = [each.table for each in compare_report.sections({"semaphores": made}, {}) if "Semaphores" in each.title]
    added = {line.split(" | ")[1]: line.split(" | ")[-2] for line in table.splitlines()[2:]}
    assert added == {
        "**penstock permit**": "8 CPU, 10 wall",
        "**penstock direct**": "",
        "tokio (Rust)": "1 CPU, 1.2 wall",
        f"{rows.DIRECT} (Rust)": "",
    }


def test_clients_lose_to_those_that_read_every_byte_and_are_held_against_upstreams(
    row: Callable[..., Row], results: Callable[..., Results]
) -> None:
    made = results(
        row("fs_direct/length/ext4/penstock", [20.0] * 3),
        row("fs_direct/length/ext4/upstream as published", [5.0] * 3, loop="tokio"),
        row(f"fs_direct/length/ext4/{rows.KEPT}", [10.0] * 3, loop="tokio"),
    )
    lost = compare_report.tables({"parts": {"clients": made}, "missing": {}})["compare-lost"]
    assert f"| penstock | wall | {rows.KEPT} (Rust) | 2.00 [2.00, 2.00] | 1 |" in lost
    assert "as published" not in lost
    held = {row["client"]: base["client"] for row, base in compare_report.held_against("clients", made)}
    assert held == {"penstock": rows.KEPT, "upstream as published": rows.KEPT}


def test_a_rate_is_of_the_bytes_that_a_batch_has(row: Callable[..., Row], results: Callable[..., Results]) -> None:
    seconds = 0.125
    made = results(
        row("ram/length/penstock", [seconds * 800]),
        row("spill, 1 %/length/ext4/penstock", [seconds * 800]),
    )
    tables = {each.title: each for each in compare_report.sections({"clients": made}, {}) if "Clients" in each.title}
    assert "| 1.00 (8.0) |" in tables["Clients: RAM, length"].table
    mixed = sum(sizes.mixed()) / seconds / 2**30
    spilling = tables["Clients: spilling, ext4, length"]
    assert f"| {mixed:.2f} ({mixed * 8:.1f}) |" in spilling.table
    assert "of 8 MiB" not in spilling.text


def test_what_has_a_length_stands_before_chunks(row: Callable[..., Row], results: Callable[..., Results]) -> None:
    made = results(
        *(
            row(f"fs_{policy}/{framing}/{store}/penstock", [10.0] * 3)
            for framing in ("chunked", "length")
            for store in ("ext4", "tmpfs")
            for policy in ("direct", "permit", "dispatch")
        )
    )
    titles = [each.title for each in compare_report.sections({"clients": made}, {}) if "Clients" in each.title]
    places = [f"{store}, {framing}" for store in ("ext4", "tmpfs") for framing in ("length", "chunked")]
    assert titles == [f"Clients: {place}" for place in places]
    lines = verdict.costs(made["rows"]).splitlines()[2:]
    assert [line.split(": ")[0] for line in lines] == [
        f"| fs, {framing}, {store}" for framing in ("length", "chunked") for store in ("ext4", "tmpfs")
    ]


def test_policies_are_held_against_direct(row: Callable[..., Row]) -> None:
    made = [
        row(f"fs_{policy}/length/ext4/penstock", [each] * 3)
        for policy, each in (("direct", 10.0), ("permit", 11.0), ("dispatch", 9.0))
    ]
    assert verdict.costs(made).splitlines()[-1] == (
        "| fs, length, ext4: penstock | 1.10 [1.10, 1.10] | 1.10 [1.10, 1.10] | 0.90 [0.90, 0.90] | 0.90 [0.90, 0.90] |"
    )
    assert verdict.costs(made[:2]) == ""


def test_published_figures_stand_beside_the_same_experiment(
    row: Callable[..., Row], results: Callable[..., Results]
) -> None:
    made = results(
        row("fs_direct/length/ext4/upstream as published", [10.0], loop="tokio"),
        row("fs_direct/length/ext4/penstock", [10.0]),
        row("ram/length/upstream as published", [10.0], loop="tokio"),
    )
    (files, ram) = [each for each in compare_report.sections({"clients": made}, {}) if "Clients" in each.title][::-1]
    assert " | 120 | " in files.table or " | 120 | " in ram.table
    assert " | 58.5 | " in files.table + ram.table


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


def test_markdowns_bars_and_emphasis_reach_the_page(tmp_path: Path) -> None:
    table = report.markdown(("a", "b"), [("**x**", "1 \\| 2"), ("`y`", "<3")])
    path, _ = page.write("A < B", [page.Section("One", "Text of `code`.", table)], tmp_path / "made")
    text = path.read_text()
    assert "<h1>A &lt; B</h1>" in text
    assert "<td><strong>x</strong></td><td>1 | 2</td>" in text
    assert "<td><code>y</code></td><td>&lt;3</td>" in text


def test_each_of_upstreams_findings_is_named_where_nothing_was_measured_too() -> None:
    found = findings.findings({})
    assert {each.verdict for each in found} == {"not measured"}
    for claim in (
        "Direct is fastest, upstream's client",
        "Permits reduce variance, upstream's client: permit ÷ direct, spread of a batch's requests",
        "Permits reduce variance, upstream's client: permit ÷ direct, p99 of requests",
        "dispatch_rx beats spawn_blocking on sleeps",
        "futures-intrusive's semaphore is much worse on sleeps",
        "crossbeam's channel is slower",
        "With huge pages a mapping is nearly free, upstream's client",
        "Spilling 1 % of the bodies costs next to nothing, upstream's client",
        "Cooperative swapping: short of memory, bodies do better in tmpfs than in RAM, upstream's client",
    ):
        assert len([each for each in found if each.claim.startswith(claim)]) == 1


@pytest.mark.parametrize("disk", ["ext4", "xfs"])
def test_findings_are_of_files_on_a_disk_of_any_type(
    disk: str, row: Callable[..., Row], results: Callable[..., Results]
) -> None:
    made = results(
        row(f"fs_direct/length/{disk}/penstock", [10.0] * 3),
        row(f"fs_permit/length/{disk}/penstock", [12.0] * 3),
        row(f"spill, 0 %/length/{disk}/penstock", [10.0] * 3),
        row(f"spill, 1 %/length/{disk}/penstock", [10.1] * 3),
    )
    judged = {each.claim.partition(":")[0]: each for each in findings.findings({"clients": made})}
    assert judged["Direct is fastest, penstock's client"].seen == "1.20 [1.20, 1.20]"
    assert judged["Spilling 1 % of the bodies costs next to nothing, penstock's client"].verdict == "reproduced"
    spills = compare_report.tables({"parts": {"clients": made}, "missing": {}})["compare-spills"]
    assert f"| {disk} | penstock | 1.01 [1.01, 1.01] | 1.01 [1.01, 1.01] |" in spills


def test_a_finding_is_judged_by_the_side_of_its_ratios(
    row: Callable[..., Row], results: Callable[..., Results]
) -> None:
    made = results(
        row("sleep/tokio/upstream direct", [10.0] * 3, loop="tokio"),
        row("sleep/tokio/upstream permit", [12.0] * 3, loop="tokio"),
        row("sleep/tokio/upstream dispatch_rx", [9.0] * 3, loop="tokio"),
        row("sleep/tokio/upstream spawn_blocking", [15.0] * 3, loop="tokio"),
    )
    judged = {each.claim.partition(":")[0]: each for each in findings.findings({"strategies": made})}
    direct = judged["Direct is fastest, upstream's blocking work"]
    assert (direct.seen, direct.verdict) == ("0.90 to 1.50 (3 ratios)", "reproduced in 2 of 3, the contrary in 1")
    dispatch = judged["dispatch_rx beats spawn_blocking on sleeps"]
    assert (dispatch.seen, dispatch.verdict) == ("0.60 [0.60, 0.60]", "reproduced")
    assert judged["With huge pages a mapping beats gathering, upstream's client"].verdict == "not measured"


@pytest.mark.parametrize(
    ("milliseconds", "verdict"),
    [
        ([80.0, 80.0, 80.0], "reproduced"),
        ([13.0, 13.0, 13.0], "reproduced, but not in its size"),
        ([9.0, 9.0, 9.0], "not reproduced"),
        ([9.0, 10.0, 11.0], "not reproduced: no difference is seen"),
        ([80.0, 80.0], "not measured"),
    ],
)
def test_a_finding_has_a_size(
    row: Callable[..., Row], results: Callable[..., Results], milliseconds: list[float], verdict: str
) -> None:
    made = results(
        row("permit sleep/tokio/tokio", [10.0] * 3, loop="tokio"),
        row("permit sleep/tokio/futures-intrusive, Sync", milliseconds, loop="tokio"),
    )
    found = findings.findings({"semaphores": made})
    assert [each.verdict for each in found if each.claim.startswith("futures-intrusive")] == [verdict]


LEVEL = "Its Sync wrapper costs nothing measurable"
NEARLY_FREE = "With huge pages a mapping is nearly free, penstock's client"


@pytest.mark.parametrize(
    ("multiples", "verdict"),
    [
        ([0.98, 1.0, 1.02], "reproduced"),
        # Wide, but all of it is on one side of 1.
        ([1.10, 1.22, 1.73], "not reproduced"),
        ([1.01, 1.06, 1.20], "not reproduced"),
        ([0.70, 0.80, 0.90], "not reproduced"),
        # 1 is in it, and so is a quarter more.
        ([0.99, 1.08, 1.25], "not told: the interval is too wide"),
    ],
)
def test_what_costs_nothing_has_to_be_near_to_nothing(
    row: Callable[..., Row], results: Callable[..., Results], multiples: list[float], verdict: str
) -> None:
    made = results(
        row("permit sleep/tokio/futures-intrusive", [10.0] * 3, loop="tokio"),
        row("permit sleep/tokio/futures-intrusive, Sync", [10.0 * each for each in multiples], loop="tokio"),
    )
    assert [each.verdict for each in findings.findings({"semaphores": made}) if each.claim.startswith(LEVEL)] == [
        verdict
    ]


def test_one_narrow_ratio_is_not_hidden_by_a_wide_one(row: Callable[..., Row], results: Callable[..., Results]) -> None:
    def spilled(store: str, multiples: list[float]) -> list[Row]:
        return [
            row(f"spill, 0 %/length/{store}/penstock", [10.0] * 3),
            row(f"spill, 1 %/length/{store}/penstock", [10.0 * each for each in multiples]),
        ]

    made = results(*spilled("ext4", [1.10, 1.22, 1.73]), *spilled("tmpfs", [0.9, 1.2, 1.6]))
    found = [each for each in findings.findings({"clients": made}) if each.claim.startswith("Spilling") and each.ratios]
    assert [each.verdict for each in found] == ["not reproduced: the contrary in 1 of 2"]
    assert "| 1.0036 | 1.20 to 1.22 (2 ratios) |" in findings.table({"clients": made})


@pytest.mark.parametrize(
    ("multiples", "verdict"),
    [
        ([0.70, 0.89, 0.98], "reproduced"),
        ([1.30, 1.36, 1.45], "reproduced"),
        ([1.05, 1.36, 1.60], "not told: the interval is too wide"),
        ([1.60, 1.70, 1.80], "not reproduced"),
    ],
)
def test_what_is_nearly_free_may_cost_less_and_not_much_more(
    row: Callable[..., Row], results: Callable[..., Results], multiples: list[float], verdict: str
) -> None:
    made = results(
        row("ram/length/tmpfs huge/penstock", [10.0] * 3),
        row("mmap_direct/length/tmpfs huge/penstock", [10.0 * each for each in multiples]),
    )
    judged = {each.claim.partition(":")[0]: each.verdict for each in findings.findings({"clients": made})}
    assert judged[NEARLY_FREE] == verdict


def test_rows_of_different_sessions_make_no_finding(row: Callable[..., Row], results: Callable[..., Results]) -> None:
    made = results(row("ram/length/penstock", [10.0] * 3), row("mmap_direct/length/tmpfs huge/penstock", [10.0] * 3))
    judged = {each.claim.partition(":")[0]: each.verdict for each in findings.findings({"clients": made})}
    assert judged[NEARLY_FREE] == "not measured"


def test_single_requests_have_a_p99_and_a_spread() -> None:
    assert rounds.request_figures([[3.0, 1.0, 2.0], [6.0, 2.0, 4.0]]) == {
        "request_p99_ms": 6.0,
        "request_spread_ms": 3.0,
    }
    assert rounds.request_figures([[], []]) == {}


def test_what_spilling_costs_is_a_multiple_of_keeping_all(
    row: Callable[..., Row], results: Callable[..., Results], sample: Callable[..., Sample]
) -> None:
    def spilled(name: str, milliseconds: float, peak: int) -> Row:
        samples = [sample(number, milliseconds, peak_bytes=peak << 20) for number in range(3)]
        return row(f"spill, {name} %/length/ext4/penstock", [], samples=samples)

    made = results(spilled("0", 10.0, 40), spilled("1", 10.1, 40), spilled("10", 13.0, 30))
    head, _, *lines = verdict.spills(made, ("ext4", "tmpfs"), ("penstock", "upstream")).splitlines()
    assert head == (
        "| files on | client | 1 %: CPU | 1 %: wall | 1 %: peak memory | 10 %: CPU | 10 %: wall | 10 %: peak memory |"
    )
    assert lines == [
        "| ext4 | penstock | 1.01 [1.01, 1.01] | 1.01 [1.01, 1.01] | 1.00 [1.00, 1.00] | 1.30 [1.30, 1.30] "
        "| 1.30 [1.30, 1.30] | 0.75 [0.75, 0.75] |"
    ]


def test_penstocks_core_spills_in_the_summary_too(row: Callable[..., Row], results: Callable[..., Results]) -> None:
    made = [row(f"spill, {spilled} %/length/ext4/{rows.CORE}", [10.0] * 3) for spilled in rows.SPILLED]
    table = compare_report.tables({"parts": {"clients": results(*made)}, "missing": {}})["compare-spills"]
    # Without a cgroup there is no peak.
    assert (
        table.splitlines()[2] == f"| ext4 | {rows.CORE} | {'1.00 [1.00, 1.00] | 1.00 [1.00, 1.00] |  | ' * 2}".strip()
    )


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
    assert compare.joined(comparison) == "None."
    parts["queues"]["rows"] = [each for each in parts["queues"]["rows"] if " x 200/" not in each["id"]]
    parts["queues"]["rows"].append(row("noop/tokio/penstock", []))
    del parts["forwarding"]
    lines = compare.joined(comparison).splitlines()[2:]
    assert lines[0] == "| queues | 6: queue, noop x 200, queue, sleep x 200 | 1: noop: penstock |"
    assert lines[1].startswith("| forwarding | ")
    assert len(lines) == 2


def test_so_many_of_a_mixed_batch_are_above_the_limit() -> None:
    for spilled in rows.SPILLED:
        assert sum(size > sizes.limit(spilled) for size in sizes.mixed()) == spilled
    assert 15 << 20 < sum(sizes.mixed()) < 25 << 20


def test_rows_that_moved_are_told_and_others_are_not(row: Callable[..., Row], results: Callable[..., Results]) -> None:
    made = results(
        row("fs_direct/length/ext4/penstock/now", [12.0, 12.1, 12.2], client="now"),
        row("fs_direct/length/ext4/penstock/base", [10.0, 10.1, 10.2], client="base"),
        row("ram/length/penstock/now", [10.0, 10.2, 10.1], client="now"),
        row("ram/length/penstock/base", [10.1, 10.0, 10.1], client="base"),
    )
    lines = revisions.moved(made).splitlines()[2:]
    assert [line.partition(" | 1.")[0] for line in lines] == [
        "| fs_direct/length/ext4/penstock | CPU",
        "| fs_direct/length/ext4/penstock | wall",
    ]


def test_the_bases_rows_run_with_the_bases_package(tmp_path: Path) -> None:
    found = list(revisions.sessions(tmp_path, Plan(rounds=1), Path("/the/base")))
    driver = Driver(found, Plan(rounds=1))
    (now, base) = found[0][:2]
    assert (now.wrapper, base.wrapper) == ((), ("env", "PYTHONPATH=/the/base"))
    assert driver.command(base) == driver.command(now)


@pytest.mark.skipif(shutil.which("git") is None, reason="no git(1)")
def test_the_base_is_built_from_its_own_tree_and_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tree, target = tmp_path / "tree", tmp_path / "target"
    for each in (tree, target):
        each.mkdir()
    source = tree / "source"
    source.write_text("as it was")
    git = ["git", "-C", str(tree), "-c", "user.name=A", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "As it was"]):
        subprocess.run([*git, *arguments], check=True)
    source.write_text("as it is")
    ran = []

    def run(*command: str, cwd: Path) -> None:
        """Of maturin a wheel that is the source, and of pip what is in the wheel."""
        ran.append(command[0])
        if command[0] == "maturin":
            wheels = Path(command[-1])
            wheels.mkdir()
            shutil.copy(cwd / "source", wheels / "made.whl")
        else:
            site = Path(command[command.index("--target") + 1])
            site.mkdir()
            shutil.copy(command[-1], site / "source")

    monkeypatch.setattr(revisions, "ROOT", tree)
    monkeypatch.setattr(revisions, "BUILT", target / "base")
    monkeypatch.setattr(revisions, "_run", run)
    site = revisions.build("HEAD")
    assert (site / "source").read_text() == "as it was"
    assert revisions.build("HEAD") == site
    assert ran == ["maturin", sys.executable]
