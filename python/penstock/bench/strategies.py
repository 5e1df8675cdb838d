"""The ways to run blocking work that are compared, and the work: what each row of the blocking benchmarks is made of.

A strategy is opened once a process and bound once a loop; what it is bound to starts a job and gives an awaitable. All
loops of a process share its threads and permits, except under anyio, whose threads belong to one loop.
"""

import asyncio
import contextlib
import functools
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

from penstock import Direct, Dispatch, DispatchPool, Permit, Semaphore, _native

# Starts `fn(*args)` on the running loop.
Run: TypeAlias = Callable[..., Awaitable[Any]]
Bind: TypeAlias = Callable[[], Run]
# A function and its arguments.
Job: TypeAlias = tuple[Any, ...]

SEED = 1
# As upstream has them: microseconds, in about an exponential distribution.
DELAYS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 49)
VALUES = [value % 101 for value in range(500, 800)]

_shuffler = random.Random(SEED)


def noop() -> None:
    pass


def expensive() -> int:
    """Holds the interpreter's lock for some 100 µs."""
    values = VALUES[:]
    _shuffler.shuffle(values)
    values.sort()
    return values[-1]


def jobs(work: str, count: int, strategy: str) -> list[Job]:
    """`count` jobs of "noop", "expensive", "sleep", or "sleep N µs"; native ones for the strategy "native"."""
    native = strategy == "native"
    match work.split():
        case ["noop"]:
            return [(_native._nap if native else noop,)] * count
        case ["expensive"]:
            return [(_native._sort if native else expensive,)] * count
        # time.sleep is clock_nanosleep(2) without the interpreter's lock: the same call in every row.
        case ["sleep"]:
            source = random.Random(SEED)
            return [(_native._nap if native else time.sleep, source.choice(DELAYS) / 1e6) for _ in range(count)]
        case ["sleep", microseconds, "µs"]:
            return [(_native._nap if native else time.sleep, int(microseconds) / 1e6)] * count
        case _:
            raise ValueError(f"unknown work {work!r}")


@contextlib.contextmanager
def _direct(_threads: int, _loops: int) -> Iterator[Bind]:
    policy = Direct()
    yield lambda: policy.run


@contextlib.contextmanager
def _permit(threads: int, _loops: int) -> Iterator[Bind]:
    with DispatchPool(threads) as pool:
        policy = Permit(Semaphore(threads), pool=pool)
        yield lambda: policy.run


@contextlib.contextmanager
def _dispatch(threads: int, _loops: int) -> Iterator[Bind]:
    with DispatchPool(threads) as pool:
        policy = Dispatch(pool)
        yield lambda: policy.run


@contextlib.contextmanager
def _native_jobs(threads: int, _loops: int) -> Iterator[Bind]:
    with DispatchPool(threads) as pool:

        def run(start: Callable[..., Awaitable[Any]], *args: float) -> Awaitable[Any]:
            return start(pool, *args)

        yield lambda: run


@contextlib.contextmanager
def _run_in_executor(threads: int, _loops: int) -> Iterator[Bind]:
    with ThreadPoolExecutor(threads) as executor:
        yield lambda: functools.partial(asyncio.get_running_loop().run_in_executor, executor)


@contextlib.contextmanager
def _to_thread(threads: int, _loops: int) -> Iterator[Bind]:
    with ThreadPoolExecutor(threads) as executor:

        def bind() -> Run:
            asyncio.get_running_loop().set_default_executor(executor)
            return asyncio.to_thread

        yield bind


@contextlib.contextmanager
def _anyio(threads: int, loops: int) -> Iterator[Bind]:
    import anyio.to_thread

    def bind() -> Run:
        limiter = anyio.CapacityLimiter(max(1, threads // loops))
        return functools.partial(anyio.to_thread.run_sync, limiter=limiter)

    yield bind


STRATEGIES: dict[str, Callable[[int, int], AbstractContextManager[Bind]]] = {
    "direct": _direct,
    "permit": _permit,
    "dispatch": _dispatch,
    "native": _native_jobs,
    "run_in_executor": _run_in_executor,
    "to_thread": _to_thread,
    "anyio": _anyio,
}


@contextlib.contextmanager
def _futures(_threads: int, _loops: int) -> Iterator[Bind]:
    def bind() -> Run:
        loop = asyncio.get_running_loop()
        pending: list[asyncio.Future[None]] = []

        def settle() -> None:
            for future in pending:
                future.set_result(None)
            pending.clear()

        def run(*_job: Any) -> Awaitable[None]:
            if not pending:
                loop.call_soon(settle)
            pending.append(loop.create_future())
            return pending[-1]

        return run

    yield bind


# What cannot be had cheaper: the loop's part alone, futures that a callback settles without any job.
FLOORS: dict[str, Callable[[int, int], AbstractContextManager[Bind]]] = {"futures by hand": _futures}


@contextlib.contextmanager
def threads_by_hand(jobs: list[Job], threads: int) -> Iterator[Callable[[], None]]:
    """A batch of jobs that threads have shared out beforehand: what changing hands costs, without loop and queue."""
    begin = [threading.Semaphore(0) for _ in range(threads)]
    ended = threading.Semaphore(0)
    closing = False

    def work(begin: threading.Semaphore, share: list[Job]) -> None:
        while begin.acquire() and not closing:
            for function, *arguments in share:
                function(*arguments)
            ended.release()

    def batch() -> None:
        for each in begin:
            each.release()
        for _ in begin:
            ended.acquire()

    workers = [threading.Thread(target=work, args=(each, jobs[n::threads])) for n, each in enumerate(begin)]
    for worker in workers:
        worker.start()
    try:
        yield batch
    finally:
        closing = True
        for each in begin:
            each.release()
        for worker in workers:
            worker.join()


def semaphore(client: str, permits: int) -> Any:
    """What `async with` takes, of penstock or of others."""
    match client:
        case "penstock":
            return Semaphore(permits)
        case "asyncio":
            return asyncio.Semaphore(permits)
        case "anyio" | "anyio fast":
            import anyio

            return anyio.Semaphore(permits, fast_acquire=client.endswith("fast"))
        case "aiologic":
            import aiologic

            return aiologic.Semaphore(permits)
        case _:
            raise ValueError(f"unknown semaphore {client!r}")


def _under_permits(client: str) -> Callable[[int, int], AbstractContextManager[Bind]]:
    @contextlib.contextmanager
    def opened(threads: int, _loops: int) -> Iterator[Bind]:
        def bind() -> Run:
            permits = semaphore(client, threads)

            async def run(function: Callable[..., Any], *arguments: Any) -> Any:
                async with permits:
                    return function(*arguments)

            return run

        yield bind

    return opened


SEMAPHORES = ("penstock", "asyncio", "anyio", "anyio fast", "aiologic")
# On the loop's own thread, as the permits of upstream's are for the threads of its runtime.
PERMITS = {f"permit of {client}": _under_permits(client) for client in SEMAPHORES}
