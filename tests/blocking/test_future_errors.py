"""Exceptions that have nobody to go to: of jobs, and of callbacks."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest
from penstock import DispatchPool
from penstock._native import Future, _nap

from tests.conftest import LOOPS

from .conftest import Gate, Handler


async def settled(*futures: Future[Any]) -> None:
    """Without a look at how they ended."""
    while not all(future.done() for future in futures):
        await asyncio.sleep(0.001)


@pytest.mark.asyncio
async def test_an_exception_that_nobody_looked_at_is_reported(pool: DispatchPool) -> None:
    handler = Handler()

    def job() -> None:
        raise LookupError("lost")

    future = pool.run(job)
    await settled(future)
    del future
    gc.collect()
    assert [context["message"] for context in handler.contexts] == ["Future exception was never retrieved"]
    assert repr(handler.contexts[0]["exception"]) == "LookupError('lost')"


@pytest.mark.asyncio
async def test_an_exception_in_a_cycle_is_reported_once(pool: DispatchPool) -> None:
    handler = Handler()
    future = pool.run(int, "x")
    await settled(future)
    cycle: list[object] = [future]
    future.add_done_callback(cycle.append)
    cycle.append(cycle)
    await asyncio.sleep(0)
    del future, cycle
    gc.collect()
    assert len(handler.contexts) == 1


@pytest.mark.asyncio
async def test_an_exception_that_was_looked_at_is_not_reported(pool: DispatchPool) -> None:
    handler = Handler()
    future = pool.run(int, "x")
    await settled(future)
    assert isinstance(future.exception(), ValueError)
    del future
    gc.collect()
    assert not handler.contexts


@pytest.mark.asyncio
async def test_a_failing_callback_is_reported_and_the_others_run(pool: DispatchPool, gate: Gate) -> None:
    handler = Handler()
    future, seen = pool.run(gate), []

    def failing(_: object) -> None:
        raise LookupError("callback")

    future.add_done_callback(failing)
    future.add_done_callback(seen.append)
    other = pool.run(gate)
    gate.open.set()
    await settled(other, future)
    await asyncio.sleep(0)
    assert seen == [future]
    assert len(handler.contexts) == 1
    assert "failing" in handler.contexts[0]["message"]
    assert repr(handler.contexts[0]["exception"]) == "LookupError('callback')"
    assert handler.contexts[0]["future"] is future


@pytest.mark.parametrize("make", LOOPS.values(), ids=LOOPS)
def test_an_interrupt_in_a_callback_ends_the_loop_and_loses_no_completion(
    make: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    loop = make()
    pool = DispatchPool(threads=1)
    seen: list[object] = []

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    async def main() -> list[Future[int]]:
        futures = [pool.run(int) for _ in range(10)]
        futures[3].add_done_callback(interrupt)
        for future in futures:
            future.add_done_callback(seen.append)
        kept.extend(futures)
        await asyncio.sleep(10)
        return futures

    kept: list[Future[int]] = []
    task = loop.create_task(main())
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(task)

    async def rest() -> None:
        await asyncio.gather(*kept)
        task.cancel()
        await asyncio.wait([task])

    loop.run_until_complete(rest())
    assert len(seen) == 10
    assert task.cancelled()
    loop.close()
    pool.close()


@pytest.mark.asyncio
async def test_a_drain_lets_the_loop_turn(pool: DispatchPool) -> None:
    turns = 0

    async def ticker() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(ticker())
    await asyncio.gather(*[_nap(pool) for _ in range(5000)])
    ticking.cancel()
    await asyncio.wait([ticking])
    assert turns > 5000 / 128
