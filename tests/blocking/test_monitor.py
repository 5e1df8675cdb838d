"""`LoopMonitor`: it finds what keeps a loop, whoever runs it, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import math
import os
import re
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock import DispatchPool, LoopMonitor, Semaphore, Stall
from penstock._native import _delay_writes

from tests.conftest import LOOPS, until

HOG = range(20_000_000)
"""`sum` of it takes some tenths of a second, and doesn't let the interpreter go."""


def stand_still() -> None:
    time.sleep(0.15)


class Stalls(list[Stall]):
    """Hears of stalls, and makes them until one is what it should be: others may disturb a busy machine."""

    def monitor(self, **options: Any) -> LoopMonitor:
        return LoopMonitor(
            **{"interval": 0.01, "patience": 0.004, "threshold": 0.05, "on_stall": self.append} | options
        )

    async def make(self, stall: Callable[[], Any], policy: str, function: str) -> Stall:
        for _ in range(20):
            result = stall()
            if result is not None:
                await result
            # The monitor's answer is on its way.
            await asyncio.sleep(0.03)
            for heard in self:
                if (heard.policy, heard.function) == (policy, function):
                    return heard
        raise AssertionError(f"no stall by {function}, run by {policy}, in {list(self)}")


@pytest.fixture
def stalls() -> Stalls:
    return Stalls()


@pytest.mark.asyncio
async def test_it_measures_a_loop_that_turns() -> None:
    with LoopMonitor(interval=0.002, patience=0.001) as monitor:
        await until(lambda: monitor.stats()["lag"]["count"] >= 5)
    lag = monitor.stats()["lag"]
    assert 0 < lag["p50"] <= lag["p99"] <= lag["max"]
    assert sum(count for _, count in lag["buckets"]) == lag["count"]


# Who it was


@pytest.mark.asyncio
async def test_a_function_of_the_programs_own_is_named_with_its_stack(stalls: Stalls) -> None:
    with stalls.monitor(name="mine") as monitor:
        stall = await stalls.make(stand_still, "none", f"{__name__}.stand_still")
        assert stall.monitor == "mine"
        assert stall.waited >= 0.05
        assert "test_monitor.py" in stall.stack
        assert "in stand_still" in stall.stack
        await until(lambda: f"{__name__}.stand_still" in monitor.stats()["causes"]["none"])
    stats = monitor.stats()
    assert stats["stalls"] == len(stalls)
    assert stats["causes"]["none"][f"{__name__}.stand_still"]["max"] >= 0.05
    assert stats["lag"]["max"] >= 0.05


@pytest.mark.asyncio
async def test_what_direct_runs_is_named_and_counted_as_lag_by_the_policy(stalls: Stalls) -> None:
    policy = penstock.Direct()
    with stalls.monitor() as monitor:
        stall = await stalls.make(lambda: policy.run(time.sleep, 0.15), "Direct", "time.sleep")
        assert "test_monitor.py" in stall.stack
        await until(lambda: "time.sleep" in monitor.stats()["causes"].get("Direct", ()))
    assert policy.stats()["lag"]["max"] >= 0.15


@pytest.mark.asyncio
async def test_what_runs_under_a_blocking_permit_is_named(stalls: Stalls) -> None:
    async def block() -> None:
        async with penstock.blocking_permit(Semaphore(1)) as permit:
            permit.run(functools.partial(stand_still))

    with stalls.monitor():
        assert await stalls.make(block, "BlockingPermit", f"{__name__}.stand_still")


@pytest.mark.asyncio
async def test_a_job_that_keeps_the_interpreter_is_named_and_counted_as_lag_by_its_policy(
    stalls: Stalls, pool: DispatchPool
) -> None:
    policies: list[penstock.Policy] = [penstock.Dispatch(pool), penstock.Permit(Semaphore(1), pool=pool)]
    with stalls.monitor() as monitor:
        for policy in policies:
            name = type(policy).__name__
            await stalls.make(lambda policy=policy: policy.run(sum, HOG), name, "builtins.sum")  # type: ignore[misc]
            await until(lambda policy=policy: policy.stats()["lag"]["max"] >= 0.05)  # type: ignore[misc]
            assert "builtins.sum" in monitor.stats()["causes"][name]
        await stalls.make(lambda: pool.run(sum, HOG), "DispatchPool", "builtins.sum")


@pytest.mark.asyncio
async def test_a_native_operation_is_named_with_the_stack_of_who_asked_for_it(stalls: Stalls, tmp_path: Path) -> None:
    tunables = penstock.Tunables(max_body_ram=0, temp_dir=tmp_path)
    _delay_writes(0.15)
    try:
        async with penstock.AsyncBodySink(tunables, policy=penstock.Direct()) as sink:
            with stalls.monitor():
                stall = await stalls.make(lambda: sink.write(bytes(2 << 20)), "Direct", "penstock.BodySink.write")
    finally:
        _delay_writes(0)
    assert "in write" in stall.stack


@pytest.mark.asyncio
async def test_a_job_that_keeps_the_interpreter_is_named_with_its_stack(stalls: Stalls, pool: DispatchPool) -> None:
    def hog() -> None:
        # Between two sums the monitor can have the interpreter, and see where the job is.
        for _ in range(3):
            sum(HOG[::4])

    name = f"{__name__}.{hog.__qualname__}"
    with stalls.monitor():
        for _ in range(20):
            await stalls.make(lambda: pool.run(hog), "DispatchPool", name)
            # Empty, if the job was over before it could be looked at.
            if found := [stall for stall in stalls if stall.function == name and "in hog" in stall.stack]:
                break
    assert found


@pytest.mark.asyncio
async def test_a_job_that_keeps_the_interpreter_is_named_to_each_of_several_monitors(
    stalls: Stalls, pool: DispatchPool
) -> None:
    with stalls.monitor(name="one"), stalls.monitor(name="other"):
        for _ in range(10):
            stalls.clear()
            await stalls.make(lambda: pool.run(sum, HOG), "DispatchPool", "builtins.sum")
            # One of them may have looked when the loop wasn't late yet.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await until(lambda: len(stalls) >= 2)
            if named := {stall.monitor for stall in stalls if stall.function == "builtins.sum"} == {"one", "other"}:
                break
    assert named


@pytest.mark.asyncio
async def test_a_job_that_lets_the_interpreter_go_is_never_blamed(stalls: Stalls, pool: DispatchPool) -> None:
    policy = penstock.Dispatch(pool)
    with stalls.monitor():
        sleeping = policy.run(time.sleep, 0.5)
        await stalls.make(stand_still, "none", f"{__name__}.stand_still")
        await sleeping
    assert "time.sleep" not in {stall.function for stall in stalls}
    assert policy.stats()["lag"]["count"] == 0


@pytest.mark.asyncio
async def test_a_long_stall_counts_for_each_interval_that_it_lasted(stalls: Stalls) -> None:
    with stalls.monitor() as monitor:
        await stalls.make(stand_still, "none", f"{__name__}.stand_still")
        await until(lambda: f"{__name__}.stand_still" in monitor.stats()["causes"]["none"])
    late = monitor.stats()["causes"]["none"][f"{__name__}.stand_still"]
    assert late["count"] >= late["max"] // 0.01


@pytest.mark.asyncio
async def test_by_default_a_stall_is_logged_as_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.WARNING, "penstock.monitor"),
        LoopMonitor(interval=0.01, patience=0.004, threshold=0.05) as monitor,
    ):
        for _ in range(20):
            stand_still()
            await asyncio.sleep(0.03)
            if "stand_still" in caplog.text:
                break
    assert monitor.stats()["stalls"] >= 1
    logged = next(record for record in caplog.records if "stand_still" in record.getMessage())
    assert logged.levelno == logging.WARNING
    assert re.search(r"the event loop 'main' has stood still for \d+\.\d{3} s", logged.getMessage())
    assert "in stand_still" in logged.getMessage()


# What it isn't


@pytest.mark.parametrize("kind", LOOPS)
def test_a_loop_that_is_stopped_is_not_late(kind: str) -> None:
    loop = LOOPS[kind]()
    stalls = Stalls()

    async def start() -> LoopMonitor:
        monitor = stalls.monitor().start()
        await until(lambda: monitor.stats()["lag"]["count"])
        return monitor

    monitor = loop.run_until_complete(start())
    time.sleep(1)
    before = monitor.stats()["lag"]["count"]
    loop.run_until_complete(until(lambda: monitor.stats()["lag"]["count"] > before))
    monitor.stop()
    loop.close()
    assert monitor.stats()["lag"]["max"] < 1
    assert not [stall for stall in stalls if stall.waited >= 1]


# Its life


@pytest.mark.asyncio
async def test_it_is_started_once_at_a_time_and_stopped_any_number_of_times() -> None:
    monitor = LoopMonitor()
    assert repr(monitor) == "<penstock.LoopMonitor 'main' stopped, 0 stalls>"
    monitor.stop()
    for _ in range(2):
        with monitor:
            assert "watching" in repr(monitor)
            with pytest.raises(RuntimeError, match="started already"):
                monitor.start()
        monitor.stop()
        assert "stopped" in repr(monitor)


def test_it_needs_a_running_loop() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        LoopMonitor().start()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"patience": 0}, "patience"),
        ({"patience": 1.0}, "patience"),
        ({"threshold": 0.001}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"threshold": float("inf")}, "threshold"),
        ({"interval": 1e19}, "interval"),
    ],
)
def test_settings_that_contradict_each_other_or_are_no_times_are_refused(options: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        LoopMonitor(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["interval", "patience", "threshold"])
def test_a_time_that_is_no_number_is_refused_by_its_name(option: str) -> None:
    for wrong in ("1", None, True):
        with pytest.raises(TypeError, match=f"^{option}={wrong!r}: seconds are a number"):
            LoopMonitor(**{option: wrong})  # type: ignore[arg-type]


def test_a_name_that_is_no_text_is_refused() -> None:
    # In the text for Prometheus it would be missed.
    with pytest.raises(TypeError, match=r"^name=5: takes a str$"):
        LoopMonitor(name=5)  # type: ignore[arg-type]


def test_what_a_stall_cannot_be_told_to_is_refused() -> None:
    # On the monitor's thread it would be too late to say so.
    async def awaited(stall: penstock.Stall) -> None:
        assert stall

    for wrong in (awaited, 5):
        with pytest.raises(TypeError, match=r"^on_stall=.*: takes a function that is called, and not awaited"):
            LoopMonitor(on_stall=wrong)  # type: ignore[arg-type]


@pytest.mark.asyncio
async def test_another_thread_may_stop_it(thread_names: Callable[[], set[str]]) -> None:
    monitor = LoopMonitor().start()
    await until(lambda: "penstock-watch" in thread_names())
    await asyncio.to_thread(monitor.stop)
    # And the loop turns on without its descriptor.
    await asyncio.sleep(0.01)
    assert "penstock-watch" not in thread_names()


@pytest.mark.asyncio
async def test_who_is_told_of_a_stall_may_stop_it(thread_names: Callable[[], set[str]]) -> None:
    told = threading.Event()

    def stop(stall: Stall) -> None:
        monitor.stop()
        told.set()

    monitor = LoopMonitor(interval=0.01, patience=0.004, threshold=0.05, on_stall=stop).start()
    await until(lambda: told.is_set() or stand_still())
    await until(lambda: "penstock-watch" not in thread_names())
    assert "stopped" in repr(monitor)


@pytest.mark.asyncio
async def test_an_error_of_who_is_told_is_reported_and_the_watch_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)

    def fail(stall: Stall) -> None:
        raise LookupError(stall.function)

    with LoopMonitor(interval=0.01, patience=0.004, threshold=0.05, on_stall=fail) as monitor:
        await until(lambda: len(reported) >= 2 or stand_still())
        before = monitor.stats()["lag"]["count"]
        await until(lambda: monitor.stats()["lag"]["count"] > before)
    assert {type(report.exc_value) for report in reported} == {LookupError}


@pytest.mark.asyncio
async def test_looking_for_a_culprit_keeps_nothing_of_what_threads_have_at_hand(stalls: Stalls) -> None:
    class Treasure:
        pass

    kept = []

    def keep_one() -> None:
        treasure = Treasure()
        kept.append(weakref.ref(treasure))
        time.sleep(0.15)

    gc.disable()
    try:
        with stalls.monitor():
            await stalls.make(keep_one, "none", f"{__name__}.{keep_one.__qualname__}")
        assert [each() for each in kept] == [None] * len(kept)
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", LOOPS)
def test_it_ends_with_its_loop(kind: str, thread_names: Callable[[], set[str]]) -> None:
    loop = LOOPS[kind]()

    async def start() -> LoopMonitor:
        return LoopMonitor().start()

    monitor = loop.run_until_complete(start())
    loop.close()
    del loop
    deadline = time.monotonic() + 20
    while "penstock-watch" in thread_names() and time.monotonic() < deadline:
        time.sleep(0.002)
    assert "penstock-watch" not in thread_names()
    monitor.stop()


@pytest.mark.parametrize("kind", LOOPS)
def test_nothing_of_it_is_left_when_its_loop_is_closed(kind: str) -> None:
    async def start() -> None:
        LoopMonitor().start()

    def watched() -> weakref.ref[asyncio.AbstractEventLoop]:
        loop = LOOPS[kind]()
        loop.run_until_complete(start())
        loop.close()
        return weakref.ref(loop)

    def is_left() -> bool:
        gc.collect()
        return any(loop() for loop in loops) or len(os.listdir("/dev/fd")) > before

    before = len(os.listdir("/dev/fd"))
    loops = [watched() for _ in range(5)]
    deadline = time.monotonic() + 5
    while is_left() and time.monotonic() < deadline:
        time.sleep(0.002)
    assert not is_left()


@pytest.mark.parametrize("kind", LOOPS)
def test_whoever_keeps_its_figures_does_not_keep_its_loop(kind: str) -> None:
    async def start() -> LoopMonitor:
        return LoopMonitor().start()

    loop = LOOPS[kind]()
    monitor = loop.run_until_complete(start())
    loop.close()
    gone = weakref.ref(loop)
    del loop
    gc.collect()
    assert gone() is None
    monitor.stop()


LEFT_RUNNING = """
import asyncio, penstock, time
loop = asyncio.new_event_loop()
async def start():
    return penstock.LoopMonitor(interval=0.002, patience=0.001).start()
monitor = loop.run_until_complete(start())
while not monitor.stats()["lag"]["count"]:
    loop.run_until_complete(asyncio.sleep(0.002))
time.sleep(0.02)
print(monitor.stats()["lag"]["count"] > 0)
loop.close() if CLOSE else None
"""


@pytest.mark.parametrize("close", [True, False])
def test_the_interpreter_may_exit_while_it_watches(
    script: Callable[..., subprocess.CompletedProcess[str]], close: bool
) -> None:
    source = LEFT_RUNNING.replace("CLOSE", str(close))
    if not close:
        source = source.replace("asyncio.new_event_loop()", "asyncio.new_event_loop(); loop.__del__ = None")
        source = "import warnings; warnings.simplefilter('ignore')\n" + source
    done = script(source)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


FORKED = """
import asyncio, os, penstock, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)

async def main():
    with penstock.LoopMonitor(interval=0.002, patience=0.001, on_stall=[].append) as monitor:
        policy = penstock.Direct()
        await policy.run(time.sleep, 0.05)
        await asyncio.sleep(0.02)
        child = os.fork()
        if child:
            before = monitor.stats()["lag"]["count"]
            assert os.waitpid(child, 0)[1] == 0
            while monitor.stats()["lag"]["count"] == before:
                await asyncio.sleep(0.002)
        else:
            try:
                monitor.stats(), monitor.prometheus(), monitor.stop()
                asyncio._set_running_loop(None)
                asyncio.run(again())
                os._exit(0)
            finally:
                os._exit(1)

async def again():
    stalls = []
    policy = penstock.Direct()
    with penstock.LoopMonitor(interval=0.01, patience=0.004, threshold=0.05, on_stall=stalls.append) as monitor:
        while not any(stall.policy == "Direct" for stall in stalls):
            await policy.run(time.sleep, 0.1)
            await asyncio.sleep(0.02)

asyncio.run(main())
print("done")
"""


def test_a_fork_leaves_the_parents_watch_and_the_child_may_have_its_own(
    script: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = script(FORKED)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


DEEP = """
import asyncio, sys, threading, time
import penstock

def deeper(n):
    # Through C, each level of which takes its part of the stack.
    return sorted([n], key=lambda n: deeper(n + 1))
def told(stall):
    try:
        deeper(0)
    except RecursionError:
        print(threading.current_thread().name)
async def main():
    with penstock.LoopMonitor(interval=0.01, patience=0.004, threshold=0.05, on_stall=told):
        await asyncio.sleep(0)
        time.sleep(0.2)
sys.setrecursionlimit(2_000)
asyncio.run(main())
"""


def test_what_is_told_of_a_stall_has_the_stack_to_recurse_to_the_interpreters_limit(
    script: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = script(DEEP)
    assert (done.returncode, done.stdout, done.stderr) == (0, "penstock-watch\n", "")


# Reports


@pytest.mark.asyncio
async def test_prometheus_can_read_it(stalls: Stalls) -> None:
    with stalls.monitor(name='a "name"\nof\\two lines') as monitor:
        await stalls.make(stand_still, "none", f"{__name__}.stand_still")
        await until(lambda: monitor.stats()["causes"].get("none"))
    text = monitor.prometheus()
    assert text.endswith("\n")
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    assert types == {
        "penstock_loop_lag_seconds": "histogram",
        "penstock_loop_late_seconds": "histogram",
        "penstock_loop_stalls_total": "counter",
    }
    label = r'[a-z]+="(?:[^"\\\n]|\\["\\n])*"'
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    for line in samples:
        assert re.fullmatch(rf"[a-z_]+\{{{label}(?:,{label})*\}} [0-9.]+", line), line
    assert {re.search(r'loop="((?:[^"\\]|\\.)*)"', line)[1] for line in samples} == {  # type: ignore[index]
        r"a \"name\"\nof\\two lines"
    }
    buckets = [int(line.rsplit(" ", 1)[1]) for line in samples if line.startswith("penstock_loop_lag_seconds_bucket{")]
    assert buckets == sorted(buckets)
    assert len(buckets) == 28
    bounds = re.findall(r'^penstock_loop_lag_seconds_bucket\{.*le="([^"]+)"\}', text, re.MULTILINE)
    assert [float(bound) for bound in bounds] == [*(2**n / 1e6 for n in range(27)), math.inf]
    assert buckets[-1] == monitor.stats()["lag"]["count"]
    assert f'policy="none",function="{__name__}.stand_still",le="+Inf"' in text


def test_causes_without_end_take_no_memory_without_end() -> None:
    monitor = LoopMonitor()
    for n in range(1000):
        monitor._cause = ("none", f"function {n}")
        monitor._answered(0.01)
    causes = monitor.stats()["causes"]["none"]
    assert len(causes) == 257
    assert causes["others"]["count"] == 1000 - 256


@pytest.mark.parametrize("make", LOOPS.values(), ids=LOOPS)
def test_a_loop_keeps_nothing_of_the_context_in_which_a_monitor_was_started(
    make: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    class Thing:
        pass

    variable: ContextVar[Thing] = ContextVar("variable")
    monitor = LoopMonitor()

    async def start() -> weakref.ref[Thing]:
        thing = Thing()
        variable.set(thing)
        monitor.start()
        return weakref.ref(thing)

    async def main() -> None:
        dead = await asyncio.create_task(start())
        # The task itself goes with the callback in which it ended.
        await asyncio.sleep(0)
        gc.collect()
        assert dead() is None
        await until(lambda: monitor.stats()["lag"]["count"])

    with asyncio.Runner(loop_factory=make) as runner:
        try:
            runner.run(main())
        finally:
            monitor.stop()
