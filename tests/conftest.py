"""What all tests share: every asyncio test runs on asyncio's loop and on uvloop's, and a test that leaves a thread, a
descriptor or a task behind fails, as does one of which asyncio reports an error that nobody looked at."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import penstock
import pytest
import pytest_asyncio
import uvloop
from penstock.blocking import default_pool

PROC = Path("/proc/self")
GRACE = 5.0
"""Seconds that threads and descriptors get to go after the test that made them."""

TALKATIVE = frozenset(
    {"NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "PYTHONASYNCIODEBUG", "PYTHONDEVMODE"}
)
"""Variables by which a program's output has other colours than its terminal wants, or how long a loop's steps took."""

Held = tuple[dict[str, str], dict[str, str]]
"""Threads and descriptors."""

BEFORE = pytest.StashKey[Held]()


class Unnoticed(logging.Handler):
    """What asyncio's loops have logged of errors that no one looks at: an exception that was never retrieved, a task
    destroyed while pending, a callback that raised."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(self.format(record))


UNNOTICED = Unnoticed()

LOOPS: dict[str, type[asyncio.AbstractEventLoop]] = {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.Loop}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return LOOPS


def pytest_sessionstart(session: pytest.Session) -> None:
    # What the tests ask is on this machine, and urllib and others would ask a proxy for it; and what the commands print
    # is compared, in processes of their own too.
    for name in tuple(os.environ):
        if name.lower().endswith("_proxy") or name in TALKATIVE:
            del os.environ[name]
    # Made once, kept to the end: not a leak of the test that happens to be the first to use them.
    default_pool()
    uvloop.new_event_loop().close()
    logging.getLogger("asyncio").addHandler(UNNOTICED)


def pytest_collection_finish(session: pytest.Session) -> None:
    # Thousands of tests and what they import are nobody's garbage. Unfrozen, they make each of the collections that
    # tests ask for take as long as a whole test.
    gc.collect()
    gc.freeze()


def threads() -> dict[str, str]:
    found = {}
    for task in (PROC / "task").iterdir():
        # A thread may end between the listing and the reading.
        try:
            found[task.name] = (task / "comm").read_text().strip()
        except OSError:
            continue
    return found


def descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir(PROC / "fd"):
        try:
            found[name] = os.readlink(PROC / "fd" / name)
        except OSError:
            continue
    return found


def standing(name: str) -> bool:
    """Whether a thread is the process's, started at first need and kept: reaper, decoders, the default pool's drain."""
    return name.startswith(("penstock-reaper", "penstock-decode", "libuv-worker", default_pool().name_prefix))


def leaks(before: Held) -> list[str]:
    new_threads = {tid: name for tid, name in threads().items() if tid not in before[0]}
    kept = {tid for tid, name in new_threads.items() if standing(name)}
    new_descriptors = {fd: target for fd, target in descriptors().items() if before[1].get(fd) != target}
    if kept:
        # They come with an epoll and an eventfd of their own.
        new_descriptors = {fd: to for fd, to in new_descriptors.items() if not to.startswith("anon_inode:")}
    return [f"thread {name} ({tid})" for tid, name in new_threads.items() if tid not in kept] + [
        f"descriptor {fd} -> {target}" for fd, target in new_descriptors.items()
    ]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    # After the setup: what a fixture of a module makes there lives longer than the test.
    before = (threads(), descriptors())
    result = yield
    # Not for a test that failed: its traceback keeps what it had.
    item.stash[BEFORE] = before
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    result = yield
    before = item.stash.get(BEFORE, None)
    if before is not None and PROC.exists():
        if isinstance(item, pytest.Function):
            # Fixtures are finished, and what they gave is let go.
            item.funcargs.clear()
        deadline = time.monotonic() + GRACE
        while (left := leaks(before)) and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.001)
        if left:
            pytest.fail("left behind: " + ", ".join(left), pytrace=False)
        # Those with a traceback are in a cycle with it; the young ones, as all would take long after each test.
        gc.collect(1)
    messages, UNNOTICED.messages = UNNOTICED.messages, []
    # Who asks for what is logged has looked.
    if before is not None and messages and "caplog" not in getattr(item, "fixturenames", ()):
        pytest.fail("asyncio logged: " + "\n".join(messages), pytrace=False)
    return result


REQUIRE_ALL = os.environ.get("PENSTOCK_REQUIRE_ALL", "0") not in ("", "0")
ELSEWHERE = "not on this platform"
"""Begins the reason of a skip that nothing installed could prevent: another system, another CPython."""


def check_traced(done: subprocess.CompletedProcess[str]) -> None:
    """Of a program that strace has run: skips where it may trace nothing."""
    if "ptrace" in done.stderr.lower():
        pytest.skip(f"{ELSEWHERE}: no process may be traced")
    assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No garbage is collected meanwhile: what goes was in no cycle."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def until(condition: Callable[[], object]) -> None:
    """Waits until a condition holds, twenty seconds at most."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def refuse_skip(report: Any) -> None:
    """Where everything is installed, a skip is a failure."""
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        place, line, reason = report.longrepr
        if not reason.removeprefix("Skipped: ").startswith(ELSEWHERE):
            report.outcome = "failed"
            report.longrepr = f"{place}:{line}: skipped, which PENSTOCK_REQUIRE_ALL forbids: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: Any = yield
    # Libraries that bodies are handed to count when they were asked for.
    if not item.get_closest_marker("extra") or "PENSTOCK_EXTRA" in os.environ:
        refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    report: Any = yield
    refuse_skip(report)
    return report


def pytest_itemcollected(item: pytest.Item) -> None:
    """A task that outlives its test is a leak."""
    function = getattr(item, "obj", None)
    if not inspect.iscoroutinefunction(function):
        return

    @functools.wraps(function)
    async def checked(*args: Any, **kwargs: Any) -> None:
        before = asyncio.all_tasks()
        await function(*args, **kwargs)
        left = asyncio.all_tasks() - before
        if left:
            # What was just cancelled or finished gets its last steps.
            await asyncio.wait(left, timeout=1)
        left = {task for task in left if not task.done()}
        assert not left, f"tasks left behind: {left}"

    item.obj = checked  # type: ignore[attr-defined]


@pytest.fixture
def thread_names() -> Callable[[], set[str]]:
    """The names of this process's threads, as the kernel knows them."""
    return lambda: set(threads().values())


@pytest_asyncio.fixture
async def pool() -> AsyncIterator[penstock.DispatchPool]:
    async with penstock.DispatchPool(threads=4) as pool:
        yield pool


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost that signed itself, with its key in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl(1) is not installed")
    directory = tmp_path_factory.mktemp("certificate")
    path = directory / "localhost.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    key = directory / "key.pem"
    made = subprocess.run([*command, "-keyout", key, "-out", path], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    path.write_text(path.read_text() + key.read_text())
    return path


@pytest.fixture
def script() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a program in an interpreter of its own, with warnings as errors."""

    def run(source: str, *args: str, timeout: float = 20) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "error", "-X", "faulthandler", "-c", source, *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)

    return run
