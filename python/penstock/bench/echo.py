"""Echoes beside blocking work: how long the round trips of many connections take while batches of jobs run.

The connections' clients are a process of their own (`python -m penstock.bench.echo PORT`), the same beside a loop and
beside the runtime of a native program (`benches/rust/protocol/src/echo.rs`). Each connection sends at
fixed times; what comes after its time because the last answer was late is counted from when it was due, so that a loop
that stands still isn't spared the questions that it missed.
"""

import asyncio
import contextlib
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

from penstock.bench.worker import Obey, cpu_ms, lag_figures, peak_rss, serve

CONNECTIONS = 200
# Each connection asks so often: 4,000 questions a second.
INTERVAL = 0.05
# A batch begins so often, or when the last has ended.
PERIOD = 0.025
SECONDS = 0.3
MESSAGE = bytes(64)


class Server(asyncio.Protocol):
    """Sends back what comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


class Client(asyncio.Protocol):
    """Asks at fixed times from `start` on, while it may."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.done: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._due = self._end = self._missing = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def start(self, due: float, end: float) -> asyncio.Future[None]:
        self.latencies = []
        self.done = self._loop.create_future()
        self._end = end
        self._next(due)
        return self.done

    def _next(self, due: float) -> None:
        self._due = due
        now = time.perf_counter()
        if due >= self._end:
            assert self.done is not None
            self.done.set_result(None)
        elif due <= now:
            self._ask(due)
        else:
            self._loop.call_later(due - now, self._ask)

    def _ask(self, since: float | None = None) -> None:
        self._since = since or time.perf_counter()
        self._missing = len(MESSAGE)
        self._transport.write(MESSAGE)

    def data_received(self, data: bytes) -> None:
        self._missing -= len(data)
        if not self._missing:
            self.latencies.append((time.perf_counter() - self._since) * 1000)
            self._next(self._due + INTERVAL)


@contextlib.asynccontextmanager
async def clients(port: int) -> AsyncIterator[Obey]:
    """`ask` → how many round trips there were in a while, and how long they took."""
    loop = asyncio.get_running_loop()
    pairs = [await loop.create_connection(Client, "127.0.0.1", port) for _ in range(CONNECTIONS)]
    # Spread over the interval, not in step with the batches.
    source = random.Random(1)
    offsets = [source.uniform(0, INTERVAL) for _ in pairs]

    async def obey(command: str) -> dict[str, Any]:
        now = time.perf_counter()
        end = now + SECONDS
        starts = [client.start(now + offset, end) for (_, client), offset in zip(pairs, offsets, strict=True)]
        await asyncio.gather(*starts)
        latencies = [latency for _, client in pairs for latency in client.latencies]
        return {"batches": len(latencies), **lag_figures(latencies)}

    yield obey
    for transport, _ in pairs:
        transport.close()


@contextlib.asynccontextmanager
async def beside(batch: Callable[[], Awaitable[object]]) -> AsyncIterator[Obey]:
    """Serves echoes on this loop. `echo` → their round trips while batches run; `helpers` → the clients' process."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, "127.0.0.1", 0, backlog=CONNECTIONS)
    port = server.sockets[0].getsockname()[1]
    arguments = [sys.executable, "-m", "penstock.bench.echo", str(port)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*arguments, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    questions, answers = process.stdin, process.stdout
    await answers.readline()

    async def obey(command: str) -> dict[str, Any]:
        if command == "helpers":
            return {"helpers": [process.pid]}
        walls: list[float] = []
        user, system = cpu_ms()
        questions.write(b"ask\n")
        answer = asyncio.create_task(answers.readline())
        while not answer.done():
            start = time.perf_counter()
            await batch()
            walls.append((time.perf_counter() - start) * 1000)
            await asyncio.sleep(max(0.0, start + PERIOD - time.perf_counter()))
        trips = json.loads(await answer)
        user_after, system_after = cpu_ms()
        return {
            "wall_ms": sum(walls) / len(walls),
            "user_ms": (user_after - user) / len(walls),
            "system_ms": (system_after - system) / len(walls),
            "rss_bytes": peak_rss(),
            **trips,
        }

    async with server:
        yield obey
        questions.close()
        await process.wait()


def main() -> None:
    serve(clients(int(sys.argv[1])), "asyncio")


if __name__ == "__main__":
    main()
