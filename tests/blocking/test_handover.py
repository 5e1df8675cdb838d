"""`block_in_place`: the loop goes on in another thread, and comes back; what tasks see, and where it can't be done.

The races between threads that hand the loop over are in test_handover_races.py.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import gc
import os
import signal
import sqlite3
import sys
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import greenlet
import penstock
import pytest
import uvloop
from penstock import HandoverError, block_in_place
from penstock.blocking import handover

T = TypeVar("T")

pytestmark = pytest.mark.skipif(
    sys.version_info[:2] not in handover.TESTED, reason="not on this platform: an untested CPython"
)


def run(main: Coroutine[Any, Any, T], **options: Any) -> T:
    return penstock.run(asyncio.wait_for(main, 20), **options)


def stats() -> dict[str, int]:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, handover.HandoverEventLoop)
    return loop.handover_stats()


def remembered() -> set[object]:
    """What tells functions apart that were seen to be slow."""
    loop: Any = asyncio.get_running_loop()
    slow: set[object] = loop._baton._slow
    return slow


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def blocking(fn: Callable[..., T], *args: Any) -> T:
    return block_in_place(fn, *args)


class Met:
    """Blocks a thread until the loop, which must go on for that, says so."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> int:
        self.entered.set()
        assert self.opened.wait(15), "the loop stands still"
        return threading.get_ident()


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


# What tasks see


def test_context_variables_are_the_tasks() -> None:
    variable = contextvars.ContextVar("variable", default=0)

    async def main() -> None:
        def change() -> int:
            time.sleep(0.003)
            before = variable.get()
            variable.set(before + 1)
            return before

        async def task(n: int) -> None:
            variable.set(n)
            assert block_in_place(change) == n
            await asyncio.sleep(0)
            assert variable.get() == n + 1

        await asyncio.gather(*(task(10 * n) for n in range(1, 6)))
        assert variable.get() == 0

    run(main())


def test_tasks_that_share_a_context_with_one_that_blocks_are_held_back_until_it_returns() -> None:
    async def main() -> None:
        context, met = contextvars.copy_context(), Met()
        loop = asyncio.get_running_loop()
        steps: list[str] = []

        async def blocks() -> None:
            block_in_place(met)
            steps.append("returned")

        async def shares() -> None:
            steps.append("shares")

        async def opens() -> None:
            await until(met.entered.is_set)
            await asyncio.sleep(0.005)
            assert steps == []
            met.opened.set()

        others = [loop.create_task(blocks(), context=context), loop.create_task(shares(), context=context)]
        await asyncio.gather(opens(), *others)
        assert steps == ["returned", "shares"]

    run(main())


def test_a_cancellation_shows_at_the_next_await() -> None:
    async def main() -> None:
        met, steps = Met(), []

        async def blocks() -> None:
            block_in_place(met)
            steps.append("returned")
            await asyncio.sleep(0)
            steps.append("went on")

        task = asyncio.create_task(blocks())
        await until(met.entered.is_set)
        task.cancel()
        met.opened.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert steps == ["returned"]

    run(main())


def test_a_timeout_shows_at_the_next_await() -> None:
    async def main() -> None:
        met = Met()
        asyncio.get_running_loop().call_later(0.02, met.opened.set)

        async def times_out() -> None:
            async with asyncio.timeout(0.005):
                block_in_place(met)
                await asyncio.sleep(10)

        with pytest.raises(TimeoutError):
            await times_out()

    run(main())


def test_a_failing_task_of_a_group_cancels_one_that_blocks() -> None:
    async def main() -> None:
        met = Met()

        async def fails() -> None:
            await until(met.entered.is_set)
            asyncio.get_running_loop().call_later(0.005, met.opened.set)
            raise ZeroDivisionError

        async def blocks() -> None:
            block_in_place(met)
            await asyncio.sleep(10)

        async def both() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(blocks())
                group.create_task(fails())

        with pytest.raises(ExceptionGroup) as caught:
            await both()
        assert caught.value.subgroup(ZeroDivisionError)

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="not on this platform: eager tasks came with CPython 3.12")
def test_eager_tasks_block_within_their_parents_step() -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        met, me = Met(), asyncio.current_task()
        asyncio.get_running_loop().call_later(0.01, met.opened.set)
        task = asyncio.create_task(blocking(met))
        assert asyncio.current_task() is me
        assert task.done()
        assert task.result() == threading.get_ident()
        await asyncio.sleep(0)

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="not on this platform: eager tasks came with CPython 3.12")
def test_eager_tasks_that_a_callback_begins_belong_to_the_callback() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        begun: asyncio.Future[asyncio.Task[int]] = loop.create_future()
        loop.call_soon(lambda: begun.set_result(loop.create_task(blocking(lambda: 1))))
        with pytest.raises(HandoverError, match="callback"):
            await (await begun)

    run(main())


def test_asynchronous_generators_are_finished_wherever_they_were_begun() -> None:
    # Kept beyond main: what is left is finished by the loop's end.
    finished, kept = [], []

    async def generator() -> AsyncIterator[int]:
        try:
            while True:
                yield threading.get_ident()
        finally:
            await asyncio.sleep(0)
            finished.append(1)

    async def main() -> None:
        met = Met()

        async def begins() -> None:
            await until(met.entered.is_set)
            numbers = generator()
            kept.append(await anext(numbers))
            dropped = generator()
            await anext(dropped)
            del dropped
            met.opened.set()
            kept.append(numbers)

        other = asyncio.create_task(begins())
        first = block_in_place(met)
        await other
        assert kept[0] != first
        await until(lambda: len(finished) == 1)

    run(main())
    assert len(finished) == 2


def test_futures_of_the_pool_wake_tasks_on_whichever_thread_has_the_loop() -> None:
    async def main() -> None:
        met = Met()

        async def others() -> None:
            await until(met.entered.is_set)
            async with penstock.DispatchPool(threads=2) as pool:
                assert await asyncio.gather(*(pool.run(int, n) for n in range(50))) == list(range(50))

                # One blocks in the middle of what the pool's completions wake.
                async def after(n: int) -> int:
                    await pool.run(time.sleep, 0.001)
                    return block_in_place(barrier.wait, 15)

                barrier = threading.Barrier(4)
                assert sorted(await asyncio.gather(*map(after, range(4)))) == [0, 1, 2, 3]
            met.opened.set()

        other = asyncio.create_task(others())
        block_in_place(met)
        await other

    run(main())


@pytest.mark.parametrize("debug", [False, True])
def test_debug_mode_finds_one_thread_at_a_time(debug: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 0.02
        for _ in range(3):
            await asyncio.gather(*(blocking(time.sleep, 0.03) for _ in range(4)))
        await asyncio.sleep(0)

    run(main(), debug=debug)
    assert not [record for record in caplog.records if "Executing" in record.message]


def test_debug_mode_notices_a_thread_that_runs_a_loop_which_is_not_its_own() -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        handle = asyncio.Handle(print, (), loop)
        here, loop._thread_id = loop._thread_id, 1
        try:
            with pytest.raises(AssertionError, match="two threads"):
                loop._run_watched(handle)
        finally:
            loop._thread_id = here

    run(main(), debug=True)


def test_an_object_that_is_bound_to_its_thread_says_so_in_another() -> None:
    async def main() -> None:
        met, first = Met(), threading.get_ident()

        async def uses() -> None:
            connection = sqlite3.connect(":memory:")
            await until(met.entered.is_set)
            try:
                with pytest.raises(sqlite3.ProgrammingError, match="thread"):
                    connection.execute("select 1")
            finally:
                met.opened.set()
            await until(lambda: threading.get_ident() == first)
            connection.close()

        other = asyncio.create_task(uses())
        await asyncio.sleep(0)
        block_in_place(met)
        await other

    run(main())


# Starting and stopping


def test_a_loop_stopped_by_a_carrier_stops_where_it_was_started() -> None:
    loop = penstock.new_event_loop()
    met, returned = Met(), []

    async def blocks() -> None:
        returned.append(block_in_place(met))

    async def stops() -> None:
        await until(met.entered.is_set)
        loop.stop()
        threading.Timer(0.02, met.opened.set).start()

    try:
        tasks = [loop.create_task(blocks()), loop.create_task(stops())]
        loop.run_forever()
        assert returned == [threading.get_ident()]
        assert not loop.is_running()
        loop.run_until_complete(asyncio.wait(tasks))
    finally:
        loop.close()


def test_a_task_that_is_blocked_when_the_loop_stops_goes_on_when_it_runs_again() -> None:
    loop = penstock.new_event_loop()
    mets, tasks, returned = [Met(), Met()], [], []

    async def blocks(met: Met) -> None:
        returned.append(block_in_place(met))

    async def main() -> None:
        tasks.extend(asyncio.create_task(blocks(met)) for met in mets)
        await until(lambda: all(met.entered.is_set() for met in mets))
        mets[0].opened.set()
        await tasks[0]

    try:
        loop.run_until_complete(main())
        assert returned == [threading.get_ident()]
        mets[1].opened.set()
        assert not tasks[1].done()
        loop.run_until_complete(tasks[1])
        assert len(set(returned)) == 2
    finally:
        loop.close()


def test_a_function_that_waits_for_the_loop_is_let_go_by_the_runners_end() -> None:
    async def main() -> None:
        loop, begun = asyncio.get_running_loop(), threading.Event()

        def waits() -> None:
            future = asyncio.run_coroutine_threadsafe(asyncio.sleep(60), loop)
            begun.set()
            # Cancelled with all other tasks, when main has returned.
            with pytest.raises(concurrent.futures.CancelledError):
                future.result(15)

        tasks.append(asyncio.create_task(blocking(waits)))
        await asyncio.sleep(0)
        await until(begun.is_set)

    tasks: list[asyncio.Task[None]] = []
    run(main())
    assert tasks[0].done()


def test_a_runner_runs_on_it_again_and_again() -> None:
    async def main(n: int) -> int:
        return await blocking(lambda: time.sleep(0.002) or n)

    with asyncio.Runner(loop_factory=penstock.new_event_loop) as runner:
        assert [runner.run(main(n)) for n in range(3)] == [0, 1, 2]


def test_it_runs_on_threads_other_than_the_first() -> None:
    results: list[int] = []

    async def main() -> int:
        return await asyncio.create_task(blocking(lambda: time.sleep(0.002) or 3))

    loop = penstock.new_event_loop()
    for _ in range(2):
        thread = threading.Thread(target=lambda: results.append(loop.run_until_complete(main())))
        thread.start()
        thread.join(15)
    loop.close()
    assert results == [3, 3]


def test_an_exit_that_a_carrier_meets_ends_the_loop_where_it_was_started() -> None:
    async def main() -> None:
        met = Met()

        async def exits() -> None:
            await until(met.entered.is_set)
            threading.Timer(0.01, met.opened.set).start()
            raise SystemExit(7)

        task = asyncio.create_task(exits())
        block_in_place(met)
        await asyncio.sleep(10)
        assert task

    with pytest.raises(SystemExit) as caught:
        run(main())
    assert caught.value.code == 7


def test_a_loop_without_a_close_lets_its_carriers_go() -> None:
    loop = penstock.new_event_loop()
    loop.run_until_complete(blocking(time.sleep, 0.005))
    kept = [loop]
    del loop

    def forget() -> None:
        kept.clear()
        gc.collect()

    with pytest.warns(ResourceWarning):
        forget()


# Where it can't be done


def test_without_a_running_loop_it_is_a_plain_call() -> None:
    assert block_in_place(divmod, 7, 2) == (3, 1)


@pytest.fixture
def direct() -> Iterator[None]:
    before = penstock.set_unsupported("direct")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handover, "_warned", False)
        yield
    assert penstock.set_unsupported(before) == "direct"


@pytest.mark.asyncio
async def test_other_loops_refuse_it() -> None:
    before = penstock.stats()["handover"]
    with pytest.raises(HandoverError, match="set_unsupported"):
        block_in_place(int)
    assert penstock.stats()["handover"] == {**before, "refused": before["refused"] + 1}


@pytest.mark.asyncio
async def test_other_loops_stand_still_if_they_are_told_to_and_warn_once(direct: None) -> None:
    before = penstock.stats()["handover"]
    with pytest.warns(RuntimeWarning, match="stand still") as caught:
        assert [block_in_place(int, n) for n in "12"] == [1, 2]
    assert len(caught) == 1
    assert penstock.stats()["handover"] == {**before, "direct": before["direct"] + 2}


def test_a_setting_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="maybe"):
        penstock.set_unsupported("maybe")  # type: ignore[arg-type]


def test_a_callback_is_no_task() -> None:
    async def main() -> None:
        done = asyncio.get_running_loop().create_future()

        def callback() -> None:
            with pytest.raises(HandoverError, match="callback"):
                block_in_place(int)
            done.set_result(None)

        asyncio.get_running_loop().call_soon(callback)
        await done

    run(main())


def test_greenlets_are_refused() -> None:
    async def main() -> None:
        assert block_in_place(int) == 0
        with pytest.raises(HandoverError, match="greenlet"):
            greenlet.greenlet(lambda: block_in_place(int)).switch()
        assert block_in_place(int) == 0

    run(main())


def test_a_cpython_that_was_not_tested_gets_asyncios_loop_and_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "TESTED", set())
    with pytest.warns(RuntimeWarning, match="no hand-over on CPython"):
        loop = penstock.new_event_loop()
    loop.close()
    assert type(loop) is asyncio.SelectorEventLoop

    async def enables() -> bool:
        return await penstock.enable_handover()

    assert asyncio.run(enables()) is False


def test_without_handover_it_is_asyncios_loop() -> None:
    loop = penstock.new_event_loop(handover=False)
    loop.close()
    assert type(loop) is asyncio.SelectorEventLoop


def test_a_loop_of_asyncios_hands_over_when_it_was_enabled() -> None:
    async def main() -> None:
        async with penstock.DispatchPool(threads=1) as pool:
            await pool.run(int)
            assert await penstock.enable_handover()
            assert await penstock.enable_handover()
            barrier = threading.Barrier(4)

            async def after() -> int:
                await pool.run(int)
                return block_in_place(barrier.wait, 15)

            assert sorted(await asyncio.gather(*(after() for _ in range(4)))) == [0, 1, 2, 3]

    asyncio.run(asyncio.wait_for(main(), 20))


def test_uvloop_can_not_be_enabled() -> None:
    async def main() -> bool:
        return await penstock.enable_handover()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()) is False


def test_it_is_not_run_within_a_loop() -> None:
    async def inner() -> None: ...

    async def main() -> None:
        with pytest.raises(RuntimeError, match="running event loop"):
            penstock.run(inner())

    run(main())


# Signals


CTRL_C = """
import asyncio, os, signal, sys, threading, time
import greenlet
import penstock

async def main():
{body}

def asyncio_runner():
    with asyncio.Runner(loop_factory=penstock.new_event_loop, debug=True) as runner:
        runner.run(main())

try:
    {run}
except KeyboardInterrupt:
    print("interrupted", threading.active_count())
"""

RUNNERS = {
    "run": "penstock.run(main())",
    "debug": "penstock.run(main(), debug=True)",
    "Runner": "asyncio_runner()",
}
BODIES = {
    # The main thread is in the function, a carrier has the loop: the task is cancelled at its next await.
    "in the function": """
    def kill():
        time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.02)
    async def ticks():
        while True:
            await asyncio.sleep(0.001)
    task = asyncio.create_task(ticks())
    penstock.block_in_place(kill)
    await asyncio.sleep(10)
    """,
    # The main thread waits for the loop, which a carrier keeps.
    "while it waits for the loop": """
    def back():
        time.sleep(0.02)
    async def keeps():
        end = time.monotonic() + 0.2
        os.kill(os.getpid(), signal.SIGINT)
        while time.monotonic() < end:
            time.sleep(0.001)
    loop = asyncio.get_running_loop()
    loop.call_later(0.01, lambda: loop.create_task(keeps()))
    penstock.block_in_place(back)
    await asyncio.sleep(10)
    """,
    # A carrier is blocked, and the main thread has the loop.
    "while a carrier is blocked": """
    async def blocks():
        penstock.block_in_place(time.sleep, 0.05)
        await asyncio.sleep(0)
        penstock.block_in_place(time.sleep, 0.05)
    tasks = [asyncio.create_task(blocks()) for _ in range(3)]
    asyncio.get_running_loop().call_later(0.02, os.kill, os.getpid(), signal.SIGINT)
    await asyncio.sleep(10)
    """,
}


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("body", BODIES)
def test_ctrl_c_ends_the_program(script: Callable[..., Any], body: str, runner: str) -> None:
    done = script(CTRL_C.format(body=BODIES[body], run=RUNNERS[runner]))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "interrupted 1\n"
    assert "Traceback" not in done.stderr


SECOND = """
import asyncio, os, signal, threading, time
import greenlet
import penstock

async def main():
    def twice():
        time.sleep(0.01)
        for _ in range({interrupts}):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
    async def other():
        penstock.block_in_place(time.sleep, 0.1)
    task = asyncio.create_task(other())
    try:
        penstock.block_in_place(twice)
    except KeyboardInterrupt:
        assert asyncio.current_task() is not None
        print("in the task", end=" ")
        raise

try:
    penstock.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""


def test_a_second_ctrl_c_ends_the_function_and_the_task_has_the_loop_again(script: Callable[..., Any]) -> None:
    done = script(SECOND.format(interrupts=2))
    assert (done.returncode, done.stdout) == (0, "in the task interrupted\n"), done.stderr


EXIT = """
import asyncio, threading, time
import greenlet
import penstock

loop = penstock.new_event_loop()
async def main():
    await asyncio.gather(*(asyncio.to_thread(int) for _ in range(2)), blocks())
async def blocks():
    penstock.block_in_place(time.sleep, 0.01)
loop.run_until_complete(main())
print("over")
{end}
"""


@pytest.mark.parametrize("end", ["loop.close()", "import warnings; warnings.simplefilter('ignore')"])
def test_the_interpreter_exits_with_the_loop_closed_or_not(script: Callable[..., Any], end: str) -> None:
    done = script(EXIT.format(end=end))
    assert (done.returncode, done.stdout) == (0, "over\n"), done.stderr


FORK = """
import asyncio, os, time
import greenlet
import penstock

async def main():
    async def ticks():
        await asyncio.sleep(0.005)
    await asyncio.gather(ticks(), blocks())
    if (child := os.fork()) == 0:
        asyncio._set_running_loop(None)
        loop.__class__.close  # untouched: it is the parent's
        penstock.run(blocks())
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print("child", os.waitstatus_to_exitcode(status))
async def blocks():
    penstock.block_in_place(time.sleep, 0.01)
loop = penstock.new_event_loop()
loop.run_until_complete(main())
loop.close()
"""


def test_a_forked_child_has_loops_of_its_own(script: Callable[..., Any]) -> None:
    done = script("import warnings; warnings.simplefilter('ignore')\n" + FORK)
    assert (done.returncode, done.stdout) == (0, "child 0\n"), done.stderr


def test_handlers_of_signals_run_on_whichever_thread_has_the_loop() -> None:
    async def main() -> None:
        met, loop = Met(), asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, met.opened.set)
        try:
            loop.call_later(0.01, signal.raise_signal, signal.SIGUSR1)
            assert block_in_place(met) == threading.get_ident()
        finally:
            loop.remove_signal_handler(signal.SIGUSR1)

    run(main())
