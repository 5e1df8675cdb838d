"""`block_in_place`: the loop goes on in another thread, and comes back.

What tasks see of it, how loops begin and end, signals, and where it can't be done: each has a file beside this one. The
races between threads that hand the loop over are in test_handover_races.py.
"""

from __future__ import annotations

import asyncio
import functools
import os
import threading
import time
import warnings

import penstock
import pytest
from penstock import HandoverError, block_in_place
from penstock.blocking import handover

from .handing import Met, blocking, needs_handover, remembered, run, stats, until

pytestmark = needs_handover


# The loop goes on


def test_the_loop_goes_on_in_another_thread_while_a_task_blocks_its_own() -> None:
    async def main() -> None:
        met, first = Met(), threading.get_ident()

        async def opens() -> int:
            await until(met.entered.is_set)
            met.opened.set()
            return threading.get_ident()

        other = asyncio.create_task(opens())
        assert block_in_place(met) == first == threading.get_ident()
        assert asyncio.current_task() is not None
        assert asyncio.get_running_loop().is_running()
        assert await other != first
        assert stats()["taken"] == 1

    run(main())


def test_the_value_the_arguments_and_the_exception_are_the_functions() -> None:
    def fn(a: int, *, b: int) -> tuple[int, int]:
        time.sleep(0.002)
        if b == 0:
            raise ZeroDivisionError(a)
        return a, b

    async def main() -> None:
        assert block_in_place(fn, 1, b=2) == (1, 2)
        with pytest.raises(ZeroDivisionError, match="1"):
            block_in_place(fn, 1, b=0)
        await asyncio.sleep(0)

    run(main())


def test_an_asynchronous_function_is_refused_by_name() -> None:
    async def fetch() -> None:
        raise AssertionError

    async def main() -> None:
        with pytest.raises(TypeError, match="fetch is an asynchronous function"):
            await block_in_place(fetch)

    run(main())


def test_a_quick_function_stays_and_changes_nothing() -> None:
    async def main() -> None:
        for n in range(1000):
            assert block_in_place(lambda n=n: n) == n
        assert stats()["blocks"] == 1000
        assert stats()["carriers"] == 1

    run(main(), threshold=60)


def test_a_function_seen_to_be_slow_is_handed_over_at_once_and_one_that_is_quick_again_is_not() -> None:
    async def main() -> None:
        waits = [Met(), Met()]

        def slow() -> int:
            if waits:
                waits.pop()()
                time.sleep(0.002)
            return 0

        async def opens(met: Met) -> None:
            await until(met.entered.is_set)
            met.opened.set()

        for met in list(reversed(waits)):
            other = asyncio.create_task(opens(met))
            block_in_place(slow)
            await other
        assert stats()["taken"] == 2
        assert stats()["at_once"] == 1

    run(main())


def test_a_function_that_is_quick_again_is_no_longer_slow() -> None:
    async def main() -> None:
        slow = remembered()
        slow.update((int, type))
        block_in_place(int)
        assert slow == {int}

    run(main(), threshold=60)


def test_what_is_remembered_as_slow_keeps_no_object_alive() -> None:
    class Waits:
        def __call__(self, event: threading.Event) -> None:
            self.method(event)

        def method(self, event: threading.Event) -> None:
            assert event.wait(15)

    class WaitsToBeMade(Waits):
        def __init__(self, event: threading.Event) -> None:
            self.method(event)

    @functools.wraps(Waits.method)
    def wrapper(event: threading.Event) -> None:
        Waits().method(event)

    async def main() -> None:
        loop, slow = asyncio.get_running_loop(), remembered()
        for fn, key in (
            (Waits().method, Waits.method.__code__),
            (Waits(), Waits),
            (WaitsToBeMade, type),
            (wrapper, Waits.method.__code__),
            (functools.partial(functools.partial(wrapper)), Waits.method.__code__),
        ):
            slow.clear()
            event = threading.Event()
            loop.call_soon(event.set)
            block_in_place(fn, event)
            assert slow == {key}
        # Those that are written in C.
        slow.clear()
        lock = threading.Lock()
        lock.acquire()
        loop.call_soon(lock.release)
        block_in_place(lock.acquire)
        here, there = os.pipe()
        loop.call_soon(os.write, there, b"x")
        assert block_in_place(os.read, here, 1) == b"x"
        assert slow == {(type(lock), "acquire"), os.read}
        for descriptor in (here, there):
            os.close(descriptor)

    run(main())


def test_many_tasks_block_at_once() -> None:
    async def main() -> None:
        barrier = threading.Barrier(20)
        assert sorted(await asyncio.gather(*(blocking(barrier.wait, 15) for _ in range(20)))) == list(range(20))
        assert stats()["carriers"] <= 32

    run(main())


def test_a_call_within_a_function_that_blocks_is_a_plain_call() -> None:
    async def main() -> None:
        def outer() -> int:
            assert asyncio._get_running_loop() is None
            return block_in_place(inner)

        def inner() -> int:
            time.sleep(0.002)
            return 7

        assert block_in_place(outer) == 7
        assert stats()["blocks"] == 1

    run(main())


def test_a_function_may_run_a_loop_of_its_own() -> None:
    async def inner() -> int:
        await asyncio.sleep(0.005)
        return block_in_place(lambda: 5)

    async def main() -> None:
        assert block_in_place(run, inner()) == 5
        await asyncio.sleep(0)

    run(main())


# The cap


def test_with_all_carriers_blocked_the_next_is_refused_and_the_loop_goes_on_when_one_returns() -> None:
    async def main() -> None:
        mets = [Met() for _ in range(3)]
        tasks = [asyncio.create_task(blocking(met)) for met in mets[:2]]
        await until(lambda: all(met.entered.is_set() for met in mets[:2]))
        with pytest.raises(HandoverError, match="max_carriers=2"):
            block_in_place(mets[2])
        assert not mets[2].entered.is_set()
        for met in mets:
            met.opened.set()
        await asyncio.gather(*tasks)
        block_in_place(mets[2])
        assert stats()["capped"] == 1

    run(main(), max_carriers=2)


def test_one_more_blocker_than_there_are_threads_lets_the_loop_stand_until_one_of_them_returns() -> None:
    async def main() -> None:
        barrier = threading.Barrier(4)
        ticks = []

        async def ticker() -> None:
            while True:
                ticks.append(threading.get_ident())
                await asyncio.sleep(0)

        tick = asyncio.create_task(ticker())
        # Three carriers and the first thread: none is left when the last has come.
        assert len(await asyncio.gather(*(blocking(barrier.wait, 15) for _ in range(4)))) == 4
        before = len(ticks)
        await until(lambda: len(ticks) > before)
        tick.cancel()
        assert stats()["away"] == 0

    before = penstock.set_unsupported("direct")
    try:
        with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(handover, "_warned", True)
            run(main(), max_carriers=3)
    finally:
        penstock.set_unsupported(before)


def test_carriers_count_among_the_processs_threads() -> None:
    before = penstock.stats()["threads"]

    async def main() -> None:
        barrier = threading.Barrier(3)
        await asyncio.gather(*(blocking(barrier.wait, 15) for _ in range(3)))
        now = penstock.stats()["threads"]
        assert now["limit"] - before["limit"] == 5
        assert now["carriers"] >= 3
        assert now["used"] >= now["carriers"]

    run(main(), max_carriers=5)
    assert penstock.stats()["threads"]["carriers"] == before["carriers"]


def test_carriers_that_are_not_needed_end() -> None:
    async def main() -> None:
        barrier = threading.Barrier(6)
        await asyncio.gather(*(blocking(barrier.wait, 15) for _ in range(6)))
        assert stats()["carriers"] >= 5
        await until(lambda: stats()["carriers"] == 0)
        assert await blocking(lambda: time.sleep(0.002)) is None

    run(main(), idle_seconds=0.05)
