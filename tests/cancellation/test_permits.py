"""Permits, cancelled at every turn of the loop before, during and after the hand-over: none is lost, and who comes
after gets its turn."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import penstock
import pytest

from tests.cancellation.conftest import cancel_everywhere
from tests.conftest import until

pytestmark = pytest.mark.asyncio

USERS: dict[str, Callable[[penstock.Semaphore, penstock.DispatchPool], Awaitable[object]]] = {}


def user(fn: Callable[[penstock.Semaphore, penstock.DispatchPool], Awaitable[object]]) -> None:
    USERS[fn.__name__] = fn


@user
async def block(semaphore: penstock.Semaphore, pool: penstock.DispatchPool) -> None:
    async with semaphore:
        await asyncio.sleep(0)


@user
async def several(semaphore: penstock.Semaphore, pool: penstock.DispatchPool) -> None:
    await semaphore.acquire(2)
    try:
        await asyncio.sleep(0)
    finally:
        semaphore.release(2)


@user
async def blocking_permit(semaphore: penstock.Semaphore, pool: penstock.DispatchPool) -> None:
    async with penstock.blocking_permit(semaphore) as permit:
        await asyncio.sleep(0)
        permit.run(int)


@user
async def policy(semaphore: penstock.Semaphore, pool: penstock.DispatchPool) -> None:
    await penstock.Permit(semaphore, pool=pool).run(int)


@pytest.fixture(params=USERS)
def use(request: pytest.FixtureRequest) -> Callable[[penstock.Semaphore, penstock.DispatchPool], Awaitable[object]]:
    return USERS[request.param]


@pytest.mark.parametrize("releaser", ["this loop", "a thread"])
async def test_no_permit_is_lost(
    use: Callable[[penstock.Semaphore, penstock.DispatchPool], Awaitable[object]],
    releaser: str,
    pool: penstock.DispatchPool,
) -> None:
    semaphore = penstock.Semaphore(2)
    await pool.run(int)
    tasks: list[asyncio.Task[object]] = []

    async def release() -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        if releaser == "a thread":
            thread = threading.Thread(target=semaphore.release, args=(2,))
            thread.start()
            await until(lambda: not thread.is_alive())
            thread.join()
        else:
            semaphore.release(2)

    async def scenario() -> None:
        await semaphore.acquire(2)
        tasks.append(asyncio.create_task(release()))
        mine = use(semaphore, pool)
        tasks.append(asyncio.create_task(follow()))
        await mine

    async def follow() -> None:
        # Comes after the one that is cancelled.
        await asyncio.sleep(0)
        async with semaphore:
            pass

    async def all_is_back() -> None:
        async with asyncio.timeout(10):
            await asyncio.gather(*tasks)
        tasks.clear()
        await until(lambda: semaphore.free == 2)
        assert semaphore.waiting == 0

    assert await cancel_everywhere(scenario, all_is_back) > 3
    async with asyncio.timeout(10):
        await use(semaphore, pool)
