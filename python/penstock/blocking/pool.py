"""`DispatchPool` with the face of a `concurrent.futures.Executor`."""

from __future__ import annotations

from concurrent.futures import Executor

from penstock import _native

__all__ = ["DispatchPool"]


class DispatchPool(_native.DispatchPool, Executor):
    """A fixed number of threads with one bounded queue, for blocking functions and penstock's own native work.

    Args:
        threads: How many; `max_workers` is another name. By default min(32, usable CPUs + 4), by affinity and cgroup
            quota.
        queue_length: So many jobs may wait for a thread, 16,384 by default. 0 makes no threads and needs `"caller"`.
        overflow: What happens when the queue is full. `"wait"`: the await goes on waiting, threads that submit are
            blocked, and `dispatch` and `submit` on a loop's thread raise `PoolFull`. `"refuse"`: `PoolFull`.
            `"caller"`: the oldest job runs on the calling thread, but never on one that runs a loop, where it is
            `PoolFull`.
        drain_threads: How many threads may take over sockets beside the others, started at first need.
        name_prefix: A thread's name is this and its index; `penstock-N-` by default.
        after_start: Called with the index on each thread before its first job; what it raises fails the constructor.
        before_stop: Called with the index on each thread after its last job.
        stack_size: Of each thread, in bytes; the platform's by default.

    The threads start with the constructor. `close()` (or `with`, or `await aclose()`, or `async with`) lets queued jobs
    run and waits for the threads; a pool that is dropped unclosed warns. At the interpreter's exit queued jobs run. In
    a forked child the threads start afresh with the first job, and what was queued is the parent's alone.
    """

    __slots__ = ()
