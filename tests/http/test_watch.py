"""When deadlines are found to have passed, by a clock of the test's own."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from contextvars import Context
from types import SimpleNamespace
from typing import Any

import penstock
import pytest
from penstock.http.deadlines import Deadlines
from penstock.http.watch import Watch

TIMER = 0.001
"""Seconds that a timer is late, as on a loop that has other things to do."""


class Timer:
    def __init__(self, callback: Callable[[], Any]) -> None:
        self.callback: Callable[[], Any] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Loop:
    """What is asked of an event loop here; time passes when nothing is to be done."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.woken = 0
        self._timers: list[tuple[float, int, Timer]] = []
        self._number = itertools.count()

    def time(self) -> float:
        return self.now

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> Timer:
        # What is called soon comes before a timer, all of which are a bit late.
        late = TIMER if delay else 0
        timer = Timer(lambda: callback(*args))
        heapq.heappush(self._timers, (self.now + delay + late, next(self._number), timer))
        return timer

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> None:
        self.call_later(0, callback, *args)

    def run(self, until: Callable[[], bool]) -> None:
        end = self.now + 1000
        while not until():
            due, _, timer = heapq.heappop(self._timers)
            if timer.callback is None:
                continue
            self.woken += due > self.now
            self.now = max(self.now, due)
            assert self.now < end
            timer.callback()


class Connection:
    """One that a watch looks at, with a request that was begun."""

    def __init__(self, loop: Loop, timeout: penstock.Timeouts, deadlines: Deadlines | None = None) -> None:
        self.accepted: int | None = None
        self.waits = self.gives = self.is_held_up = self.has_head = False
        self.progress = 0
        self.left: float = 0
        self.exchange: Any = SimpleNamespace(settings=SimpleNamespace(timeout=timeout), began=loop.now, sent=0)
        self.failed: tuple[float, BaseException] | None = None
        self._loop = loop
        told: Any = loop
        self.watch = Watch(told, deadlines or Deadlines(told))
        self.watch.begin(self, self.exchange, 0)

    def check(self, now: float) -> None:
        self.watch.check(self, now)

    def fail(self, error: BaseException) -> None:
        self.failed, self.exchange = (self._loop.now, error), None

    def get_head(self) -> None:
        self.has_head, self.progress = True, 100

    def get_some(self) -> None:
        self.progress += 1

    def begin_to_send(self) -> None:
        self.accepted, self.gives = 0, True
        self.watch.begin_sending(0)

    def fill_up(self) -> None:
        """The peer takes some, and nothing more."""
        self.accepted, self.waits = 7, True

    def be_held_up(self) -> None:
        self.is_held_up = True

    def go_on(self) -> None:
        self.is_held_up = False


GET, SOME, SEND, FULL = Connection.get_head, Connection.get_some, Connection.begin_to_send, Connection.fill_up
HELD, ON = Connection.be_held_up, Connection.go_on

CASES: dict[str, tuple[type[penstock.Timeout], list[Callable[[Connection], None]]]] = {
    "first_byte": (penstock.FirstByteTimeout, []),
    "total": (penstock.TotalTimeout, []),
    "idle": (penstock.IdleTimeout, [GET, SOME]),
    "idle, after it was held up": (penstock.IdleTimeout, [GET, HELD, ON]),
    "write": (penstock.WriteTimeout, [SEND, FULL]),
    "min_rate": (penstock.TooSlow, [GET]),
    "min_rate, after it was held up": (penstock.TooSlow, [GET, HELD, ON]),
}
"""By the timeout: its error, and what happens before its time begins to run."""


@pytest.mark.parametrize("seconds", [0.01, 0.06, 0.099, 0.1, 0.5, 1, 3.76, 3.9, 6, 20])
@pytest.mark.parametrize("case", CASES)
def test_a_deadline_is_never_early_and_late_by_what_is_said(case: str, seconds: float) -> None:
    error, happens = CASES[case]
    name = case.partition(",")[0]
    none: dict[str, Any] = dict.fromkeys(("first_byte", "idle", "write", "total", "min_rate"))
    timeout = penstock.Timeouts(**{**none, name: (1e6, seconds) if name == "min_rate" else seconds})
    # By whichever part of the time between two looks it begins before the next.
    for phase in range(20):
        began, at, found = failed(timeout, happens, seconds * (0.25 + phase * 0.00713))
        assert type(found) is error
        # The briefest have timers of their own.
        most = 2 * TIMER if not happens and seconds < 0.1 else max(0.05, 0.02 * seconds)
        assert 0 <= at - began - seconds <= most, phase


def failed(
    timeout: penstock.Timeouts, happens: list[Callable[[Connection], None]], apart: float
) -> tuple[float, float, BaseException]:
    """When the last of what happens was over, when the connection failed, and how."""
    loop = Loop()
    connection = Connection(loop, timeout)
    left = list(happens)
    for number in range(1, len(happens) + 1):
        loop.call_later(number * apart, lambda: left.pop(0)(connection))
    loop.run(lambda: not left)
    began = loop.now
    loop.run(lambda: connection.failed is not None)
    assert connection.failed is not None
    return began, *connection.failed


def test_a_loop_is_woken_no_more_often_than_the_timeouts_of_who_waits_need() -> None:
    loop = Loop()
    told: Any = loop
    deadlines = Deadlines(told)
    began = loop.now
    patient = [Connection(loop, penstock.Timeouts(), deadlines) for _ in range(3)]
    loop.run(lambda: loop.now > began + 30)
    # Each 1 % of 60 seconds, a bit early.
    assert loop.woken <= 55
    # Then one that is in more of a hurry, which isn't late for it, and leaves them as they were.
    began = loop.now
    hurried = Connection(loop, penstock.Timeouts(first_byte=0.2), deadlines)
    loop.run(lambda: hurried.failed is not None)
    assert 0.2 <= loop.now - began <= 0.25
    loop.woken = 0
    loop.run(lambda: loop.now > began + 10)
    assert loop.woken <= 20
    assert all(connection.failed is None for connection in patient)


@pytest.mark.parametrize("seconds", [0.05, 1])
def test_what_lies_in_the_socket_is_read_before_a_deadline_counts(seconds: float) -> None:
    loop = Loop()
    connection = Connection(loop, penstock.Timeouts(idle=seconds))
    connection.get_head()
    connection.check(loop.now)
    # The loop stands still meanwhile, and has a turn, in which it reads, after the one that looks.
    loop.now += seconds + 0.01
    connection.check(loop.now)
    loop.call_soon(connection.get_some)
    turns: list[int] = []
    for _ in range(4):
        loop.call_soon(turns.append, 0)
        loop.run(lambda: bool(turns))
        turns.clear()
    assert connection.failed is None


@pytest.mark.parametrize(
    ("taken", "left", "slow"),
    [
        ("at each look", 0, True),
        ("at each look", 1, True),
        ("at each look", 100, False),
        ("at each look", math.inf, False),
        ("never", 0, True),
        ("never", 1, False),
    ],
)
def test_a_peer_that_drips_is_too_slow_though_each_look_finds_what_has_just_come(
    taken: str, left: float, slow: bool
) -> None:
    loop = Loop()
    connection = Connection(loop, penstock.Timeouts(min_rate=(100, 1)))
    connection.has_head, connection.left = True, left

    def drip() -> None:
        connection.get_some()
        loop.call_later(0.02, drip)

    if taken == "at each look":
        drip()
    began = loop.now
    loop.run(lambda: connection.failed is not None or loop.now > began + 1.5)
    assert isinstance(connection.failed and connection.failed[1], penstock.TooSlow) is slow
