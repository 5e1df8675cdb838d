"""The races of threads that hand a loop over: each is held at its point by a hook of the loop's baton, or by a function
that waits, until the other thread has come to its own. The numbers are those of docs/explanation/handover.md."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import penstock
import pytest
from penstock import HandoverError, block_in_place
from penstock.blocking.handover import HandoverEventLoop

from .conftest import abandon
from .handing import Met, blocking, needs_handover, run, stats, until

pytestmark = needs_handover

SLOW = 3600.0
"""A threshold that is never reached: what is handed over was told to be slow."""


def loop_here() -> HandoverEventLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, HandoverEventLoop)
    return loop


def hurry(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Have `fn` handed over at once."""
    loop_here()._baton._slow.add(type(fn))
    return fn


class Point:
    """Holds the first thread that comes to a point, on the thread `only` if it is given, until it is let go."""

    def __init__(self, name: str, only: int | None = None) -> None:
        self.name, self.only = name, only
        self.reached, self.go = threading.Event(), threading.Event()
        loop_here()._baton._hook(self)

    def __call__(self, name: str) -> None:
        if name == self.name and self.only in (None, threading.get_ident()) and not self.reached.is_set():
            self.reached.set()
            assert self.go.wait(15)


class Quick:
    """Told to be slow, and isn't."""

    def __call__(self) -> int:
        return 5


def test_1_the_function_returns_while_the_loop_is_being_taken() -> None:
    async def main() -> None:
        # The function has returned, and its thread is held before it says so; a carrier takes the loop.
        point = Point("returned")
        ran = []

        def other() -> None:
            ran.append(threading.get_ident())
            point.go.set()

        loop_here().call_soon(other)
        assert block_in_place(hurry(Quick())) == 5
        assert ran not in ([], [threading.get_ident()])
        assert asyncio.current_task() is not None
        assert loop_here()._thread_id == threading.get_ident()

    run(main(), threshold=SLOW)


def test_1_the_carrier_has_taken_the_loop_and_not_begun_when_the_function_returns() -> None:
    async def main() -> None:
        first, met = threading.get_ident(), Met()
        point = Point("taken")

        def released() -> int:
            assert point.reached.wait(15)
            threading.Timer(0.02, point.go.set).start()
            return 6

        loop_here()._baton._slow.add(released.__code__)
        assert block_in_place(released) == 6
        assert threading.get_ident() == first
        # The next is handed over as if nothing had been.
        loop_here().call_later(0.001, met.opened.set)
        assert block_in_place(hurry(met)) == first
        assert stats()["taken"] == 2

    run(main(), threshold=SLOW)


def test_2_a_function_returns_while_the_carrier_is_blocked_itself_and_no_other_is_left() -> None:
    async def main() -> None:
        first, mine, its = threading.get_ident(), Met(), Met()

        async def blocks_the_carrier() -> int:
            await until(mine.entered.is_set)
            mine.opened.set()
            return block_in_place(its)

        other = asyncio.create_task(blocks_the_carrier())
        assert block_in_place(hurry(mine)) == first
        assert its.entered.wait(15)
        # Had it not been seized, nobody would be here.
        assert loop_here()._thread_id == first
        its.opened.set()
        assert await other != first
        assert stats()["away"] == 0

    before = penstock.set_unsupported("direct")
    try:
        run(main(), threshold=SLOW, max_carriers=1)
    finally:
        penstock.set_unsupported(before)


def test_2_who_waits_for_the_loop_has_it_when_its_owner_blocks() -> None:
    async def main() -> None:
        first, mine = threading.get_ident(), Met()
        point = Point("queued", first)

        async def blocks_the_carrier() -> int:
            await until(mine.entered.is_set)
            mine.opened.set()
            # The first thread waits before this one gives the loop up.
            assert point.reached.wait(15)
            point.go.set()
            return block_in_place(Quick())

        other = asyncio.create_task(blocks_the_carrier())
        assert block_in_place(hurry(mine)) == first
        assert await other == 5
        assert stats()["swapped"] == 1

    run(main(), threshold=SLOW)


def test_3_many_return_while_the_first_thread_has_the_loop() -> None:
    async def main() -> None:
        first = threading.get_ident()
        mets = [Met() for _ in range(8)]
        tasks = [asyncio.create_task(blocking(hurry(met))) for met in mets]
        await until(lambda: all(met.entered.is_set() for met in mets))
        for met in mets:
            met.opened.set()
        # They queue up behind each other while this callback goes on.
        time.sleep(0.05)
        threads = await asyncio.gather(*tasks)
        assert first in threads or len(set(threads)) == 8
        # The first thread gets its turn: only it ends the loop.
        await until(lambda: stats()["away"] == 0)

    run(main(), threshold=SLOW)


def test_3_a_return_wakes_a_loop_that_sleeps() -> None:
    async def main() -> None:
        met = Met()
        loop_here().call_later(0.02, met.opened.set)
        started = loop_here().time()
        assert block_in_place(hurry(met)) == threading.get_ident()
        # Without a wake-up the carrier would sleep to its next timer, which is wait_for's.
        assert loop_here().time() - started < 10

    run(main(), threshold=SLOW)


def test_4_what_others_ran_meanwhile_is_not_counted_again() -> None:
    async def main() -> None:
        met, ran = Met(), []

        def note(n: int) -> None:
            ran.append(n)
            if n == 9:
                met.opened.set()

        # Counted as ready by the first thread in the turn in which it blocks, and run by the carrier.
        task = asyncio.create_task(blocking(hurry(met)))
        for n in range(10):
            loop_here().call_soon(note, n)
        assert await task == threading.get_ident()
        assert ran == list(range(10))

    run(main(), threshold=SLOW)


@pytest.mark.parametrize("nested", [False, True])
def test_5_no_task_is_lost_that_shares_a_context_with_a_blocked_one(nested: bool) -> None:
    async def main() -> None:
        context, met = contextvars.copy_context(), Met()
        loop = loop_here()

        async def blocks() -> int:
            return context.run(block_in_place, hurry(met)) if nested else block_in_place(hurry(met))

        async def shares() -> str:
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            return "done"

        blocked = loop.create_task(blocks()) if nested else loop.create_task(blocks(), context=context)
        others = [loop.create_task(shares(), context=context) for _ in range(5)]
        await until(met.entered.is_set)
        await asyncio.sleep(0.005)
        assert not any(other.done() for other in others)
        met.opened.set()
        await blocked
        assert await asyncio.gather(*others) == ["done"] * 5

    run(main(), threshold=SLOW)


def test_6_a_stop_seen_by_a_carrier_leaves_the_loop_to_the_first_thread() -> None:
    loop = penstock.new_event_loop(threshold=SLOW)
    mets = [Met(), Met()]
    order, turns = [], []

    async def turn() -> None:
        while True:
            turns.append(1)
            await asyncio.sleep(0)

    async def blocks(met: Met) -> None:
        order.append(block_in_place(hurry(met)))

    async def stops() -> None:
        await until(lambda: all(met.entered.is_set() for met in mets))
        loop.stop()
        turns.clear()
        # Both are away when it stops; a carrier comes back before the first thread does.
        threading.Timer(0.02, mets[1].opened.set).start()
        threading.Timer(0.05, mets[0].opened.set).start()

    tasks = [loop.create_task(blocks(met)) for met in mets] + [loop.create_task(stops())]
    turning = loop.create_task(turn())
    try:
        loop.run_forever()
        assert order[1] == threading.get_ident() != order[0]
        # It stood still while they were away, but for the turn that was under way and those that they ended.
        assert len(turns) <= 3
        turning.cancel()
        loop.run_until_complete(asyncio.wait([*tasks, turning]))
    finally:
        loop.close()


def test_7_an_interrupt_while_the_loop_is_waited_for_is_raised_when_it_is_back() -> None:
    async def main() -> None:
        first, mine = threading.get_ident(), Met()
        point = Point("queued", first)
        point.go.set()

        async def keeps_the_carrier() -> None:
            await until(mine.entered.is_set)
            mine.opened.set()
            assert point.reached.wait(15)
            # It is out of the hook, and waits without running Python code.
            while sys._current_frames()[first].f_code is not main.__code__:
                time.sleep(0.001)
            signal.raise_signal(signal.SIGUSR1)
            # So that the main thread, which waits, comes to look for signals.
            assert handled.wait(15)

        handled = threading.Event()

        def interrupt(*_: object) -> None:
            handled.set()
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGUSR1, interrupt)
        try:
            other = asyncio.create_task(keeps_the_carrier())
            with pytest.raises(KeyboardInterrupt):
                block_in_place(hurry(mine))
            # It has the loop: what comes next is as ever.
            assert asyncio.get_running_loop() is loop_here()
            assert asyncio.current_task() is not None
            await other
        finally:
            signal.signal(signal.SIGUSR1, before)

    run(main(), threshold=SLOW)


def test_7_a_carrier_that_is_blocked_when_the_loop_is_closed_is_told() -> None:
    loop = penstock.new_event_loop(threshold=SLOW)
    met, told, ended = Met(), [], threading.Event()

    async def blocks() -> None:
        try:
            block_in_place(hurry(met))
        except HandoverError as error:
            told.append(str(error))
        finally:
            ended.set()

    async def main() -> None:
        task = asyncio.create_task(hold())
        other = asyncio.create_task(blocks())
        await until(met.entered.is_set)
        # The first thread must have the loop when it is interrupted: it blocked first, and so it is back first.
        await task
        assert not other.done()
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.sleep(10)

    async def hold() -> None:
        mine = Met()
        loop_here().call_later(0.005, mine.opened.set)
        block_in_place(hurry(mine))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    reports: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, report: reports.append(report))
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(main())
        # Nobody runs it again, to wait for the one that is blocked.
        for task in asyncio.all_tasks(loop):
            abandon(task)
        loop.close()
    finally:
        signal.signal(signal.SIGUSR1, before)
    met.opened.set()
    assert ended.wait(15)
    assert told == ["the event loop was closed while the function ran"]
