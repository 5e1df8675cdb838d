"""`blocking_permit`: the right to block the calling thread once, as a block of code that a task waits to enter."""

from __future__ import annotations

import asyncio
import sys
import traceback

from penstock._native import BlockingPermit, Semaphore

__all__ = ["BlockingPermit", "blocking_permit"]

ORIGIN_DEPTH = 10
"""Frames that are kept of where a permit was made, in asyncio's debug mode."""


def blocking_permit(semaphore: Semaphore, /) -> BlockingPermit:
    """A permit to block the calling thread once.

    ```python
    async with penstock.blocking_permit(semaphore) as permit:
        rows = permit.run(cursor.fetchall)
    ```

    The permit is taken when the block is entered (or the object is awaited), in turn with everybody who waits for the
    semaphore, without suspending if one is free. `permit.run(fn, *args, **kwargs)` then calls `fn` **on this thread**:
    if that is an event loop's, the loop stands still until `fn` returns, unless it is penstock's own (`penstock.run`),
    which goes on in another thread. The permit goes back when `fn` has returned.
    `permit.enter()` does for a piece of code what `run` does for a function: the permit goes back when the block is
    left.

    Raises:
        SemaphoreClosed: The semaphore is closed, now or while it is waited for.
        PermitError: It is acquired or entered a second time, or entered before it was acquired. In asyncio's debug mode
            the message says where the permit was made.

    Warns:
        RuntimeWarning: The block was left without an exception, or the permit dropped, and it was never entered; or
            nobody ever awaited it. In asyncio's debug mode the message says where the permit was made.

    Cancelled while it waits, a task leaves the queue; what was handed over already goes to the next. Source: upstream's
    `blocking_permit_future`.
    """
    loop = asyncio._get_running_loop()
    if loop is None or not loop.get_debug():
        return BlockingPermit(semaphore)
    stack = traceback.extract_stack(sys._getframe(1), limit=ORIGIN_DEPTH)
    return BlockingPermit(semaphore, "".join(stack.format()))
