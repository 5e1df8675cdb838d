"""Signals and Ctrl-C while the loop is in other hands."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from penstock import block_in_place

from .handing import Met, needs_handover, run

pytestmark = needs_handover


CTRL_C = """
import asyncio, os, signal, sys, threading, time
import greenlet
import penstock

async def main():
{body}

def asyncio_runner():
    with asyncio.Runner(loop_factory=penstock.new_event_loop, debug=True) as runner:
        runner.run(main())

try:
    {run}
except KeyboardInterrupt:
    print("interrupted", threading.active_count())
"""

RUNNERS = {
    "run": "penstock.run(main())",
    "debug": "penstock.run(main(), debug=True)",
    "Runner": "asyncio_runner()",
}
BODIES = {
    # The main thread is in the function, a carrier has the loop: the task is cancelled at its next await.
    "in the function": """
    def kill():
        time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.02)
    async def ticks():
        while True:
            await asyncio.sleep(0.001)
    task = asyncio.create_task(ticks())
    penstock.block_in_place(kill)
    await asyncio.sleep(10)
    """,
    # The main thread waits for the loop, which a carrier keeps.
    "while it waits for the loop": """
    def back():
        time.sleep(0.02)
    async def keeps():
        end = time.monotonic() + 0.2
        os.kill(os.getpid(), signal.SIGINT)
        while time.monotonic() < end:
            time.sleep(0.001)
    loop = asyncio.get_running_loop()
    loop.call_later(0.01, lambda: loop.create_task(keeps()))
    penstock.block_in_place(back)
    await asyncio.sleep(10)
    """,
    # A carrier is blocked, and the main thread has the loop.
    "while a carrier is blocked": """
    async def blocks():
        penstock.block_in_place(time.sleep, 0.05)
        await asyncio.sleep(0)
        penstock.block_in_place(time.sleep, 0.05)
    tasks = [asyncio.create_task(blocks()) for _ in range(3)]
    asyncio.get_running_loop().call_later(0.02, os.kill, os.getpid(), signal.SIGINT)
    await asyncio.sleep(10)
    """,
}


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("body", BODIES)
def test_ctrl_c_ends_the_program(script: Callable[..., Any], body: str, runner: str) -> None:
    done = script(CTRL_C.format(body=BODIES[body], run=RUNNERS[runner]))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "interrupted 1\n"
    assert "Traceback" not in done.stderr


LAST_STEP = """
import asyncio, os, signal
import penstock

async def main():
    await asyncio.sleep(0)
    {call}
    return "missed"

try:
    print(penstock.run(main()))
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize(
    "call",
    ["os.kill(os.getpid(), signal.SIGINT)", "penstock.block_in_place(os.kill, os.getpid(), signal.SIGINT)"],
    ids=["in the task", "in the function"],
)
def test_ctrl_c_in_the_last_step_of_the_program_is_not_lost(script: Callable[..., Any], call: str) -> None:
    done = script(LAST_STEP.format(call=call))
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


SECOND = """
import asyncio, os, signal, threading, time
import greenlet
import penstock

async def main():
    def twice():
        time.sleep(0.01)
        for _ in range({interrupts}):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
    async def other():
        penstock.block_in_place(time.sleep, 0.1)
    task = asyncio.create_task(other())
    try:
        penstock.block_in_place(twice)
    except KeyboardInterrupt:
        assert asyncio.current_task() is not None
        print("in the task", end=" ")
        raise

try:
    penstock.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""


def test_a_second_ctrl_c_ends_the_function_and_the_task_has_the_loop_again(script: Callable[..., Any]) -> None:
    done = script(SECOND.format(interrupts=2))
    assert (done.returncode, done.stdout) == (0, "in the task interrupted\n"), done.stderr


ON_A_CARRIER = """
import asyncio, os, signal, threading, time
import greenlet
import penstock

async def main():
    def interrupted():
        assert threading.current_thread() is not threading.main_thread()
        # The main thread comes back, and runs the loop.
        go.set()
        time.sleep(0.05)
        for _ in range({interrupts}):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
        print("returned", end=" ")
    async def holds_the_main_thread():
        penstock.block_in_place(go.wait)
    go = threading.Event()
    holds = asyncio.create_task(holds_the_main_thread())
    while threading.current_thread() is threading.main_thread():
        await asyncio.sleep(0.001)
    penstock.block_in_place(interrupted)
    print("went on", end=" ")
    await asyncio.sleep(10)
    print("missed")

try:
    penstock.run(main())
except KeyboardInterrupt:
    print("interrupted", threading.active_count())
"""


@pytest.mark.parametrize("interrupts", [1, 2])
def test_ctrl_c_lets_a_function_on_a_carrier_return_and_then_ends_the_program(
    script: Callable[..., Any], interrupts: int
) -> None:
    done = script(ON_A_CARRIER.format(interrupts=interrupts))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "returned went on interrupted 1\n"
    assert "Traceback" not in done.stderr


SPINS = """
import asyncio, os, signal, threading, time
import greenlet
import penstock

spinning, ended = threading.Event(), threading.Event()

async def main():
    async def spins():
        assert threading.current_thread() is not threading.main_thread()
        spinning.set()
        try:
            while True:
                time.sleep(0.001)
        finally:
            ended.set()
    task = asyncio.create_task(spins())
    penstock.block_in_place(spinning.wait, 15)
    # Not reached: the main thread waits for the loop as long as the carrier spins.
    print("went on")

def interrupts():
    assert spinning.wait(15)
    while not ended.wait(0.1):
        os.kill(os.getpid(), signal.SIGINT)

insists = threading.Thread(target=interrupts)
insists.start()
try:
    penstock.run(main())
except KeyboardInterrupt:
    print("interrupted")
insists.join()
"""


def test_ctrl_c_again_and_again_ends_a_callback_on_a_carrier_that_keeps_the_main_thread_waiting(
    script: Callable[..., Any],
) -> None:
    done = script(SPINS)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


def test_handlers_of_signals_run_on_whichever_thread_has_the_loop() -> None:
    async def main() -> None:
        met, loop = Met(), asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, met.opened.set)
        try:
            loop.call_later(0.01, signal.raise_signal, signal.SIGUSR1)
            assert block_in_place(met) == threading.get_ident()
        finally:
            loop.remove_signal_handler(signal.SIGUSR1)

    run(main())
