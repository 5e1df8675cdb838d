"""How few threads are woken: counts, as times would tell more of the machine. That it isn't too few is shown by the
models of the queue, and by every other test."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from penstock import DispatchPool, Semaphore
from penstock._native import _nap

from .conftest import Gate

BURSTS, JOBS = 10, 100


def noop() -> None:
    pass


def brief(pool: DispatchPool, kind: str) -> Callable[[], Awaitable[None]]:
    return (lambda: _nap(pool)) if kind == "native" else (lambda: pool.run(noop))


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["native", "attached"])
async def test_a_burst_of_brief_jobs_wakes_few_threads(pool: DispatchPool, kind: str) -> None:
    start = brief(pool, kind)
    for _ in range(40):
        await start()
    before = pool.stats()["wakes"]
    for _ in range(BURSTS):
        await asyncio.gather(*[start() for _ in range(JOBS)])
    # A handful for each burst: one that takes the jobs, one that watches it, and more where the machine is busy.
    assert pool.stats()["wakes"] - before < BURSTS * JOBS / 5


@pytest.mark.asyncio
async def test_each_job_that_blocks_costs_one_wake_up_at_most(pool: DispatchPool, gate: Gate) -> None:
    before = pool.stats()["wakes"]
    blocked = [pool.run(gate) for _ in range(pool.threads)]
    gate.wait_entered(pool.threads)
    # A watcher that takes over by itself needs none.
    assert pool.stats()["wakes"] - before <= pool.threads
    gate.open.set()
    await asyncio.gather(*blocked)


def keep_the_lock() -> None:
    end = time.perf_counter() + 0.0003
    while time.perf_counter() < end:
        pass


def test_jobs_that_keep_a_lock_that_nobody_wants_dont_change_threads_each_time(pool: DispatchPool) -> None:
    done = threading.Event()
    before = pool.stats()["wakes"]
    for _ in range(BURSTS * JOBS):
        pool.dispatch(keep_the_lock)
    pool.dispatch(done.set)
    done.wait()
    # Each job is a batch, and who always leaves the lock to another wakes one for each. On a quiet machine
    # one or two in ten remain.
    assert pool.stats()["wakes"] - before < BURSTS * JOBS


@pytest.mark.asyncio
async def test_jobs_that_sleep_run_beside_each_other_batch_after_batch() -> None:
    asleep = alone = 0

    def nap() -> None:
        nonlocal asleep, alone
        alone += not asleep
        asleep += 1
        time.sleep(0.001)
        asleep -= 1

    async with DispatchPool(threads=40) as pool:
        for _ in range(100):
            alone = 0
            await asyncio.gather(*[pool.run(nap) for _ in range(40)])
            # The first, and on a busy machine some more.
            assert alone <= 16


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["native", "attached"])
async def test_a_job_that_blocks_against_expectation_holds_up_nobody(pool: DispatchPool, kind: str) -> None:
    start = brief(pool, kind)
    for _ in range(40):
        await start()
    gate = threading.Event()
    blocked = [pool.run(gate.wait) for _ in range(pool.threads - 1)]
    try:
        await asyncio.gather(*[start() for _ in range(JOBS)])
    finally:
        gate.set()
    await asyncio.gather(*blocked)


def switches(thread: threading.Thread) -> int:
    """How often it has gone to sleep so far."""
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


@pytest.mark.skipif(sys.platform != "linux", reason="not on this platform: no /proc")
@pytest.mark.parametrize("what", ["a permit", "a permit, with a timeout", "room in a queue", "the end"])
def test_a_thread_that_waits_is_not_woken_to_look_for_signals_which_the_main_thread_hears(
    gate: Gate, what: str
) -> None:
    semaphore = Semaphore(1)
    assert semaphore.try_acquire()

    def enter(timeout: float | None = None) -> None:
        with semaphore.sync(timeout):
            pass

    with DispatchPool(threads=1, queue_length=1) as pool:
        pool.dispatch(gate)
        gate.wait_entered()
        pool.dispatch(noop)
        waits = {
            "a permit": enter,
            "a permit, with a timeout": lambda: enter(20),
            "room in a queue": lambda: pool.dispatch(noop),
            "the end": pool.close,
        }
        thread = threading.Thread(target=waits[what])
        thread.start()
        try:
            time.sleep(0.2)
            before = switches(thread)
            time.sleep(0.4)
            assert switches(thread) - before <= 1
        finally:
            semaphore.release()
            gate.open.set()
            thread.join(20)
    assert not thread.is_alive()
