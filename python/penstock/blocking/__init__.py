"""Blocking work beside an event loop: a bounded pool of threads, permits, and the policies that choose between them.

What runs is in the extension; here are the names, and the hooks by which the interpreter tells the pools of its exit
and of a fork. Importing this starts no thread.
"""

import atexit
import collections.abc
import os
import threading

from penstock._native import (
    Acquire,
    Future,
    Semaphore,
    _after_fork_in_child,
    _after_fork_in_parent,
    _join_carriers,
    _join_pools,
    default_pool,
)
from penstock.blocking.permit import BlockingPermit, blocking_permit
from penstock.blocking.policy import Direct, Dispatch, Permit, Policy
from penstock.blocking.pool import DispatchPool
from penstock.blocking.registry import dispatch, dispatch_or_permit, register, registered, run_blocking

__all__ = [
    "BlockingPermit",
    "Direct",
    "Dispatch",
    "DispatchPool",
    "Future",
    "Permit",
    "Policy",
    "Semaphore",
    "blocking_permit",
    "default_pool",
    "dispatch",
    "dispatch_or_permit",
    "register",
    "registered",
    "run_blocking",
]

collections.abc.Coroutine.register(Future)
collections.abc.Coroutine.register(Acquire)
os.register_at_fork(after_in_child=_after_fork_in_child, after_in_parent=_after_fork_in_parent)

# Twice: before the interpreter waits for its threads, as concurrent.futures does, while jobs may still use executors of
# all kinds; and once more for pools that the last threads made.
if hasattr(threading, "_register_atexit"):
    threading._register_atexit(_join_pools)
atexit.register(_join_pools)
# Once: until the interpreter has waited for its threads, they may run loops that carriers go on with.
atexit.register(_join_carriers)
