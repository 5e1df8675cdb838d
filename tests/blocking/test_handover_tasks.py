"""What a task sees that blocks in place, and what the others do."""

from __future__ import annotations

import asyncio
import contextvars
import sqlite3
import sys
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import penstock
import pytest
from penstock import HandoverError, block_in_place

from .handing import Met, blocking, needs_handover, run, until

pytestmark = needs_handover


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


@pytest.mark.parametrize("awaits", [True, False])
def test_a_timeout_is_told_in_its_block_where_that_ends_with_an_await(awaits: bool) -> None:
    async def main() -> None:
        met, outside = Met(), False
        asyncio.get_running_loop().call_later(0.02, met.opened.set)
        try:
            async with asyncio.timeout(0.005) as timeout:
                block_in_place(met)
                if awaits:
                    await asyncio.sleep(0)
        except TimeoutError:
            assert awaits
        assert timeout.expired()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            outside = True
        # CPython forgets a cancellation that was taken back from 3.13 on.
        assert outside is (not awaits and sys.version_info < (3, 13))

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
        with pytest.raises(HandoverError, match="in an eager task before its first await"):
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
        # Longer than a busy machine takes for a callback that blocks nothing.
        loop.slow_callback_duration = 0.5
        for seconds in (0.03, 0.03, 0.6):
            await asyncio.gather(*(blocking(time.sleep, seconds) for _ in range(4)))
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


def test_a_function_in_place_sees_all_tasks_on_whatever_threads_they_were_begun() -> None:
    async def main() -> None:
        loop, met, first = asyncio.get_running_loop(), Met(), threading.get_ident()
        here = asyncio.current_task()
        blocked = asyncio.create_task(blocking(met))
        before = asyncio.create_task(asyncio.sleep(30))
        await until(met.entered.is_set)
        try:
            assert threading.get_ident() != first
            other = asyncio.create_task(asyncio.sleep(30))
            everything = {here, blocked, before, other}
            assert block_in_place(asyncio.all_tasks, loop) >= everything
        finally:
            met.opened.set()
        await blocked
        await until(lambda: threading.get_ident() == first)
        assert block_in_place(asyncio.all_tasks, loop) >= everything - {blocked}
        before.cancel()
        other.cancel()

    run(main())


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
