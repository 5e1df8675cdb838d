"""The future of a job: asyncio takes it wherever it takes a future or a coroutine, and cancelling it at any moment
gives back what it held."""

from __future__ import annotations

import asyncio
import collections.abc
import gc
import inspect
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from penstock import DispatchPool
from penstock._native import Future, _nap

from ..conftest import ELSEWHERE
from .conftest import Gate

LOOPS = {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}


class Handler:
    """What a loop's exception handler was told."""

    def __init__(self) -> None:
        self.contexts: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.contexts.append(context))


async def settled(*futures: Future[Any]) -> None:
    """Without a look at how they ended."""
    while not all(future.done() for future in futures):
        await asyncio.sleep(0.001)


# asyncio takes it


@pytest.mark.asyncio
async def test_it_is_a_future_and_a_coroutine(pool: DispatchPool) -> None:
    future = pool.run(int)
    assert asyncio.isfuture(future)
    assert asyncio.iscoroutine(future)
    assert inspect.isawaitable(future)
    assert isinstance(future, collections.abc.Coroutine)
    assert future.get_loop() is asyncio.get_running_loop()
    assert asyncio.ensure_future(future) is future
    assert await future == 0


@pytest.mark.asyncio
async def test_create_task_and_task_group_take_it(pool: DispatchPool) -> None:
    assert await asyncio.create_task(pool.run(int, "1")) == 1
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(pool.run(int, str(n))) for n in range(10)]
    assert [task.result() for task in tasks] == list(range(10))


@pytest.mark.skipif(sys.version_info < (3, 12), reason=f"{ELSEWHERE}: eager tasks came with CPython 3.12")
def test_an_eager_task_takes_it() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009  # mypy checks for 3.11
        assert await asyncio.create_task(pool.run(int, "1")) == 1
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(pool.run(int, str(n))) for n in range(10)]
        assert [task.result() for task in tasks] == list(range(10))

    # Not on uvloop, which doesn't take that factory on each CPython.
    with DispatchPool(threads=4) as pool:
        asyncio.run(main())


@pytest.mark.asyncio
async def test_a_task_group_cancels_its_siblings(pool: DispatchPool, gate: Gate) -> None:
    held: list[asyncio.Task[None]] = []

    async def fail() -> None:
        async with asyncio.TaskGroup() as group:
            held.append(group.create_task(pool.run(gate)))
            gate.wait_entered()
            group.create_task(pool.run(lambda: 1 / 0))

    with pytest.raises(ExceptionGroup) as caught:
        await fail()
    assert caught.group_contains(ZeroDivisionError)
    assert held[0].cancelled()
    gate.open.set()


@pytest.mark.asyncio
async def test_gather_takes_it(pool: DispatchPool) -> None:
    assert await asyncio.gather(*[pool.run(int, str(n)) for n in range(10)]) == list(range(10))
    results = await asyncio.gather(pool.run(int), pool.run(int, "x"), return_exceptions=True)
    assert results[0] == 0
    assert isinstance(results[1], ValueError)


@pytest.mark.asyncio
async def test_gather_sees_that_it_was_cancelled(pool: DispatchPool, gate: Gate) -> None:
    for _ in range(4):
        pool.dispatch(gate)
    futures = [pool.run(int) for _ in range(2)]
    gathering = asyncio.gather(*futures)
    futures[0].cancel("why")
    with pytest.raises(asyncio.CancelledError):
        await gathering
    gate.open.set()
    assert await futures[1] == 0
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)


@pytest.mark.asyncio
async def test_wait_for_takes_it_and_times_it_out(pool: DispatchPool, gate: Gate) -> None:
    assert await asyncio.wait_for(pool.run(int), 10) == 0
    future = pool.run(gate)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(future, 0.01)
    assert future.cancelled()
    gate.open.set()


@pytest.mark.asyncio
async def test_timeout_takes_it(pool: DispatchPool, gate: Gate) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await pool.run(gate)
    gate.open.set()


@pytest.mark.asyncio
async def test_shield_takes_it(pool: DispatchPool, gate: Gate) -> None:
    future = pool.run(gate)
    waiting = asyncio.create_task(asyncio.wait_for(asyncio.shield(future), 0.01))
    with pytest.raises(TimeoutError):
        await waiting
    assert not future.cancelled()
    gate.open.set()
    assert await future is None


@pytest.mark.asyncio
async def test_as_completed_takes_it_and_wait_takes_its_task(pool: DispatchPool, gate: Gate) -> None:
    held, quick = asyncio.create_task(pool.run(gate)), asyncio.create_task(pool.run(int))
    done, pending = await asyncio.wait([held, quick], return_when=asyncio.FIRST_COMPLETED)
    assert (done, pending) == ({quick}, {held})
    gate.open.set()
    await held
    results = [await each for each in asyncio.as_completed([pool.run(int, str(n)) for n in range(5)])]
    assert sorted(results) == list(range(5))


@pytest.mark.asyncio
async def test_run_coroutine_threadsafe_takes_it(pool: DispatchPool) -> None:
    loop = asyncio.get_running_loop()
    made: list[Future[int]] = []

    def elsewhere() -> int:
        return asyncio.run_coroutine_threadsafe(made[0], loop).result(10)

    made.append(pool.run(int, "7"))
    assert await pool.run(elsewhere) == 7


@pytest.mark.asyncio
async def test_two_tasks_may_await_it(pool: DispatchPool, gate: Gate) -> None:
    future = pool.run(gate)

    async def waiter() -> None:
        await future

    tasks = [asyncio.create_task(waiter()) for _ in range(2)]
    await asyncio.sleep(0)
    gate.open.set()
    await asyncio.gather(*tasks)
    assert await future is None


@pytest.mark.asyncio
async def test_result_and_exception_say_when_it_is_too_early(pool: DispatchPool, gate: Gate) -> None:
    future = pool.run(gate)
    with pytest.raises(asyncio.InvalidStateError):
        future.result()
    with pytest.raises(asyncio.InvalidStateError):
        future.exception()
    gate.open.set()
    await future
    assert future.result() is None
    assert future.exception() is None
    assert future.done()
    assert not future.cancelled()


@pytest.mark.asyncio
async def test_callbacks_are_removed_by_equality(pool: DispatchPool, gate: Gate) -> None:
    future = pool.run(gate)
    seen: list[str] = []

    class Sink:
        def called(self, _: object) -> None:
            seen.append("removed")

    sink = Sink()
    future.add_done_callback(sink.called)
    future.add_done_callback(lambda _: seen.append("kept"))
    future.add_done_callback(sink.called)
    assert future.remove_done_callback(sink.called) == 2
    gate.open.set()
    await future
    await asyncio.sleep(0)
    assert seen == ["kept"]


@pytest.mark.asyncio
async def test_removing_callbacks_survives_a_comparison_that_adds_one_or_fails(pool: DispatchPool, gate: Gate) -> None:
    future = pool.run(gate)
    seen: list[str] = []

    class Odd:
        def __init__(self, name: str) -> None:
            self.name = name

        def __call__(self, _: object) -> None:
            seen.append(self.name)

        def __eq__(self, other: object) -> bool:
            if self.name == "fails":
                raise LookupError
            future.add_done_callback(lambda _: seen.append("added"))
            return False

        __hash__ = None  # type: ignore[assignment]

    future.add_done_callback(Odd("adds"))
    future.add_done_callback(Odd("fails"))
    with pytest.raises(LookupError):
        future.remove_done_callback(len)
    gate.open.set()
    await future
    await asyncio.sleep(0)
    assert seen == ["adds", "fails", "added"]


@pytest.mark.asyncio
async def test_a_callback_added_to_a_finished_future_runs_in_the_next_turn(pool: DispatchPool) -> None:
    future = pool.run(int)
    await future
    seen: list[object] = []
    future.add_done_callback(seen.append)
    assert not seen
    await asyncio.sleep(0)
    assert seen == [future]


@pytest.mark.asyncio
async def test_its_repr_tells_its_state(pool: DispatchPool, gate: Gate) -> None:
    future = pool.run(gate)
    gate.wait_entered()
    assert repr(future) == "<penstock.Future pending>"
    gate.open.set()
    await future
    assert repr(future) == "<penstock.Future finished result=None>"
    failed = pool.run(int, "x")
    with pytest.raises(ValueError, match="invalid literal"):
        await failed
    assert repr(failed).startswith("<penstock.Future finished exception=ValueError(")


# Cancelling


@pytest.fixture(params=["run", "task"])
def start(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Ways to hold a job: its future, a task around it."""

    def start(pool: DispatchPool, job: Callable[[], object]) -> Any:
        future = pool.run(job)
        return asyncio.create_task(future) if request.param == "task" else future

    return start


@pytest.mark.asyncio
@pytest.mark.parametrize("steps", [0, 1, 2])
async def test_a_job_cancelled_in_the_queue_never_runs_and_gives_its_place_back(
    pool: DispatchPool, gate: Gate, start: Callable[..., Any], steps: int
) -> None:
    for _ in range(4):
        pool.dispatch(gate)
    gate.wait_entered(4)
    ran: list[int] = []
    job = start(pool, lambda: ran.append(1))
    assert pool.stats()["queued"] == 1
    for _ in range(steps):
        await asyncio.sleep(0)
    assert job.cancel("why")
    with pytest.raises(asyncio.CancelledError):
        await job
    assert job.cancelled()
    assert pool.stats()["queued"] == 0
    assert not job.cancel()
    gate.open.set()
    await pool.aclose()
    assert not ran


@pytest.mark.asyncio
async def test_a_job_cancelled_while_it_runs_runs_to_its_end_and_its_result_is_dropped(
    pool: DispatchPool, gate: Gate, start: Callable[..., Any]
) -> None:
    ended = threading.Event()
    thing = type("Thing", (), {})
    results: list[weakref.ref[object]] = []

    def job() -> object:
        gate()
        result = thing()
        results.append(weakref.ref(result))
        ended.set()
        return result

    future = start(pool, job)
    await asyncio.to_thread(gate.wait_entered)
    assert future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await future
    gate.open.set()
    await pool.aclose()
    assert ended.is_set()
    await asyncio.sleep(0.01)
    assert results[0]() is None


@pytest.mark.asyncio
async def test_a_job_cancelled_between_its_end_and_the_loops_next_turn_is_cancelled(
    pool: DispatchPool, start: Callable[..., Any]
) -> None:
    done = threading.Event()
    future = start(pool, done.set)
    assert done.wait(10)
    # The result is on its way; this thread has not let the loop look.
    assert future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await future


@pytest.mark.asyncio
async def test_a_job_whose_future_is_dropped_runs_all_the_same(pool: DispatchPool, gate: Gate) -> None:
    for _ in range(4):
        pool.dispatch(gate)
    gate.wait_entered(4)
    ran: list[int] = []
    pool.run(ran.append, 1)
    gc.collect()
    gate.open.set()
    await pool.join()
    assert ran == [1]


@pytest.mark.asyncio
async def test_a_done_future_is_not_cancelled(pool: DispatchPool) -> None:
    future = pool.run(int)
    await future
    assert not future.cancel()
    assert future.result() == 0


@pytest.mark.asyncio
async def test_a_cancelled_message_reaches_the_awaiter(pool: DispatchPool, gate: Gate) -> None:
    future = pool.run(gate)
    future.cancel("because")
    with pytest.raises(asyncio.CancelledError, match="because"):
        await future
    with pytest.raises(asyncio.CancelledError, match="because"):
        future.exception()
    gate.open.set()


@pytest.mark.asyncio
async def test_a_failure_after_the_cancellation_is_dropped_in_silence(pool: DispatchPool, gate: Gate) -> None:
    handler = Handler()

    def job() -> None:
        gate()
        raise LookupError

    future = pool.run(job)
    gate.wait_entered()
    future.cancel()
    gate.open.set()
    await pool.aclose()
    del future
    gc.collect()
    await asyncio.sleep(0.01)
    assert not handler.contexts


@pytest.mark.asyncio
async def test_closing_it_as_a_coroutine_cancels_the_job(pool: DispatchPool, gate: Gate) -> None:
    for _ in range(4):
        pool.dispatch(gate)
    gate.wait_entered(4)
    future = pool.run(int)
    future.close()
    assert future.cancelled()
    future.close()
    with pytest.raises(ValueError, match="thrown"):
        pool.run(int).throw(ValueError("thrown"))
    assert pool.stats()["queued"] == 0
    gate.open.set()


@pytest.mark.asyncio
async def test_many_cancelled_jobs_take_no_room_and_no_memory(gate: Gate) -> None:
    async with DispatchPool(threads=1, queue_length=8, overflow="refuse") as pool:
        pool.dispatch(gate)
        gate.wait_entered()
        for _ in range(10_000):
            pool.run(int).cancel()
        live = sum(isinstance(thing, Future) for thing in gc.get_objects())
        assert live < 1000
        gate.open.set()


@pytest.mark.asyncio
async def test_a_native_job_cancelled_in_the_queue_never_runs_and_gives_its_place_back(gate: Gate) -> None:
    async with DispatchPool(threads=1, queue_length=8, overflow="refuse") as pool:
        pool.dispatch(gate)
        gate.wait_entered()
        for _ in range(1000):
            nap = _nap(pool, 20)
            assert pool.stats()["queued"] == 1
            nap.cancel()
            assert pool.stats()["queued"] == 0
        with pytest.raises(asyncio.CancelledError):
            await nap
        gate.open.set()
        await asyncio.wait_for(pool.aclose(), 5)


@pytest.mark.asyncio
async def test_shutdown_can_cancel_native_jobs(gate: Gate) -> None:
    pool = DispatchPool(threads=1)
    held = pool.run(gate)
    gate.wait_entered()
    naps = [_nap(pool, 20) for _ in range(3)]
    naps[0].cancel()
    pool.shutdown(wait=False, cancel_futures=True)
    assert pool.stats()["queued"] == 0
    for nap in naps:
        with pytest.raises(asyncio.CancelledError):
            await nap
    gate.open.set()
    await held
    await pool.aclose()


# Exceptions that have nobody


@pytest.mark.asyncio
async def test_an_exception_that_nobody_looked_at_is_reported(pool: DispatchPool) -> None:
    handler = Handler()

    def job() -> None:
        raise LookupError("lost")

    future = pool.run(job)
    await settled(future)
    del future
    gc.collect()
    assert [context["message"] for context in handler.contexts] == ["Future exception was never retrieved"]
    assert repr(handler.contexts[0]["exception"]) == "LookupError('lost')"


@pytest.mark.asyncio
async def test_an_exception_in_a_cycle_is_reported_once(pool: DispatchPool) -> None:
    handler = Handler()
    future = pool.run(int, "x")
    await settled(future)
    cycle: list[object] = [future]
    future.add_done_callback(cycle.append)
    cycle.append(cycle)
    await asyncio.sleep(0)
    del future, cycle
    gc.collect()
    assert len(handler.contexts) == 1


@pytest.mark.asyncio
async def test_an_exception_that_was_looked_at_is_not_reported(pool: DispatchPool) -> None:
    handler = Handler()
    future = pool.run(int, "x")
    await settled(future)
    assert isinstance(future.exception(), ValueError)
    del future
    gc.collect()
    assert not handler.contexts


@pytest.mark.asyncio
async def test_a_failing_callback_is_reported_and_the_others_run(pool: DispatchPool, gate: Gate) -> None:
    handler = Handler()
    future, seen = pool.run(gate), []

    def failing(_: object) -> None:
        raise LookupError("callback")

    future.add_done_callback(failing)
    future.add_done_callback(seen.append)
    other = pool.run(gate)
    gate.open.set()
    await settled(other, future)
    await asyncio.sleep(0)
    assert seen == [future]
    assert len(handler.contexts) == 1
    assert "failing" in handler.contexts[0]["message"]
    assert repr(handler.contexts[0]["exception"]) == "LookupError('callback')"
    assert handler.contexts[0]["future"] is future


@pytest.mark.parametrize("make", LOOPS.values(), ids=LOOPS)
def test_an_interrupt_in_a_callback_ends_the_loop_and_loses_no_completion(
    make: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    loop = make()
    pool = DispatchPool(threads=1)
    seen: list[object] = []

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    async def main() -> list[Future[int]]:
        futures = [pool.run(int) for _ in range(10)]
        futures[3].add_done_callback(interrupt)
        for future in futures:
            future.add_done_callback(seen.append)
        kept.extend(futures)
        await asyncio.sleep(10)
        return futures

    kept: list[Future[int]] = []
    task = loop.create_task(main())
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(task)

    async def rest() -> None:
        await asyncio.gather(*kept)
        task.cancel()
        await asyncio.wait([task])

    loop.run_until_complete(rest())
    assert len(seen) == 10
    assert task.cancelled()
    loop.close()
    pool.close()


@pytest.mark.asyncio
async def test_a_drain_lets_the_loop_turn(pool: DispatchPool) -> None:
    turns = 0

    async def ticker() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(ticker())
    await asyncio.gather(*[_nap(pool) for _ in range(5000)])
    ticking.cancel()
    await asyncio.wait([ticking])
    assert turns > 5000 / 128


# Loops that go


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
        pass

    thing = Thing()
    dead = weakref.ref(thing)
    future = pool.run(lambda it: it, thing)
    thing.future = future  # type: ignore[attr-defined]
    await future
    # Until the task suspends it runs inside the future's callback.
    await asyncio.sleep(0)
    del future, thing
    gc.collect()
    assert dead() is None
