"""The settings of a `DispatchPool`: its threads, their names and stacks, and its hooks."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import threading
import time
import weakref
from collections.abc import Callable
from types import FrameType

import pytest
from penstock import DispatchPool


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"threads": 0}, ValueError, "threads=0"),
        ({"queue_length": 0}, ValueError, "overflow"),
        ({"overflow": "drop"}, ValueError, "wait"),
        ({"threads": 1, "max_workers": 1}, TypeError, "max_workers"),
        ({"threads": -1}, ValueError, "threads=-1: not between 0 and"),
        ({"threads": 1 << 64}, ValueError, f"threads={1 << 64}: not between 0 and"),
        ({"threads": (1 << 15) + 1}, ValueError, "threads=32769: at most 32768"),
        ({"max_workers": -1}, ValueError, "max_workers=-1: not between 0 and"),
        ({"max_workers": 1 << 64}, ValueError, f"max_workers={1 << 64}: not between 0 and"),
        ({"queue_length": -1}, ValueError, "queue_length=-1: not between 0 and"),
        ({"queue_length": 1 << 64}, ValueError, f"queue_length={1 << 64}: not between 0 and"),
        ({"drain_threads": -1}, ValueError, "drain_threads=-1: not between 0 and"),
        ({"drain_threads": 1 << 64}, ValueError, f"drain_threads={1 << 64}: not between 0 and"),
        ({"drain_threads": "1"}, TypeError, "drain_threads='1': not an int"),
        ({"threads": True}, TypeError, "threads=True: not an int"),
        ({"queue_length": True}, TypeError, "queue_length=True: not an int"),
        ({"after_start": 5}, TypeError, "after_start=5: takes a function that is called, and not awaited"),
        ({"before_stop": 5}, TypeError, "before_stop=5: takes a function that is called, and not awaited"),
        ({"before_stop": asyncio.sleep}, TypeError, "before_stop=.*sleep.*: takes a function that is called"),
        ({"stack_size": 1000}, ValueError, "stack_size=1000: at least 32768 bytes"),
        ({"name_prefix": "a\0b"}, ValueError, "name_prefix.*NUL"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(settings: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        DispatchPool(**settings)  # type: ignore[arg-type]


def test_a_stack_that_no_thread_starts_with_is_named() -> None:
    wanted = r"cannot start thread 1 of 2 of the pool big-\* \(DispatchPool\.threads and stack_size\): "
    with pytest.raises(OSError, match=wanted):
        DispatchPool(threads=2, name_prefix="big-", stack_size=1 << 63)


def test_max_workers_is_another_name_of_threads() -> None:
    with DispatchPool(max_workers=3) as pool:
        assert pool.threads == 3


def test_the_default_count_follows_the_affinity(script: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    source = """
import os, penstock
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
with penstock.DispatchPool() as pool:
    print(pool.threads)
"""
    assert script(source).stdout.split() == ["5"]


STACK = """
import ctypes, penstock, resource, sys
def stack_size():
    libc = ctypes.CDLL(None)
    libc.pthread_self.restype = ctypes.c_ulong
    attributes, size = ctypes.create_string_buffer(128), ctypes.c_size_t()
    assert libc.pthread_getattr_np(ctypes.c_ulong(libc.pthread_self()), attributes) == 0
    assert libc.pthread_attr_getstacksize(attributes, ctypes.byref(size)) == 0
    return size.value
size = eval(sys.argv[1])
if size is None:
    resource.setrlimit(resource.RLIMIT_STACK, (3 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))
with penstock.DispatchPool(threads=1, stack_size=size) as pool:
    print(pool.submit(stack_size).result(10) >> 10)
"""


@pytest.mark.parametrize(("given", "kib"), [(1 << 20, 1024), ("512KiB", 512), ("8MiB", 8192), (None, 3072)])
def test_a_stack_has_the_size_that_was_asked_for(
    script: Callable[..., subprocess.CompletedProcess[str]], given: int | str | None, kib: int
) -> None:
    # In a process of its own: the C library gives a new thread the stack of one that has ended.
    done = script(STACK, repr(given))
    assert done.stderr == ""
    # A guard page may count with it.
    assert abs(int(done.stdout) - kib) <= 16


def test_threading_knows_the_threads_by_their_names_while_they_live() -> None:
    def names() -> set[str]:
        return {thread.name for thread in threading.enumerate() if thread.name.startswith("mine-")}

    with DispatchPool(threads=2, name_prefix="mine-"):
        assert names() == {"mine-0", "mine-1"}
    assert names() == set()


@pytest.mark.parametrize("kind", ["trace", "profile"])
def test_debuggers_that_asked_for_new_threads_see_the_jobs(kind: str) -> None:
    seen: list[str] = []

    def watch(frame: FrameType, event: str, arg: object) -> None:
        if frame.f_code.co_name == "traced_job":
            seen.append(event)

    def traced_job() -> None:
        pass

    before = getattr(threading, f"get{kind}")()
    getattr(threading, f"set{kind}")(watch)
    try:
        pool = DispatchPool(threads=1)
    finally:
        getattr(threading, f"set{kind}")(before)
    with pool:
        pool.submit(traced_job).result(10)
    assert seen[0] == "call"


def test_pools_without_a_prefix_are_numbered() -> None:
    with DispatchPool(threads=1) as first, DispatchPool(threads=1, name_prefix="x") as other:
        with DispatchPool(threads=1) as second:
            pass
        number = int(first.name_prefix.removeprefix("penstock-").removesuffix("-"))
        assert second.name_prefix == f"penstock-{number + 1}-"
        assert other.name_prefix == "x"


def test_the_constructor_returns_when_all_threads_run(thread_names: Callable[[], set[str]]) -> None:
    ready: list[int] = []
    with DispatchPool(threads=8, name_prefix="r-", after_start=ready.append):
        assert sorted(ready) == list(range(8))
        assert {f"r-{index}" for index in range(8)} <= thread_names()


def test_a_failing_before_stop_is_logged_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    stopped: list[int] = []

    def before_stop(index: int) -> None:
        stopped.append(index)
        raise LookupError(index)

    with caplog.at_level(logging.ERROR, "penstock.blocking"), DispatchPool(threads=2, before_stop=before_stop):
        pass
    assert sorted(stopped) == [0, 1]
    assert len(caplog.records) == 2


def test_hooks_run_on_each_thread_with_its_index() -> None:
    started: list[tuple[int, str]] = []
    stopped: list[tuple[int, str]] = []

    def note(to: list[tuple[int, str]]) -> Callable[[int], None]:
        return lambda index: to.append((index, threading.current_thread().name))

    with DispatchPool(threads=3, name_prefix="h-", after_start=note(started), before_stop=note(stopped)):
        assert sorted(started) == [(0, "h-0"), (1, "h-1"), (2, "h-2")]
        assert not stopped
    assert sorted(stopped) == sorted(started)


def test_a_failing_after_start_fails_the_constructor() -> None:
    def after_start(index: int) -> None:
        raise LookupError(index)

    with pytest.raises(LookupError):
        DispatchPool(threads=2, after_start=after_start)


def test_a_closed_pool_lets_go_of_what_its_hooks_are_bound_to() -> None:
    class Owner:
        def __init__(self) -> None:
            self.pool = DispatchPool(threads=2, after_start=self.begin, before_stop=self.end)

        def begin(self, index: int) -> None:
            begun.append(index)

        def end(self, index: int) -> None:
            begun.remove(index)

    begun: list[int] = []
    owner = Owner()
    dead = weakref.ref(owner)
    assert sorted(begun) == [0, 1]
    owner.pool.close()
    assert begun == []
    del owner
    gc.collect()
    assert dead() is None


def test_a_pool_without_threads_keeps_nothing_that_its_hooks_are_bound_to() -> None:
    class Owner:
        def __init__(self) -> None:
            self.pool = DispatchPool(queue_length=0, overflow="caller", before_stop=self.end)

        def end(self, index: int) -> None:
            raise AssertionError(index)

    owner = Owner()
    dead = weakref.ref(owner)
    owner.pool.close()
    del owner
    gc.collect()
    assert dead() is None


def test_an_unclosed_pool_that_its_after_start_leads_back_to_is_collected_and_ends(
    thread_names: Callable[[], set[str]],
) -> None:
    class Owner:
        def __init__(self) -> None:
            self.pool = DispatchPool(threads=2, name_prefix="cycle-", after_start=self.begin)

        def begin(self, index: int) -> None:
            begun.append(index)

    begun: list[int] = []
    dead = weakref.ref(Owner())
    with pytest.warns(ResourceWarning, match="unclosed DispatchPool cycle-"):
        gc.collect()
    assert dead() is None
    while any(name.startswith("cycle-") for name in thread_names()):
        time.sleep(0.01)
