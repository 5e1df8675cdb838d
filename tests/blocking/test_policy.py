"""The three policies behave alike; each passes this suite."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable

import penstock
import pytest
from penstock import Direct, Dispatch, DispatchPool, Permit, Semaphore
from penstock.blocking import Policy
from penstock.errors import PoolClosed, SemaphoreClosed

from .conftest import Gate

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.fixture(params=["Direct", "Permit", "Permit on a pool", "Dispatch", "Dispatch on a pool"])
def policy(request: pytest.FixtureRequest, pool: DispatchPool) -> Policy:
    make: dict[str, Callable[[], Policy]] = {
        "Direct": Direct,
        "Permit": lambda: Permit(Semaphore(2)),
        "Permit on a pool": lambda: Permit(Semaphore(2), pool=pool),
        "Dispatch": Dispatch,
        "Dispatch on a pool": lambda: Dispatch(pool),
    }
    return make[request.param]()


@pytest.mark.asyncio
async def test_it_gives_the_result(policy: Policy) -> None:
    assert isinstance(policy, Policy)
    assert await policy.run(lambda a, *, b: (a, b), 1, b=2) == (1, 2)
    assert await asyncio.gather(*[policy.run(int, str(n)) for n in range(20)]) == list(range(20))
    assert await penstock.run_blocking(int, "5", policy=policy) == 5


@pytest.mark.asyncio
async def test_it_gives_the_exception_when_awaited(policy: Policy) -> None:
    future = policy.run(int, "x")
    with pytest.raises(ValueError, match="invalid literal"):
        await future


@pytest.mark.asyncio
async def test_the_function_sees_the_context(policy: Policy) -> None:
    variable.set("mine")
    assert await policy.run(variable.get) == "mine"


@pytest.mark.asyncio
async def test_it_counts(policy: Policy) -> None:
    seen = [(await policy.run(policy.stats))["running"] for _ in range(3)]
    assert seen == [1, 1, 1]
    assert policy.stats() == {"count": 3, "running": 0}
    with pytest.raises(ZeroDivisionError):
        await policy.run(lambda: 1 / 0)
    assert policy.stats() == {"count": 4, "running": 0}


@pytest.mark.asyncio
async def test_a_task_takes_it(policy: Policy) -> None:
    assert await asyncio.create_task(policy.run(int)) == 0


@pytest.mark.asyncio
async def test_direct_runs_on_the_calling_thread_and_the_others_do_not(policy: Policy) -> None:
    here = await policy.run(threading.get_ident) == threading.get_ident()
    assert here == isinstance(policy, Direct)


# Permit


@pytest.mark.asyncio
async def test_no_more_run_than_there_are_permits(pool: DispatchPool) -> None:
    lock, inside, most = threading.Lock(), 0, 0

    def job() -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        threading.Event().wait(0.002)
        with lock:
            inside -= 1

    semaphore = Semaphore(2)
    policy = Permit(semaphore, pool=pool)
    await asyncio.gather(*[policy.run(job) for _ in range(30)])
    assert (most, semaphore.free) == (2, 2)


@pytest.mark.asyncio
async def test_a_permit_is_held_until_the_function_returns_though_nobody_waits(pool: DispatchPool, gate: Gate) -> None:
    semaphore = Semaphore(1)
    policy = Permit(semaphore, pool=pool)
    running = policy.run(gate)
    gate.wait_entered()
    running.cancel()
    assert semaphore.free == 0
    following = policy.run(int)
    gate.open.set()
    assert await following == 0
    await pool.aclose()
    assert semaphore.free == 1


@pytest.mark.asyncio
async def test_cancelled_before_its_permit_or_before_its_thread_it_holds_nothing(
    pool: DispatchPool, gate: Gate
) -> None:
    semaphore = Semaphore(1)
    policy = Permit(semaphore, pool=pool)
    assert semaphore.try_acquire()
    waiting = policy.run(int)
    assert semaphore.waiting == 1
    waiting.cancel()
    assert semaphore.waiting == 0
    semaphore.release()
    for _ in range(4):
        pool.dispatch(gate)
    gate.wait_entered(4)
    queued = policy.run(int)
    assert (semaphore.free, pool.stats()["queued"]) == (0, 1)
    queued.cancel()
    assert (semaphore.free, pool.stats()["queued"]) == (1, 0)
    gate.open.set()


@pytest.mark.asyncio
async def test_a_closed_semaphore_or_pool_fails_the_run(pool: DispatchPool) -> None:
    semaphore = Semaphore(1)
    policy = Permit(semaphore, pool=pool)
    assert semaphore.try_acquire()
    waiting = policy.run(int)
    semaphore.close()
    with pytest.raises(SemaphoreClosed):
        await waiting
    with pytest.raises(SemaphoreClosed):
        policy.run(int)
    semaphore = Semaphore(1)
    policy = Permit(semaphore, pool=pool)
    assert semaphore.try_acquire()
    waiting = policy.run(int)
    await pool.aclose()
    semaphore.release()
    with pytest.raises(PoolClosed):
        await waiting
    assert semaphore.free == 1
