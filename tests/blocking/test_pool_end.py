"""How a `DispatchPool` comes to rest, and how it ends."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
from penstock import DispatchPool
from penstock._native import Future, _nap
from penstock.errors import PoolClosed

from .conftest import Gate


@pytest.mark.asyncio
async def test_join_waits_for_everything_that_was_given_and_closes_nothing(pool: DispatchPool, gate: Gate) -> None:
    ran: list[int] = []
    pool.dispatch(gate)
    for n in range(100):
        pool.dispatch(ran.append, n)
    nap = _nap(pool, 0.01)
    joining = pool.join()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(joining), 0.05)
    gate.open.set()
    await joining
    assert sorted(ran) == list(range(100))
    assert nap.done()
    assert await pool.run(int) == 0


@pytest.mark.asyncio
async def test_join_waits_for_what_an_enlisted_thread_runs(gate: Gate) -> None:
    with DispatchPool(queue_length=0, overflow="caller") as pool:
        thread = threading.Thread(target=pool.dispatch, args=(gate,))
        thread.start()
        gate.wait_entered()
        joining = pool.join()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not joining.done()
        gate.open.set()
        await joining
        thread.join()
        failed = await asyncio.to_thread(pool.submit, divmod, 1, 0)
        assert isinstance(failed.exception(0), ZeroDivisionError)
        await asyncio.wait_for(pool.join(), 10)


@pytest.mark.asyncio
async def test_join_of_a_quiet_pool_is_done(pool: DispatchPool) -> None:
    await pool.join()
    assert await pool.run(int) == 0
    await pool.join()
    await pool.aclose()
    await pool.join()


@pytest.mark.asyncio
async def test_results_come_before_the_end_of_a_join(pool: DispatchPool) -> None:
    for _ in range(50):
        futures = [pool.run(int) for _ in range(20)]
        await pool.join()
        assert all(future.done() for future in futures)


@pytest.mark.asyncio
async def test_join_ends_when_the_last_job_is_cancelled(pool: DispatchPool, gate: Gate) -> None:
    for _ in range(4):
        pool.dispatch(gate)
    gate.wait_entered(4)
    queued = [pool.run(int), _nap(pool, 20)]
    joining = pool.join()
    gate.open.set()
    for each in queued:
        each.cancel()
    await joining
    assert pool.stats()["running"] == 0


@pytest.mark.asyncio
async def test_join_ends_when_a_shutdown_cancels_what_is_queued(gate: Gate) -> None:
    pool = DispatchPool(threads=1)
    pool.dispatch(gate)
    gate.wait_entered()
    queued = [pool.run(int) for _ in range(3)]
    queued[0].cancel()
    joining = pool.join()
    pool.shutdown(wait=False, cancel_futures=True)
    assert pool.stats()["queued"] == 0
    gate.open.set()
    await joining
    assert all(future.cancelled() for future in queued)
    await pool.aclose()


def test_who_waits_for_what_a_shutdown_cancels_is_told(gate: Gate) -> None:
    pool = DispatchPool(threads=1)
    pool.dispatch(gate)
    gate.wait_entered()
    queued = {pool.submit(int) for _ in range(3)}
    pool.shutdown(wait=False, cancel_futures=True)
    done, _ = concurrent.futures.wait(queued, timeout=10)
    assert done == queued
    assert all(future.cancelled() for future in queued)
    gate.open.set()
    pool.close()


@pytest.mark.asyncio
async def test_a_cancelled_join_leaves_the_jobs_and_no_trace(pool: DispatchPool, gate: Gate) -> None:
    ended: list[None] = []
    pool.dispatch(lambda: ended.append(gate()))
    gate.wait_entered()
    for _ in range(1000):
        pool.join().cancel()
    assert sum(isinstance(thing, Future) for thing in gc.get_objects()) < 100
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(pool.join(), 0.01)
    gate.open.set()
    await pool.join()
    assert ended == [None]


@pytest.mark.asyncio
async def test_a_closed_pool_runs_what_is_queued_and_takes_no_more() -> None:
    pool = DispatchPool(threads=1)
    futures = [pool.run(time.sleep, 0.001) for _ in range(20)]
    await pool.aclose()
    assert await asyncio.gather(*futures) == [None] * 20
    for submit in (pool.run, pool.dispatch, pool.submit):
        with pytest.raises(PoolClosed):
            submit(int)
    await pool.aclose()
    pool.close()
    assert "closed" in repr(pool)


@pytest.mark.asyncio
async def test_shutdown_can_cancel_what_is_queued(gate: Gate) -> None:
    pool = DispatchPool(threads=1)
    running = pool.run(gate)
    gate.wait_entered()
    queued = pool.run(int)
    submitted = pool.submit(int)
    pool.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(asyncio.CancelledError):
        await queued
    assert submitted.cancelled()
    gate.open.set()
    assert await running is None
    await pool.aclose()


@pytest.mark.asyncio
async def test_a_job_may_shut_its_own_pool_down() -> None:
    pool = DispatchPool(threads=2)
    await pool.run(pool.shutdown)
    await pool.aclose()


def test_a_job_with_a_loop_of_its_own_may_close_its_pool() -> None:
    async def main() -> bool:
        await asyncio.wait_for(pool.aclose(), 10)
        return True

    with DispatchPool(threads=2) as pool:
        assert pool.submit(lambda: asyncio.run(main())).result(20)


@pytest.mark.asyncio
async def test_a_cancelled_aclose_closes_the_pool_all_the_same(
    gate: Gate, thread_names: Callable[[], set[str]]
) -> None:
    pool = DispatchPool(threads=1, name_prefix="gone-")
    running = pool.run(gate)
    gate.wait_entered()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(pool.aclose(), 0.01)
    with pytest.raises(PoolClosed):
        pool.run(int)
    gate.open.set()
    await running
    while any(name.startswith("gone-") for name in thread_names()):
        await asyncio.sleep(0.001)


CTRL_C = """
import os, signal, threading, time
import penstock

pool = penstock.DispatchPool(threads=1, queue_length=1)
stop = threading.Event()
pool.dispatch(stop.wait, 15)
while not pool.stats()["running"]:
    time.sleep(0.001)
pool.dispatch(int)
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
began = time.monotonic()
try:
    {wait}
except KeyboardInterrupt:
    print(f"interrupted {{time.monotonic() - began < 10}}")
stop.set()
pool.close()
"""


@pytest.mark.parametrize(
    "wait", ["pool.dispatch(int)", "pool.submit(int)", "pool.close()", "pool.shutdown()", "with pool: pass"]
)
def test_ctrl_c_ends_the_wait_for_room_and_for_the_end(
    script: Callable[[str], subprocess.CompletedProcess[str]], wait: str
) -> None:
    done = script(CTRL_C.format(wait=wait))
    assert (done.returncode, done.stdout) == (0, "interrupted True\n"), done.stderr


def test_a_forgotten_pool_warns_and_lets_its_threads_go() -> None:
    pools = [DispatchPool(threads=2)]
    ran = pools[0].submit(int)
    with pytest.warns(ResourceWarning, match="unclosed DispatchPool"):
        pools.clear()
    assert ran.result(10) == 0


NO_THREAD = """
import asyncio, gc
import penstock
from tests.limits import allow_memory

async def main():
    pool = penstock.DispatchPool(threads=1)
    # Less than a thread's stack.
    allow_memory(1 << 20)
    try:
        await pool.aclose()
    except OSError as error:
        assert "cannot start a thread" in str(error), error
    else:
        raise AssertionError("there was a thread")
    finally:
        allow_memory(None)
    gc.collect()
    # What isn't retrieved is told by the loop.
    await asyncio.sleep(0.01)
    await pool.aclose()
    assert penstock.stats()["threads"]["workers"] == 0

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="not on this platform: no /proc")
def test_a_pool_that_no_thread_can_be_had_to_wait_for_is_closed_and_says_so_once(
    script: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    ran = script(NO_THREAD)
    assert (ran.returncode, ran.stderr) == (0, "")
