"""Under anyio on asyncio: its cancel scopes cancel until they are left, and its task groups end all."""

from __future__ import annotations

import gc
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import penstock
import pytest

from tests.cancellation.conftest import Held
from tests.http.conftest import NOTHING, Storing, at_hand
from tests.http.serving import CLOSE, HANG, TURN, UNREAD, chunked, head, response, serve, until

pytestmark = pytest.mark.asyncio

BODY = bytes(i * 3 & 255 for i in range(600_000))


async def pieces() -> AsyncIterator[bytes]:
    for _ in range(50):
        await anyio.sleep(0.005)
        yield BODY


STAGES: dict[str, list[Any]] = {
    "before the head": [HANG],
    "in the body": [head(f"Content-Length: {len(BODY)}"), BODY[:300_000], HANG],
    "in chunks": [head("Transfer-Encoding: chunked"), chunked(BODY, 8192)[:-5], HANG],
    "while it is sent": [UNREAD, HANG],
}


@pytest.mark.parametrize("stage", STAGES)
async def test_a_scope_that_ends_a_request_leaves_nothing(storing: Storing, stage: str) -> None:
    async with serve(STAGES[stage]) as server, storing.client() as client:
        content = pieces() if stage == "while it is sent" else None
        with anyio.move_on_after(0.1) as scope:
            await client.post(server.url, content=content)
        assert scope.cancelled_caught
        await until(lambda: at_hand(client) == NOTHING)


async def test_a_scope_inside_others_ends_only_its_own(storing: Storing) -> None:
    async with serve([HANG], [response(BODY)]) as server, storing.client() as client:
        with anyio.fail_after(10):
            with anyio.move_on_after(0.1):
                await client.get(server.url)
            assert await (await client.get(server.url)).read() == BODY


async def test_what_waits_for_a_connection_a_name_or_a_handshake_is_ended() -> None:
    async def never(host: str) -> list[str]:
        await anyio.sleep_forever()
        return []

    async with serve([HANG]) as server:
        limits = penstock.Limits(connections=1)
        async with penstock.Client(limits=limits) as client, anyio.create_task_group() as group:
            group.start_soon(client.get, server.url)
            await until(lambda: len(server.requests) == 1)
            with anyio.move_on_after(0.05) as scope:
                await client.get(server.url)
            assert scope.cancelled_caught
            with anyio.move_on_after(0.05) as scope:
                # Nobody answers the handshake.
                await client.get(server.url.replace("http:", "https:"))
            assert scope.cancelled_caught
            group.cancel_scope.cancel()
        async with penstock.Client(resolver=never) as client:
            with anyio.move_on_after(0.05) as scope:
                await client.get("http://a.test/")
            assert scope.cancelled_caught
            assert at_hand(client) == NOTHING


async def test_a_failing_task_ends_the_requests_of_its_group(storing: Storing) -> None:
    async with serve([HANG]) as server, storing.client() as client:

        async def fail() -> None:
            await until(lambda: len(server.requests) == 3)
            raise ZeroDivisionError

        async def all_of_them() -> None:
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(client.get, server.url)
                group.start_soon(fail)

        with pytest.raises(ExceptionGroup) as caught:
            await all_of_them()
        assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]
        await until(lambda: at_hand(client) == NOTHING)


async def test_a_scope_that_ends_a_recording_closes_all_that_was_collected(tmp_path: Path) -> None:
    gate, tunables = threading.Event(), penstock.Tunables(max_body_ram=0, temp_dir=tmp_path)
    scripts: list[list[Any]] = [[response(b"a")], [UNREAD, CLOSE], [UNREAD, HANG]]
    async with serve(*scripts) as server, penstock.DispatchPool(threads=1, drain_threads=0) as pool:
        client = penstock.Client(policy=penstock.Dispatch(pool), tunables=tunables)
        async with client, anyio.create_task_group() as group:
            await client.get(server.url)
            pool.dispatch(gate.wait, 20)
            group.start_soon(lambda: client.record("PUT", server.url, files={"a": BODY, "b": BODY}))
            # The first time it met a stale connection.
            await until(lambda: client.stats()["retried"] == 1 and pool.stats()["queued"] == 2)
            group.cancel_scope.cancel()
        gate.set()
        await pool.join()
    # What was left open would warn, which fails the test.
    gc.collect()


async def test_scopes_that_end_anywhere_leave_nothing(storing_by: Callable[[str], Storing]) -> None:
    storing = storing_by("windows")
    wire = response(BODY)
    slowly: list[Any] = [TURN]
    for start in range(0, len(wire), 100_000):
        slowly += [wire[start : start + 100_000], TURN]
    async with serve(slowly) as server, storing.client() as client:
        for _ in range(2):
            await (await client.get(server.url)).read()
        before = Held(storing.pool)
        for step in range(40):
            with anyio.move_on_after(step * 0.0005):
                answer = await client.get(server.url)
                assert await answer.read() == BODY
                del answer
        with anyio.CancelScope(shield=True):
            assert await (await client.get(server.url)).read() == BODY
        await until(lambda: at_hand(client)["open"] == at_hand(client)["idle"] <= 1)
        await before.is_given_back()
