"""The future of a job: asyncio takes it wherever it takes a future or a coroutine."""

from __future__ import annotations

import asyncio
import collections.abc
import inspect
import sys

import pytest
from penstock import DispatchPool
from penstock._native import Future

from ..conftest import ELSEWHERE
from .conftest import Gate


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
