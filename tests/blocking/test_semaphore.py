"""`Semaphore`: fair among tasks and threads, free of charge when a permit is free, and never short of one."""

from __future__ import annotations

import asyncio
import gc
import re
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from penstock import Semaphore
from penstock.errors import BlockingInLoop, PermitError, SemaphoreClosed

from tests.conftest import LOOPS, until

from .conftest import abandon, turns

# Taking and giving back


@pytest.mark.asyncio
async def test_no_more_enter_than_there_are_permits() -> None:
    semaphore, inside, most = Semaphore(3), 0, 0

    async def user() -> None:
        nonlocal inside, most
        async with semaphore:
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*[user() for _ in range(100)])
    assert (most, semaphore.free, semaphore.waiting) == (3, 3, 0)


@pytest.mark.asyncio
async def test_a_free_permit_is_taken_without_suspending() -> None:
    semaphore, other_ran = Semaphore(1), []
    asyncio.get_running_loop().call_soon(other_ran.append, 1)
    async with semaphore:
        assert not other_ran
    await semaphore.acquire()
    semaphore.release()
    assert not other_ran


@pytest.mark.asyncio
async def test_leaving_gives_what_may_be_awaited_again_and_again() -> None:
    semaphore = Semaphore(1)
    await semaphore.acquire()
    left = semaphore.__aexit__(None, None, None)
    assert semaphore.free == 1
    assert [await left, await left] == [None, None]


@pytest.mark.asyncio
async def test_a_permit_is_taken_when_awaited_not_when_called() -> None:
    semaphore = Semaphore(1)
    acquiring, entering = semaphore.acquire(), semaphore.__aenter__()
    assert semaphore.free == 1
    await acquiring
    assert semaphore.free == 0
    semaphore.release()
    await entering
    assert semaphore.free == 0
    semaphore.release()


def test_a_bool_is_no_number_of_permits_and_no_time() -> None:
    semaphore = Semaphore(2)
    for call, named in (
        (lambda: Semaphore(True), "permits=True: not an int"),
        (lambda: semaphore.acquire(True), "n=True: not an int"),
        (lambda: semaphore.try_acquire(True), "n=True: not an int"),
        (lambda: semaphore.sync(True), "timeout=True: not a number"),
    ):
        with pytest.raises(TypeError, match=f"^{named}"):
            call()
    assert semaphore.free == 2


@pytest.mark.asyncio
async def test_the_permit_comes_back_though_the_body_fails() -> None:
    semaphore = Semaphore(1)
    with pytest.raises(LookupError):
        async with semaphore:
            raise LookupError
    assert semaphore.free == 1


@pytest.mark.asyncio
async def test_several_permits_are_taken_at_once_and_in_turn() -> None:
    semaphore, order = Semaphore(3), []

    async def user(name: str, n: int) -> None:
        await semaphore.acquire(n)
        order.append(name)

    await semaphore.acquire(2)
    tasks = [asyncio.create_task(user("three", 3)), asyncio.create_task(user("one", 1))]
    await turns()
    # One is free, but who wants three came first.
    assert (order, semaphore.free, semaphore.try_acquire()) == ([], 1, False)
    semaphore.release(2)
    await tasks[0]
    assert order == ["three"]
    semaphore.release(3)
    await tasks[1]
    semaphore.release()
    assert semaphore.free == 3


@pytest.mark.asyncio
async def test_tasks_get_their_turn_in_the_order_in_which_they_came() -> None:
    semaphore, order = Semaphore(1), []

    async def user(n: int) -> None:
        async with semaphore:
            order.append(n)

    async with semaphore:
        tasks = [asyncio.create_task(user(n)) for n in range(50)]
        await turns()
        assert semaphore.waiting == 50
    # Released, but not to whoever asks next.
    assert not semaphore.try_acquire()
    await asyncio.gather(*tasks)
    assert order == list(range(50))


@pytest.mark.asyncio
async def test_asyncio_takes_acquire_wherever_it_takes_a_coroutine() -> None:
    semaphore = Semaphore(4)
    await asyncio.create_task(semaphore.acquire())
    await asyncio.wait_for(semaphore.acquire(), 1)
    await asyncio.gather(semaphore.acquire(), semaphore.acquire())
    assert semaphore.free == 0
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(semaphore.acquire(), 0.01)
    assert semaphore.waiting == 0
    semaphore.release(4)
    assert semaphore.free == 4


@pytest.mark.asyncio
async def test_leaving_without_entering_raises() -> None:
    semaphore = Semaphore(1)
    with pytest.raises(PermitError, match="released more"):
        await semaphore.__aexit__(None, None, None)
    with pytest.raises(PermitError, match="released more"):
        semaphore.sync().__exit__(None, None, None)
    assert semaphore.free == 1


@pytest.mark.asyncio
async def test_it_counts_who_waited_and_who_was_handed_a_permit() -> None:
    semaphore = Semaphore(2)
    assert semaphore.stats() == {"permits": 2, "free": 2, "waiting": 0, "waits": 0, "hand_overs": 0}
    async with semaphore:
        await semaphore.acquire()
        tasks = [asyncio.create_task(semaphore.acquire()) for _ in range(3)]
        await turns()
        tasks[2].cancel()
        await asyncio.wait([tasks[2]])
        assert semaphore.stats() == {"permits": 2, "free": 0, "waiting": 2, "waits": 3, "hand_overs": 0}
    semaphore.release()
    await asyncio.gather(*tasks[:2])
    semaphore.release(2)
    assert semaphore.stats() == {"permits": 2, "free": 2, "waiting": 0, "waits": 3, "hand_overs": 2}


@pytest.mark.asyncio
async def test_its_repr_says_what_is_free() -> None:
    semaphore = Semaphore(2)
    async with semaphore:
        assert repr(semaphore) == "<penstock.Semaphore 1 of 2 free, 0 waiting>"
    semaphore.close()
    assert repr(semaphore) == "<penstock.Semaphore 2 of 2 free, 0 waiting closed>"


@pytest.mark.asyncio
async def test_misuse_is_named() -> None:
    with pytest.raises(ValueError, match="permits=0"):
        Semaphore(0)
    semaphore = Semaphore(2)
    with pytest.raises(PermitError, match="released more"):
        semaphore.release()
    for n in (0, 3):
        with pytest.raises(ValueError, match=f"n={n}"):
            await semaphore.acquire(n)
    calls: list[Callable[[int], object]] = [Semaphore, semaphore.acquire, semaphore.try_acquire, semaphore.release]
    for call in calls:
        for n in (-1, 1 << 64):
            with pytest.raises(ValueError, match=f"={n}: not between 0 and"):
                call(n)
    used = semaphore.acquire()
    await used
    with pytest.raises(RuntimeError, match="already awaited"):
        await used
    semaphore.release()
    with pytest.warns(RuntimeWarning, match="never awaited"):
        semaphore.acquire()
    assert semaphore.free == 2


# Cancelling


@pytest.mark.asyncio
async def test_a_waiter_cancelled_before_its_turn_leaves_the_queue() -> None:
    semaphore = Semaphore(1)
    await semaphore.acquire()
    waiting = asyncio.create_task(semaphore.acquire())
    await turns()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert semaphore.waiting == 0
    semaphore.release()
    assert semaphore.free == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("between", [0, 1, 2, 3])
async def test_a_waiter_cancelled_around_the_hand_over_swallows_no_permit(between: int) -> None:
    semaphore = Semaphore(1)
    await semaphore.acquire()
    first, second = asyncio.create_task(semaphore.acquire()), asyncio.create_task(semaphore.acquire())
    await turns()
    semaphore.release()
    for _ in range(between):
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    if not first.cancelled():
        semaphore.release()
    async with asyncio.timeout(5):
        await second
    semaphore.release()
    assert (semaphore.free, semaphore.waiting) == (1, 0)


@pytest.mark.asyncio
@pytest.mark.parametrize("between", [0, 1, 2, 3])
async def test_a_block_cancelled_around_the_hand_over_swallows_no_permit(between: int) -> None:
    semaphore, entered = Semaphore(1), []

    async def user() -> None:
        async with semaphore:
            entered.append(1)
            await asyncio.sleep(10)

    await semaphore.acquire()
    task = asyncio.create_task(user())
    await turns()
    semaphore.release()
    for _ in range(between):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await until(lambda: semaphore.free == 1)


@pytest.mark.asyncio
async def test_a_waiter_cancelled_in_the_step_in_which_it_was_to_go_on_gives_its_permit_back() -> None:
    semaphore = Semaphore(1)
    await semaphore.acquire()

    async def wait_and_be_cancelled() -> None:
        await semaphore.acquire()

    task = asyncio.create_task(wait_and_be_cancelled())
    await turns()
    semaphore.release()
    # The release is on its way to the loop: the callback that settles it runs before the cancelled step.
    asyncio.get_running_loop().call_soon(task.cancel)
    await asyncio.wait([task])
    if not task.cancelled():
        semaphore.release()
    await until(lambda: semaphore.free == 1)


@pytest.mark.asyncio
async def test_a_waiter_that_is_dropped_leaves_the_queue() -> None:
    semaphore = Semaphore(1)
    await semaphore.acquire()
    coroutine = semaphore.acquire()
    coroutine.send(None)
    assert semaphore.waiting == 1
    del coroutine
    gc.collect()
    assert semaphore.waiting == 0
    semaphore.release()
    closed = semaphore.acquire()
    closed.close()
    assert semaphore.free == 1


@pytest.mark.parametrize("kind", LOOPS)
def test_a_waiter_whose_loop_is_closed_is_skipped(kind: str) -> None:
    semaphore = Semaphore(1)
    assert semaphore.try_acquire()

    async def stay() -> asyncio.Task[None]:
        task = asyncio.create_task(semaphore.acquire())
        await turns()
        return task

    loop = LOOPS[kind]()
    task = loop.run_until_complete(stay())
    loop.close()
    assert semaphore.waiting == 1

    async def main() -> None:
        mine = asyncio.create_task(semaphore.acquire())
        await turns()
        semaphore.release()
        async with asyncio.timeout(5):
            await mine

    asyncio.run(main())
    semaphore.release()
    assert semaphore.free == 1
    abandon(task)


@pytest.mark.parametrize("kind", LOOPS)
def test_a_waiter_whose_loop_stopped_gives_its_permit_on_and_asks_again_when_it_runs(kind: str) -> None:
    semaphore = Semaphore(1)
    assert semaphore.try_acquire()
    loop = LOOPS[kind]()

    async def wait() -> asyncio.Task[None]:
        task = asyncio.create_task(semaphore.acquire())
        await turns()
        return task

    waiting = loop.run_until_complete(wait())
    assert semaphore.waiting == 1

    async def next_one() -> None:
        mine = asyncio.create_task(semaphore.acquire())
        await turns()
        semaphore.release()
        async with asyncio.timeout(5):
            await mine
        assert semaphore.waiting == 0

    asyncio.run(next_one())
    assert semaphore.stats()["hand_overs"] == 2

    async def go_on() -> None:
        await turns()
        assert not waiting.done()
        assert semaphore.waiting == 1
        semaphore.release()
        async with asyncio.timeout(5):
            await waiting

    loop.run_until_complete(go_on())
    loop.close()
    semaphore.release()
    assert semaphore.free == 1


@pytest.mark.parametrize("kind", LOOPS)
def test_a_waiter_whose_loop_runs_again_takes_what_is_free_by_then(kind: str) -> None:
    semaphore = Semaphore(1)
    assert semaphore.try_acquire()
    loop = LOOPS[kind]()

    async def wait() -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(semaphore.acquire()) for _ in range(2)]
        await turns()
        return tasks

    async def go_on() -> None:
        tasks[0].cancel()
        async with asyncio.timeout(5):
            await tasks[1]

    tasks = loop.run_until_complete(wait())
    semaphore.release()
    assert (semaphore.free, semaphore.waiting) == (1, 0)
    loop.run_until_complete(go_on())
    assert tasks[0].cancelled()
    loop.close()
    semaphore.release()
    assert (semaphore.free, semaphore.waiting) == (1, 0)


@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize("then", ["goes on", "is closed"])
def test_a_permit_handed_over_as_a_loop_stops_stays_with_its_task_until_the_loop(then: str, kind: str) -> None:
    semaphore = Semaphore(1)
    assert semaphore.try_acquire()
    loop = LOOPS[kind]()

    async def wait() -> asyncio.Task[None]:
        task = asyncio.create_task(semaphore.acquire())
        await turns()
        main = asyncio.current_task()
        assert main is not None
        main.add_done_callback(lambda _: in_the_last_turn())
        return task

    def in_the_last_turn() -> None:
        # The loop was just told to stop; uvloop has one more turn then.
        if kind == "uvloop":
            loop.call_soon(semaphore.release)
        else:
            semaphore.release()

    waiting = loop.run_until_complete(wait())
    assert not waiting.done()
    assert (semaphore.free, semaphore.waiting, semaphore.stats()["hand_overs"]) == (0, 0, 1)
    if then == "goes on":
        loop.run_until_complete(waiting)
        semaphore.release()
    abandon(waiting)
    loop.close()
    del waiting
    gc.collect()
    assert (semaphore.free, semaphore.waiting) == (1, 0)


def counting(kind: str, calls: list[int]) -> asyncio.AbstractEventLoop:
    """A loop that notes each turn in which penstock's callback was called."""

    class Loop(LOOPS[kind]):  # type: ignore[misc]
        def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:
            def noted(*args: Any) -> None:
                calls.append(1)
                callback(*args)

            super().add_reader(fd, noted if type(callback).__module__ == "builtins" else callback, *args)

        def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> asyncio.Handle:
            # By its name: what asyncio's tasks call is a builtin, too.
            if type(callback).__name__ == "Turn":
                calls.append(1)
            return super().call_soon(callback, *args, context=context)  # type: ignore[no-any-return]

    return Loop()


@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_loop_is_woken_once_a_turn_however_many_permits_are_handed_over(kind: str, elsewhere: bool) -> None:
    semaphore, calls = Semaphore(100), list[int]()
    assert semaphore.try_acquire(100)

    def release() -> None:
        for _ in range(100):
            semaphore.release()

    async def main() -> None:
        tasks = [asyncio.create_task(semaphore.acquire()) for _ in range(100)]
        await turns()
        if elsewhere:
            # The loop stands still while another thread hands over.
            thread = threading.Thread(target=release)
            thread.start()
            thread.join()
        else:
            release()
        await asyncio.gather(*tasks)
        semaphore.release(100)

    with asyncio.Runner(loop_factory=lambda: counting(kind, calls)) as runner:
        runner.run(main())
    assert (len(calls), semaphore.free) == (1, 100)


@pytest.mark.parametrize("interrupt", [(KeyboardInterrupt,), (SystemExit, 7)], ids=["Ctrl-C", "exit"])
@pytest.mark.parametrize("asked", ["is_running", "call_soon"])
def test_an_interrupt_that_comes_while_a_permit_is_handed_over_is_raised_after_that(
    asked: str, interrupt: tuple[Any, ...]
) -> None:
    error, *code = interrupt

    def handle(*_: object) -> None:
        raise error(*code)

    class Loop(asyncio.SelectorEventLoop):
        armed = False

        def interrupt(self, method: str) -> None:
            if self.armed and method == asked:
                self.armed = False
                signal.raise_signal(signal.SIGINT)

        def is_running(self) -> bool:
            self.interrupt("is_running")
            return super().is_running()

        def call_soon(self, *args: Any, **options: Any) -> asyncio.Handle:
            self.interrupt("call_soon")
            return super().call_soon(*args, **options)

    semaphore = Semaphore(1)

    def release() -> None:
        semaphore.release()
        for _ in range(1000):
            pass

    async def main() -> None:
        await semaphore.acquire()
        waiting = asyncio.create_task(semaphore.acquire())
        await turns()
        loop.armed = True
        with pytest.raises(error) as caught:
            release()
        assert error is KeyboardInterrupt or [caught.value.code] == code
        assert not loop.armed
        await asyncio.wait_for(waiting, 5)
        semaphore.release()

    loop = Loop()
    before = signal.signal(signal.SIGINT, handle)
    try:
        loop.run_until_complete(main())
    finally:
        signal.signal(signal.SIGINT, before)
    loop.close()
    assert semaphore.free == 1


# Threads


def test_tasks_and_threads_share_one_queue() -> None:
    semaphore, order = Semaphore(1), []

    def thread(n: int) -> None:
        with semaphore.sync():
            order.append(n)

    async def task(n: int) -> None:
        async with semaphore:
            order.append(n)

    async def main() -> None:
        await semaphore.acquire()
        tasks, threads = [], []
        for n in range(10):
            if n % 2:
                threads.append(threading.Thread(target=thread, args=(n,)))
                threads[-1].start()
            else:
                tasks.append(asyncio.create_task(task(n)))
            await until(lambda n=n: semaphore.waiting == n + 1)  # type: ignore[misc]
        semaphore.release()
        await asyncio.gather(*tasks)
        for each in threads:
            await asyncio.to_thread(each.join)

    asyncio.run(main())
    assert order == list(range(10))
    assert semaphore.free == 1


def test_loops_in_several_threads_share_a_semaphore() -> None:
    semaphore, inside, most, lock = Semaphore(2), 0, 0, threading.Lock()

    async def user() -> None:
        nonlocal inside, most
        for _ in range(20):
            async with semaphore:
                with lock:
                    inside += 1
                    most = max(most, inside)
                await asyncio.sleep(0)
                with lock:
                    inside -= 1

    async def main() -> None:
        await asyncio.gather(*[user() for _ in range(10)])

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(25)
    assert (most, semaphore.free, semaphore.waiting) == (2, 2, 0)


def test_a_thread_waits_no_longer_than_it_wants() -> None:
    semaphore = Semaphore(1)
    with semaphore.sync():
        started = time.perf_counter()
        with pytest.raises(TimeoutError), semaphore.sync(timeout=0.05):
            pass
        assert 0.04 < time.perf_counter() - started < 2
        with pytest.raises(TimeoutError), semaphore.sync(timeout=0):
            pass
    assert (semaphore.free, semaphore.waiting) == (1, 0)


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), 1e10, 1 << 80])
def test_a_timeout_that_is_no_time_is_refused_by_its_name(timeout: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"timeout={timeout}: not a number of seconds from 0 to 4294967295")):
        Semaphore(1).sync(timeout=timeout)


def test_a_timeout_that_is_no_number_is_refused_by_its_name() -> None:
    with pytest.raises(ValueError, match="timeout=<a huge int>: more than a float holds"):
        Semaphore(1).sync(timeout=1 << 20_000)
    with pytest.raises(TypeError, match="timeout='1': not a number"):
        Semaphore(1).sync(timeout="1")  # type: ignore[arg-type]


@pytest.mark.asyncio
async def test_sync_on_a_running_loop_takes_what_is_free_and_refuses_to_wait() -> None:
    semaphore = Semaphore(1)
    with semaphore.sync(), pytest.raises(BlockingInLoop), semaphore.sync():
        pass
    assert semaphore.free == 1


# Closing


@pytest.mark.asyncio
async def test_closing_fails_who_waits_and_who_comes_later() -> None:
    semaphore = Semaphore(1)
    await semaphore.acquire()
    waiting = [asyncio.create_task(semaphore.acquire()) for _ in range(3)]
    await turns()
    semaphore.close()
    for each in waiting:
        with pytest.raises(SemaphoreClosed):
            await each
    with pytest.raises(SemaphoreClosed):
        await semaphore.acquire()
    with pytest.raises(SemaphoreClosed):
        async with semaphore:
            pass
    with pytest.raises(SemaphoreClosed):
        semaphore.try_acquire()
    semaphore.release()
    assert semaphore.closed
    assert semaphore.free == 1
