"""`block_in_place` (experimental): a task blocks its thread, and the event loop goes on in another.

Here is the loop whose turns are written for that, and what decides whether it can be done. Who has the loop when is
decided by `Baton`, in the extension. A turn is CPython's own `BaseEventLoop._run_once`, and relies on names of asyncio
that are private: so it is tied to the versions in `TESTED`.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import heapq
import logging
import math
import selectors
import sys
import threading
import types
import warnings
from asyncio import base_events as _base_events
from asyncio import constants
from collections.abc import Callable, Coroutine
from typing import Any, Literal, ParamSpec, TypedDict, TypeVar, Unpack, cast

from penstock._native import Baton, Permit, _stand_still, _try_in_place, block_in_place
from penstock.errors import HandoverError

__all__ = [
    "HandoverEventLoop",
    "Unsupported",
    "block_in_place",
    "enable_handover",
    "new_event_loop",
    "run",
    "set_unsupported",
]

P = ParamSpec("P")
T = TypeVar("T")

base_events: Any = _base_events

Unsupported = Literal["error", "direct", "stand"]
"""The last is the second, without a warning."""

TESTED = {(3, 11), (3, 12), (3, 13), (3, 14), (3, 15)}
"""The versions of CPython whose loop this one's turn was compared with, and that the tests run on."""

THRESHOLD = 200e-6
"""A function that takes more seconds is slow, and the loop goes on without it."""

MAX_CARRIERS = 32
IDLE_SECONDS = 10.0

logger = logging.getLogger("asyncio")

_warned = False
_lock = threading.Lock()
_fallen_back = {"refused": 0, "direct": 0}


def set_unsupported(setting: Literal["error", "direct"], /) -> Literal["error", "direct"]:
    """What `block_in_place` does where it can't hand the loop over: on other loops than penstock's, in callbacks that
    belong to no task, on an untested CPython, and when all carriers are blocked.

    Args:
        setting: "error" (the default) raises `HandoverError`; "direct" calls the function while the loop stands still,
            and warns once.

    Returns:
        The setting before.
    """
    if setting not in ("error", "direct"):
        raise ValueError(f'{setting!r}: must be "error" or "direct"')
    return "direct" if _stand_still(setting == "direct") else "error"


def _is_tested() -> bool:
    return sys.version_info[:2] in TESTED


def _has_own_turn(kind: type[asyncio.AbstractEventLoop]) -> bool:
    return getattr(kind, "_run_once", None) is base_events.BaseEventLoop._run_once


class _Handover(asyncio.SelectorEventLoop):
    """What a selector loop needs to be handed from thread to thread.

    Only the thread that has the baton touches anything of the loop's; see `Baton`.
    """

    # asyncio's, and private.
    _ready: collections.deque[Any]
    _scheduled: list[Any]
    _timer_cancelled_count: int
    _selector: selectors.BaseSelector
    _process_events: Callable[[Any], None]
    _clock_resolution: float
    _stopping: bool
    _debug: bool
    _thread_id: int | None
    _current_handle: Any
    _asyncgen_firstiter_hook: Callable[[Any], None]
    _asyncgen_finalizer_hook: Callable[[Any], None]

    _baton: Baton
    _held: list[Any]
    """Handles whose context a blocked thread is in: it can't be entered twice."""
    _interrupt: BaseException | None
    """What ended a carrier's turns, for the thread that the loop was started on."""

    def _prepare(self, max_carriers: int, threshold: float, idle: float) -> None:
        self._held = []
        self._interrupt = None
        self._baton = Baton(self, max_carriers=max_carriers, threshold=threshold, idle=idle)

    # On the thread that the loop was started on

    def _run_once(self) -> None:
        baton = self._baton
        if baton.wanted:
            baton.take_turns(self)
        if self._interrupt is None:
            self._turn()
        if self._interrupt is not None:
            interrupt, self._interrupt = self._interrupt, None
            raise interrupt

    def close(self) -> None:
        if not self.is_running() and not self.is_closed():
            super().close()
            self._held.clear()
            self._baton.close()
        else:
            super().close()

    # On carriers

    def _carry(self) -> None:
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(self._asyncgen_firstiter_hook, self._asyncgen_finalizer_hook)
        depth = sys.get_coroutine_origin_tracking_depth()
        if self._debug:
            sys.set_coroutine_origin_tracking_depth(constants.DEBUG_STACK_DEPTH)
        try:
            while self._baton.unwanted and not self._stopping and self._interrupt is None:
                self._turn()
        except BaseException as interrupt:
            self._interrupt = interrupt
        finally:
            sys.set_coroutine_origin_tracking_depth(depth)
            sys.set_asyncgen_hooks(*hooks)

    # On either

    def _turn(self) -> None:
        """CPython's `_run_once`, which stops when the loop has been in other hands, or is wanted."""
        self._drop_cancelled_timers()
        scheduled, ready = self._scheduled, self._ready
        timeout: float | None = None
        if ready or self._stopping:
            timeout = 0
        elif scheduled:
            timeout = min(max(0, scheduled[0]._when - self.time()), base_events.MAXIMUM_SELECT_TIMEOUT)
        self._process_events(self._selector.select(timeout))

        # Later than now, also where the clock's resolution is lost beside it.
        now = self.time()
        end = now + max(self._clock_resolution, math.ulp(now))
        while scheduled and scheduled[0]._when < end:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            ready.append(handle)

        baton = self._baton
        passages, away = baton.passages, baton.away
        debug = self._debug
        try:
            for _ in range(len(ready)):
                handle = ready.popleft()
                if handle._cancelled or (away and not self._can_enter(handle)):
                    continue
                self._current_handle = handle
                if debug:
                    self._run_watched(handle)
                else:
                    handle._run()
                if not baton.keeps(passages):
                    # What was counted may have been run by others.
                    break
        finally:
            self._current_handle = None

    def _drop_cancelled_timers(self) -> None:
        scheduled = self._scheduled
        count = len(scheduled)
        if (
            count > base_events._MIN_SCHEDULED_TIMER_HANDLES
            and self._timer_cancelled_count / count > base_events._MIN_CANCELLED_TIMER_HANDLES_FRACTION
        ):
            kept = []
            for handle in scheduled:
                if handle._cancelled:
                    handle._scheduled = False
                else:
                    kept.append(handle)
            heapq.heapify(kept)
            self._scheduled = kept
            self._timer_cancelled_count = 0
        else:
            while scheduled and scheduled[0]._cancelled:
                self._timer_cancelled_count -= 1
                handle = heapq.heappop(scheduled)
                handle._scheduled = False

    def _can_enter(self, handle: Any) -> bool:
        try:
            handle._context.run(_nothing)
        except RuntimeError:
            # A task would be lost for ever: held back until somebody has come back.
            self._held.append(handle)
            return False
        return True

    def _run_watched(self, handle: Any) -> None:
        """In debug mode: one thread runs the loop, and callbacks that keep it are named."""
        if self._thread_id != threading.get_ident():
            raise AssertionError(f"{self!r} is run by two threads")
        passages, begun = self._baton.passages, self.time()
        handle._run()
        took = self.time() - begun
        if took >= self.slow_callback_duration and self._baton.passages == passages:
            logger.warning("Executing %s took %.3f seconds", base_events._format_handle(handle), took)

    def _check_thread(self) -> None:
        # A signal's handler runs on the main thread wherever that is, as Runner's does, which cancels a task.
        if self._baton.away and threading.get_ident() == threading.main_thread().ident:
            return
        super()._check_thread()  # type: ignore[misc]

    # For users

    def handover_stats(self) -> dict[str, int]:
        """How the loop was handed over since it was made.

        `blocks` counts functions entered; `taken` those that a carrier went on with the loop for, of these `at_once`
        those of functions known to be slow; `swapped` those for which the loop went to a thread that waited for it;
        `capped` the times that no carrier was left. `carriers`, `idle` of them, and `away`, threads in functions, are
        of now.
        """
        return self._baton.stats()


class HandoverEventLoop(_Handover):
    """asyncio's selector loop, which `block_in_place` can hand from thread to thread: see `new_event_loop`."""

    def __init__(
        self,
        *,
        max_carriers: int = MAX_CARRIERS,
        threshold: float = THRESHOLD,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        super().__init__()
        try:
            self._prepare(max_carriers, threshold, idle_seconds)
        except BaseException:
            super(_Handover, self).close()
            raise


def _nothing() -> None:
    pass


def unsupported(
    why: str,
    otherwise: Unsupported,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    direct: str = 'penstock.set_unsupported("direct")',
) -> Any:
    """A call for which the loop can't be handed over, and the setting by which it would go on. Called by the extension,
    too."""
    global _warned
    with _lock:
        _fallen_back["refused" if otherwise == "error" else "direct"] += 1
    if otherwise == "error":
        raise HandoverError(f"block_in_place can't hand the loop over: {why}; {direct} lets the loop stand still")
    if otherwise == "direct" and not _warned:
        _warned = True
        warnings.warn(f"block_in_place lets the loop stand still: {why}", RuntimeWarning, stacklevel=2)
    return fn(*args, **kwargs)


def run_permitted(permit: Permit, call: Callable[[], T]) -> asyncio.Task[T]:
    """What `Permit.run` gives where the function is to run in place: begun by a callback, it has a task, too."""
    made: list[bool] = []
    task = asyncio.get_running_loop().create_task(_run_permitted(permit, call, made))
    made.append(True)
    return task


async def _run_permitted(permit: Permit, call: Callable[[], T], made: list[bool]) -> T:
    loop = asyncio.get_running_loop()
    if not made:
        # An eager task, still in the step of its creator, which goes on first and may be a callback.
        await asyncio.sleep(0)
    async with permit.semaphore:
        result: tuple[T] | str = "this loop isn't penstock.run's"
        if isinstance(loop, _Handover):
            result = _try_in_place(call, permit.on_unsupported == "direct")
        if not isinstance(result, str):
            return result[0]
        if permit.on_unsupported != "dispatch":
            way = 'Permit(on_unsupported="direct")'
            return cast(T, unsupported(result, permit.on_unsupported, call, (), {}, way))
    return await permit._dispatch(call)


def new_event_loop(
    *,
    handover: bool = True,
    max_carriers: int = MAX_CARRIERS,
    threshold: float = THRESHOLD,
    idle_seconds: float = IDLE_SECONDS,
) -> asyncio.AbstractEventLoop:
    """A selector event loop that `block_in_place` can hand from thread to thread.

    Args:
        handover: False gives asyncio's own.
        max_carriers: Threads at most that run the loop while others are blocked; more blocked than that, and
            `set_unsupported` says what happens.
        threshold: Seconds after which a function is slow.
        idle_seconds: A carrier that wasn't needed for so long ends.

    Warns:
        RuntimeWarning: This CPython wasn't tested, or something has changed asyncio's loops, as nest_asyncio does; the
            loop is asyncio's own then.
    """
    why = ""
    if not _is_tested():
        why = f" on CPython {'.'.join(map(str, sys.version_info[:2]))}: it wasn't tested with it"
    elif not _has_own_turn(asyncio.SelectorEventLoop):
        why = ": something in this process has changed the turn of asyncio's loops"
    if handover and why:
        warnings.warn(f"no hand-over{why}", RuntimeWarning, stacklevel=2)
    if not handover or why:
        return asyncio.SelectorEventLoop()
    return HandoverEventLoop(max_carriers=max_carriers, threshold=threshold, idle_seconds=idle_seconds)


async def enable_handover(
    *, max_carriers: int = MAX_CARRIERS, threshold: float = THRESHOLD, idle_seconds: float = IDLE_SECONDS
) -> bool:
    """Lets `block_in_place` hand the running loop over, if it is a selector loop of asyncio's. Await it once, early.

    Returns:
        Whether it can be done from now on: not on uvloop, and not on a CPython that wasn't tested.
    """
    loop = asyncio.get_running_loop()
    if isinstance(loop, _Handover):
        # Another task may have enabled it in the turn that is under way.
        await asyncio.sleep(0)
        return True
    if not (isinstance(loop, asyncio.SelectorEventLoop) and _has_own_turn(type(loop)) and _is_tested()):
        return False
    made = cast(_Handover, loop)
    # Refused options leave the loop as it was.
    _Handover._prepare(made, max_carriers, threshold, idle_seconds)
    loop.__class__ = type(f"Handover{type(loop).__name__}", (_Handover, type(loop)), {})
    # The turn that is under way is asyncio's. In debug mode it notes which handle it runs, and what blocks in it would
    # pass for a step of ours, as would an eager task in the rest of this step.
    debug, made._debug, made._current_handle = made._debug, False, None
    try:
        await asyncio.sleep(0)
    finally:
        made._debug = debug
    return True


def fallen_back() -> dict[str, int]:
    """For `penstock.stats()`: how often a loop could not be handed over, and the call was `refused`, or the loop stood
    still for it, `direct`."""
    with _lock:
        return dict(_fallen_back)


class _Runner(asyncio.Runner):  # type: ignore[misc]
    _interrupt_count: int

    def _on_sigint(self, signum: int, frame: types.FrameType | None, main_task: asyncio.Task[Any]) -> None:
        # asyncio's cancels the task here and now, while another thread may have the loop.
        self._interrupt_count += 1
        if self._interrupt_count == 1 and not main_task.done():
            with contextlib.suppress(RuntimeError):
                self.get_loop().call_soon_threadsafe(_interrupt, main_task)
                return
        raise KeyboardInterrupt


def _interrupt(main_task: asyncio.Task[Any]) -> None:
    # The step in which the Ctrl-C came was its last. asyncio's runner raises then, too.
    if not main_task.cancel():
        raise KeyboardInterrupt


class _Options(TypedDict, total=False):
    """Those of `new_event_loop`."""

    handover: bool
    max_carriers: int
    threshold: float
    idle_seconds: float


def run(main: Coroutine[Any, Any, T], /, *, debug: bool | None = None, **options: Unpack[_Options]) -> T:
    """`asyncio.run` on penstock's loop, for `block_in_place`.

    Args:
        main: The coroutine to run.
        debug: asyncio's debug mode.
        options: As for `new_event_loop`.
    """
    if asyncio._get_running_loop() is not None:
        main.close()
        # As in a notebook, whose loop runs all the time.
        raise RuntimeError(
            "penstock.run() can't be called from a running event loop: await enable_handover() on that one"
        )
    with _Runner(debug=debug, loop_factory=functools.partial(new_event_loop, **options)) as runner:
        return runner.run(main)
