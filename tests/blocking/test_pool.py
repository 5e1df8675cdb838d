"""`DispatchPool`: what a job gets, and what its submitter gets."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import logging
import threading
import time
import traceback
import weakref
from collections.abc import Awaitable, Callable
from typing import Literal

import penstock
import pytest
from penstock import DispatchPool
from penstock._native import _nap

from .conftest import Gate

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


class Odd(BaseException):
    pass


@pytest.mark.asyncio
async def test_a_job_runs_on_a_thread_of_the_pool_with_its_arguments(pool: DispatchPool) -> None:
    def job(a: int, *, b: int) -> tuple[int, int, str, int]:
        return a, b, threading.current_thread().name, threading.get_ident()

    a, b, name, ident = await pool.run(job, 1, b=2)
    assert (a, b) == (1, 2)
    assert name.startswith(pool.name_prefix)
    assert ident != threading.get_ident()


def test_threads_bear_the_prefix_and_their_index_for_the_kernel_too(thread_names: Callable[[], set[str]]) -> None:
    with DispatchPool(threads=2, name_prefix="io-"):
        assert {"io-0", "io-1"} <= thread_names()


@pytest.mark.asyncio
async def test_run_carries_the_context_and_keeps_changes_from_the_caller(pool: DispatchPool) -> None:
    variable.set("mine")

    def job() -> str:
        seen = variable.get()
        variable.set("changed")
        return seen

    assert await pool.run(job) == "mine"
    assert variable.get() == "mine"


@pytest.mark.asyncio
async def test_submit_does_not_carry_the_context(pool: DispatchPool) -> None:
    variable.set("mine")
    assert await asyncio.wrap_future(pool.submit(variable.get)) == "unset"


@pytest.mark.asyncio
async def test_dispatch_carries_the_context(pool: DispatchPool) -> None:
    variable.set("mine")
    seen: list[str] = []
    pool.dispatch(lambda: seen.append(variable.get()))
    await pool.join()
    assert seen == ["mine"]


@pytest.mark.asyncio
async def test_callbacks_run_in_the_context_they_were_added_in(pool: DispatchPool, gate: Gate) -> None:
    future = pool.run(gate)
    seen: list[str] = []
    variable.set("first")
    future.add_done_callback(lambda _: seen.append(variable.get()))
    variable.set("second")
    future.add_done_callback(lambda _: seen.append(variable.get()))
    context = contextvars.copy_context()
    context.run(variable.set, "third")
    future.add_done_callback(lambda _: seen.append(variable.get()), context=context)
    gate.open.set()
    await future
    await asyncio.sleep(0)
    assert seen == ["first", "second", "third"]


@pytest.mark.asyncio
async def test_an_exception_comes_with_the_traceback_of_the_job(pool: DispatchPool) -> None:
    def deep_in_the_job() -> None:
        raise LookupError("lost")

    future = pool.run(deep_in_the_job)
    for _ in range(2):
        with pytest.raises(LookupError, match="lost") as caught:
            await future
        lines = traceback.format_exception(caught.value)
        assert sum("deep_in_the_job" in line for line in lines) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("error", [Odd, asyncio.CancelledError])
async def test_an_exception_that_is_no_exception_reaches_the_awaiter(
    pool: DispatchPool, error: type[BaseException]
) -> None:
    def job() -> None:
        raise error("from the job")

    with pytest.raises(error, match="from the job"):
        await pool.run(job)


@pytest.mark.parametrize("error", [Odd, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_no_exception_of_a_job_ends_its_thread(error: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    def job() -> None:
        raise error("from the job")

    with DispatchPool(threads=1) as pool:
        ident = pool.submit(threading.get_ident).result(10)
        with caplog.at_level(logging.ERROR, "penstock.blocking"):
            pool.dispatch(job)
            with pytest.raises(error, match="from the job"):
                pool.submit(job).result(10)
        assert f"{error.__name__}: from the job" in caplog.text
        assert pool.submit(threading.get_ident).result(10) == ident


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_from_a_job_ends_the_loop_as_from_a_task(error: type[BaseException]) -> None:
    def job() -> None:
        raise error("from the job")

    async def main() -> None:
        with DispatchPool(threads=1) as pool:
            await pool.run(job)

    with pytest.raises(error, match="from the job"):
        asyncio.run(main())


@pytest.mark.asyncio
async def test_stop_iteration_from_a_job_does_not_end_the_awaiting_coroutine(pool: DispatchPool) -> None:
    with pytest.raises(RuntimeError, match="StopIteration") as caught:
        await pool.run(next, iter(()))
    assert isinstance(caught.value.__cause__, StopIteration)


@pytest.mark.asyncio
@pytest.mark.parametrize("value", [None, 0, (), (1, 2), [], StopIteration(3)])
async def test_any_value_comes_back_as_it_is(pool: DispatchPool, value: object) -> None:
    assert await pool.run(lambda: value) is value


async def fetch() -> int:
    return 1


class Fetcher:
    async def __call__(self) -> int:
        return await self.fetch()

    async def fetch(self) -> int:
        return 1

    def __repr__(self) -> str:
        return "a fetcher"


ASYNCHRONOUS = {"function": fetch, "partial": functools.partial(fetch), "method": Fetcher().fetch, "object": Fetcher()}


@pytest.mark.asyncio
@pytest.mark.parametrize("fn", ASYNCHRONOUS.values(), ids=ASYNCHRONOUS)
async def test_an_asynchronous_function_is_refused_by_name(
    pool: DispatchPool, fn: Callable[[], Awaitable[int]], caplog: pytest.LogCaptureFixture
) -> None:
    refusal = r"fetch.* is an asynchronous function.*await it on the event loop"
    with pytest.raises(TypeError, match=refusal):
        await pool.run(fn)
    with pytest.raises(TypeError, match=refusal):
        await asyncio.wrap_future(pool.submit(fn))
    with caplog.at_level(logging.ERROR, "penstock.blocking"):
        pool.dispatch(fn)
        await pool.join()
    assert "asynchronous" in caplog.text


@pytest.mark.asyncio
async def test_a_coroutine_that_a_function_gives_comes_back_as_it_is(pool: DispatchPool) -> None:
    assert await (await pool.run(lambda: fetch())) == 1


@pytest.mark.asyncio
async def test_a_job_and_its_arguments_are_let_go_when_it_is_done(pool: DispatchPool) -> None:
    class Thing:
        pass

    thing = Thing()
    dead = weakref.ref(thing)
    future = pool.run(lambda _: None, thing)
    del thing
    await future
    assert dead() is None


@pytest.mark.asyncio
async def test_a_job_may_dispatch_to_its_own_pool(pool: DispatchPool) -> None:
    def outer(depth: int) -> int:
        return 1 + pool.submit(outer, depth - 1).result(10) if depth else 0

    assert await pool.run(outer, 3) == 3


@pytest.mark.parametrize("overflow", ["wait", "caller"])
def test_a_job_may_dispatch_more_than_there_is_room_for_to_its_own_pool(overflow: Literal["wait", "caller"]) -> None:
    ran: list[int] = []

    def job() -> None:
        for n in range(100):
            pool.dispatch(ran.append, n)

    with DispatchPool(threads=1, queue_length=1, overflow=overflow) as pool:
        pool.submit(job).result(10)
    assert ran == list(range(100))


@pytest.mark.asyncio
async def test_jobs_start_in_the_order_in_which_they_came() -> None:
    order: list[int] = []
    with DispatchPool(threads=1) as pool:
        await asyncio.gather(*[pool.run(order.append, n) for n in range(500)])
    assert order == list(range(500))


@pytest.mark.asyncio
async def test_a_job_that_blocks_holds_up_neither_what_is_done_nor_what_comes(pool: DispatchPool, gate: Gate) -> None:
    quick = [pool.run(int) for _ in range(10)]
    blocked = pool.run(gate)
    more = [pool.run(int) for _ in range(10)]
    assert await asyncio.wait_for(asyncio.gather(*quick, *more), 10) == [0] * 20
    assert not blocked.done()
    gate.open.set()
    await blocked


@pytest.mark.asyncio
async def test_blocking_jobs_use_all_threads_at_once(pool: DispatchPool) -> None:
    together = threading.Barrier(4)
    await asyncio.gather(*[pool.run(together.wait, 10) for _ in range(4)])


@pytest.mark.asyncio
async def test_a_native_job_runs_beside_the_interpreter(pool: DispatchPool) -> None:
    async def together() -> float:
        started = time.perf_counter()
        assert await asyncio.gather(*[_nap(pool, 0.05) for _ in range(4)]) == [None] * 4
        return time.perf_counter() - started

    # One after the other they take 0.2 s; what else the machine does only adds to it.
    taken = [await together()]
    while min(taken) >= 0.15 and len(taken) < 20:
        taken.append(await together())
    assert min(taken) < 0.15


@pytest.mark.asyncio
async def test_an_exception_of_a_dispatched_job_is_logged(pool: DispatchPool, caplog: pytest.LogCaptureFixture) -> None:
    def failing() -> None:
        raise LookupError("lost")

    with caplog.at_level(logging.ERROR, "penstock.blocking"):
        pool.dispatch(failing)
        await pool.aclose()
    assert [record.name for record in caplog.records] == ["penstock.blocking"]
    assert "failing" in caplog.text
    assert "LookupError: lost" in caplog.text


def test_it_is_an_executor() -> None:
    with DispatchPool(threads=2) as pool:
        assert isinstance(pool, concurrent.futures.Executor)
        assert list(pool.map(lambda n: n * n, range(10))) == [n * n for n in range(10)]
        future = pool.submit(lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            future.result(10)


@pytest.mark.asyncio
async def test_run_in_executor_takes_it(pool: DispatchPool) -> None:
    assert await asyncio.get_running_loop().run_in_executor(pool, int, "5") == 5


def test_a_submitted_job_that_is_cancelled_never_runs(gate: Gate) -> None:
    with DispatchPool(threads=1) as pool:
        pool.submit(gate)
        gate.wait_entered()
        ran: list[int] = []
        future = pool.submit(ran.append, 1)
        assert future.cancel()
        gate.open.set()
    assert not ran


@pytest.mark.asyncio
async def test_run_needs_a_running_loop_and_says_so(pool: DispatchPool) -> None:
    def job() -> None:
        pool.run(int)

    with pytest.raises(RuntimeError, match="no running event loop"):
        await pool.run(job)


@pytest.mark.asyncio
async def test_figures_add_up(pool: DispatchPool, gate: Gate) -> None:
    futures = [pool.run(gate) for _ in range(6)]
    gate.wait_entered(4)
    stats = pool.stats()
    assert (stats["threads"], stats["running"], stats["queued"], stats["idle"]) == (4, 4, 2, 0)
    gate.open.set()
    await asyncio.gather(*futures)
    assert pool.stats()["taken"] == 6


@pytest.mark.asyncio
async def test_run_blocking_uses_the_default_pool_or_a_policy(pool: DispatchPool) -> None:
    name = await penstock.run_blocking(lambda: threading.current_thread().name)
    assert name.startswith(penstock.blocking.default_pool().name_prefix)
    name = await penstock.run_blocking(lambda: threading.current_thread().name, policy=penstock.Dispatch(pool))
    assert name.startswith(pool.name_prefix)
