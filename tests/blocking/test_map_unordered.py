"""`DispatchPool.map_unordered`: what comes, how much is under way, and what is left when the iteration ends early."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator

import pytest
from penstock import DispatchPool
from penstock.errors import PoolClosed, PoolFull

from tests.conftest import LOOPS, uncollected

from .conftest import Gate

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.fixture
def one() -> Iterator[DispatchPool]:
    with DispatchPool(threads=1) as pool:
        yield pool


class Source:
    """Counts what was taken of an endless source."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> Iterator[int]:
        while True:
            self.taken += 1
            yield self.taken


@pytest.mark.asyncio
async def test_each_item_gives_its_result_once(pool: DispatchPool) -> None:
    results = [result async for result in pool.map_unordered(lambda n: n * n, range(1000))]
    assert sorted(results) == [n * n for n in range(1000)]


@pytest.mark.asyncio
async def test_no_items_give_no_results(pool: DispatchPool) -> None:
    assert [result async for result in pool.map_unordered(int, [])] == []


@pytest.mark.asyncio
async def test_a_quick_call_does_not_wait_for_a_slow_one(pool: DispatchPool, gate: Gate) -> None:
    results = pool.map_unordered(lambda call: call(), [gate, int])
    assert await anext(results) == 0
    gate.open.set()
    assert await anext(results) is None
    with pytest.raises(StopAsyncIteration):
        await anext(results)


@pytest.mark.asyncio
@pytest.mark.parametrize("window", [1, 3, 50])
async def test_never_more_than_the_window_is_under_way(pool: DispatchPool, window: int) -> None:
    source = Source()
    results = pool.map_unordered(lambda n: n, source, window=window)
    for given in range(1, 200):
        await anext(results)
        assert source.taken - given < window
    await results.aclose()


@pytest.mark.asyncio
async def test_the_window_is_twice_the_threads_by_default(pool: DispatchPool, gate: Gate) -> None:
    source = Source()
    results = pool.map_unordered(lambda _: gate(), source)
    waiting = asyncio.create_task(anext(results))
    await asyncio.to_thread(gate.wait_entered, 4)
    assert source.taken == 8
    gate.open.set()
    await waiting
    await results.aclose()


@pytest.mark.parametrize("window", [0, -1, 1 << 63])
def test_a_window_of_nothing_is_refused(one: DispatchPool, window: int) -> None:
    with pytest.raises(ValueError, match=f"window={window}"):
        one.map_unordered(int, [], window=window)
    with pytest.raises(TypeError, match=r"window=2\.5: not an int"):
        one.map_unordered(int, [], window=2.5)  # type: ignore[arg-type]


@pytest.mark.asyncio
async def test_nothing_is_taken_before_the_first_step(pool: DispatchPool) -> None:
    source = Source()
    pool.map_unordered(int, source)
    await asyncio.sleep(0)
    assert source.taken == 0


@pytest.mark.asyncio
async def test_calls_run_in_the_context_of_the_iteration(pool: DispatchPool) -> None:
    results = pool.map_unordered(lambda _: variable.get(), range(2), window=1)
    variable.set("first")
    assert await anext(results) == "first"
    variable.set("second")
    assert await anext(results) == "second"


async def ended_early(pool: DispatchPool, gate: Gate, how: str) -> None:
    """Ends an iteration in which one call runs and the others are queued."""
    ran: list[int] = []
    half_way = asyncio.Event()

    def job(n: int) -> int:
        if n == 1:
            gate()
        ran.append(n)
        return n

    async def iterate() -> None:
        results = pool.map_unordered(job, itertools.count(), window=4)
        async with contextlib.aclosing(results) if how == "aclosing" else contextlib.nullcontext():
            async for result in results:
                assert result == 0
                # The window is filled again by the next step.
                step = asyncio.ensure_future(anext(results))
                await asyncio.to_thread(gate.wait_entered)
                step.cancel()
                await asyncio.wait([step])
                if how == "error":
                    raise LookupError
                if how == "cancel":
                    half_way.set()
                    await asyncio.sleep(20)
                break

    task = asyncio.create_task(iterate())
    if how == "cancel":
        await half_way.wait()
        task.cancel()
    await asyncio.wait([task])
    if how in ("break", "aclosing"):
        assert task.result() is None
    elif how == "error":
        assert isinstance(task.exception(), LookupError)
    else:
        assert task.cancelled()
    del task
    # A loop keeps a cancelled task's frames for a turn.
    while pool.stats()["queued"]:
        await asyncio.sleep(0.001)
    gate.open.set()
    await pool.join()
    assert ran == [0, 1]


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["break", "aclosing", "error", "cancel"])
async def test_however_it_ends_what_is_queued_never_runs(one: DispatchPool, gate: Gate, how: str) -> None:
    await ended_early(one, gate, how)


@pytest.mark.asyncio
async def test_a_cancelled_step_loses_no_result(pool: DispatchPool, gate: Gate) -> None:
    results = pool.map_unordered(lambda n: gate() or n, range(8), window=8)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(results), 0.01)
    gate.open.set()
    assert sorted([result async for result in results]) == list(range(8))


@pytest.mark.asyncio
async def test_the_first_exception_ends_it_and_the_others_are_nobodys(one: DispatchPool, gate: Gate) -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    def job(n: int) -> None:
        if n == 0:
            raise LookupError("first")
        gate()
        raise ValueError(n)

    results = one.map_unordered(job, range(10), window=10)
    with pytest.raises(LookupError, match="first"):
        await anext(results)
    with pytest.raises(StopAsyncIteration):
        await anext(results)
    assert one.stats()["queued"] == 0
    gate.open.set()
    await one.join()
    del results
    gc.collect()
    await asyncio.sleep(0.01)
    assert not reported


@pytest.mark.asyncio
async def test_an_exception_that_would_end_an_iteration_does_not_pass_for_its_end(pool: DispatchPool) -> None:
    def job(_: int) -> None:
        raise StopAsyncIteration

    with pytest.raises(RuntimeError, match="StopAsyncIteration"):
        [_ async for _ in pool.map_unordered(job, [1])]


@pytest.mark.asyncio
async def test_a_finished_exception_that_was_not_asked_for_is_not_reported(one: DispatchPool) -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    results = one.map_unordered(int, ["1", "x", "y"], window=3)
    assert await anext(results) == 1
    await one.join()
    await asyncio.sleep(0.01)
    await results.aclose()
    del results
    gc.collect()
    assert not reported


@pytest.mark.asyncio
async def test_the_exception_of_a_call_is_in_no_cycle_with_who_iterates(pool: DispatchPool) -> None:
    class OwnError(Exception):
        pass

    def fail(_: int) -> None:
        raise OwnError

    async def iterate() -> weakref.ref[OwnError]:
        try:
            async for _ in pool.map_unordered(fail, [1]):
                pass
        except OwnError as error:
            return weakref.ref(error)
        raise AssertionError("nothing was wrong")

    with uncollected():
        failure = await iterate()
        async with asyncio.timeout(10):
            while failure() is not None:
                await asyncio.sleep(0.001)


@pytest.mark.asyncio
async def test_a_failing_source_ends_it(pool: DispatchPool) -> None:
    def source() -> Iterator[int]:
        yield 1
        raise LookupError("source")

    results = pool.map_unordered(lambda n: n, source(), window=1)
    assert await anext(results) == 1
    with pytest.raises(LookupError, match="source"):
        await anext(results)
    with pytest.raises(StopAsyncIteration):
        await anext(results)


@pytest.mark.asyncio
async def test_a_pool_that_takes_no_more_ends_it(gate: Gate) -> None:
    async with DispatchPool(threads=1, queue_length=1, overflow="refuse") as pool:
        results = pool.map_unordered(lambda _: gate(), range(10), window=10)
        with pytest.raises(PoolFull):
            await anext(results)
        gate.open.set()
    with pytest.raises(PoolClosed):
        await anext(pool.map_unordered(int, [1]))


@pytest.mark.asyncio
async def test_it_is_for_one_task_at_a_time(pool: DispatchPool, gate: Gate) -> None:
    results = pool.map_unordered(lambda _: gate(), range(2))
    first = asyncio.create_task(anext(results))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="another task"):
        await anext(results)
    gate.open.set()
    assert await first is None


@pytest.mark.asyncio
@pytest.mark.parametrize("calls", [1, 3])
async def test_closed_by_another_task_it_is_over_for_the_one_that_waits(
    one: DispatchPool, gate: Gate, calls: int
) -> None:
    results = one.map_unordered(lambda _: gate(), range(calls), window=3)

    async def consume() -> str:
        async for _ in results:
            pass
        return "went on"

    consumer = asyncio.create_task(consume())
    await asyncio.to_thread(gate.wait_entered)
    await results.aclose()
    gate.open.set()
    assert await consumer == "went on"


@pytest.mark.parametrize("make", LOOPS.values(), ids=LOOPS)
def test_a_loop_closed_half_way_is_quietly_forgotten(
    make: Callable[[], asyncio.AbstractEventLoop], one: DispatchPool, gate: Gate
) -> None:
    async def begin() -> object:
        results = one.map_unordered(lambda _: gate(), range(3), window=3)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(results), 0.01)
        return results

    loop = make()
    kept = [loop.run_until_complete(begin())]
    loop.close()
    dead = weakref.ref(loop)
    kept.clear()
    gate.open.set()
    assert one.submit(threading.active_count).result(10)
    del loop
    gc.collect()
    assert dead() is None


@pytest.mark.asyncio
async def test_what_gives_the_items_cannot_ask_for_results_and_spoils_nothing(pool: DispatchPool) -> None:
    refused = []

    def items() -> Iterator[int]:
        yield 1
        try:
            results.__anext__().send(None)
        except RuntimeError as error:
            refused.append(str(error))
        yield from (2, 3, 4)

    results = pool.map_unordered(lambda number: number * 10, items(), window=2)
    assert sorted([result async for result in results]) == [10, 20, 30, 40]
    assert refused == ["another task, or what gives the items, waits for the next result of this iterator"]
