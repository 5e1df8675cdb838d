"""asyncio HTTP and blocking calls that can't run you out of memory, threads or time."""

from penstock._native import BUILD_PROFILE, __version__
from penstock.blocking import DispatchPool, run_blocking

__all__ = ["BUILD_PROFILE", "DispatchPool", "__version__", "run_blocking"]
