"""How a policy runs an operation of the extension: where a Python function would be called with the interpreter's lock,
an operation runs on the pool's threads without it. Bodies and the client call this; users call `policy.run`.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from penstock._native import Direct, Dispatch, Op
from penstock.blocking.policy import Policy

__all__ = ["default_policy", "ignored", "perform"]

T = TypeVar("T")

default_policy: Policy = Dispatch()


async def perform(policy: Policy | None, op: Op[T]) -> T:
    """The result of `op`, run by `policy`; `None` is the process's default pool.

    Cancelled before it has begun, `op` never runs; after that it runs to its end, and its result is dropped.
    """
    policy = policy or default_policy
    if isinstance(policy, Direct):
        return policy.perform(op)
    if isinstance(policy, Dispatch):
        return await policy.perform(op)
    # A permit is held until the operation has really ended, whoever waits for it.
    return await policy.run(op)


def ignored(task: asyncio.Task[Any]) -> None:
    """A callback for a task that nobody may be left to ask: asyncio would log what it failed with."""
    if not task.cancelled():
        task.exception()
