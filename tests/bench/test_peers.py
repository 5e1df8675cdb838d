"""The other clients' rows: each client, naive and tuned, hands over what the server sent, from wherever it was kept."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from penstock.bench import scenarios
from penstock.bench.driver import Driver, Plan
from penstock.bench.progress import Progress

PLAN = Plan(rounds=1, warmup=0, batches=1, size=50_000, connections=2)


@pytest.mark.parametrize("tuning", [tuning for tuning, _ in scenarios.TUNINGS])
@pytest.mark.parametrize("peer", scenarios.RAM_PEERS)
def test_a_peer_reads_what_was_sent(peer: str, tuning: str, tmp_path: Path) -> None:
    if find_spec(peer) is None:
        pytest.skip(f"{peer} is not installed (requirements/bench.txt)")
    sessions = scenarios.sessions(("chunked",), {"ext4": tmp_path}, "asyncio", PLAN)
    client = f"{peer} {tuning}"
    rows = [row for session in sessions for row in session if row.client == client and row.kind == "batch"]
    assert len(rows) == (1 + len(scenarios.FILES) if peer in scenarios.FILE_PEERS else 1)
    # The driver compares the digests of a batch before it measures one.
    found = Driver([rows], PLAN).run(Progress())["rows"]
    assert [(row["unavailable"], len(row["samples"])) for row in found] == [(None, 1)] * len(rows)
