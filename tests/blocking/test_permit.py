"""`BlockingPermit`: held until the run returns, entered once, and loud about being used in any other way."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from penstock import BlockingPermit, PermitError, Semaphore, SemaphoreClosed, blocking_permit

from .conftest import Gate, turns


@pytest.fixture
def semaphore() -> Semaphore:
    return Semaphore(1)


# Running


@pytest.mark.asyncio
async def test_the_function_runs_here_under_the_permit_which_goes_back_when_it_returns(semaphore: Semaphore) -> None:
    def job(a: int, *, b: int) -> tuple[int, int, int, int]:
        return a, b, semaphore.free, threading.get_ident()

    async with blocking_permit(semaphore) as permit:
        assert isinstance(permit, BlockingPermit)
        assert semaphore.free == 0
        assert permit.run(job, 1, b=2) == (1, 2, 0, threading.get_ident())
        assert semaphore.free == 1
    assert semaphore.free == 1


@pytest.mark.asyncio
async def test_the_permit_goes_back_though_the_function_fails(semaphore: Semaphore) -> None:
    async with blocking_permit(semaphore) as permit:
        with pytest.raises(ZeroDivisionError):
            permit.run(lambda: 1 / 0)
        assert semaphore.free == 1
    assert semaphore.free == 1


@pytest.mark.asyncio
async def test_an_asynchronous_function_is_refused_by_name_and_the_permit_goes_back(semaphore: Semaphore) -> None:
    async with blocking_permit(semaphore) as permit:
        with pytest.raises(TypeError, match="turns is an asynchronous function"):
            await permit.run(turns)
        assert semaphore.free == 1


@pytest.mark.asyncio
async def test_enter_holds_the_permit_until_the_block_is_left(semaphore: Semaphore) -> None:
    async with blocking_permit(semaphore) as permit:
        permit.enter()
        assert semaphore.free == 0
    assert semaphore.free == 1


@pytest.mark.asyncio
async def test_it_may_be_awaited_without_a_block(semaphore: Semaphore) -> None:
    permit = await blocking_permit(semaphore)
    assert permit.run(lambda: semaphore.free) == 0
    assert semaphore.free == 1
    permit = await asyncio.wait_for(blocking_permit(semaphore), 5)
    permit.enter()
    assert semaphore.free == 0
    del permit
    gc.collect()
    assert semaphore.free == 1


@pytest.mark.asyncio
async def test_a_run_that_goes_on_in_a_thread_keeps_the_permit_when_the_block_is_left(
    semaphore: Semaphore, gate: Gate
) -> None:
    async with blocking_permit(semaphore) as permit:
        thread = threading.Thread(target=permit.run, args=(gate,))
        thread.start()
        gate.wait_entered()
    assert semaphore.free == 0
    gate.open.set()
    await asyncio.to_thread(thread.join)
    assert semaphore.free == 1


@pytest.mark.asyncio
async def test_of_two_threads_that_enter_one_does(semaphore: Semaphore) -> None:
    async with blocking_permit(semaphore) as permit:
        ran: list[int] = []
        refused: list[PermitError] = []
        ready = threading.Barrier(8)

        def enter(n: int) -> None:
            ready.wait(10)
            try:
                permit.run(ran.append, n)
            except PermitError as error:
                refused.append(error)

        threads = [threading.Thread(target=enter, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert (len(ran), len(refused)) == (1, 7)
    assert semaphore.free == 1


# Taking its turn


@pytest.mark.asyncio
async def test_nothing_is_taken_before_the_block_is_entered_and_a_free_permit_does_not_suspend(
    semaphore: Semaphore,
) -> None:
    permit, others = blocking_permit(semaphore), []
    assert semaphore.free == 1
    asyncio.get_running_loop().call_soon(others.append, 1)
    async with permit:
        assert (semaphore.free, others) == (0, [])
        permit.run(int)


@pytest.mark.asyncio
async def test_it_waits_in_the_semaphores_queue(semaphore: Semaphore) -> None:
    order: list[int] = []

    async def blocker(n: int) -> None:
        async with blocking_permit(semaphore) as permit:
            permit.run(order.append, n)

    async def other(n: int) -> None:
        async with semaphore:
            order.append(n)

    async with semaphore:
        tasks = [asyncio.create_task(blocker(n) if n % 2 else other(n)) for n in range(10)]
        await turns()
        assert semaphore.waiting == 10
    await asyncio.gather(*tasks)
    assert (order, semaphore.free) == (list(range(10)), 1)


@pytest.mark.asyncio
async def test_dropped_by_an_exception_on_its_way_it_goes_to_who_waits_and_the_exception_goes_on(
    semaphore: Semaphore,
) -> None:
    async def fail() -> object:
        await turns()
        raise LookupError("on its way")

    async def use() -> None:
        # The interpreter has the permit at hand, and drops it while the exception is pending.
        print(await blocking_permit(semaphore), await fail())

    using, waiting = asyncio.create_task(use()), asyncio.create_task(semaphore.acquire())
    with pytest.warns(RuntimeWarning, match="never entered"), pytest.raises(LookupError, match="on its way"):
        await using
    await asyncio.wait_for(waiting, 5)
    semaphore.release()


@pytest.mark.asyncio
@pytest.mark.parametrize("between", [0, 1, 2, 3])
async def test_cancelled_around_the_hand_over_it_swallows_no_permit(semaphore: Semaphore, between: int) -> None:
    async def user() -> None:
        async with blocking_permit(semaphore) as permit:
            permit.run(int)
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
    async with asyncio.timeout(5):
        await semaphore.acquire()
    semaphore.release()
    assert (semaphore.free, semaphore.waiting) == (1, 0)


@pytest.mark.asyncio
async def test_a_closed_semaphore_gives_none(semaphore: Semaphore) -> None:
    async def use() -> None:
        async with blocking_permit(semaphore):
            pass

    await semaphore.acquire()
    waiting = asyncio.create_task(use())
    await turns()
    semaphore.close()
    with pytest.raises(SemaphoreClosed):
        await waiting
    with pytest.raises(SemaphoreClosed):
        await use()
    semaphore.release()
    assert semaphore.free == 1


# Misuse


async def enter_twice(permit: BlockingPermit) -> None:
    async with permit:
        permit.enter()
        permit.enter()


async def enter_and_run(permit: BlockingPermit) -> None:
    async with permit:
        permit.enter()
        permit.run(int)


async def run_twice(permit: BlockingPermit) -> None:
    async with permit:
        permit.run(int)
        permit.run(int)


async def run_within(permit: BlockingPermit) -> None:
    async with permit:
        permit.run(permit.run, int)


async def run_after(permit: BlockingPermit) -> None:
    async with permit:
        permit.run(int)
    permit.run(int)


async def use_again(permit: BlockingPermit) -> None:
    async with permit:
        permit.run(int)
    async with permit:
        pass


async def await_again(permit: BlockingPermit) -> None:
    (await permit).run(int)
    await permit


async def await_within(permit: BlockingPermit) -> None:
    async with permit:
        permit.enter()
        await permit


ONCE = [enter_twice, enter_and_run, run_twice, run_within, run_after, use_again, await_again, await_within]


@pytest.mark.asyncio
@pytest.mark.parametrize("misuse", ONCE)
async def test_a_second_use_raises_and_the_permit_is_free_afterwards(
    semaphore: Semaphore, misuse: Callable[[BlockingPermit], Awaitable[None]]
) -> None:
    with pytest.raises(PermitError, match="once"):
        await misuse(blocking_permit(semaphore))
    assert (semaphore.free, semaphore.waiting) == (1, 0)


@pytest.mark.asyncio
async def test_before_the_permit_was_acquired_nothing_may_be_run_entered_or_left(semaphore: Semaphore) -> None:
    permit = blocking_permit(semaphore)
    with pytest.raises(PermitError, match="not acquired"):
        permit.run(int)
    with pytest.raises(PermitError, match="not acquired"):
        permit.enter()
    with pytest.raises(PermitError, match="not acquired"):
        await permit.__aexit__(None, None, None)
    async with permit:
        permit.run(int)
    assert semaphore.free == 1


@pytest.mark.asyncio
async def test_a_permit_that_was_never_entered_is_warned_of_and_given_back(semaphore: Semaphore) -> None:
    with pytest.warns(RuntimeWarning, match="never entered"):
        async with blocking_permit(semaphore):
            pass
    assert semaphore.free == 1
    held = [await blocking_permit(semaphore)]
    with pytest.warns(RuntimeWarning, match="never entered"):
        held.clear()
    assert semaphore.free == 1


@pytest.mark.asyncio
async def test_a_block_that_fails_before_it_enters_is_not_warned_of_too(semaphore: Semaphore) -> None:
    with pytest.raises(LookupError):
        async with blocking_permit(semaphore):
            raise LookupError
    assert semaphore.free == 1


@pytest.mark.asyncio
async def test_one_that_nobody_awaits_is_warned_of(semaphore: Semaphore) -> None:
    with pytest.warns(RuntimeWarning, match="never awaited"):
        blocking_permit(semaphore)
    assert semaphore.free == 1


@pytest.mark.asyncio
async def test_in_debug_mode_warnings_and_errors_name_where_the_permit_was_made(semaphore: Semaphore) -> None:
    def made_here() -> BlockingPermit:
        return blocking_permit(semaphore)

    asyncio.get_running_loop().set_debug(True)
    where = r"(?s)made at .*test_permit\.py.* in made_here"
    with pytest.warns(RuntimeWarning, match=where):
        async with made_here():
            pass
    with pytest.warns(RuntimeWarning, match=where):
        made_here()
    for misuse in ONCE:
        with pytest.raises(PermitError, match=where):
            await misuse(made_here())
    asyncio.get_running_loop().set_debug(False)
    with pytest.warns(RuntimeWarning) as caught:
        made_here()
    assert "made_here" not in str(caught[0].message)


@pytest.mark.asyncio
async def test_its_repr_says_where_it_is(semaphore: Semaphore) -> None:
    seen: list[Any] = []
    permit = blocking_permit(semaphore)
    seen.append(repr(permit))
    async with permit:
        seen.append(repr(permit))
        permit.run(lambda: seen.append(repr(permit)))
        seen.append(repr(permit))
    async with blocking_permit(semaphore) as permit:
        permit.enter()
        seen.append(repr(permit))
        waiting = blocking_permit(semaphore)
        task = asyncio.ensure_future(waiting)
        await turns()
        seen.append(repr(waiting))
    (await task).run(int)
    words = ["new", "held", "running", "over", "entered", "waiting"]
    assert seen == [f"<penstock.BlockingPermit {word}>" for word in words]
