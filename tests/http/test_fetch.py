"""`fetch` and its blocking twin: one request, and nothing left of it."""

from __future__ import annotations

import asyncio
from typing import Any

import penstock
import pytest

from tests.http.conftest import Storing
from tests.http.serving import CLOSE, response, serve, until

BODY = bytes(range(256)) * 2000


@pytest.mark.asyncio
async def test_fetch_makes_a_request_and_keeps_no_connection(storing: Storing) -> None:
    async with serve([response(BODY)]) as server:
        options: Any = {"tunables": storing.tunables, "policy": storing.policy}
        answer = await penstock.fetch(server.url, params={"a": 1}, **options)
        assert (answer.status, await answer.read()) == (200, BODY)
        await penstock.fetch(server.url, "PUT", content=BODY, **options)
        assert server.bodies == [BODY]
        await until(lambda: server.closed == 2)


@pytest.mark.asyncio
async def test_fetch_sync_is_for_threads(storing: Storing) -> None:
    def work(url: str) -> bytes:
        answer = penstock.fetch_sync(url, tunables=storing.tunables, policy=storing.policy)
        assert answer.body.state == storing.state(BODY)
        return bytes(answer.body)

    async with serve([response(BODY)]) as server:
        assert await asyncio.to_thread(work, server.url) == BODY


@pytest.mark.asyncio
async def test_fetch_sync_on_a_loop_names_what_to_do() -> None:
    with pytest.raises(penstock.BlockingInLoop, match=r"fetch_sync\(\)"):
        penstock.fetch_sync("http://127.0.0.1:1/")


@pytest.mark.asyncio
async def test_fetch_sync_takes_every_timeout_and_raises_what_fetch_raises() -> None:
    async with serve([CLOSE]) as server:
        with pytest.raises(penstock.ConnectionLost):
            await asyncio.to_thread(penstock.fetch_sync, server.url)
    async with serve([5.0]) as server:
        with pytest.raises(penstock.FirstByteTimeout):
            await asyncio.to_thread(penstock.fetch_sync, server.url, timeout=penstock.Timeouts(first_byte=0.1))
