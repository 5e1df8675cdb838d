"""The process of a row that reads or writes archives from Python: `python -m benches.python.archives_worker
read|write plain|gzip SOURCE OUTPUT DIR`.

It does what benches/rust/protocol/src/archive.rs has each library do, and answers the same commands:
`batch N`, `check` and `grow`.
"""

import json
import os
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import penstock
from penstock import barc
from penstock.bench.reading import Summary
from penstock.bench.worker import cpu_ms, own_stdout, peak_rss, reset_peak

MOST_IN_MEMORY = 16 * 1024 * 1024
STRATEGIES = {"plain": barc.Strategy.plain(), "gzip": barc.Strategy.gzip()}


class Look(Protocol):
    """Is shown all that is in an archive."""

    def line(self, name: bytes, value: bytes) -> None: ...

    def piece(self, piece: Any) -> None: ...


class Seen(Summary):
    """What is looked at while it is timed."""

    __slots__ = ("lines", "text")

    def __init__(self) -> None:
        super().__init__()
        self.lines = 0
        self.text = 0

    def line(self, name: bytes, value: bytes) -> None:
        self.lines += 1
        self.text += len(name) + len(value)

    piece = Summary.add

    def figures(self) -> tuple[int, ...]:
        return self.lines, self.text, self.length, self.greatest


class Checksum:
    """Of each line and each byte, in the order of the file."""

    def __init__(self) -> None:
        self.crc32 = 0

    def line(self, name: bytes, value: bytes) -> None:
        self.crc32 = zlib.crc32(b"%b: %b\r\n" % (name, value), self.crc32)

    def piece(self, piece: Any) -> None:
        self.crc32 = zlib.crc32(piece, self.crc32)


def read(path: str, look: Look, tunables: penstock.Tunables | None = None) -> None:
    """Shows `look` all of an archive."""
    with barc.open(path, tunables=tunables) as archive:
        for record in archive:
            for block in (record.meta, record.req_headers, record.res_headers):
                for name, value in block.raw:
                    look.line(name, value)
            for body in (record.req_body, record.res_body):
                for piece in body.chunks():
                    look.piece(piece)


def checksum(path: str) -> int:
    found = Checksum()
    read(path, found)
    return found.crc32


@dataclass
class Task:
    action: str
    compression: str
    source: str
    output: str
    dir: str

    def opened(self) -> "Worker":
        tunables = penstock.Tunables(temp_dir=self.dir)
        if self.action == "read":
            return Worker(lambda look: read(self.source, look, tunables), None)
        with barc.open(self.source, tunables=penstock.Tunables(max_body_ram=MOST_IN_MEMORY)) as archive:
            records = list(archive)

        def write(_look: Look) -> None:
            with barc.open(self.output, "a", strategy=STRATEGIES[self.compression]) as archive:
                for record in records:
                    archive.append(record)

        return Worker(write, self.output)


class Worker:
    """Does the row's task as often as it is told; what it has written before is removed outside of the time."""

    def __init__(self, work: Callable[[Look], None], output: str | None) -> None:
        self._work = work
        self._output = output
        self._first: tuple[int, ...] | None = None

    def _prepare(self) -> None:
        if self._output is not None and os.path.exists(self._output):
            os.remove(self._output)

    def _batches(self, count: int) -> dict[str, Any]:
        walls = []
        user = system = 0.0
        for _ in range(count):
            self._prepare()
            seen = Seen()
            before = cpu_ms()
            start = time.perf_counter()
            self._work(seen)
            walls.append((time.perf_counter() - start) * 1000)
            after = cpu_ms()
            user += after[0] - before[0]
            system += after[1] - before[1]
            self._first = self._first or seen.figures()
            if seen.figures() != self._first:
                raise ValueError("another time, something else was read")
        return {"wall_ms": walls, "user_ms": user, "system_ms": system, "rss_bytes": peak_rss()}

    def obey(self, command: str) -> dict[str, Any]:
        match command.split():
            case ["batch", count]:
                return self._batches(int(count))
            case ["check"]:
                self._prepare()
                found = Checksum()
                self._work(found)
                return {"crc32": found.crc32}
            case ["grow"]:
                reset_peak()
                before = peak_rss()
                figures = self._batches(1)
                return {**figures, "growth_bytes": peak_rss() - before}
            case _:
                raise ValueError(f"unknown command {command!r}")


def main() -> None:
    worker = Task(*sys.argv[1:]).opened()
    with own_stdout() as answers:
        print(json.dumps({"ready": True}), file=answers, flush=True)
        for line in sys.stdin:
            print(json.dumps(worker.obey(line)), file=answers, flush=True)


if __name__ == "__main__":
    main()
