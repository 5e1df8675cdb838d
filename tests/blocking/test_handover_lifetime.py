"""Loops that are handed over are started, stopped, closed, forgotten and forked."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import penstock
import pytest
from penstock import block_in_place

from .handing import Met, blocking, needs_handover, run, until

pytestmark = needs_handover


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
        loop, met, begun = asyncio.get_running_loop(), Met(), threading.Event()

        def waits() -> None:
            future = asyncio.run_coroutine_threadsafe(asyncio.sleep(60), loop)
            begun.set()
            # Cancelled with all other tasks, when main has returned.
            with pytest.raises(concurrent.futures.CancelledError):
                future.result(15)
            let_go.append(threading.get_ident())

        # While the first thread is away, the function is on a carrier; it is back before main returns.
        first = asyncio.create_task(blocking(met))
        await until(met.entered.is_set)
        tasks.append(asyncio.create_task(blocking(waits)))
        await until(begun.is_set)
        met.opened.set()
        assert await first == threading.main_thread().ident

    let_go: list[int] = []
    tasks: list[asyncio.Task[None]] = []
    run(main())
    assert tasks[0].done()
    assert len(let_go) == 1
    assert let_go[0] != threading.get_ident()


def test_a_function_on_the_first_thread_waits_for_a_loop_that_is_to_stop_in_vain_and_the_runner_for_it() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        def waits() -> None:
            future = asyncio.run_coroutine_threadsafe(sleeps(), loop)
            with pytest.raises(TimeoutError):
                future.result(0.3)
            given_up.append(threading.get_ident())

        tasks.append(asyncio.create_task(blocking(waits)))
        await until(asleep.is_set)

    async def sleeps() -> None:
        asleep.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(len(given_up))

    asleep = threading.Event()
    given_up: list[int] = []
    ended: list[int] = []
    tasks: list[asyncio.Task[None]] = []
    run(main())
    assert tasks[0].done()
    assert given_up == [threading.get_ident()]
    # The runner cancelled it, once it had the first thread.
    assert ended == [1]


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
    tasks = []

    async def main() -> None:
        met = Met()

        async def exits() -> None:
            await until(met.entered.is_set)
            threading.Timer(0.01, met.opened.set).start()
            raise SystemExit(7)

        tasks.append(asyncio.create_task(exits()))
        block_in_place(met)
        await asyncio.sleep(10)

    with pytest.raises(SystemExit) as caught:
        run(main())
    assert caught.value.code == 7
    assert tasks[0].exception() is caught.value


def test_a_loop_without_a_close_lets_its_carriers_go() -> None:
    loop = penstock.new_event_loop()
    loop.run_until_complete(blocking(time.sleep, 0.005))
    # By name: the collector would finalize the loop's own sockets before it if it came to them first.
    with pytest.warns(ResourceWarning):
        loop.__del__()  # type: ignore[attr-defined]
    kept = weakref.ref(loop)
    del loop
    gc.collect()
    assert kept() is None


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


DEEP = """
import asyncio, sys, threading, time
import penstock

def deeper(n):
    # Through C, each level of which takes its part of the stack.
    return sorted([n], key=lambda n: deeper(n + 1))
async def main():
    told = asyncio.get_running_loop().create_future()
    def callback():
        try:
            deeper(0)
        except RecursionError:
            told.set_result(threading.current_thread().name)
    asyncio.get_running_loop().call_later(0.01, callback)
    penstock.block_in_place(time.sleep, 0.2)
    print(await told)
sys.setrecursionlimit(2_000)
penstock.run(main())
"""


def test_a_carrier_has_the_stack_for_what_recurses_to_the_interpreters_limit(script: Callable[..., Any]) -> None:
    done = script(DEEP)
    assert (done.returncode, done.stdout, done.stderr) == (0, "penstock-carry-0\n", "")


THREAD = """
import asyncio, threading, time
import penstock
from penstock import block_in_place

def blocks_on(exits):
    # Threads that the interpreter waits for, after the first of its hooks.
    threading.main_thread().join()
    time.sleep(exits)
async def blocks():
    block_in_place(blocks_on, 0.05)
    for _ in range(20):
        block_in_place(time.sleep, 0.001)
        await asyncio.sleep(0)
async def main():
    blocking.set()
    await asyncio.gather(*[blocks() for _ in range(3)])
    print("over")
blocking = threading.Event()
threading.Thread(target=lambda: penstock.run(main())).start()
blocking.wait()
"""


def test_a_loop_on_another_thread_goes_on_when_the_first_has_ended(script: Callable[..., Any]) -> None:
    done = script(THREAD)
    assert (done.returncode, done.stdout, done.stderr) == (0, "over\n", "")


DAEMON = """
import asyncio, threading, time
import penstock

async def blocks(seconds):
    while True:
        penstock.block_in_place(time.sleep, seconds)
        await asyncio.sleep(0)
async def main():
    asyncio.get_running_loop().call_later(0.05, blocking.set)
    await asyncio.gather(*map(blocks, {seconds}))
blocking = threading.Event()
threading.Thread(target=lambda: penstock.run(main()), daemon=True).start()
blocking.wait()
print("over")
"""


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param([0.3], id="in a function, while a carrier sleeps in the loop"),
        pytest.param([0.001, 0.002, 0.003], id="in functions, and waiting for the loop"),
        pytest.param([1e-5], id="mostly with the loop"),
    ],
)
def test_the_interpreter_exits_while_a_daemon_thread_runs_the_loop(script: Callable[..., Any], seconds: object) -> None:
    done = script(DAEMON.format(seconds=seconds))
    assert (done.returncode, done.stdout, done.stderr) == (0, "over\n", "")


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
    waits_for(child)
async def blocks():
    penstock.block_in_place(time.sleep, 0.01)
def waits_for(child):
    _, status = os.waitpid(child, 0)
    print("child", os.waitstatus_to_exitcode(status))
loop = penstock.new_event_loop()
loop.run_until_complete(main())
if (child := os.fork()) == 0:
    try:
        loop.run_until_complete(blocks())
    except penstock.HandoverError as error:
        os._exit("parent" in str(error))
waits_for(child)
loop.close()
"""


def test_a_forked_child_has_loops_of_its_own(script: Callable[..., Any]) -> None:
    done = script("import warnings; warnings.simplefilter('ignore')\n" + FORK)
    assert (done.returncode, done.stdout) == (0, "child 0\nchild 1\n"), done.stderr


def test_timers_that_were_cancelled_go_long_before_their_time_and_the_others_come_in_theirs() -> None:
    came: list[int] = []

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        for number in range(9):
            loop.call_later(0.001 * number, came.append, number)
        # Before those, which are then not the next ones.
        loop.call_later(60, print)
        for _ in range(3):
            for handle in [loop.call_later(3600, print) for _ in range(200)]:
                handle.cancel()
            await asyncio.sleep(0.01)
            assert len(loop._scheduled) < 100
        await blocking(time.sleep, 0.01)

    run(main())
    assert came == list(range(9))
