"""Tables and pictures from made-up results."""

from collections.abc import Callable
from pathlib import Path

import pytest
from penstock.bench import report
from penstock.bench.results import Results, Row

from benches.python import run

Make = Callable[..., Row]


@pytest.fixture
def made(row: Make, results: Callable[..., Results]) -> Results:
    lag = row("lag/chunked/tmpfs/penstock", [50.0] * 3, kind="lag")
    memory = row("held/chunked/tmpfs/penstock", [900.0] * 3, kind="memory")
    for number, sample in enumerate(lag["samples"]):
        sample["lag_worst_ms"] = 1.0 + number
        sample["lag_p99_ms"] = 0.5
    for number, sample in enumerate(memory["samples"]):
        sample["growth_bytes"] = (100 + number) * 1024 * 1024
    noisy = row("ram/chunked/httpx naive", [300.0] * 4)
    noisy["samples"][2]["noisy"] = True
    return results(
        row("floor/chunked/floor", [30.0] * 4),
        row("floor/length/floor", [20.0] * 4),
        row("ram/chunked/penstock", [36.0] * 4),
        row("ram/chunked/by hand", [30.0] * 4),
        row("ram/chunked/aiohttp tuned", [72.0] * 4),
        noisy,
        row("ram/length/penstock", [50.0] * 4),
        row("ram/length/pyreqwest naive", [40.0] * 4),
        row("fs_permit/chunked/tmpfs/penstock", [60.0] * 4, loop="penstock"),
        row("fs_direct/chunked/tmpfs/penstock", [], unavailable="ImportError: no | such client"),
        lag,
        memory,
    )


def test_what_is_lost_comes_first_and_the_cheapest_first_within(made: Results) -> None:
    assert report.tables(made)["ram"].splitlines() == [
        "| scenario | client | CPU ms | ÷ floor | wall ms | ÷ floor | ÷ by hand | peak MiB | batches |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| ram, length | pyreqwest naive | 40.0 (40.0 to 40.0) | 1.60 | 50.0 (50.0 to 50.0) | 2.00 |  | 64 | 40 |",
        "| ram, length | **penstock** | 50.0 (50.0 to 50.0) | 2.00 | 62.5 (62.5 to 62.5) | 2.50 |  | 64 | 40 |",
        "| ram, chunked | by hand | 30.0 (30.0 to 30.0) | 0.80 | 37.5 (37.5 to 37.5) | 1.00 |  | 64 | 40 |",
        "| ram, chunked | **penstock** | 36.0 (36.0 to 36.0) | 0.96 | 45.0 (45.0 to 45.0) | 1.20 | 1.20 | 64 | 40 |",
        "| ram, chunked | aiohttp tuned | 72.0 (72.0 to 72.0) | 1.92 | 90.0 (90.0 to 90.0) | 2.40 | 2.40 | 64 | 40 |",
        "| ram, chunked | httpx naive | 300.0 (300.0 to 300.0) | 8.00 | 375.0 (375.0 to 375.0) | 10.00 "
        "| 10.00 | 64 | 30 |",
    ]


def test_rows_are_held_against_the_same_way_to_store_by_hand() -> None:
    assert report.by_hand("ram_gather", "chunked", None, False) == "ram/chunked/by hand"
    assert report.by_hand("fs_dispatch", "length", "ext4", False) == "fs_direct/length/ext4/by hand"
    assert report.by_hand("mmap_copy_permit", "chunked", "tmpfs", True) == "mmap_direct/chunked/tmpfs/by hand, recycled"


def test_other_tables(made: Results) -> None:
    tables = report.tables(made)
    assert "| fs_permit, chunked, tmpfs | **penstock (penstock loop)** | 60.0 " in tables["files"]
    assert "| lag, chunked, tmpfs | **penstock** | 3.0 | 2.0 (0.3 to 13.0) | 0.5 (0.5 to 0.5) |" in tables["lag"]
    assert "| held, chunked, tmpfs | **penstock** | 102 | 101 |" in tables["memory"]
    assert "| ram/chunked/httpx naive | 1 of 4 rounds: the machine was busy |" in tables["left-out"]
    assert r"| fs_direct/chunked/tmpfs/penstock | ImportError: no \| such client |" in tables["left-out"]
    assert "| packages | penstock 0.1.0, aiohttp 3.14.0 |" in tables["environment"]
    assert "governor" not in tables["environment"]


def test_the_readmes_rows_are_held_against_receiving_with_their_own_framing(
    row: Make, results: Callable[..., Results]
) -> None:
    places = ("ram/length", "fs_dispatch/length/ext4", "mmap_dispatch/length/ext4")
    rows = [row("floor/chunked/floor", [30.0] * 4), row("floor/length/floor", [20.0] * 4)]
    rows += [row(f"{place}/penstock", [60.0] * 4) for place in places]
    rows.append(row("ram/length/aiohttp tuned", [80.0] * 4))
    assert report.tables(results(*rows))["readme"].splitlines()[2:] == [
        "| kept in RAM | **3.00** | 4.00 |  |",
        "| spilled to files | **3.00** |  |  |",
        "| memory-mapped | **3.00** |  |  |",
    ]
    assert "readme" not in report.tables(results(*rows[2:]))


def test_the_floor_says_what_the_server_delivers_and_how_far_it_is_from_itself(
    row: Make, results: Callable[..., Results]
) -> None:
    floor, again = row("floor/chunked/floor", [10.0] * 4), row("floor/chunked/floor again", [11.0] * 4)
    # 16 bodies of 8 MiB in 12.5 ms.
    assert run.describe_floor(results(floor, again)) == [
        "floor, chunked: 12.5 ms; the server delivers 10.00 GiB/s",
        "floor against itself: 1.100 [1.100, 1.100]",
    ]
    assert run.describe_floor(results(floor)) == []


def test_tables_without_rows_are_left_out(results: Callable[..., Results]) -> None:
    assert list(report.tables(results())) == ["environment"]


def test_fill_replaces_what_is_between_the_markers_and_nothing_else() -> None:
    text = "a\n<!-- table:ram -->\nold\n<!-- /table -->\nb\n<!-- table:left-out -->\n<!-- /table -->\n"
    filled = report.fill(text, {"ram": "| new |", "left-out": "| x |", "unused": "| y |"})
    assert filled == (
        "a\n<!-- table:ram -->\n| new |\n<!-- /table -->\nb\n<!-- table:left-out -->\n| x |\n<!-- /table -->\n"
    )
    assert report.fill(filled, {"ram": "| new |", "left-out": "| x |"}) == filled


def test_a_marker_without_a_table_is_an_error() -> None:
    with pytest.raises(KeyError, match="ram"):
        report.fill("<!-- table:ram -->\n<!-- /table -->", {})


@pytest.fixture
def drawing(made: Results, tmp_path: Path) -> None:
    """What matplotlib opens once and keeps (its fonts) is open."""
    pytest.importorskip("matplotlib")
    report.picture([row for row in made["rows"] if row["kind"] == "batch"], tmp_path / "first.png")


@pytest.mark.usefixtures("drawing")
def test_picture_is_written(made: Results, tmp_path: Path) -> None:
    path = tmp_path / "rows.png"
    report.picture([row for row in made["rows"] if row["kind"] == "batch"], path)
    assert path.read_bytes().startswith(b"\x89PNG")
