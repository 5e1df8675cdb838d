"""`client.record`, cancelled at every turn of the loop while it sends, collects what it sends, and receives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import penstock
import pytest

from tests.cancellation.conftest import Held, cancel_everywhere
from tests.http.serving import BODY, TURN, response, serve

pytestmark = pytest.mark.asyncio

PIECE = bytes(i * 13 & 255 for i in range(100_000))


@pytest.mark.parametrize("policy", [penstock.Direct(), penstock.Dispatch()], ids=["direct", "dispatch"])
async def test_cancelled_at_any_turn_it_leaves_nothing(policy: penstock.Policy) -> None:
    closed = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal closed
        try:
            for _ in range(3):
                yield PIECE
        finally:
            closed += 1

    tunables = penstock.Tunables(max_body_ram=150_000)
    script = [BODY, TURN, response(PIECE * 2)]
    async with serve(script) as server:

        async def record() -> None:
            async with penstock.Client(tunables=tunables, policy=policy) as client:
                dialog = await client.record("PUT", server.url, content=pieces())
                assert (len(dialog.req_body), len(dialog.res_body)) == (300_000, 200_000)

        await record()
        before = Held()
        began = closed

        async def step() -> None:
            await asyncio.sleep(0.001)

        assert await cancel_everywhere(record, before.is_given_back, step=step) > 5
        assert closed > began
