"""Futures of loops that go, and of several loops."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import threading
import warnings
import weakref
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest
from penstock import DispatchPool
from penstock._native import Future, _nap

from tests.conftest import LOOPS

from .conftest import Gate, abandon


@pytest.mark.parametrize("make", LOOPS.values(), ids=LOOPS)
def test_a_loop_closed_while_jobs_run_is_quietly_forgotten(
    make: Callable[[], asyncio.AbstractEventLoop], gate: Gate
) -> None:
    pool = DispatchPool(threads=2)
    loop = make()

    async def main() -> list[Future[Any]]:
        return [pool.run(gate), pool.run(gate), pool.run(int), _nap(pool)]

    kept = loop.run_until_complete(main())
    loop.close()
    gate.open.set()
    pool.close()
    assert not any(future.done() for future in kept)


@pytest.mark.parametrize("make", LOOPS.values(), ids=LOOPS)
def test_a_coroutine_that_ends_after_its_loop_sees_its_end_only(
    make: Callable[[], asyncio.AbstractEventLoop], pool: DispatchPool, gate: Gate
) -> None:
    loop = make()
    seen: list[type[BaseException]] = []

    async def wait() -> None:
        try:
            await pool.run(gate)
        except BaseException as error:
            seen.append(type(error))
            raise

    async def main() -> tuple[Coroutine[Any, Any, None], asyncio.Task[None]]:
        waiting = wait()
        task = loop.create_task(waiting)
        await asyncio.sleep(0)
        return waiting, task

    waiting, task = loop.run_until_complete(main())
    loop.close()
    waiting.close()
    assert seen == [GeneratorExit]
    abandon(task)
    gate.open.set()


@pytest.mark.parametrize("make", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("how", ["closed", "collected"])
def test_a_thousand_loops_on_one_pool_leave_no_descriptor(
    make: Callable[[], asyncio.AbstractEventLoop], how: str
) -> None:
    with DispatchPool(threads=2) as pool:
        before = len(os.listdir("/proc/self/fd"))
        kept: list[asyncio.AbstractEventLoop] = []
        futures: list[Future[int]] = []

        async def main() -> int:
            futures.append(pool.run(int))
            return await futures[-1]

        for _ in range(1000):
            loop = make()
            assert loop.run_until_complete(main()) == 0
            loop.close()
            if how == "closed":
                kept.append(loop)
            else:
                futures.clear()
                del loop
        if how == "collected":
            gc.collect()
        assert len(os.listdir("/proc/self/fd")) <= before


class Unclosed(asyncio.SelectorEventLoop):
    """asyncio's closes itself when it is collected; this one doesn't."""

    def __del__(self) -> None:
        pass


def test_loops_that_are_collected_without_a_close_leave_no_descriptor() -> None:
    async def main() -> int:
        return await pool.run(int)

    with DispatchPool(threads=2) as pool, warnings.catch_warnings():
        # The loop's sockets have something to say.
        warnings.simplefilter("ignore", ResourceWarning)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            assert Unclosed().run_until_complete(main()) == 0
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) <= before


def test_a_loop_that_is_collected_without_a_close_takes_results_with_it_that_it_never_had(gate: Gate) -> None:
    async def main() -> None:
        here = asyncio.get_running_loop()
        pool.run(lambda: (gate(), here))
        _nap(pool)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        loop = Unclosed()
        with DispatchPool(threads=1) as pool:
            loop.run_until_complete(main())
            gate.wait_entered()
            gate.open.set()
        dead = weakref.ref(loop)
        del loop
        gc.collect()
        assert dead() is None


@pytest.mark.parametrize("make", LOOPS.values(), ids=LOOPS)
def test_loops_in_several_threads_share_a_pool(make: Callable[[], asyncio.AbstractEventLoop]) -> None:
    totals: list[int] = []

    def thread() -> None:
        async def main() -> int:
            return sum(await asyncio.gather(*[pool.run(int, "1") for _ in range(200)]))

        loop = make()
        totals.append(loop.run_until_complete(main()))
        loop.close()

    with DispatchPool(threads=3) as pool:
        threads = [threading.Thread(target=thread) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(20)
    assert totals == [200] * 4


@pytest.mark.asyncio
async def test_a_future_in_a_cycle_is_collected(pool: DispatchPool) -> None:
    class Thing:
        future: Any

    thing = Thing()
    dead = weakref.ref(thing)
    future = pool.run(lambda it: it, thing)
    thing.future = future
    await future
    # Until the task suspends it runs inside the future's callback.
    await asyncio.sleep(0)
    del future, thing
    gc.collect()
    assert dead() is None


COLLECTED = """
import asyncio, gc, time, weakref
import penstock
from penstock._native import _nap

# The fewer there are to visit, the more often is each.
gc.freeze()
ended = 0

async def wait(pool):
    global ended
    await _nap(pool)
    ended += 1

async def main():
    async with penstock.DispatchPool(threads=1) as pool:
        for batch in range(1, 501):
            held_up = _nap(pool, 0.0005)
            # Each is kept by the future that it waits for, and by nothing else.
            tasks = weakref.WeakSet(asyncio.create_task(wait(pool)) for _ in range(50))
            await asyncio.sleep(0)
            end = time.monotonic() + 0.002
            while time.monotonic() < end:
                gc.collect()
            await pool.join()
            await asyncio.sleep(0)
            assert (held_up.done(), ended) == (True, 50 * batch), tasks
    print(ended)

asyncio.run(main())
"""


def test_a_collection_takes_no_task_for_garbage_whose_native_job_just_begins(
    script: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = script(COLLECTED)
    assert (done.stdout, done.stderr) == ("25000\n", "")


@pytest.mark.parametrize("make", LOOPS.values(), ids=LOOPS)
def test_a_loop_keeps_nothing_of_the_context_in_which_the_pool_was_first_used(
    make: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    class Thing:
        pass

    variable: ContextVar[Thing] = ContextVar("variable")

    async def first() -> weakref.ref[Thing]:
        thing = Thing()
        variable.set(thing)
        assert await pool.run(int) == 0
        return weakref.ref(thing)

    async def main() -> None:
        dead = await asyncio.create_task(first())
        # Until the task suspends it runs inside the future's callback.
        await asyncio.sleep(0)
        gc.collect()
        assert dead() is None

    with DispatchPool(threads=1) as pool, asyncio.Runner(loop_factory=make) as runner:
        runner.run(main())
