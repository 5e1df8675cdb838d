"""asyncio HTTP and blocking calls that can't run you out of memory, threads or time."""

from penstock._native import BUILD_PROFILE, __version__

__all__ = ["BUILD_PROFILE", "__version__"]
