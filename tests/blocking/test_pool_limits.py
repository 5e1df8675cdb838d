"""How much may wait in a `DispatchPool`, and what its submitters do when it is full."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable

import pytest
from penstock import DispatchPool
from penstock._native import Future, _nap
from penstock.errors import PoolFull

from .conftest import Gate


@pytest.mark.asyncio
async def test_a_full_queue_makes_the_await_wait() -> None:
    gate = Gate()
    async with DispatchPool(threads=1, queue_length=2) as pool:
        futures = [pool.run(gate) for _ in range(10)]
        gate.wait_entered()
        assert (pool.stats()["queued"], pool.stats()["waiting"]) == (2, 7)
        with pytest.raises(PoolFull, match=r"is full \(DispatchPool.queue_length=2\)") as caught:
            pool.dispatch(int)
        assert caught.value.limit == 2
        with pytest.raises(PoolFull):
            pool.submit(int)
        gate.open.set()
        await asyncio.gather(*futures)


def test_a_thread_that_dispatches_to_a_full_queue_is_blocked_until_there_is_room(gate: Gate) -> None:
    with DispatchPool(threads=1, queue_length=1) as pool:
        pool.dispatch(gate)
        gate.wait_entered()
        pool.dispatch(int)
        done = threading.Event()

        def submitter() -> None:
            pool.dispatch(int)
            done.set()

        thread = threading.Thread(target=submitter)
        thread.start()
        assert not done.wait(0.1)
        # But for a moment in each 0.1 s, in which it looks for signals.
        waiting = {pool.stats()["waiting"] for _ in range(200) if not done.wait(0.001)}
        gate.open.set()
        thread.join(10)
        assert done.is_set()
        assert 1 in waiting


@pytest.mark.asyncio
async def test_a_queue_that_refuses_raises_at_the_call() -> None:
    gate = Gate()
    async with DispatchPool(threads=1, queue_length=1, overflow="refuse") as pool:
        first = pool.run(gate)
        gate.wait_entered()
        second = pool.run(int)
        with pytest.raises(PoolFull):
            pool.run(int)
        before = sum(isinstance(thing, Future) for thing in gc.get_objects())
        for _ in range(10):
            with pytest.raises(PoolFull):
                _nap(pool)
        gc.collect()
        assert sum(isinstance(thing, Future) for thing in gc.get_objects()) <= before
        gate.open.set()
        await asyncio.gather(first, second)


def test_the_oldest_job_runs_on_a_calling_thread_that_has_no_loop(gate: Gate) -> None:
    ran: list[tuple[int, bool]] = []
    main = threading.get_ident()

    def job(n: int) -> None:
        ran.append((n, threading.get_ident() == main))

    with DispatchPool(threads=1, queue_length=1, overflow="caller") as pool:
        pool.dispatch(gate)
        gate.wait_entered()
        pool.dispatch(job, 1)
        pool.dispatch(job, 2)
        assert ran == [(1, True)]
        gate.open.set()
    assert ran == [(1, True), (2, False)]


def test_a_cancelled_job_makes_no_room_for_another_of_an_enlisted_caller(gate: Gate) -> None:
    ran: list[int] = []

    async def submit() -> None:
        for future in [pool.run(int) for _ in range(2)]:
            future.cancel()
        jobs = [pool.run(ran.append, n) for n in range(2)]
        await asyncio.to_thread(pool.dispatch, ran.append, 2)
        assert ran == [0]
        assert (pool.stats()["queued"], pool.stats()["waiting"]) == (2, 0)
        gate.open.set()
        await asyncio.gather(*jobs)

    with DispatchPool(threads=1, queue_length=2, overflow="caller") as pool:
        pool.dispatch(gate)
        gate.wait_entered()
        asyncio.run(submit())
    assert ran == [0, 1, 2]


def test_what_an_enlisted_caller_runs_fails_for_its_own_submitter_only(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    with DispatchPool(threads=1, queue_length=1, overflow="caller") as pool:
        pool.dispatch(gate)
        gate.wait_entered()
        failing = pool.submit(int, "x")
        pool.submit(int)
        with pytest.raises(ValueError, match="invalid literal"):
            failing.result(0)
        pool.dispatch(int, "y")
        with caplog.at_level(logging.ERROR, "penstock.blocking"):
            assert pool.submit(int).done() is False
        assert "'y'" in caplog.text
        gate.open.set()


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)
    time.sleep(0)


def test_an_interrupt_of_an_enlisted_caller_is_raised_by_its_call(caplog: pytest.LogCaptureFixture) -> None:
    with DispatchPool(queue_length=0, overflow="caller") as pool:
        for submit in (pool.dispatch, pool.submit):
            with pytest.raises(KeyboardInterrupt):
                submit(interrupt)
    assert not caplog.records


def test_an_interrupt_of_an_enlisted_caller_ends_no_loop_of_another_thread(gate: Gate) -> None:
    queued = threading.Event()
    ends: list[str] = []

    async def wait_for_job() -> None:
        job = pool.run(interrupt)
        queued.set()
        try:
            await job
        except asyncio.CancelledError:
            ends.append("job")
        await asyncio.sleep(0)
        ends.append("loop")

    with DispatchPool(threads=1, queue_length=1, overflow="caller") as pool:
        pool.dispatch(gate)
        gate.wait_entered()
        thread = threading.Thread(target=asyncio.run, args=(wait_for_job(),))
        thread.start()
        assert queued.wait(10)
        with pytest.raises(KeyboardInterrupt):
            pool.dispatch(ends.append, "mine")
        thread.join(10)
        assert ends == ["job", "loop"]
        gate.open.set()
    assert ends == ["job", "loop", "mine"]


@pytest.mark.asyncio
async def test_a_loop_is_never_made_to_run_a_job() -> None:
    with DispatchPool(queue_length=0, overflow="caller") as pool:
        for submit in (pool.run, pool.dispatch, pool.submit):
            with pytest.raises(PoolFull):
                submit(int)


def test_a_queue_of_length_0_has_no_threads_and_runs_on_the_caller() -> None:
    with DispatchPool(queue_length=0, overflow="caller") as pool:
        assert pool.threads == 0
        assert pool.submit(threading.get_ident).result(0) == threading.get_ident()


@pytest.mark.asyncio
async def test_a_hundred_thousand_jobs_make_no_more_threads(pool: DispatchPool) -> None:
    count = 0

    def job() -> None:
        nonlocal count
        count += 1

    before = len(os.listdir("/proc/self/task"))
    futures = [pool.run(job) for _ in range(100_000)]
    stats = pool.stats()
    assert stats["queued"] <= pool.queue_length
    assert len(os.listdir("/proc/self/task")) <= before
    for future in futures:
        await future
    assert sum(not future.cancelled() for future in futures) == 100_000
    assert pool.stats()["taken"] == 100_000


MEMORY = """
import asyncio, os, penstock, threading, time

JOBS = 100_000
MIB = 1 << 20

def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def held(pool):
    # Until the gate is opened, nothing that comes later is taken.
    gate = threading.Event()
    for _ in range(pool.threads):
        pool.dispatch(gate.wait)
    return gate

def dispatched(pool):
    # From a thread, which is blocked when the queue is full: that is all the memory that it can cost.
    gate = held(pool)
    submitter = threading.Thread(target=lambda: [pool.dispatch(int) for _ in range(JOBS)])
    submitter.start()
    while pool.stats()["queued"] < pool.queue_length:
        time.sleep(0.001)
    full = resident()
    assert submitter.is_alive() and pool.stats()["waiting"] <= 1
    gate.set()
    submitter.join()
    # The next begins with an empty queue: a full one refuses what comes from a loop, and its gate would stay shut.
    while pool.stats()["queued"]:
        time.sleep(0.001)
    return full

async def run(pool):
    # From a loop, where each await waits: a job costs what its future does.
    gate = held(pool)
    futures = [pool.run(int) for _ in range(JOBS)]
    full = resident()
    gate.set()
    assert await asyncio.gather(*futures) == [0] * JOBS
    return full

# What the allocator can't use again grows for some rounds; what leaked would go on.
with penstock.DispatchPool(threads=4) as pool:
    start = resident()
    first = max(dispatched(pool) for _ in range(3))
    assert first - start < 16 * MIB, (first - start) / MIB
    again = max(dispatched(pool) for _ in range(3))
    assert again - first < 4 * MIB, (again - first) / MIB
    start = resident()
    first = asyncio.run(run(pool))
    assert first - start < 100 * MIB, (first - start) / MIB
    first = max(asyncio.run(run(pool)) for _ in range(2))
    again = max(asyncio.run(run(pool)) for _ in range(3))
    assert again - first < 32 * MIB, (again - first) / MIB
print("bounded")
"""


def test_a_hundred_thousand_queued_jobs_take_bounded_memory(
    script: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = script(MEMORY)
    assert (done.stdout, done.stderr) == ("bounded\n", "")
