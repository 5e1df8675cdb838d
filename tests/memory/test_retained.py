"""What bodies in memory retain: slabs by the pool's own count, everything together by the resident memory of a process
that keeps them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

NOISE = 16 << 20
"""Bytes of resident memory that the interpreter and the allocator may come to hold besides."""


def measure(source: str, url: str = "") -> dict[str, Any]:
    """Figures of a process that keeps the bodies of a function of `tests/memory/measure.py`."""
    command = [sys.executable, "-W", "error", "-m", "tests.memory.measure", source, url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["states"] == ["ram"]
    assert found["as_sent"]
    return found


def assert_retains_little(found: dict[str, Any], noise: int = NOISE) -> None:
    allowed = 1.25 * found["bytes"] + 4096 * found["bodies"]
    assert found["slabs"] <= allowed, found
    assert found["resident"] <= allowed + noise, found


@pytest.mark.slow
@pytest.mark.timeout(90)
@pytest.mark.parametrize("source", ["collected_bytes", "collected_views"])
def test_every_20th_of_10_000_collected_bodies_retains_a_quarter_more_at_most(source: str) -> None:
    found = measure(source)
    assert found["bodies"] == 500
    assert_retains_little(found)


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_every_20th_of_10_000_received_bodies_retains_a_quarter_more_at_most(bodies_url: str) -> None:
    found = measure("mixed_received", bodies_url)
    assert found["bodies"] == 500
    assert_retains_little(found)


@pytest.mark.parametrize("source", ["heap_collected", "heap_received"])
def test_bodies_too_short_for_slabs_retain_a_quarter_more_at_most(source: str, bodies_url: str) -> None:
    found = measure(source, bodies_url)
    assert found["bodies"] == 2000
    # The window that connections share may be there.
    assert found["slabs"] <= 256 << 10
    assert_retains_little(found, 4 << 20)


def test_10_000_small_bodies_take_2_kib_each_at_most() -> None:
    found = measure("small_pushed")
    assert found["bodies"] == 10_000
    assert found["slabs"] == 0
    assert found["resident"] <= 10_000 * 2048, found


def test_10_000_small_received_bodies_take_2_kib_each_at_most(bodies_url: str) -> None:
    found = measure("small_received", bodies_url)
    assert found["bodies"] == 10_000
    # The window that connections share may be there.
    assert found["slabs"] <= 256 << 10
    assert found["resident"] <= 10_000 * 2048 + (4 << 20), found


def test_a_mebibyte_of_single_bytes_holds_two_at_most() -> None:
    found = measure("single_bytes_pushed")
    assert found["bytes"] == 1 << 20
    assert found["resident"] <= 2 << 20, found


def test_a_mebibyte_received_in_chunks_of_one_byte_holds_two_at_most(bodies_url: str) -> None:
    found = measure("single_bytes_received", bodies_url)
    assert found["bytes"] == 8 << 20
    assert found["slabs"] <= 16 << 20, found
    assert found["resident"] <= 16 << 20, found
