"""Cancelling the future of a job: at any moment it gives back what it held."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from penstock import DispatchPool
from penstock._native import Future, _nap

from .conftest import Gate, Handler


@pytest.fixture(params=["run", "task"])
def start(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Ways to hold a job: its future, a task around it."""

    def start(pool: DispatchPool, job: Callable[[], object]) -> Any:
        future = pool.run(job)
        return asyncio.create_task(future) if request.param == "task" else future

    return start


@pytest.mark.asyncio
@pytest.mark.parametrize("steps", [0, 1, 2])
async def test_a_job_cancelled_in_the_queue_never_runs_and_gives_its_place_back(
    pool: DispatchPool, gate: Gate, start: Callable[..., Any], steps: int
) -> None:
    for _ in range(4):
        pool.dispatch(gate)
    gate.wait_entered(4)
    ran: list[int] = []
    job = start(pool, lambda: ran.append(1))
    assert pool.stats()["queued"] == 1
    for _ in range(steps):
        await asyncio.sleep(0)
    assert job.cancel("why")
    with pytest.raises(asyncio.CancelledError):
        await job
    assert job.cancelled()
    assert pool.stats()["queued"] == 0
    assert not job.cancel()
    gate.open.set()
    await pool.aclose()
    assert not ran


@pytest.mark.asyncio
async def test_a_job_cancelled_while_it_runs_runs_to_its_end_and_its_result_is_dropped(
    pool: DispatchPool, gate: Gate, start: Callable[..., Any]
) -> None:
    ended = threading.Event()
    thing = type("Thing", (), {})
    results: list[weakref.ref[object]] = []

    def job() -> object:
        gate()
        result = thing()
        results.append(weakref.ref(result))
        ended.set()
        return result

    future = start(pool, job)
    await asyncio.to_thread(gate.wait_entered)
    assert future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await future
    gate.open.set()
    await pool.aclose()
    assert ended.is_set()
    await asyncio.sleep(0.01)
    assert results[0]() is None


@pytest.mark.asyncio
async def test_a_job_cancelled_between_its_end_and_the_loops_next_turn_is_cancelled(
    pool: DispatchPool, start: Callable[..., Any]
) -> None:
    done = threading.Event()
    future = start(pool, done.set)
    assert done.wait(10)
    # The result is on its way; this thread has not let the loop look.
    assert future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await future


@pytest.mark.asyncio
async def test_a_job_whose_future_is_dropped_runs_all_the_same(pool: DispatchPool, gate: Gate) -> None:
    for _ in range(4):
        pool.dispatch(gate)
    gate.wait_entered(4)
    ran: list[int] = []
    pool.run(ran.append, 1)
    gc.collect()
    gate.open.set()
    await pool.join()
    assert ran == [1]


@pytest.mark.asyncio
async def test_a_done_future_is_not_cancelled(pool: DispatchPool) -> None:
    future = pool.run(int)
    await future
    assert not future.cancel()
    assert future.result() == 0


@pytest.mark.asyncio
async def test_a_cancelled_message_reaches_the_awaiter(pool: DispatchPool, gate: Gate) -> None:
    future = pool.run(gate)
    future.cancel("because")
    with pytest.raises(asyncio.CancelledError, match="because"):
        await future
    with pytest.raises(asyncio.CancelledError, match="because"):
        future.exception()
    gate.open.set()


@pytest.mark.asyncio
async def test_a_failure_after_the_cancellation_is_dropped_in_silence(pool: DispatchPool, gate: Gate) -> None:
    handler = Handler()

    def job() -> None:
        gate()
        raise LookupError

    future = pool.run(job)
    gate.wait_entered()
    future.cancel()
    gate.open.set()
    await pool.aclose()
    del future
    gc.collect()
    await asyncio.sleep(0.01)
    assert not handler.contexts


@pytest.mark.asyncio
async def test_closing_it_as_a_coroutine_cancels_the_job(pool: DispatchPool, gate: Gate) -> None:
    for _ in range(4):
        pool.dispatch(gate)
    gate.wait_entered(4)
    future = pool.run(int)
    future.close()
    assert future.cancelled()
    future.close()
    with pytest.raises(ValueError, match="thrown"):
        pool.run(int).throw(ValueError("thrown"))
    assert pool.stats()["queued"] == 0
    gate.open.set()


@pytest.mark.asyncio
async def test_many_cancelled_jobs_take_no_room_and_no_memory(gate: Gate) -> None:
    async with DispatchPool(threads=1, queue_length=8, overflow="refuse") as pool:
        pool.dispatch(gate)
        gate.wait_entered()
        for _ in range(10_000):
            pool.run(int).cancel()
        live = sum(isinstance(thing, Future) for thing in gc.get_objects())
        assert live < 1000
        gate.open.set()


@pytest.mark.asyncio
async def test_a_native_job_cancelled_in_the_queue_never_runs_and_gives_its_place_back(gate: Gate) -> None:
    async with DispatchPool(threads=1, queue_length=8, overflow="refuse") as pool:
        pool.dispatch(gate)
        gate.wait_entered()
        for _ in range(1000):
            nap = _nap(pool, 20)
            assert pool.stats()["queued"] == 1
            nap.cancel()
            assert pool.stats()["queued"] == 0
        with pytest.raises(asyncio.CancelledError):
            await nap
        gate.open.set()
        await asyncio.wait_for(pool.aclose(), 5)


@pytest.mark.asyncio
async def test_shutdown_can_cancel_native_jobs(gate: Gate) -> None:
    pool = DispatchPool(threads=1)
    held = pool.run(gate)
    gate.wait_entered()
    naps = [_nap(pool, 20) for _ in range(3)]
    naps[0].cancel()
    pool.shutdown(wait=False, cancel_futures=True)
    assert pool.stats()["queued"] == 0
    for nap in naps:
        with pytest.raises(asyncio.CancelledError):
            await nap
    gate.open.set()
    await held
    await pool.aclose()
