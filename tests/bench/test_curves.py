"""How costs grow, and what presses a process for memory: fits of made-up curves, a small run, and refusals."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock.bench import server, variants
from penstock.bench.driver import Plan
from penstock.bench.progress import Progress
from penstock.bench.results import Results, Row, Sample

from benches.cross import cgroups, compare_report, curves, findings, pressure, rows, swapping

# Drawing starts threads of its own, which are not to be taken for a leak of the test that draws first.
pytest.importorskip("matplotlib.figure")

NONE = rows.Programs(*[None] * 7)
PROGRAMS = rows.Programs(*map(Path, ("floor", "blocking", "client", "client_mimalloc", "streams", "today", "core")))


def test_a_line_has_one_exponent_and_no_knee() -> None:
    fitted = curves.fit([(x, 3 * x**1.5) for x in (1, 2, 8, 64, 256, 1024)])
    assert fitted.knee is None
    assert fitted.before == fitted.after == pytest.approx(1.5)


def test_a_fixed_cost_and_one_that_grows_meet_in_a_knee() -> None:
    fitted = curves.fit([(x, 100.0 + x) for x in (1, 4, 16, 1024, 4096, 65536, 1 << 20)])
    assert fitted.before == pytest.approx(0.0, abs=0.1)
    assert fitted.after == pytest.approx(1.0, abs=0.1)
    assert fitted.knee is not None
    assert 16 <= fitted.knee <= 1024


def test_each_curve_has_upstream_and_both_of_ours() -> None:
    found = [row for session in curves.rows(PROGRAMS, quick=True) for row in session]
    assert {row.client for row in found} == {"penstock", rows.CORE, rows.KEPT, curves.PEER}
    spans = {"size": (1 << 10, 256 << 20), "concurrency": (1, 1000), "chunk": (64, 1 << 20)}
    for curve, (first, last) in spans.items():
        numbers = [int(row.scenario.split()[1]) for row in found if row.scenario.startswith(f"{curve} ")]
        assert (min(numbers), max(numbers)) == (first, last)
    assert (rows.QUEUE_THREADS[0], rows.QUEUE_THREADS[-1]) == (1, 200)


def test_a_point_is_measured_with_its_own_size_number_and_chunk() -> None:
    found = {
        row.scenario: row for session in curves.rows(NONE, quick=False) for row in session if row.client == "penstock"
    }
    wanted = ["size 1024", "concurrency 4", "chunk 64"]
    plan = Plan(rounds=1, warmup=0, batches=1, noise=1000.0)
    driver = curves.Curves([[found[name] for name in wanted]], plan)
    plans = [driver.planned(found[name]) for name in wanted]
    assert [(each.size, each.connections, each.chunk) for each in plans] == [
        (1024, 2, plan.chunk),
        (65536, 4, plan.chunk),
        (1 << 20, 16, 64),
    ]
    made = driver.run(Progress())
    assert [(row["unavailable"], len(row["samples"])) for row in made["rows"]] == [(None, 1)] * 3
    assert made["rows"][0]["samples"][0]["batches"] == curves.BATCHES


def test_curves_stand_on_the_page_with_their_exponents(
    row: Callable[..., Row], results: Callable[..., Results]
) -> None:
    points = [row(f"size {number}/length/penstock", [number / 100.0] * 3) for number in curves.SIZES]
    sections = compare_report.sections({"curves": results(*points)}, {})
    section = next(each for each in sections if each.title.startswith("How costs grow: size of a body"))
    assert "| penstock | 10.2 to 2,684,355 |  | none | 1.00 |" in section.table
    assert section.figure is not None


def test_bodies_of_twice_the_limit_are_all_kept_before_any_is_read() -> None:
    plan = swapping.planned(Plan(rounds=20))
    assert plan.size * plan.connections == 2 * swapping.LIMIT
    stores = {"ext4": Path("/on-disk"), "tmpfs": Path("/in-shared-memory"), "tmpfs huge": Path("/in-huge-pages")}
    made = swapping.rows(PROGRAMS, stores)
    assert {row.client for row in made} == {
        *(
            f"{client}, {place}"
            for client in ("penstock", rows.CORE, swapping.UPSTREAM)
            for place in ("in RAM", "files on tmpfs", "files on ext4")
        ),
        "penstock, in RAM up to the budget",
    }
    for row in made:
        if row.command:
            assert row.command[1 + (row.command[1] == "client")] in ("ram_together", "fs_together")
            assert "dispatch" in row.command
        else:
            assert (row.options["together"], row.options["policy"]) == (plan.connections, "dispatch")


@pytest.mark.asyncio
async def test_bodies_that_are_kept_together_are_read_after_the_last_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    get = penstock.Client.get

    async def counted(self: penstock.Client, url: str) -> Any:
        response = await get(self, url)
        events.append("kept")
        return response

    monkeypatch.setattr(penstock.Client, "get", counted)
    with server.running(1000, 0) as address:
        async with variants.open_client("ram", policy="direct", together=3) as fetch:
            for _ in range(2):
                await asyncio.gather(*[fetch(address.url, lambda _: events.append("read")) for _ in range(3)])
    assert events == (["kept"] * 3 + ["read"] * 3) * 2


@pytest.mark.asyncio
async def test_a_body_is_mapped_once_however_often_it_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mapped = 0
    taken: list[Any] = []
    to_mmap = penstock.BodyImage.to_mmap

    async def counted(image: penstock.BodyImage) -> penstock.BodyImage:
        nonlocal mapped
        mapped += image.state == "file"
        return await to_mmap(image)

    monkeypatch.setattr(penstock.BodyImage, "to_mmap", counted)
    with server.running(1000, 0) as address:
        async with variants.open_client("mmap", policy="direct", store=str(tmp_path), passes=4) as fetch:
            await fetch(address.url, taken.append)
    assert (mapped, [len(view) for view in taken]) == (1, [1000])


@pytest.mark.parametrize(("faults", "verdict"), [(37000.0, "reproduced"), (2.0, "not measured")])
def test_what_had_room_tells_nothing_of_swapping(
    row: Callable[..., Row],
    sample: Callable[..., Sample],
    results: Callable[..., Results],
    faults: float,
    verdict: str,
) -> None:
    def pressed(place: str, milliseconds: float) -> Row:
        samples = [
            sample(number, milliseconds, major_faults=faults, peak_bytes=128 << 20, peak_swap_bytes=147 << 20)
            for number in range(3)
        ]
        return row(f"pressure/penstock, {place}", [], framing=None, samples=samples)

    parts = {"swapping": results(pressed("in RAM", 20.0), pressed("files on tmpfs", 10.0))}
    judged = {each.claim.rpartition(", ")[2]: each.verdict for each in findings.findings(parts)}
    assert judged["penstock's client: tmpfs ÷ RAM"] == verdict
    table = compare_report.tables({"parts": parts, "missing": {}})["compare-swapping"]
    assert f"| {faults:.0f} | 128 | 147 |" in table


def test_what_is_not_permitted_says_what_was_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    groups = cgroups.Groups(tmp_path / "nowhere", 2)
    with pytest.raises(cgroups.NotPermitted, match=r"a cgroup, .*: No such file"), groups.made("0", 1):
        pass
    monkeypatch.setattr(cgroups, "OWN", tmp_path / "no-cgroup")
    with pytest.raises(cgroups.NotPermitted, match="in no cgroup that controls memory"):
        cgroups.groups()
    monkeypatch.setattr(pressure, "SWAPS", tmp_path / "swaps")
    pressure.SWAPS.write_text("Filename\n")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(cgroups.NotPermitted, match=r"no zramctl\(8\)"), pressure.swap():
        pass
    pressure.SWAPS.write_text("Filename\n/dev/sda2\n")
    with pressure.swap() as there_is:
        assert there_is == "the machine's"


@pytest.mark.skipif(sys.platform != "linux", reason="cgroups are Linux's")
def test_a_rows_process_enters_its_cgroup_before_it_begins(tmp_path: Path) -> None:
    """With a file in the place of a cgroup's list of processes."""
    procs = tmp_path / "cgroup.procs"
    group = cgroups.Group(tmp_path, cgroups.FILES[2])
    command = [*group.entering, sys.executable, "-c", "import os; print(os.getpid())"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert procs.read_text() == done.stdout


def test_fits_need_no_rounds_in_common(row: Callable[..., Row]) -> None:
    made = {number: row(f"chunk {number}/chunked/x", [1000.0 / number]) for number in (1, 2, 4, 8)}
    assert "-1.00" in curves.table("chunk", {"x": made})
    assert curves.table("chunk", {"x": {1: made[1]}}) == ""
