"""The process of one row of the blocking benchmarks: `python -m penstock.bench.blocking_worker SPEC`.

It speaks the protocol of `penstock.bench.worker`: `batch N` times N batches; `lag` times batches for a while beside a
ticker, which costs, and gives the lag of the loops as well. Rows of echoes obey `penstock.bench.echo`.
"""

import asyncio
import contextlib
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from penstock.bench import echo, strategies
from penstock.bench.strategies import Bind, Job, Run
from penstock.bench.worker import Obey, lag_figures, loop_factory, serve, tick, timed

LAG_SECONDS = 0.05
# How often each of the tasks that share a semaphore's permits takes one.
TAKES = 3

Shape = Literal[
    "gathered", "one by one", "by hand", "semaphore, free", "semaphore, contended", "semaphore, cancelled", "echo"
]
Batch: TypeAlias = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Spec:
    """What a worker is to be, sent as JSON in its one argument. Idle: nothing runs beside the echoes."""

    shape: Shape
    strategy: str
    work: str = ""
    jobs: int = 100
    threads: int = 4
    loops: int = 1
    loop: str = "asyncio"


async def gathered(run: Run, jobs: list[Job]) -> None:
    await asyncio.gather(*[run(*job) for job in jobs])


async def one_by_one(run: Run, jobs: list[Job]) -> None:
    for job in jobs:
        await run(*job)


async def take_free(semaphore: Any, count: int) -> None:
    for _ in range(count):
        async with semaphore:
            pass


async def take_contended(semaphore: Any, count: int) -> None:
    async def take() -> None:
        for _ in range(TAKES):
            async with semaphore:
                await asyncio.sleep(0)

    await asyncio.gather(*[take() for _ in range(count // TAKES)])


async def take_in_vain(semaphore: Any, permits: int, count: int) -> None:
    """Tasks that wait while all permits are held, and are cancelled once all do."""
    waiting, all_wait = 0, asyncio.Event()

    async def take() -> None:
        nonlocal waiting
        waiting += 1
        if waiting == count:
            all_wait.set()
        async with semaphore:
            raise AssertionError("there is no permit left")

    async with contextlib.AsyncExitStack() as held:
        for _ in range(permits):
            await held.enter_async_context(semaphore)
        tasks = [asyncio.create_task(take()) for _ in range(count)]
        await all_wait.wait()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)


class Worker:
    """Runs batches on this loop, or shares each out among loops in threads of their own."""

    def __init__(self, batch: Batch, loops: list[asyncio.AbstractEventLoop]) -> None:
        self._batch = batch
        self._loops = loops

    async def obey(self, command: str) -> dict[str, Any]:
        match command.split():
            case ["batch", count]:
                return await timed(self._batch, lambda walls: len(walls) < int(count))
            case ["lag"]:
                return await self._lag()
            case _:
                raise ValueError(f"unknown command {command!r}")

    async def _lag(self) -> dict[str, Any]:
        lags: list[float] = []
        tickers = [asyncio.run_coroutine_threadsafe(tick(lags), loop) for loop in self._loops]
        # Each has begun to wait for its first tick before work comes.
        await asyncio.sleep(0.002)
        end = time.perf_counter() + LAG_SECONDS
        figures = await timed(self._batch, lambda _: time.perf_counter() < end)
        await asyncio.sleep(0.002)
        for ticker in tickers:
            ticker.cancel()
        return {**figures, **lag_figures(lags)}


@contextlib.contextmanager
def loops_in_threads(count: int, factory: Callable[[], asyncio.AbstractEventLoop]) -> Iterator[list[Any]]:
    """Loops that run, each in a thread of its own."""
    loops = [factory() for _ in range(count)]
    threads = [threading.Thread(target=loop.run_forever) for loop in loops]
    for thread in threads:
        thread.start()
    try:
        yield loops
    finally:
        for loop, thread in zip(loops, threads, strict=True):
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


def on(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any]) -> Awaitable[Any]:
    """The result of what another loop runs."""
    return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))


@contextlib.asynccontextmanager
async def sharing(spec: Spec, bind: Bind) -> AsyncIterator[Obey]:
    """Each batch is shared out among several loops."""

    async def bound() -> Run:
        return bind()

    with loops_in_threads(spec.loops, loop_factory(spec.loop)) as loops:
        runs = [await on(loop, bound()) for loop in loops]
        jobs = strategies.jobs(spec.work, spec.jobs, spec.strategy)
        shares = [
            (loop, run, jobs[first :: spec.loops]) for first, (loop, run) in enumerate(zip(loops, runs, strict=True))
        ]

        async def batch() -> None:
            await asyncio.gather(*[on(loop, gathered(run, share)) for loop, run, share in shares])

        yield Worker(batch, loops).obey


@contextlib.asynccontextmanager
async def opened(spec: Spec) -> AsyncIterator[Obey]:
    here = [asyncio.get_running_loop()]
    if spec.shape.startswith("semaphore"):
        semaphore = strategies.semaphore(spec.strategy, spec.threads)
        batches: dict[str, Batch] = {
            "semaphore, free": lambda: take_free(semaphore, spec.jobs),
            "semaphore, contended": lambda: take_contended(semaphore, spec.jobs),
            "semaphore, cancelled": lambda: take_in_vain(semaphore, spec.threads, spec.jobs),
        }
        yield Worker(batches[spec.shape], here).obey
        return
    jobs = strategies.jobs(spec.work, spec.jobs, spec.strategy) if spec.work else []
    if spec.shape == "by hand":
        with strategies.threads_by_hand(jobs, spec.threads) as run_batch:

            async def by_hand() -> None:
                run_batch()

            yield Worker(by_hand, here).obey
        return
    strategy = {**strategies.STRATEGIES, **strategies.FLOORS, **strategies.PERMITS}[spec.strategy]
    with strategy(spec.threads, spec.loops) as bind:
        if spec.loops > 1:
            async with sharing(spec, bind) as obey:
                yield obey
            return
        run = bind()
        if spec.shape == "echo":
            async with echo.beside(lambda: gathered(run, jobs)) as obey:
                yield obey
        elif spec.shape == "gathered":
            yield Worker(lambda: gathered(run, jobs), here).obey
        else:
            yield Worker(lambda: one_by_one(run, jobs), here).obey


def main() -> None:
    spec = Spec(**json.loads(sys.argv[1]))
    serve(opened(spec), spec.loop)


if __name__ == "__main__":
    main()
