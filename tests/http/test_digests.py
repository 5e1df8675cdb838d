"""Digests of responses, made while bytes arrive: in memory, through the pool, and on the draining worker."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import penstock
import pytest
from penstock.bench import server

SIZES = (0, 1, 60_000, 150_000, 200_000, 1_000_003, 5_000_000)


@pytest.mark.asyncio
@pytest.mark.parametrize("chunk", [0, 8192])
async def test_bodies_of_all_sizes_have_their_digests(pool: penstock.DispatchPool, chunk: int) -> None:
    # Of a large one, pieces are digested on the pool while the socket is handed to the draining worker.
    options: dict[str, Any] = {
        "tunables": penstock.Tunables(digests=("sha256", "md5")),
        "timeout": penstock.Timeouts(idle=5),
        "policy": penstock.Dispatch(pool),
    }
    with server.running(1, 0) as address:
        async with penstock.Client(**options) as client:
            for size in SIZES:
                wanted = server.body(size)
                digests = {name: hashlib.new(name, wanted).hexdigest() for name in ("sha256", "md5")}
                url = f"{address.url}/{size}/{chunk}"
                alone = [await client.get(url) for _ in range(4)]
                together = await asyncio.gather(*(client.get(url) for _ in range(4)))
                assert [response.body.digests for response in (*alone, *together)] == [digests] * 8
