"""Small runs of the rows of archives: what comes out, and that what a row reads and writes is looked at."""

import json
import sys
from pathlib import Path

import pytest
from penstock import barc
from penstock.bench.progress import Progress
from penstock.bench.results import Results
from penstock.bench.rounds import Pace

from benches import archive_report, archive_targets, targets
from benches.python import archives
from benches.python.archives_worker import checksum

SCHEMA = Path(__file__).parents[2] / "benches" / "schema.json"
PACE = Pace(rounds=1, warmup=0, batches=1, noise=1000.0)
WORKER = (sys.executable, "-m", "benches.python.archives_worker")


@pytest.fixture(scope="module", autouse=True)
def few() -> object:
    """Archives that are made in no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archives, "HUGE", 1_000_000)
        patch.setattr(archives, "SIZES", {"small": (20, 16_384), "large": (2, 300_000), "huge": (1, 1_000_000)})
        yield


def run(folder: Path, rows: str, worker: tuple[str, ...] = WORKER) -> Results:
    chosen = [
        [row for row in session if row.id.startswith(rows)] for session in archives.sessions([folder], {"a": worker})
    ]
    return archives.Archives([session for session in chosen if session], PACE, [folder]).run(Progress())


def test_every_case_gives_a_sample_that_follows_the_schema(tmp_path: Path) -> None:
    results = run(tmp_path / "archives", "")
    assert [row["scenario"] for row in results["rows"]] == [
        f"{action} {size} {kind}"
        for action, size, kind in (
            ("read", "small", "plain"),
            ("read", "small", "gzip"),
            ("read", "large", "plain"),
            ("read", "large", "gzip"),
            ("write", "small", "plain"),
            ("write", "small", "gzip"),
            ("write", "large", "plain"),
            ("write", "large", "gzip"),
            ("read", "huge", "gzip"),
            ("write", "huge", "gzip"),
        )
    ]
    assert [(row["unavailable"], len(row["samples"])) for row in results["rows"]] == [(None, 1)] * 10
    assert results["rows"][-1]["samples"][0]["growth_bytes"] is not None
    # What was made for the run is gone.
    assert list(tmp_path.iterdir()) == []
    pytest.importorskip("jsonschema").validate(results, json.loads(SCHEMA.read_text()))


def test_a_row_that_writes_something_else_has_no_samples(tmp_path: Path) -> None:
    # It writes the records of an archive of its own.
    other = tmp_path / "other.barc"
    archives.fill(other, 1, 100, barc.Strategy.plain())
    code = f"import sys; from benches.python.archives_worker import *; sys.argv[3] = {str(other)!r}; main()"
    (row,) = run(tmp_path / "archives", "write small plain", (sys.executable, "-c", code))["rows"]
    assert row["samples"] == []
    assert "the checksum is" in (row["unavailable"] or "")


def test_the_records_are_pages_that_gzip_makes_a_third_of(tmp_path: Path) -> None:
    sizes = []
    for kind, strategy in (("plain", barc.Strategy.plain()), ("gzip", barc.Strategy.gzip())):
        path = tmp_path / kind
        archives.fill(path, 3, 16_384, strategy)
        sizes.append(path.stat().st_size)
        with barc.open(path) as archive:
            assert {record.compression for record in archive} == {kind}
            assert [len(record.res_body) for record in archive] == [16_384] * 3
    assert 0.25 < sizes[1] / sizes[0] < 0.5
    assert checksum(str(tmp_path / "plain")) == checksum(str(tmp_path / "gzip"))


def test_every_target_names_rows_that_exist() -> None:
    # The folders' file systems are those of the published run.
    stores = {"ext4": "/usr", "tmpfs": "/dev/shm"}
    clients = dict.fromkeys((archive_targets.UPSTREAM, archive_targets.CORE, archive_targets.PYTHON), WORKER)
    rows = {
        row.id.replace(f"/{row.store}/", f"/{name}/")
        for name, folder in stores.items()
        for session in archives.sessions([Path(folder) / "archives"], clients)
        for row in session
    }
    for target in archive_targets.TARGETS:
        assert target.row in rows
        if isinstance(target, targets.Ratio):
            assert target.base in rows


def test_results_are_shown_in_tables(results: object, row: object) -> None:
    ours, theirs = (
        row(f"read small plain/chunked/ext4/{client}", figures, scenario="read small plain")  # type: ignore[operator]
        for client, figures in ((archive_targets.CORE, [4.0] * 8), (archive_targets.UPSTREAM, [8.0] * 8))
    )
    for each in (ours, theirs):
        each.update(id=each["id"].replace("chunked/", ""), framing=None)
    tables = archive_report.tables(results(ours, theirs))  # type: ignore[operator]
    assert (
        "| read small plain, ext4 | **penstock core** | 5.0 (5.0 to 5.0) | 2.00 | 4.0 (4.0 to 4.0) | 2.00 | 64 | 80 |"
        in tables["archives"]
    )
    assert (
        "| read small plain, ext4: penstock core 1.5 times as fast | CPU | < 0.667 | 0.500"
        in tables["archives-targets"]
    )
