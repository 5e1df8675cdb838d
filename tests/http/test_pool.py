"""Who gets a connection: limits in all and by origin, in turn, and no slot lost by a cancellation."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from typing import Any

import penstock
import pytest

from tests.cancellation.conftest import Held
from tests.http.conftest import NOTHING, at_hand
from tests.http.serving import CLOSE, HANG, TURN, Script, Server, response, serve, until

pytestmark = pytest.mark.asyncio

NIGHTLY = "PENSTOCK_NIGHTLY" in os.environ


def held_by(server: Server) -> int:
    return server.connections - server.closed


async def test_no_more_connections_to_one_origin_than_its_limit() -> None:
    limits = penstock.Limits(connections=10, per_host=2)
    go = asyncio.Event()
    async with (
        serve([go, response(b"1")]) as one,
        serve([response(b"2")]) as two,
        penstock.Client(limits=limits) as client,
    ):
        asking = [asyncio.create_task(client.get(f"{one.url}{number}")) for number in range(6)]
        await until(lambda: client.stats()["waiting"] == 4)
        # Those of another origin pass by the ones that wait.
        assert await (await client.get(two.url)).read() == b"2"
        assert client.stats()["waiting"] == 4
        # On a busy machine the server may hear later of one.
        await until(lambda: one.connections == 2)
        go.set()
        await asyncio.gather(*asking)
        assert one.connections == 2
        order = [int(request.split(b" ")[1][1:]) for request in one.requests]
        # The first two connect meanwhile, and one of them may take its time.
        assert sorted(order) == list(range(6))
        assert [number for number in order if number > 1] == list(range(2, 6))


async def test_each_way_to_an_origin_has_a_limit_of_its_own() -> None:
    go = asyncio.Event()
    async with serve([go, response(b"x")]) as server, penstock.Client(limits=penstock.Limits(per_host=1)) as client:
        asking = [asyncio.create_task(client.get(server.url)) for _ in range(2)]
        # It is its own proxy.
        asking += [asyncio.create_task(client.get(server.url, proxy=server.url)) for _ in range(2)]
        await until(lambda: len(server.requests) == 2)
        assert client.stats()["waiting"] == 2
        go.set()
        await asyncio.gather(*asking)
        assert server.connections == 2


async def test_who_waits_too_long_is_told_which_limit_it_was() -> None:
    limits = penstock.Limits(connections=2, per_host=1)
    timeout = penstock.Timeouts(pool=0.1)
    async with serve([HANG]) as one, serve([HANG]) as two, penstock.Client(limits=limits, timeout=timeout) as client:
        asking = [asyncio.create_task(client.get(one.url, timeout=penstock.Timeouts()))]
        await until(lambda: len(one.requests) == 1)
        with pytest.raises(penstock.PoolTimeout, match=r"all 1 of this origin are in use \(Limits\.per_host\)"):
            await client.get(one.url)
        asking.append(asyncio.create_task(client.get(two.url, timeout=penstock.Timeouts())))
        await until(lambda: len(two.requests) == 1)
        async with serve([HANG]) as three:
            with pytest.raises(penstock.PoolTimeout, match=r"all 2 are in use \(Limits\.connections\)"):
                await client.get(three.url)
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
        await until(lambda: at_hand(client) == NOTHING)


async def test_a_waiter_whose_connection_fails_leaves_its_slot_to_the_next() -> None:
    limits = penstock.Limits(connections=1)
    async with serve([response(b"")]) as server, penstock.Client(limits=limits) as client:
        with pytest.raises(penstock.ConnectError):
            await client.get("http://127.0.0.1:1/")
        results = await asyncio.gather(
            client.get(server.url),
            client.get("http://127.0.0.1:1/"),
            client.get(server.url),
            return_exceptions=True,
        )
        expected = [penstock.Response, penstock.ConnectError, penstock.Response]
        assert [type(result) for result in results] == expected
        assert at_hand(client) == NOTHING | {"open": 1, "idle": 1}


async def test_a_connection_that_dies_on_its_way_to_a_waiter_is_replaced_for_it_first() -> None:
    limits = penstock.Limits(connections=1)
    scripts: list[Script] = [[TURN, response(b"first"), CLOSE], [response(b"second")]]
    async with serve(*scripts) as server, penstock.Client(limits=limits) as client:
        answers = await asyncio.gather(*[client.get(f"{server.url}{number}") for number in range(5)])
        assert [await answer.read() for answer in answers] == [b"first"] + [b"second"] * 4
        asked = [int(request.split(b" ")[1][1:]) for request in server.requests]
        assert asked == sorted(asked)


async def test_many_that_gave_up_cost_nothing_and_hold_up_nobody() -> None:
    limits = penstock.Limits(connections=1)
    go = asyncio.Event()
    async with serve([go, response(b"")]) as server, penstock.Client(limits=limits) as client:
        first = asyncio.create_task(client.get(server.url))
        await until(lambda: len(server.requests) == 1)
        for _ in range(20):
            crowd = [asyncio.create_task(client.get(server.url)) for _ in range(50)]
            await asyncio.sleep(0)
            for task in crowd:
                task.cancel()
            await asyncio.wait(crowd)
        assert client.stats()["waiting"] == 0
        assert len(client._supply.pool._ready) < 50
        assert not client._supply.pool._queues
        last = asyncio.create_task(client.get(server.url))
        go.set()
        await asyncio.gather(first, last)
        assert len(server.requests) == 2


async def test_no_more_origins_are_remembered_than_have_connections() -> None:
    async def everywhere(host: str) -> list[str]:
        return ["127.0.0.1"]

    limits = penstock.Limits(connections=3)
    async with (
        serve(*[[response(b"kept")]] * 20, [response(b"closed"), TURN, CLOSE]) as server,
        penstock.Client(limits=limits, resolver=everywhere) as client,
    ):
        for number in range(40):
            await client.get(f"http://h{number}.test:{server.port}/")
            # To make room, the others' places are gone through.
            assert len(client._supply.pool._idle) <= 3
        assert client.stats()["evicted"] > 10
        await until(lambda: len(client._supply.pool._idle) == client.stats()["idle"])


async def some_pieces() -> AsyncIterator[bytes]:
    for _ in range(3):
        await asyncio.sleep(0)
        yield b"piece" * 1000


async def storm(cancellations: int, seed: int) -> None:
    """Requests of every kind, cancelled at random points; afterwards the client is as good as new."""
    chance = random.Random(seed)
    body = bytes(range(250)) * 400
    slow: list[Any] = [TURN, response(body)[:50_000], TURN, response(body)[50_000:]]
    scripts: list[list[Any]] = [
        [response(b"small")],
        slow,
        [TURN, CLOSE],
        [response(b"x", "Connection: close")],
        [response(b"", "Location: /elsewhere", status="307 Elsewhere")],
        [b"garbage\r\n"],
        [TURN, response(b"end"), CLOSE],
    ]

    def script() -> list[Any]:
        return chance.choice(scripts)

    limits = penstock.Limits(connections=4, per_host=3)
    tunables = penstock.Tunables(max_body_ram=20_000)
    async with serve([response(b"ok")]) as server, penstock.Client(limits=limits, tunables=tunables) as client:

        class Endless:
            def __len__(self) -> int:
                return 2

            def popleft(self) -> list[Any]:
                return script()

        image = await penstock.collect(some_pieces(), penstock.Tunables(max_body_ram=0))
        await client.put(server.url, content=image)
        await client.get(server.url, tunables=penstock.Tunables(max_body_ram=0))
        before = Held()
        steady = server._scripts
        server._scripts = Endless()  # type: ignore[assignment]
        hosts = [server.url, server.url.replace("127.0.0.1", "localhost")]

        async def ask() -> None:
            url = chance.choice(hosts)
            kind = chance.randrange(4)
            try:
                if kind == 0:
                    await client.post(url, content=some_pieces())
                elif kind == 1:
                    await client.put(url, content=image)
                else:
                    await client.get(url)
            except penstock.PenstockError:
                pass

        cancelled = 0
        running: set[asyncio.Task[None]] = set()
        while cancelled < cancellations:
            running = {task for task in running if not task.done()}
            while len(running) < 12:
                running.add(asyncio.create_task(ask()))
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            if chance.random() < 0.05:
                await asyncio.sleep(0.001)
            victim = chance.choice(list(running))
            cancelled += victim.cancel()
        for task in running:
            task.cancel()
        await asyncio.wait(running)

        server._scripts = steady
        async with asyncio.timeout(20):
            for _ in range(5):
                answers = await asyncio.gather(*[client.get(url) for url in hosts * 2])
                assert [answer.status for answer in answers] == [200] * 4
        await until(lambda: at_hand(client)["open"] == at_hand(client)["idle"] <= 4)
        figures = at_hand(client)
        assert (figures["active"], figures["waiting"], figures["connecting"]) == (0, 0, 0)
        pool = client._supply.pool
        assert pool._slots == pool.open == sum(pool._by_route.values())
        del answers, running, victim, task
        await client.aclose()
        await until(lambda: held_by(server) == 0)
        # The client's idle connection was among what was held before, with the server's end of it.
        await before.is_given_back()


@pytest.mark.slow
@pytest.mark.timeout(120 if not NIGHTLY else 600)
async def test_after_cancellations_at_random_points_no_slot_socket_or_slab_is_lost() -> None:
    await storm(100_000 if NIGHTLY else 10_000, seed=4)
