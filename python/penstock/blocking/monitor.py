"""`LoopMonitor`: how long an event loop keeps others waiting, and for which function. A thread of the extension
measures; this module finds the cause, and reports it.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import functools
import inspect
import logging
import numbers
import selectors
import sys
import threading
import traceback
import weakref
from asyncio import base_events, events
from collections.abc import Callable, Iterator
from types import CodeType, FrameType, TracebackType
from typing import Any, Self

from penstock._native import Histogram, LoopWatch
from penstock.blocking._unique import Unique

__all__ = ["LoopMonitor", "Stall"]

logger = logging.getLogger("penstock.monitor")

LONGEST = 2**32 - 1
"""Seconds that a loop may be given."""

CAUSES = 256
"""So many causes have a histogram of their own; what else comes shares one."""

IDLE = {selectors.__file__, base_events.__file__, events.__file__}
"""Where asyncio's loop is when no callback runs."""

Run = tuple[int, bool, str, Any]
"""A thread that runs something under a policy, whether it may have the interpreter, the policy, and the function."""

Cause = tuple[str, str]
"""Policy and function."""

ELSEWHERE: Cause = ("none", "elsewhere")
"""The loop had nothing to do, but couldn't: another thread had the interpreter, or the machine was busy."""

OTHERS: Cause = ("none", "others")


@dataclasses.dataclass(frozen=True, slots=True)
class Stall:
    """What `LoopMonitor(on_stall=)` is told while the loop stands still."""

    monitor: str
    """The monitor's name."""
    waited: float
    """Seconds so far."""
    policy: str
    """"Direct", "Permit", "Dispatch", "DispatchPool" or "BlockingPermit", under which the function runs; or "none"."""
    function: str
    """The function that keeps the loop, with its module."""
    stack: str
    """Where that thread is, as in a traceback; empty if the thread has gone on meanwhile."""

    def __str__(self) -> str:
        by = self.function if self.policy == "none" else f"{self.function}, run by {self.policy}"
        return f"the event loop {self.monitor!r} has stood still for {self.waited:.3f} s: {by}\n{self.stack}".rstrip()


def _log(stall: Stall) -> None:
    logger.warning("%s", stall)


def _nowhere() -> None:
    """In place of the reference to a loop."""


def _name(function: Any) -> str:
    if isinstance(function, str):
        return f"penstock.{function}"
    while isinstance(function, functools.partial):
        function = function.func
    if not hasattr(function, "__qualname__"):
        function = type(function)
    return f"{getattr(function, '__module__', None) or 'builtins'}.{function.__qualname__}"


class LoopMonitor(Unique):
    """Measures how long an event loop keeps others waiting, and finds what for.

    ```python
    with penstock.LoopMonitor() as monitor:
        ...
    ```

    A thread asks the loop for an answer each `interval` and measures how long that takes: it is what a socket that
    became readable just then would have waited. A late answer has a cause: the function that ran under a policy on the
    loop's thread, or the innermost function there, or, if the loop itself had nothing to do, a function that a pool ran
    and that kept the interpreter to itself. On an idle loop it costs less than 1 % of a CPU, so it may be left on.

    Args:
        name: Tells loops apart in reports.
        interval: Seconds between two questions.
        patience: An answer that takes more seconds than this gets a cause; less than `interval`.
        threshold: After so many seconds without an answer `on_stall` is called, while the loop still stands.
        on_stall: Called with a `Stall` on the monitor's thread. By default it is logged as a warning of the logger
            `penstock.monitor`, with the stack of what keeps the loop.

    It watches the loop that runs when it is started, on asyncio and on uvloop, until it is stopped or the loop is
    closed. Times in which the loop is stopped don't count. In a forked child it watches nothing.
    """

    def __init__(
        self,
        *,
        name: str = "main",
        interval: float = 0.02,
        patience: float = 0.005,
        threshold: float = 0.1,
        on_stall: Callable[[Stall], object] | None = None,
    ) -> None:
        if not isinstance(name, str):
            raise TypeError(f"name={name!r}: takes a str")
        for option, seconds in (("interval", interval), ("patience", patience), ("threshold", threshold)):
            if isinstance(seconds, bool) or not isinstance(seconds, numbers.Real):
                raise TypeError(f"{option}={seconds!r}: seconds are a number")
        if not 0 < patience < interval:
            raise ValueError(f"patience={patience}: must be positive and less than interval={interval}")
        if not interval <= LONGEST:
            raise ValueError(f"interval={interval}: must not be more than {LONGEST}")
        if not patience <= threshold <= LONGEST:
            raise ValueError(
                f"threshold={threshold}: must not be less than patience={patience}, nor more than {LONGEST}"
            )
        if on_stall is not None and (not callable(on_stall) or inspect.iscoroutinefunction(on_stall)):
            raise TypeError(f"on_stall={on_stall!r}: takes a function that is called, and not awaited")
        self.name = name
        self._settings = interval, patience, threshold
        self._interval = interval
        self._on_stall = on_stall or _log
        self._lag = Histogram()
        self._causes: dict[Cause, Histogram] = {}
        self._stalls = 0
        self._cause = ELSEWHERE
        self._watch: LoopWatch | None = None
        self._loop: Callable[[], asyncio.AbstractEventLoop | None] = _nowhere
        self._thread = 0
        self._base: CodeType | None = None

    def start(self) -> Self:
        """Watches the running loop from now on.

        Raises:
            RuntimeError: No loop runs on this thread, or it was started before and not stopped.
        """
        if self._watch is not None:
            raise RuntimeError("this LoopMonitor was started already")
        loop = asyncio.get_running_loop()
        self._loop = weakref.ref(loop)
        self._thread = threading.get_ident()
        # The loop keeps the context in which it is asked for something: not that of who happened to start this.
        empty = contextvars.Context()
        loop.call_soon(self._note_base, context=empty)
        self._watch = empty.run(LoopWatch, loop, self._lag, self._late, self._answered, *self._settings)
        # Called at exit, too: the thread must not outlive the interpreter. While it lives, it keeps the monitor.
        self._end = weakref.finalize(self, self._watch.stop)
        return self

    def stop(self) -> None:
        """Ends the watch, from any thread; the figures stay. May be called again."""
        watch, self._watch, self._loop = self._watch, None, _nowhere
        if watch is not None:
            self._end.detach()
            watch.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "stopped" if self._watch is None else "watching"
        return f"<penstock.LoopMonitor {self.name!r} {state}, {self._stalls} stalls>"

    # On the loop's thread

    def _note_base(self) -> None:
        """Notes from where the loop calls: in a loop that isn't Python, that frame alone is left when nothing runs."""
        caller = sys._getframe().f_back
        self._base = caller and caller.f_code

    # On the monitor's thread

    def _late(self, waited: float, stalled: bool, runs: list[Run]) -> int | None:
        loop = self._loop()
        if loop is None or not loop.is_running():
            return None
        index, self._cause, frame = self._culprit(loop, runs)
        if stalled:
            self._stalls += 1
            stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
            self._on_stall(Stall(self.name, waited, *self._cause, stack))
        return index

    def _answered(self, lag: float) -> None:
        cause = self._cause
        if cause not in self._causes and len(self._causes) >= CAUSES:
            cause = OTHERS
        self._causes.setdefault(cause, Histogram()).record(lag, self._interval)

    def _culprit(self, loop: asyncio.AbstractEventLoop, runs: list[Run]) -> tuple[int, Cause, FrameType | None]:
        """Which of the runs keeps the loop, or -1; its name; and the frame where it is."""
        frames = sys._current_frames()
        # This one has them all: a cycle, which would keep what every thread has at hand until it is collected.
        del frames[threading.get_ident()]
        # A loop that is handed over has changed its thread.
        here = getattr(loop, "_thread_id", None) or self._thread
        frame = frames.get(here)
        for index, (thread, _, policy, function) in enumerate(runs):
            if thread == here:
                return index, (policy, _name(function)), frame
        if frame is not None and not self._is_idle(frame):
            return -1, ("none", f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}"), frame
        for index, (thread, suspect, policy, function) in enumerate(runs):
            if suspect:
                return index, (policy, _name(function)), frames.get(thread)
        return -1, ELSEWHERE, None

    def _is_idle(self, frame: FrameType) -> bool:
        return frame.f_code is self._base or frame.f_code.co_filename in IDLE

    # Reports

    def stats(self) -> dict[str, Any]:
        """What was found since it was made; times in seconds.

        `lag` has how long answers took, `causes` for policy and function how long the late ones did, each with `count`,
        `sum`, `p50`, `p99`, `max` and `buckets`; `stalls` is how often the threshold was passed. A long stall counts
        once for each interval that it lasted, as it was for who came in each.
        """
        causes: dict[str, dict[str, Any]] = {}
        for (policy, function), lag in list(self._causes.items()):
            causes.setdefault(policy, {})[function] = lag.stats()
        return {"lag": self._lag.stats(), "stalls": self._stalls, "causes": causes}

    def prometheus(self) -> str:
        """The same in Prometheus' text format: the histograms `penstock_loop_lag_seconds` and
        `penstock_loop_late_seconds`, by policy and function, and the counter `penstock_loop_stalls_total`."""
        return "\n".join(self._exposition()) + "\n"

    def _exposition(self) -> Iterator[str]:
        loop = _label("loop", self.name)
        name = "penstock_loop_lag_seconds"
        yield f"# HELP {name} How long the event loop took to answer."
        yield f"# TYPE {name} histogram"
        yield from _histogram(name, loop, self._lag)
        name = "penstock_loop_late_seconds"
        yield f"# HELP {name} How long it took when that was long, by what it was due to."
        yield f"# TYPE {name} histogram"
        for (policy, function), lag in list(self._causes.items()):
            labels = f"{loop},{_label('policy', policy)},{_label('function', function)}"
            yield from _histogram(name, labels, lag)
        name = "penstock_loop_stalls_total"
        yield f"# HELP {name} How often it took longer than the threshold."
        yield f"# TYPE {name} counter"
        yield f"{name}{{{loop}}} {self._stalls}"


def _label(name: str, value: str) -> str:
    escaped = value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'{name}="{escaped}"'


def _histogram(name: str, labels: str, histogram: Histogram) -> Iterator[str]:
    within = 0
    for bound, count in histogram.buckets():
        within += count
        limit = "+Inf" if bound == float("inf") else repr(bound)
        yield f'{name}_bucket{{{labels},le="{limit}"}} {within}'
    yield f"{name}_sum{{{labels}}} {histogram.stats()['sum']:.9f}"
    yield f"{name}_count{{{labels}}} {within}"
