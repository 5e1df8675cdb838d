"""The embedded server, in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from penstock.bench import server

SIZE = 1_000_003


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where the server listens; it sends `server.body(SIZE)` there, in chunks, and any other size at /SIZE/CHUNK."""
    monkeypatch.delenv("BENCH_SERVER_URL", raising=False)
    with server.running(SIZE, 8192) as address:
        yield address.url
