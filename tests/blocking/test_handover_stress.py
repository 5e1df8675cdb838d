"""Thousands of tasks that block, wait and nest at random, on loops that are handed over all the while: none is lost,
none is in two threads, nothing hangs. `PENSTOCK_STRESS_SECONDS` says how long."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import penstock
import pytest
from penstock import HandoverError, block_in_place

from .handing import needs_handover

SECONDS = float(os.environ.get("PENSTOCK_STRESS_SECONDS", "20"))
TASKS = 400
"""At a time; each has children."""

variable = contextvars.ContextVar("variable", default=-1)


class Loop:
    """Whether two threads run it."""

    def __init__(self) -> None:
        self.inside = 0
        self.steps = 0

    def step(self) -> None:
        # Were there another thread here, it would show in between.
        self.inside += 1
        time.sleep(0)
        self.inside -= 1
        assert self.inside == 0, "two threads run the loop"
        self.steps += 1


class Worker:
    """A task, which is in no two threads."""

    def __init__(self, loop: Loop, dice: random.Random, sem: penstock.Semaphore, pool: penstock.DispatchPool) -> None:
        self.loop, self.dice, self.sem, self.pool = loop, dice, sem, pool
        self.number = dice.randrange(1 << 30)
        self.entered = threading.Lock()

    def fn(self, seconds: float, depth: int) -> int:
        assert self.entered.acquire(blocking=False), "a task is in two threads"
        try:
            assert asyncio._get_running_loop() is None
            assert variable.get() == self.number
            if seconds:
                time.sleep(seconds)
            if depth:
                self.entered.release()
                try:
                    return block_in_place(self.fn, seconds, depth - 1)
                finally:
                    self.entered.acquire()
            return self.number
        finally:
            self.entered.release()

    def block(self) -> None:
        seconds = self.dice.choice((0, 0, 0, 0.0001, 0.0002, 0.0003, 0.001, 0.003))
        # With all carriers blocked it is refused.
        with contextlib.suppress(HandoverError):
            assert block_in_place(self.fn, seconds, self.dice.choice((0, 0, 1, 2))) == self.number

    async def run(self, depth: int) -> int:
        variable.set(self.number)
        me, steps = asyncio.current_task(), 0
        for _ in range(self.dice.randrange(1, 8)):
            self.loop.step()
            chance = self.dice.random()
            if chance < 0.4:
                self.block()
            elif chance < 0.6:
                await asyncio.sleep(self.dice.random() * 0.003)
            elif chance < 0.7:
                await asyncio.sleep(0)
            elif chance < 0.75:
                assert await self.pool.run(int, steps) == steps
            elif chance < 0.8:
                async with self.sem:
                    self.block()
            elif chance < 0.85:
                try:
                    async with asyncio.timeout(self.dice.random() * 0.001):
                        self.block()
                        await asyncio.sleep(0.01)
                except TimeoutError:
                    pass
            elif chance < 0.9:
                with pytest.raises((ZeroDivisionError, HandoverError)):
                    block_in_place(divmod, 1, 0)
            elif depth:
                children = [Worker(self.loop, self.dice, self.sem, self.pool) for _ in range(3)]
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(child.run(depth - 1)) for child in children]
                steps += sum(task.result() for task in tasks)
            assert asyncio.current_task() is me
            assert variable.get() == self.number
            steps += 1
        return steps


async def storm(seconds: float, seed: int) -> int:
    dice, loop, sem = random.Random(seed), Loop(), penstock.Semaphore(5)
    end, finished, steps = time.monotonic() + seconds, 0, 0
    async with penstock.DispatchPool(threads=2) as pool:
        while time.monotonic() < end:
            workers = [Worker(loop, dice, sem, pool) for _ in range(TASKS)]
            tasks = [asyncio.create_task(worker.run(2)) for worker in workers]
            for task in dice.sample(tasks, 20):
                asyncio.get_running_loop().call_later(dice.random() * 0.05, task.cancel)
            async with asyncio.timeout(60):
                results = await asyncio.gather(*tasks, return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException):
                    assert isinstance(result, asyncio.CancelledError), result
                else:
                    steps += result
            finished += len(results)
    assert finished % TASKS == 0
    assert loop.steps >= steps > 0
    return finished


OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "few carriers": {"max_carriers": 3, "idle_seconds": 0.01},
    "debug": {"debug": True},
}


@needs_handover
@pytest.mark.slow
@pytest.mark.timeout(max(90, SECONDS + 60))
@pytest.mark.parametrize("options", OPTIONS)
def test_no_task_is_lost_and_none_is_in_two_threads(options: str) -> None:
    seed = int.from_bytes(os.urandom(4), "little")
    print("seed", seed)
    tasks = penstock.run(storm(SECONDS / len(OPTIONS), seed), **OPTIONS[options])
    print(tasks, "tasks, each with children")
    assert tasks >= TASKS


@needs_handover
@pytest.mark.slow
@pytest.mark.timeout(60)
def test_loops_begin_and_end_all_the_time() -> None:
    async def main() -> int:
        await asyncio.gather(*(work(n) for n in range(6)))
        return 1

    async def work(n: int) -> None:
        block_in_place(time.sleep, 0.0001 * n)

    end, count = time.monotonic() + min(5, SECONDS / 6), 0
    while time.monotonic() < end:
        count += penstock.run(main())
    assert count > 0


INTERRUPTED = """
import asyncio, os, random, signal, sys, threading, time
import penstock

dice = random.Random(int(sys.argv[1]))

async def work():
    while True:
        penstock.block_in_place(time.sleep, dice.choice((0, 0.0001, 0.0004, 0.002)))
        await asyncio.sleep(dice.choice((0, 0.0001)))

async def main():
    await asyncio.gather(*(work() for _ in range(8)))

ended = 0
while ended < int(sys.argv[2]):
    timer = threading.Timer(dice.random() * 0.05, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        penstock.run(main(), max_carriers=20)
    except KeyboardInterrupt:
        ended += 1
    timer.join()
    assert threading.active_count() == 1, threading.enumerate()
print(ended)
"""


@needs_handover
@pytest.mark.slow
@pytest.mark.timeout(90)
def test_ctrl_c_at_any_moment_ends_the_loop_and_its_threads(script: Callable[..., Any]) -> None:
    seed = int.from_bytes(os.urandom(4), "little")
    done = script(INTERRUPTED, str(seed), "60", timeout=60)
    assert (done.returncode, done.stdout) == (0, "60\n"), (seed, done.stderr)
