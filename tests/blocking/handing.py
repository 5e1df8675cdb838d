"""What the tests of `block_in_place` have in common."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import penstock
import pytest
from penstock import block_in_place
from penstock.blocking import handover

T = TypeVar("T")

needs_handover = pytest.mark.skipif(
    sys.version_info[:2] not in handover.TESTED, reason="not on this platform: an untested CPython"
)


def run(main: Coroutine[Any, Any, T], **options: Any) -> T:
    return penstock.run(asyncio.wait_for(main, 20), **options)


def stats() -> dict[str, int]:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, handover.HandoverEventLoop)
    return loop.handover_stats()


def remembered() -> set[object]:
    """What tells functions apart that were seen to be slow."""
    loop: Any = asyncio.get_running_loop()
    slow: set[object] = loop._baton._slow
    return slow


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def blocking(fn: Callable[..., T], *args: Any) -> T:
    return block_in_place(fn, *args)


class Met:
    """Blocks a thread until the loop, which must go on for that, says so."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> int:
        self.entered.set()
        assert self.opened.wait(15), "the loop stands still"
        return threading.get_ident()
