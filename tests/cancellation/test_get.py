"""`Client.get`, cancelled at every turn of the loop in every stage: the connection is closed or as good as new, and
nothing else is left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import penstock
import pytest

from tests.cancellation.conftest import Held, cancel_everywhere
from tests.coding import put_on
from tests.http.conftest import Storing
from tests.http.serving import TURN, Script, chunked, head, response, serve

pytestmark = pytest.mark.asyncio

BODY = bytes(i * 13 & 255 for i in range(300_000))


def slowly(wire: bytes, step: int) -> Script:
    """In pieces, with the loop turning between them."""
    pieces: list[Any] = [TURN]
    for start in range(0, len(wire), step):
        pieces += [wire[start : start + step], TURN]
    return pieces


SCRIPTS: dict[str, Script] = {
    "small": slowly(response(b"x" * 100), 40),
    "length": slowly(response(BODY), 60_000),
    "chunked": slowly(head("Transfer-Encoding: chunked") + chunked(BODY, 8192), 90_000),
    "coded": slowly(response(put_on(BODY, "gzip"), "Content-Encoding: gzip"), 400),
    "coded, chunked": slowly(
        head("Transfer-Encoding: chunked", "Content-Encoding: br, zstd") + chunked(put_on(BODY, "br", "zstd"), 50), 90
    ),
    "closes": [response(BODY, "Connection: close")],
}


@pytest.mark.parametrize("script", SCRIPTS)
async def test_a_get_cancelled_at_any_turn_leaves_nothing(storing: Storing, script: str) -> None:
    body = b"x" * 100 if script == "small" else BODY
    async with serve(SCRIPTS[script]) as server, storing.client() as client:
        # The pool's threads, the loop's descriptors and the client's shared memory are there before the first look.
        assert await (await client.get(server.url)).read() == body
        await client.aclose()
        before = Held(storing.pool, semaphore=storing.semaphore)

        async def get() -> None:
            async with storing.client() as client:
                answer = await client.get(server.url)
                assert await answer.read() == body

        async def step() -> None:
            # The later stages wait for threads: a turn may last.
            await asyncio.sleep(0.001)

        cancelled = await cancel_everywhere(get, before.is_given_back, step=step)
        assert cancelled > 5
        assert client.stats()["open"] == 0


@pytest.mark.parametrize("script", ["small", "length", "chunked"])
async def test_others_of_the_client_do_not_notice(storing: Storing, script: str) -> None:
    body = b"x" * 100 if script == "small" else BODY
    async with serve(SCRIPTS[script]) as server, storing.client() as client:

        async def get() -> None:
            answer = await client.get(server.url)
            assert await answer.read() == body

        async def both() -> None:
            # Beside the one that is cancelled, and on connections that it may have just given back.
            await get()
            await get()

        other = asyncio.create_task(get())

        async def after() -> None:
            nonlocal other
            async with asyncio.timeout(20):
                await other
            other = asyncio.create_task(get())

        async def step() -> None:
            await asyncio.sleep(0.001)

        assert await cancel_everywhere(both, after, step=step) > 5
        await other
        figures = client.stats()
        assert figures["open"] == figures["idle"] <= 3
        assert figures["waiting"] == 0


async def test_cancelled_when_its_answer_is_there_it_leaves_the_connection_to_whoever_has_it() -> None:
    answered = asyncio.Event()
    async with serve([response(b"first")], [answered, response(b"second")]) as server, penstock.Client() as client:
        first = asyncio.create_task(client.get(server.url))
        # The step in which the answer comes: it is there, and the task hasn't run since.
        while client.stats()["idle"] == 0:
            await asyncio.sleep(0)
        second = asyncio.create_task(client.get(server.url))
        first.cancel()
        await asyncio.wait([first])
        answered.set()
        async with asyncio.timeout(10):
            assert await (await second).read() == b"second"


async def test_cancelled_while_it_waits_for_a_connection_it_lets_the_next_have_it() -> None:
    limits = penstock.Limits(connections=1)
    async with serve([TURN, response(b"x")]) as server, penstock.Client(limits=limits) as client:

        async def some() -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(4):
                    group.create_task(client.get(server.url))

        async def after() -> None:
            async with asyncio.timeout(10):
                assert await (await client.get(server.url)).read() == b"x"
            assert client.stats()["waiting"] == 0
            assert client.stats()["open"] <= 1

        assert await cancel_everywhere(some, after) > 5


async def test_cancelled_while_its_name_is_resolved_or_it_connects() -> None:
    async with serve([response(b"x")]) as server:

        async def get() -> None:
            async with penstock.Client() as client:
                await client.get(server.url.replace("127.0.0.1", "localhost"))

        async def step() -> None:
            await asyncio.sleep(0.001)

        await get()
        before = Held()
        await cancel_everywhere(get, before.is_given_back, step=step)


async def test_permits_come_back_when_a_write_is_cancelled(
    storing_by: Callable[[str], Storing],
    slow_disk: Callable[[float], None],
) -> None:
    storing = storing_by("permit")
    semaphore = storing.policy.semaphore
    async with serve([response(BODY)]) as server:
        async with storing.client() as client:
            await client.get(server.url)
        before = Held(storing.pool)
        slow_disk(0.5)
        async with storing.client() as client:
            # With a free permit the loop itself writes; this is a write that had to wait for one.
            assert semaphore.try_acquire(2)
            asking = asyncio.create_task(client.get(server.url))
            async with asyncio.timeout(10):
                while not semaphore.waiting:
                    await asyncio.sleep(0.001)
                semaphore.release(2)
                while storing.pool.stats()["running"] == 0:
                    await asyncio.sleep(0.001)
            asking.cancel()
            await asyncio.wait([asking])
            # The write goes on, and so it keeps its permit.
            assert semaphore.free == 1
            del asking
        slow_disk(0)
        await before.is_given_back()
        assert semaphore.free == 2
        for held, seconds in ((2, 0.02), (0, 0.0), (0, 0.001), (0, 0.002), (0, 0.004)):
            for _ in range(held):
                assert semaphore.try_acquire()
            async with storing.client() as client:
                asking = asyncio.create_task(client.get(server.url))
                await asyncio.sleep(seconds)
                asking.cancel()
                await asyncio.wait([asking])
                assert asking.cancelled() or not held
                del asking
            if held:
                semaphore.release(held)
            await before.is_given_back()
            assert (semaphore.free, semaphore.waiting) == (2, 0)
