"""What the comparison says of its rows: who loses to whom, what is added, and by how much."""

from collections.abc import Callable
from pathlib import Path

import pytest
from penstock.bench import page, report, rounds, sizes
from penstock.bench.results import Results, Row, Sample

from benches.cross import compare_report, rows, verdict

# The report draws, and that starts threads of its own.
pytest.importorskip("matplotlib.figure")


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


def test_a_floor_is_nobody_to_lose_to(row: Callable[..., Row], results: Callable[..., Results]) -> None:
    made = results(
        row("noop/asyncio/penstock dispatch", [20.0] * 3),
        row("noop/asyncio/futures by hand", [10.0] * 3),
        row("noop/asyncio/to_thread", [30.0] * 3),
    )
    tables = compare_report.tables({"parts": {"strategies": made}, "missing": {}})
    assert tables["compare-lost"] == compare_report.NOTHING
    assert [group.lost for group in report.groups(made["rows"])] == [False]


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


def test_markdowns_bars_and_emphasis_reach_the_page(tmp_path: Path) -> None:
    table = report.markdown(("a", "b"), [("**x**", "1 \\| 2"), ("`y`", "<3")])
    path, _ = page.write("A < B", [page.Section("One", "Text of `code`.", table)], tmp_path / "made")
    text = path.read_text()
    assert "<h1>A &lt; B</h1>" in text
    assert "<td><strong>x</strong></td><td>1 | 2</td>" in text
    assert "<td><code>y</code></td><td>&lt;3</td>" in text


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
