"""Command lines run in this process or as processes of their own, and their output compared with files."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from penstock.cli import main

from tests.cli import site as site_module
from tests.conftest import ELSEWHERE

SNAPSHOTS = Path(__file__).parent / "snapshots"
WIDTH = 100
"""Columns of the terminal that there seems to be."""


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason=f"{ELSEWHERE}: it has no /proc")
full_disk = pytest.mark.skipif(not os.path.exists("/dev/full"), reason=f"{ELSEWHERE}: it has no /dev/full")


class Done(NamedTuple):
    status: int
    out: str
    err: str


@contextlib.contextmanager
def start(
    *arguments: Any, program: tuple[str, str] = ("-m", "penstock.cli"), **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a command line as a process of its own, to its end; a test that fails meanwhile kills it."""
    command = [sys.executable, *program, *map(str, arguments)]
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def in_terminal(*arguments: Any, **options: Any) -> tuple[int, str]:
    """Runs a command line with all its output on a terminal; gives its status, and what the terminal was sent."""
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as screen:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, WIDTH, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color"}
        pipes = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        sent = b""
        with start(*arguments, **pipes, env=environment, **options) as process:
            os.close(theirs)
            # EIO says that nobody has it open any more.
            with contextlib.suppress(OSError):
                while data := screen.read(1 << 16):
                    sent += data
    return process.returncode, sent.decode()


def watched(process: subprocess.Popen[bytes]) -> int:
    """Waits for the end of a process; gives the most memory that it had, in bytes."""
    peak = 0
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = max([peak, *(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))])
        time.sleep(0.01)
    return peak


def until(condition: Callable[[], bool]) -> None:
    """Waits until a condition holds, twenty seconds at most."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def asked(site: str, path: str | None = None) -> int:
    """How many requests a site had, of all paths or of those that begin with one."""
    return sum(head.startswith(f"GET /{path or ''}") for head in heads_of(site))


def heads_of(site: str) -> list[str]:
    """Of the requests that a site had."""
    with urllib.request.urlopen(f"{site}/heads") as response:
        heads: str = response.read().decode()
    return heads.split("\n\n")


@pytest.fixture
def site() -> Iterator[str]:
    """The URL of a site of its own for a test."""
    with site_module.running() as url:
        yield url


@pytest.fixture(autouse=True)
def width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes]) -> Callable[..., Done]:
    """Runs a command line in this process."""

    def run(*arguments: Any) -> Done:
        capfdbinary.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        out, err = capfdbinary.readouterr()
        return Done(status, out.decode("latin-1"), err.decode())

    return run


@pytest.fixture
def snapshot() -> Callable[[str, str], None]:
    """Compares a text with a file of snapshots/, which `PENSTOCK_SNAPSHOTS=write` makes anew."""

    def compare(name: str, text: str) -> None:
        path = SNAPSHOTS / f"{name}.txt"
        if os.environ.get("PENSTOCK_SNAPSHOTS") == "write":
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        assert text == path.read_text()

    return compare
