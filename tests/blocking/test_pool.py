"""`DispatchPool`: what a job gets, what its submitter gets, how much may wait, and how a pool ends."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import logging
import os
import subprocess
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Literal

import penstock
import pytest
from penstock import DispatchPool
from penstock._native import Future, _nap
from penstock.errors import PoolClosed, PoolFull

from .conftest import Gate

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


class Odd(BaseException):
    pass


# What a job gets


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
    started = time.perf_counter()
    results = await asyncio.gather(*[_nap(pool, 0.05) for _ in range(4)])
    assert results == [None] * 4
    assert time.perf_counter() - started < 0.15


# How much may wait


@pytest.mark.asyncio
async def test_a_full_queue_makes_the_await_wait() -> None:
    gate = Gate()
    async with DispatchPool(threads=1, queue_length=2) as pool:
        futures = [pool.run(gate) for _ in range(10)]
        gate.wait_entered()
        assert (pool.stats()["queued"], pool.stats()["waiting"]) == (2, 7)
        with pytest.raises(PoolFull, match=r"2 jobs.*queue_length") as caught:
            pool.dispatch(int)
        assert caught.value.limit == 2
        with pytest.raises(PoolFull):
            pool.submit(int)
        gate.open.set()
        await asyncio.gather(*futures)


def test_a_thread_that_dispatches_to_a_full_queue_is_blocked_until_there_is_room(gate: Gate) -> None:
    with DispatchPool(threads=1, queue_length=1) as pool:
        pool.dispatch(gate)
        gate.wait_entered()
        pool.dispatch(int)
        done = threading.Event()

        def submitter() -> None:
            pool.dispatch(int)
            done.set()

        thread = threading.Thread(target=submitter)
        thread.start()
        assert not done.wait(0.1)
        gate.open.set()
        thread.join(10)
        assert done.is_set()


@pytest.mark.asyncio
async def test_a_queue_that_refuses_raises_at_the_call() -> None:
    gate = Gate()
    async with DispatchPool(threads=1, queue_length=1, overflow="refuse") as pool:
        first = pool.run(gate)
        gate.wait_entered()
        second = pool.run(int)
        with pytest.raises(PoolFull):
            pool.run(int)
        before = sum(isinstance(thing, Future) for thing in gc.get_objects())
        for _ in range(10):
            with pytest.raises(PoolFull):
                _nap(pool)
        gc.collect()
        assert sum(isinstance(thing, Future) for thing in gc.get_objects()) <= before
        gate.open.set()
        await asyncio.gather(first, second)


def test_the_oldest_job_runs_on_a_calling_thread_that_has_no_loop(gate: Gate) -> None:
    ran: list[tuple[int, bool]] = []
    main = threading.get_ident()

    def job(n: int) -> None:
        ran.append((n, threading.get_ident() == main))

    with DispatchPool(threads=1, queue_length=1, overflow="caller") as pool:
        pool.dispatch(gate)
        gate.wait_entered()
        pool.dispatch(job, 1)
        pool.dispatch(job, 2)
        assert ran == [(1, True)]
        gate.open.set()
    assert ran == [(1, True), (2, False)]


def test_what_an_enlisted_caller_runs_fails_for_its_own_submitter_only(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    with DispatchPool(threads=1, queue_length=1, overflow="caller") as pool:
        pool.dispatch(gate)
        gate.wait_entered()
        failing = pool.submit(int, "x")
        pool.submit(int)
        with pytest.raises(ValueError, match="invalid literal"):
            failing.result(0)
        pool.dispatch(int, "y")
        with caplog.at_level(logging.ERROR, "penstock.blocking"):
            assert pool.submit(int).done() is False
        assert "'y'" in caplog.text
        gate.open.set()


@pytest.mark.asyncio
async def test_a_loop_is_never_made_to_run_a_job() -> None:
    with DispatchPool(queue_length=0, overflow="caller") as pool:
        for submit in (pool.run, pool.dispatch, pool.submit):
            with pytest.raises(PoolFull):
                submit(int)


def test_a_queue_of_length_0_has_no_threads_and_runs_on_the_caller() -> None:
    with DispatchPool(queue_length=0, overflow="caller") as pool:
        assert pool.threads == 0
        assert pool.submit(threading.get_ident).result(0) == threading.get_ident()


@pytest.mark.asyncio
async def test_a_hundred_thousand_jobs_make_no_more_threads(pool: DispatchPool) -> None:
    count = 0

    def job() -> None:
        nonlocal count
        count += 1

    before = len(os.listdir("/proc/self/task"))
    futures = [pool.run(job) for _ in range(100_000)]
    stats = pool.stats()
    assert stats["queued"] <= pool.queue_length
    assert len(os.listdir("/proc/self/task")) <= before
    for future in futures:
        await future
    assert sum(not future.cancelled() for future in futures) == 100_000
    assert pool.stats()["taken"] == 100_000


MEMORY = """
import asyncio, os, penstock, threading, time

JOBS = 100_000
MIB = 1 << 20

def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def held(pool):
    # Until the gate is opened, nothing that comes later is taken.
    gate = threading.Event()
    for _ in range(pool.threads):
        pool.dispatch(gate.wait)
    return gate

def dispatched(pool):
    # From a thread, which is blocked when the queue is full: that is all the memory that it can cost.
    gate = held(pool)
    submitter = threading.Thread(target=lambda: [pool.dispatch(int) for _ in range(JOBS)])
    submitter.start()
    while pool.stats()["queued"] < pool.queue_length:
        time.sleep(0.001)
    full = resident()
    assert submitter.is_alive() and pool.stats()["waiting"] == 0
    gate.set()
    submitter.join()
    return full

async def run(pool):
    # From a loop, where each await waits: a job costs what its future does.
    gate = held(pool)
    futures = [pool.run(int) for _ in range(JOBS)]
    full = resident()
    gate.set()
    assert await asyncio.gather(*futures) == [0] * JOBS
    return full

with penstock.DispatchPool(threads=4) as pool:
    start = resident()
    first = dispatched(pool)
    assert first - start < 16 * MIB, (first - start) / MIB
    again = max(dispatched(pool) for _ in range(3))
    assert again - first < 4 * MIB, (again - first) / MIB
    start = resident()
    first = asyncio.run(run(pool))
    assert first - start < 100 * MIB, (first - start) / MIB
    again = max(asyncio.run(run(pool)) for _ in range(3))
    assert again - first < 32 * MIB, (again - first) / MIB
print("bounded")
"""


def test_a_hundred_thousand_queued_jobs_take_bounded_memory(
    script: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = script(MEMORY)
    assert (done.stdout, done.stderr) == ("bounded\n", "")


# Settings


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"threads": 0}, ValueError, "threads=0"),
        ({"queue_length": 0}, ValueError, "overflow"),
        ({"overflow": "drop"}, ValueError, "wait"),
        ({"threads": 1, "max_workers": 1}, TypeError, "max_workers"),
        ({"threads": -1}, ValueError, "threads=-1: must not be negative"),
        ({"max_workers": -1}, ValueError, "max_workers=-1: must not be negative"),
        ({"queue_length": -1}, ValueError, "queue_length=-1: must not be negative"),
        ({"drain_threads": -1}, ValueError, "drain_threads=-1: must not be negative"),
        ({"stack_size": 1000}, ValueError, "stack_size=1000: at least 32768 bytes"),
        ({"name_prefix": "a\0b"}, ValueError, "name_prefix.*NUL"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(settings: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        DispatchPool(**settings)  # type: ignore[arg-type]


def test_max_workers_is_another_name_of_threads() -> None:
    with DispatchPool(max_workers=3) as pool:
        assert pool.threads == 3


def test_the_default_count_follows_the_affinity(script: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    source = """
import os, penstock
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
with penstock.DispatchPool() as pool:
    print(pool.threads)
"""
    assert script(source).stdout.split() == ["5"]


STACK = """
import ctypes, penstock, resource, sys
def stack_size():
    libc = ctypes.CDLL(None)
    libc.pthread_self.restype = ctypes.c_ulong
    attributes, size = ctypes.create_string_buffer(128), ctypes.c_size_t()
    assert libc.pthread_getattr_np(ctypes.c_ulong(libc.pthread_self()), attributes) == 0
    assert libc.pthread_attr_getstacksize(attributes, ctypes.byref(size)) == 0
    return size.value
size = eval(sys.argv[1])
if size is None:
    resource.setrlimit(resource.RLIMIT_STACK, (3 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))
with penstock.DispatchPool(threads=1, stack_size=size) as pool:
    print(pool.submit(stack_size).result(10) >> 10)
"""


@pytest.mark.parametrize(("given", "kib"), [(1 << 20, 1024), ("512KiB", 512), ("8MiB", 8192), (None, 3072)])
def test_a_stack_has_the_size_that_was_asked_for(
    script: Callable[..., subprocess.CompletedProcess[str]], given: int | str | None, kib: int
) -> None:
    # In a process of its own: the C library gives a new thread the stack of one that has ended.
    done = script(STACK, repr(given))
    assert done.stderr == ""
    # A guard page may count with it.
    assert abs(int(done.stdout) - kib) <= 16


def test_threading_knows_the_threads_by_their_names_while_they_live() -> None:
    def names() -> set[str]:
        return {thread.name for thread in threading.enumerate() if thread.name.startswith("mine-")}

    with DispatchPool(threads=2, name_prefix="mine-"):
        assert names() == {"mine-0", "mine-1"}
    assert names() == set()


@pytest.mark.parametrize("kind", ["trace", "profile"])
def test_debuggers_that_asked_for_new_threads_see_the_jobs(kind: str) -> None:
    seen: list[str] = []

    def watch(frame: FrameType, event: str, arg: object) -> None:
        if frame.f_code.co_name == "traced_job":
            seen.append(event)

    def traced_job() -> None:
        pass

    before = getattr(threading, f"get{kind}")()
    getattr(threading, f"set{kind}")(watch)
    try:
        pool = DispatchPool(threads=1)
    finally:
        getattr(threading, f"set{kind}")(before)
    with pool:
        pool.submit(traced_job).result(10)
    assert seen[0] == "call"


def test_pools_without_a_prefix_are_numbered() -> None:
    with DispatchPool(threads=1) as first, DispatchPool(threads=1, name_prefix="x") as other:
        with DispatchPool(threads=1) as second:
            pass
        number = int(first.name_prefix.removeprefix("penstock-").removesuffix("-"))
        assert second.name_prefix == f"penstock-{number + 1}-"
        assert other.name_prefix == "x"


def test_the_constructor_returns_when_all_threads_run(thread_names: Callable[[], set[str]]) -> None:
    ready: list[int] = []
    with DispatchPool(threads=8, name_prefix="r-", after_start=ready.append):
        assert sorted(ready) == list(range(8))
        assert {f"r-{index}" for index in range(8)} <= thread_names()


def test_a_failing_before_stop_is_logged_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    stopped: list[int] = []

    def before_stop(index: int) -> None:
        stopped.append(index)
        raise LookupError(index)

    with caplog.at_level(logging.ERROR, "penstock.blocking"), DispatchPool(threads=2, before_stop=before_stop):
        pass
    assert sorted(stopped) == [0, 1]
    assert len(caplog.records) == 2


def test_hooks_run_on_each_thread_with_its_index() -> None:
    started: list[tuple[int, str]] = []
    stopped: list[tuple[int, str]] = []

    def note(to: list[tuple[int, str]]) -> Callable[[int], None]:
        return lambda index: to.append((index, threading.current_thread().name))

    with DispatchPool(threads=3, name_prefix="h-", after_start=note(started), before_stop=note(stopped)):
        assert sorted(started) == [(0, "h-0"), (1, "h-1"), (2, "h-2")]
        assert not stopped
    assert sorted(stopped) == sorted(started)


def test_a_failing_after_start_fails_the_constructor() -> None:
    def after_start(index: int) -> None:
        raise LookupError(index)

    with pytest.raises(LookupError):
        DispatchPool(threads=2, after_start=after_start)


# Fire and forget, and the executor


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


# Waiting for quiet


@pytest.mark.asyncio
async def test_join_waits_for_everything_that_was_given_and_closes_nothing(pool: DispatchPool, gate: Gate) -> None:
    ran: list[int] = []
    pool.dispatch(gate)
    for n in range(100):
        pool.dispatch(ran.append, n)
    nap = _nap(pool, 0.01)
    joining = pool.join()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(joining), 0.05)
    gate.open.set()
    await joining
    assert sorted(ran) == list(range(100))
    assert nap.done()
    assert await pool.run(int) == 0


@pytest.mark.asyncio
async def test_join_of_a_quiet_pool_is_done(pool: DispatchPool) -> None:
    await pool.join()
    assert await pool.run(int) == 0
    await pool.join()
    await pool.aclose()
    await pool.join()


@pytest.mark.asyncio
async def test_results_come_before_the_end_of_a_join(pool: DispatchPool) -> None:
    for _ in range(50):
        futures = [pool.run(int) for _ in range(20)]
        await pool.join()
        assert all(future.done() for future in futures)


@pytest.mark.asyncio
async def test_join_ends_when_the_last_job_is_cancelled(pool: DispatchPool, gate: Gate) -> None:
    for _ in range(4):
        pool.dispatch(gate)
    gate.wait_entered(4)
    queued = [pool.run(int), _nap(pool, 20)]
    joining = pool.join()
    gate.open.set()
    for each in queued:
        each.cancel()
    await joining
    assert pool.stats()["running"] == 0


@pytest.mark.asyncio
async def test_join_ends_when_a_shutdown_cancels_what_is_queued(gate: Gate) -> None:
    pool = DispatchPool(threads=1)
    pool.dispatch(gate)
    gate.wait_entered()
    queued = [pool.run(int) for _ in range(3)]
    queued[0].cancel()
    joining = pool.join()
    pool.shutdown(wait=False, cancel_futures=True)
    assert pool.stats()["queued"] == 0
    gate.open.set()
    await joining
    assert all(future.cancelled() for future in queued)
    await pool.aclose()


@pytest.mark.asyncio
async def test_a_cancelled_join_leaves_the_jobs_and_no_trace(pool: DispatchPool, gate: Gate) -> None:
    ended: list[None] = []
    pool.dispatch(lambda: ended.append(gate()))
    gate.wait_entered()
    for _ in range(1000):
        pool.join().cancel()
    assert sum(isinstance(thing, Future) for thing in gc.get_objects()) < 100
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(pool.join(), 0.01)
    gate.open.set()
    await pool.join()
    assert ended == [None]


# The end


@pytest.mark.asyncio
async def test_a_closed_pool_runs_what_is_queued_and_takes_no_more() -> None:
    pool = DispatchPool(threads=1)
    futures = [pool.run(time.sleep, 0.001) for _ in range(20)]
    await pool.aclose()
    assert await asyncio.gather(*futures) == [None] * 20
    for submit in (pool.run, pool.dispatch, pool.submit):
        with pytest.raises(PoolClosed):
            submit(int)
    await pool.aclose()
    pool.close()
    assert "closed" in repr(pool)


@pytest.mark.asyncio
async def test_shutdown_can_cancel_what_is_queued(gate: Gate) -> None:
    pool = DispatchPool(threads=1)
    running = pool.run(gate)
    gate.wait_entered()
    queued = pool.run(int)
    submitted = pool.submit(int)
    pool.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(asyncio.CancelledError):
        await queued
    assert submitted.cancelled()
    gate.open.set()
    assert await running is None
    await pool.aclose()


@pytest.mark.asyncio
async def test_a_job_may_shut_its_own_pool_down() -> None:
    pool = DispatchPool(threads=2)
    await pool.run(pool.shutdown)
    await pool.aclose()


@pytest.mark.asyncio
async def test_a_cancelled_aclose_closes_the_pool_all_the_same(
    gate: Gate, thread_names: Callable[[], set[str]]
) -> None:
    pool = DispatchPool(threads=1, name_prefix="gone-")
    running = pool.run(gate)
    gate.wait_entered()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(pool.aclose(), 0.01)
    with pytest.raises(PoolClosed):
        pool.run(int)
    gate.open.set()
    await running
    while any(name.startswith("gone-") for name in thread_names()):
        await asyncio.sleep(0.001)


def test_a_forgotten_pool_warns_and_lets_its_threads_go() -> None:
    pools = [DispatchPool(threads=2)]
    ran = pools[0].submit(int)
    with pytest.warns(ResourceWarning, match="unclosed DispatchPool"):
        pools.clear()
    assert ran.result(10) == 0


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
