"""Results made up for the statistics, the targets and the report."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from penstock.bench.results import Results, Row, Sample

MakeRow = Callable[..., Row]


@pytest.fixture
def sample() -> Callable[..., Sample]:
    def make(number: int, milliseconds: float, **changes: Any) -> Sample:
        made: Sample = {
            "round": number,
            "batches": 10,
            "wall_ms": milliseconds * 1.25,
            "user_ms": milliseconds / 4,
            "system_ms": milliseconds * 3 / 4,
            "rss_bytes": 64 * 1024 * 1024,
            "lag_worst_ms": None,
            "lag_p99_ms": None,
            "growth_bytes": None,
            "noisy": False,
        }
        return {**made, **changes}  # type: ignore[typeddict-item]

    return make


@pytest.fixture
def row(sample: Callable[..., Sample]) -> MakeRow:
    """A row `SCENARIO/FRAMING[/STORE]/CLIENT` that took those milliseconds of CPU in its rounds."""

    def make(row_id: str, milliseconds: Sequence[float], **changes: Any) -> Row:
        parts = row_id.split("/")
        made: Row = {
            "id": row_id,
            "kind": "batch",
            "scenario": parts[0],
            "client": parts[-1],
            "framing": "length" if parts[1] == "length" else "chunked",
            "store": parts[2] if len(parts) == 4 else None,
            "loop": "asyncio",
            "options": {},
            "unavailable": None,
            "samples": [sample(number, each) for number, each in enumerate(milliseconds)],
        }
        return {**made, **changes}  # type: ignore[typeddict-item]

    return make


@pytest.fixture
def results() -> Callable[..., Results]:
    def make(*rows: Row) -> Results:
        return {
            "version": 1,
            "started": "2026-01-02T03:04:05+00:00",
            "environment": {
                "cpu": "A CPU",
                "cpus": 2,
                "memory_bytes": 1 << 34,
                "kernel": "Linux 6.18",
                "governor": None,
                "huge_pages": "always [madvise] never",
                "python": "CPython 3.13.1",
                "packages": {"penstock": "0.1.0", "aiohttp": "3.14.0"},
                "rustc": "rustc 1.95.0",
                "commit": "abc",
                "build_profile": "release",
                "stores": {"/dev/shm": "tmpfs"},
            },
            "settings": {
                "size": 8388608,
                "chunk": 8192,
                "connections": 16,
                "rounds": 4,
                "warmup": 1,
                "batches": 10,
                "seed": 1,
                "noise": 0.12,
                "server_cpus": [0],
                "client_cpus": [1],
                "server": "embedded",
            },
            "rows": list(rows),
        }

    return make
