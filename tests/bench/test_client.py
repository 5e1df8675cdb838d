"""Small runs of the client's rows: what comes out, and that every client reads and sends the same."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from penstock.bench.progress import Progress
from penstock.bench.results import Results
from penstock.bench.rounds import Pace

from benches import client_report, client_targets, targets
from benches.python import client, origin

SCHEMA = Path(__file__).parents[2] / "benches" / "schema.json"
PACE = Pace(rounds=1, warmup=0, batches=1, noise=1000.0)
ROWS = (
    "small/asyncio/penstock",
    "small/uvloop/aiohttp",
    "small/asyncio/pyreqwest",
    "chunks of 4096/asyncio/penstock",
    "gzip lag/asyncio/penstock",
    "gzip/uvloop/aiohttp isal",
    "tls/asyncio/penstock",
    "tls/asyncio/pyreqwest",
    "tls fs, chunked/asyncio/penstock direct",
    "plain mmap, length/uvloop/penstock permit",
    "upload/asyncio/penstock",
    "upload/asyncio/aiohttp",
    "upload/asyncio/aiohttp, large pieces",
    "idle tls/uvloop/penstock",
)
ALL = {row.id: row for session in client.sessions(client.LOOPS) for row in session}

# Whichever test is first in its process waits for the run.
pytestmark = pytest.mark.timeout(120)


def test_the_origin_answers_a_path_that_it_does_not_know() -> None:
    assert bytes(origin.response("/elsewhere")).startswith(b"HTTP/1.1 404 Not Found\r\n")


def smaller(load: client.Load) -> client.Load:
    """Of the same kind: every client reads and sends each byte of a load, so that fewer show the same."""
    size = min(load.size, client.MIB)
    return replace(
        load,
        path=load.path.replace(str(load.size), str(size)),
        size=size,
        connections=max(4, load.connections // 5),
        requests=min(load.requests, 5),
    )


@pytest.fixture(scope="module")
def results() -> Results:
    pytest.importorskip("isal")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "LOADS", {name: smaller(load) for name, load in client.LOADS.items()})
        rows = {row.id: row for session in client.sessions(client.LOOPS) for row in session}
        return client.Exchanges([[rows[name] for name in ROWS]], PACE).run(Progress())


@pytest.mark.slow
def test_every_kind_of_row_gives_a_sample(results: Results) -> None:
    assert [(row["id"], row["unavailable"], len(row["samples"])) for row in results["rows"]] == [
        (name, None, 1) for name in ROWS
    ]
    samples = {row["id"]: row["samples"][0] for row in results["rows"]}
    assert (samples["gzip lag/asyncio/penstock"]["lag_worst_ms"] or 0) > 0
    # 100 connections are more than nothing, and idle.
    assert (samples["idle tls/uvloop/penstock"]["growth_bytes"] or 0) > 100 * 1024


def test_results_follow_the_schema(results: Results) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(results, json.loads(SCHEMA.read_text()))


def test_results_are_shown_as_tables(results: Results) -> None:
    tables = client_report.tables(results)
    assert "| small, asyncio | **penstock** | " in tables["client-small"]
    assert "| upload, asyncio | aiohttp, large pieces | " in tables["client-upload"]
    assert "| gzip lag, asyncio | **penstock** | " in tables["client-lag"]
    assert "| idle tls, uvloop | **penstock** | " in tables["client-idle"]
    assert "| small, asyncio: 1.5 times pyreqwest's | CPU | < 0.667 | " in tables["client-targets"]


def test_rows_of_another_commit_are_not_added_to(tmp_path: Path) -> None:
    other = tmp_path / "client.json"
    other.write_text(json.dumps({"environment": {"commit": "0123"}, "rows": []}))
    with pytest.raises(SystemExit, match="has rows of commit 0123, and this is "):
        client.main(["--add", "--json", str(other)])


def test_every_target_names_rows_that_exist() -> None:
    for target in client_targets.TARGETS:
        assert target.row in ALL
        if isinstance(target, targets.Ratio):
            assert target.base in ALL
