"""What a pool's threads do when their loop is to be told, and doesn't come."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from penstock import DispatchPool

from .conftest import Gate

JOBS = 40


def keep_the_gil() -> None:
    """For longer than a batch."""
    end = time.perf_counter() + 0.0005
    while time.perf_counter() < end:
        pass


@pytest.mark.asyncio
@pytest.mark.parametrize("threads", [1, 4])
async def test_jobs_that_keep_the_gil_go_on_though_their_loop_never_comes(threads: int) -> None:
    all_but_one = threading.Semaphore(0)

    def job() -> None:
        keep_the_gil()
        all_but_one.release()

    with DispatchPool(threads) as pool:
        jobs = [pool.run(job) for _ in range(JOBS)]
        # The loop's own thread waits for them here, and takes nothing of what they give.
        assert all(all_but_one.acquire(timeout=20) for _ in range(JOBS))
        await asyncio.gather(*jobs)


@pytest.mark.asyncio
async def test_a_loop_comes_between_jobs_that_keep_the_gil() -> None:
    came = 0

    async def come() -> None:
        nonlocal came
        while True:
            await asyncio.sleep(0)
            came += 1

    with DispatchPool(4) as pool:
        coming = asyncio.create_task(come())
        await asyncio.gather(*[pool.run(keep_the_gil) for _ in range(JOBS)])
        coming.cancel()
    assert came >= JOBS / 4


@pytest.mark.asyncio
async def test_what_is_finished_is_told_while_the_thread_blocks_in_its_next_job(gate: Gate) -> None:
    with DispatchPool(1) as pool:
        first, second = pool.run(keep_the_gil), pool.run(gate)
        await first
        assert not second.done()
        gate.open.set()
        await second


def test_a_pool_that_gave_way_to_a_loop_that_is_gone_goes_on() -> None:
    done = threading.Semaphore(0)

    def job() -> None:
        keep_the_gil()
        done.release()

    async def leave() -> None:
        for _ in range(JOBS):
            pool.run(job)

    with DispatchPool(4) as pool:
        asyncio.run(leave())
        assert all(done.acquire(timeout=20) for _ in range(JOBS))
