"""asyncio HTTP and blocking calls that can't run you out of memory, threads or time."""

from penstock._native import BUILD_PROFILE, __version__
from penstock.blocking import Direct, Dispatch, DispatchPool, Permit, Policy, Semaphore, run_blocking

__all__ = [
    "BUILD_PROFILE",
    "Direct",
    "Dispatch",
    "DispatchPool",
    "Permit",
    "Policy",
    "Semaphore",
    "__version__",
    "run_blocking",
]
