"""`python -m benches.python.micro`: penstock's smallest operations from Python, by pyperf, with all of its options.

What a program sees of them is in the other benchmarks; these tell which of them a change has made slower.
"""

import asyncio
import sys

import penstock
import pyperf

MIB = 1 << 20


async def _nothing() -> None:
    """What pyperf's loop around a coroutine costs."""


def main() -> None:
    if penstock.BUILD_PROFILE != "release":
        sys.exit("this is a debug build: make develop")
    runner = pyperf.Runner()
    pool = penstock.DispatchPool(threads=1)
    policy = penstock.Dispatch(pool)
    semaphore = penstock.Semaphore(4)
    scattered = b"x" * MIB

    async def run_blocking() -> None:
        await penstock.run_blocking(int, policy=policy)

    async def to_thread() -> None:
        await asyncio.to_thread(int)

    async def permit() -> None:
        async with semaphore:
            pass

    asyncio_semaphore = asyncio.Semaphore(4)

    async def asyncio_permit() -> None:
        async with asyncio_semaphore:
            pass

    image = penstock.BodyImage.from_bytes(scattered)

    async def read() -> None:
        await image.read()

    async def stream() -> None:
        async for view in image.stream(64 * 1024):
            len(view)

    runner.bench_async_func("a coroutine that does nothing", _nothing)
    runner.bench_async_func("penstock.run_blocking(noop)", run_blocking)
    runner.bench_async_func("asyncio.to_thread(noop)", to_thread)
    runner.bench_async_func("async with penstock.Semaphore", permit)
    runner.bench_async_func("async with asyncio.Semaphore", asyncio_permit)
    runner.bench_async_func("BodyImage.read, 1 MiB in RAM", read)
    runner.bench_async_func("BodyImage.stream, 1 MiB in RAM", stream)
    pool.shutdown()


if __name__ == "__main__":
    main()
