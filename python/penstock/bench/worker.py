"""The process of one variant: kept alive over the run, told on stdin to run batches, answering in JSON on stdout.

`penstock.bench.driver` starts it and speaks with it; the native floor speaks the same protocol. A first line tells that
the client is open. Then each command gets one line back:

- `check` → `{"sha256": [...]}`: the digests of the bodies of one batch, by the path that is timed;
- `batch N` → wall time of each of N batches and of their single requests, CPU time of all, peak memory, and the loop's
  lag if asked for;
- `hold N`, `settle`, `finish` → memory, with N bodies kept open half-way in between;
- `rest` → memory, with the connections of a batch open and idle.

A failure ends the process with a traceback, the end of stdin without one.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import resource
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO, TypeAlias

from penstock.bench.machine import raise_descriptor_limit
from penstock.bench.reading import Factory, Fetch, Summary

# Does one command, and gives the answer.
Obey: TypeAlias = Callable[[str], Awaitable[dict[str, Any]]]

TICK = 0.001
# What is freed after a batch (on a reaper thread, say) is paid for by that batch's CPU time.
SETTLE = 0.05
# With less CPU time than this in that time, nothing is being received: every half that was sent has arrived.
QUIET = 0.3
QUIET_MS = 3.0

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Spec:
    """What a worker is to be, sent as JSON in its one argument."""

    factory: str
    options: dict[str, Any]
    url: str
    size: int
    connections: int
    # One after the other over each connection, in a batch.
    requests: int = 1
    loop: str = "asyncio"
    ticker: bool = False
    reads: bool = True
    # Of the bodies of a batch, where they differ.
    sizes: tuple[int, ...] = ()

    @property
    def targets(self) -> list[tuple[str, int]]:
        """URL and size of each request of a batch."""
        if not self.sizes:
            return [(self.url, self.size)] * self.connections
        return [(self.url.replace(f"/{self.size}/", f"/{size}/"), size) for size in self.sizes]


def peak_rss() -> int:
    """The most memory that has been resident since the last reset, in bytes."""
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak() -> None:
    # proc_pid_clear_refs(5): writing 5 resets the peak to what is resident now.
    CLEAR_REFS.write_text("5")


def sockets() -> int:
    """How many this process has open (Linux)."""
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        # The directory itself was one of them.
        with contextlib.suppress(OSError):
            count += link.is_socket()
    return count


def cpu_ms() -> tuple[float, float]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime * 1000, usage.ru_stime * 1000


async def timed(batch: Callable[[], Awaitable[object]], more: Callable[[list[float]], bool]) -> dict[str, Any]:
    """The figures of batches, one after the other while there are to be more; it is given the times so far."""
    walls: list[float] = []
    user, system = cpu_ms()
    while more(walls):
        start = time.perf_counter()
        await batch()
        walls.append((time.perf_counter() - start) * 1000)
    user_after, system_after = cpu_ms()
    return {
        "wall_ms": walls,
        "user_ms": user_after - user,
        "system_ms": system_after - system,
        "rss_bytes": peak_rss(),
    }


async def tick(lags: list[float]) -> None:
    """Appends, each millisecond, how many milliseconds late the loop is; until it is cancelled."""
    while True:
        due = time.perf_counter() + TICK
        await asyncio.sleep(TICK)
        lags.append((time.perf_counter() - due) * 1000)


def lag_figures(lags: list[float]) -> dict[str, float]:
    """The lag of a sample, if there is any."""
    if not lags:
        return {}
    lags = sorted(lags)
    return {
        "lag_worst_ms": lags[-1],
        "lag_p99_ms": lags[len(lags) * 99 // 100],
        "lag_p50_ms": lags[len(lags) // 2],
    }


class Worker:
    """Runs what it is told with one open client."""

    def __init__(self, spec: Spec, fetch: Fetch) -> None:
        self._spec = spec
        self._fetch = fetch
        self._lags: list[float] = []
        self._held: list[asyncio.Task[float]] = []
        self._baseline = 0
        self._cpu_before = (0.0, 0.0)

    async def obey(self, command: str) -> dict[str, Any]:
        match command.split():
            case ["check"]:
                return await self._check()
            case ["batch", count]:
                return await self._batches(int(count))
            case ["hold", count]:
                return await self._hold(int(count))
            case ["settle"]:
                return await self._settle()
            case ["finish"]:
                return await self._finish()
            case ["rest"]:
                return await self._rest()
            case _:
                raise ValueError(f"unknown command {command!r}")

    async def _check(self) -> dict[str, Any]:
        targets = self._spec.targets
        digests = [hashlib.sha256() for _ in targets]
        fetches = (self._fetch(url, digest.update) for (url, _), digest in zip(targets, digests, strict=True))
        await asyncio.gather(*fetches)
        return {"sha256": [digest.hexdigest() for digest in digests]}

    async def _batches(self, count: int) -> dict[str, Any]:
        self._lags.clear()
        ticker = asyncio.create_task(tick(self._lags)) if self._spec.ticker else None
        walls = []
        requests: list[list[float]] = []
        user, system = cpu_ms()
        for _ in range(count):
            start = time.perf_counter()
            requests.append(await asyncio.gather(*(self._get(*target) for target in self._spec.targets)))
            walls.append((time.perf_counter() - start) * 1000)
        await asyncio.sleep(SETTLE)
        user_after, system_after = cpu_ms()
        if ticker is not None:
            ticker.cancel()
        return {
            "wall_ms": walls,
            "request_ms": requests,
            "user_ms": user_after - user,
            "system_ms": system_after - system,
            "rss_bytes": peak_rss(),
            **lag_figures(self._lags),
        }

    async def _get(self, url: str, size: int) -> float:
        """The milliseconds until all of this connection's bodies were read."""
        start = time.perf_counter()
        for _ in range(self._spec.requests):
            summary = Summary()
            await self._fetch(url, summary.add)
            if self._spec.reads:
                summary.check(size)
        return (time.perf_counter() - start) * 1000

    async def _hold(self, count: int) -> dict[str, Any]:
        # One body first, so that what is made once (threads, a first connection) is in the baseline; what a later round
        # finds left over from an earlier one isn't.
        if not self._baseline:
            await self._fetch(self._spec.url.replace("/hold/", "/"), Summary().add)
        reset_peak()
        self._baseline = self._baseline or peak_rss()
        self._cpu_before = cpu_ms()
        self._held = [asyncio.create_task(self._get(self._spec.url, self._spec.size)) for _ in range(count)]
        return {"held": count}

    async def _rest(self) -> dict[str, Any]:
        if not self._baseline:
            await self._fetch(self._spec.url, Summary().add)
            reset_peak()
            self._baseline = peak_rss()
        answer = await self._batches(1)
        if (count := sockets()) < self._spec.connections:
            raise ValueError(f"{count} connections are open; expected {self._spec.connections}")
        await self._settle()
        # What it took to open them isn't meant.
        reset_peak()
        return {**answer, "growth_bytes": peak_rss() - self._baseline}

    async def _settle(self) -> dict[str, Any]:
        used = 0.0
        while (now := sum(cpu_ms())) - used > QUIET_MS:
            used = now
            await asyncio.sleep(QUIET)
        return {"quiet": True}

    async def _finish(self) -> dict[str, Any]:
        await asyncio.gather(*self._held)
        self._held.clear()
        user, system = cpu_ms()
        user_before, system_before = self._cpu_before
        return {
            "user_ms": user - user_before,
            "system_ms": system - system_before,
            "rss_bytes": peak_rss(),
            "growth_bytes": peak_rss() - self._baseline,
        }


def load(factory: str) -> Factory:
    """The object that "package.module:name" names."""
    module, _, name = factory.partition(":")
    found: Factory = getattr(import_module(module), name)
    return found


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    match name:
        case "asyncio":
            return asyncio.new_event_loop
        case "uvloop" | "penstock":
            found: Callable[[], asyncio.AbstractEventLoop] = import_module(name).new_event_loop
            return found
        case _:
            raise ValueError(f"unknown loop {name!r}: asyncio, uvloop or penstock")


async def commands() -> AsyncGenerator[str]:
    """Lines of stdin, without keeping the loop from turning in between."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    try:
        while line := await reader.readline():
            yield line.decode().strip()
    finally:
        transport.close()


@contextlib.asynccontextmanager
async def opened(spec: Spec) -> AsyncIterator[Obey]:
    async with load(spec.factory)(**spec.options) as fetch:
        yield Worker(spec, fetch).obey


async def work(opening: AbstractAsyncContextManager[Obey], answers: TextIO) -> None:
    def answer(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=answers, flush=True)

    async with opening as obey, contextlib.aclosing(commands()) as lines:
        answer({"ready": True})
        async for command in lines:
            answer(await obey(command))


@contextlib.contextmanager
def own_stdout() -> Iterator[TextIO]:
    """Stdout for the answers alone: what libraries print goes to stderr."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        yield answers


def serve(opening: AbstractAsyncContextManager[Obey], loop: str) -> None:
    """Be a row's process: what is opened obeys the commands, on a loop of that name."""
    raise_descriptor_limit()
    with own_stdout() as answers, asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        runner.run(work(opening, answers))


def main() -> None:
    spec = Spec(**json.loads(sys.argv[1]))
    serve(opened(spec), spec.loop)


if __name__ == "__main__":
    main()
