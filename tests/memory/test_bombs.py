"""Responses that would become 10 GiB stop at the limit, and take little memory on their way."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.memory import bombs
from tests.memory.conftest import served

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = 64 << 20


@pytest.fixture
def bombs_url() -> Iterator[str]:
    made = {coding: make() for coding, make in bombs.BOMBS.items()}
    with served(lambda connection: bombs.send(connection, made)) as url:
        yield url


@pytest.mark.slow
@pytest.mark.timeout(90)
@pytest.mark.parametrize("decode", ["arriving", "after"])
@pytest.mark.parametrize("store", bombs.STORES)
def test_a_bomb_of_10_gib_stops_at_the_limit_and_takes_64_mib_at_most(bombs_url: str, store: str, decode: str) -> None:
    command = [sys.executable, "-W", "error", "-m", "tests.memory.bombs", bombs_url, store, decode]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=80, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    cap = report["cap"]
    asked = [[coding, framing] for coding in bombs.CODINGS for framing in bombs.FRAMINGS]
    assert [entry[:2] for entry in report["found"]] == asked
    for _, _, seen, reached in report["found"]:
        assert seen == cap + 1
        if decode == "arriving":
            assert reached == cap
    assert report["grown"] <= ALLOWED, report
