"""Stream forwarding: upstream's benchmarks of its streams over bodies that were written before, in Rust and in Python.

A body of 8 MiB is streamed from RAM, from its file, or from a mapping, and summarised, again and again. No server takes
part, so that the rows run on both CPUs, as upstream's did.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import penstock
from penstock.bench import blocking
from penstock.bench.peers import files
from penstock.bench.reading import PIECE, Summary
from penstock.bench.rounds import Child, Variant
from penstock.bench.variants import chosen_policy
from penstock.bench.worker import Obey, serve, timed

from benches.cross.rows import CORE, Programs

CHUNK = 0x2000
CHUNKS = 1024
STREAMS = 20
IN_RAM = ("ram", "ram_gather", "ram_gathered")
"""Scattered; gathered by each stream; gathered before."""
IN_FILES = (
    *(("fs", policy) for policy in ("direct", "permit", "dispatch")),
    ("mmap_kept", "direct"),
    *product(("mmap", "mmap_copy"), ("direct", "permit")),
)
"""Those that all have."""
UPSTREAMS_IN_RAM = ("ram_uni",)
UPSTREAMS_IN_FILES = (
    ("fs_uni", "direct"),
    *(("fs", policy) for policy in ("direct_ct", "dispatch1", "dispatch1_ql0", "dispatch1_ct", "dispatch1_ct_ql0")),
)
"""Upstream's own: buffers of another type, one thread to dispatch to, a queue of none, a runtime of one thread."""
SAMPLED, WHOLE = "upstream as published, each 1973rd byte", "upstream, all read"

Stream: TypeAlias = Callable[[], Awaitable[Summary]]


def rows(programs: Programs, stores: Mapping[str, Path], quick: bool) -> Iterator[list[Variant]]:
    """A session for RAM, and one for each store."""
    in_ram = IN_RAM if quick else (*IN_RAM, *UPSTREAMS_IN_RAM)
    yield [row for each in in_ram for row in _rows(programs, each, "direct", None, None)]
    in_files = IN_FILES if quick else (*IN_FILES, *UPSTREAMS_IN_FILES)
    for store, directory in stores.items():
        yield [row for each in in_files for row in _rows(programs, *each, store, directory)]


def _rows(
    programs: Programs, scenario: str, policy: str, store: str | None, directory: Path | None
) -> Iterator[Variant]:
    name = f"{scenario}_{policy}" if store else scenario
    place = str(directory or "-")
    upstreams = scenario in UPSTREAMS_IN_RAM or (scenario, policy) in UPSTREAMS_IN_FILES
    commands: dict[str, tuple[str, ...]] = {
        how: (sys.executable, "-m", __name__, how, scenario, policy, place)
        for how in (() if upstreams else _python(scenario, policy))
    }
    if programs.core and not upstreams:
        commands[CORE] = (str(programs.core), "stream", scenario, policy, place)
    if programs.streams:
        for client, reading in ((SAMPLED, "sampled"), (WHOLE, "whole")):
            commands[client] = (str(programs.streams), scenario, policy, reading, place)
    for client, command in commands.items():
        yield Variant(
            id="/".join(filter(None, (f"forward {name}", store, client))),
            scenario=f"forward {name}",
            client=client,
            command=command,
            framing=None,
            store=store,
            loop="asyncio" if command[0] == sys.executable else "tokio",
        )


def _python(scenario: str, policy: str) -> tuple[str, ...]:
    """penstock, and for what Python does without it: reading on the loop's thread, and by asyncio.to_thread."""
    other = {"direct": ("Python's file",), "dispatch": ("to_thread",)}.get(policy, ())
    return ("penstock", *(other if scenario in ("fs", "mmap") else ()))


class Forwarding(blocking.Blocking):
    """Rounds on both CPUs, of so many streams each."""

    def measure(self, child: Child) -> dict[str, Any]:
        return self.warm(child) | child.batches(STREAMS * self._pace.batches)


def content() -> list[bytes]:
    """Each chunk is of one value, and each value comes up: as upstream's."""
    return [bytes([number % 256]) * CHUNK for number in range(CHUNKS)]


@asynccontextmanager
async def _opened(how: str, scenario: str, policy: str, directory: str) -> AsyncIterator[Obey]:
    async with AsyncExitStack() as stack:
        if how == "penstock":
            stream = await _ours(scenario, policy, directory, stack)
        else:
            files.set_threads()
            file = stack.enter_context(files.create(directory))
            file.writelines(content())
            stream = _by_file(scenario, file, how == "to_thread")

        async def obey(command: str) -> dict[str, Any]:
            count = int(command.removeprefix("batch "))
            return await timed(lambda: _checked(stream), lambda walls: len(walls) < count)

        yield obey


async def _checked(stream: Stream) -> None:
    (await stream()).check(CHUNK * CHUNKS)


async def _ours(scenario: str, policy: str, directory: str, stack: AsyncExitStack) -> Stream:
    chosen = await chosen_policy(policy, stack)
    in_ram = directory == "-"
    tunables = penstock.Tunables(
        max_body_ram="64MiB" if in_ram else 0, temp_dir=None if in_ram else directory, buffer_size_fs=PIECE
    )
    image = await penstock.collect(_chunks(), tunables, policy=chosen)
    if scenario == "ram_gathered":
        image = image.gather()
    elif scenario == "mmap_kept":
        image = await image.to_mmap()

    async def stream() -> Summary:
        body = image
        if scenario == "ram_gather":
            body = image.gather()
        elif scenario == "mmap":
            body = await image.to_mmap()
        elif scenario == "mmap_copy":
            body = await (await image.to_mmap()).to_ram()
        summary = Summary()
        async for view in body.stream(PIECE, policy=chosen):
            summary.add(view)
        return summary

    return stream


async def _chunks() -> AsyncIterator[bytes]:
    for chunk in content():
        yield chunk


def _by_file(scenario: str, file: Any, threaded: bool) -> Stream:
    async def stream() -> Summary:
        summary = Summary()
        if threaded:
            await asyncio.to_thread(files.read, scenario, file, summary.add)
        else:
            files.read(scenario, file, summary.add)
        return summary

    return stream


if __name__ == "__main__":
    serve(_opened(*sys.argv[1:]), "asyncio")
