"""asyncio HTTP and blocking calls that can't run you out of memory, threads or time."""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if sys.platform == "win32" or sys.implementation.name != "cpython":
    raise ImportError(
        f"penstock runs on CPython, on Linux and macOS, with asyncio: {sys.implementation.name} on {sys.platform} is "
        "not supported (nor are Windows and trio)"
    )
if "t" in sys.abiflags:
    raise ImportError("penstock runs on CPython with its GIL: free-threaded builds are not supported")

from penstock._native import BUILD_PROFILE, __version__, file_pool_stats, slab_stats, thread_stats
from penstock.blocking import (
    BlockingPermit,
    Direct,
    Dispatch,
    DispatchPool,
    Permit,
    Policy,
    Semaphore,
    blocking_permit,
    default_pool,
    dispatch,
    dispatch_or_permit,
    register,
    registered,
    run_blocking,
)
from penstock.body import AsyncBodySink, BodyImage, BodySink, Budget, FilePool, Tunables, collect
from penstock.errors import *  # noqa: F403
from penstock.errors import __all__ as _errors

if TYPE_CHECKING:
    from penstock import barc, har, replay
    from penstock import blocking as blocking
    from penstock import body as body
    from penstock import errors as errors
    from penstock import http as http
    from penstock.blocking.handover import block_in_place, enable_handover, new_event_loop, run, set_unsupported
    from penstock.blocking.monitor import LoopMonitor, Stall
    from penstock.dialog import Dialog, Epilog, Prolog, RequestRecord, Trace
    from penstock.http import (
        BasicAuth,
        BearerAuth,
        Client,
        Headers,
        Hooks,
        Limits,
        Response,
        StreamedResponse,
        Timeouts,
        fetch,
        fetch_sync,
    )
    from penstock.replay import Replay

_CLIENT = (
    "BasicAuth",
    "BearerAuth",
    "Client",
    "Headers",
    "Hooks",
    "Limits",
    "Response",
    "StreamedResponse",
    "Timeouts",
    "fetch",
    "fetch_sync",
)
_HANDOVER = ("block_in_place", "enable_handover", "new_event_loop", "run", "set_unsupported")
_LAZY = {
    **dict.fromkeys(_CLIENT, "penstock.http"),
    **dict.fromkeys(("Dialog", "Epilog", "Prolog", "RequestRecord", "Trace"), "penstock.dialog"),
    **dict.fromkeys(_HANDOVER, "penstock.blocking.handover"),
    **dict.fromkeys(("LoopMonitor", "Stall"), "penstock.blocking.monitor"),
    "Replay": "penstock.replay",
}

__all__ = [
    "BUILD_PROFILE",
    "AsyncBodySink",
    "BasicAuth",
    "BearerAuth",
    "BlockingPermit",
    "BodyImage",
    "BodySink",
    "Budget",
    "Client",
    "Dialog",
    "Direct",
    "Dispatch",
    "DispatchPool",
    "Epilog",
    "FilePool",
    "Headers",
    "Hooks",
    "Limits",
    "LoopMonitor",
    "Permit",
    "Policy",
    "Prolog",
    "Replay",
    "RequestRecord",
    "Response",
    "Semaphore",
    "Stall",
    "StreamedResponse",
    "Timeouts",
    "Trace",
    "Tunables",
    "__version__",
    "barc",
    "block_in_place",
    "blocking_permit",
    "collect",
    "default_pool",
    "dispatch",
    "dispatch_or_permit",
    "enable_handover",
    "fetch",
    "fetch_sync",
    "har",
    "new_event_loop",
    "register",
    "registered",
    "replay",
    "run",
    "run_blocking",
    "set_unsupported",
    "stats",
    *_errors,
]


def stats() -> dict[str, Any]:
    """What the process holds.

    `slabs` in bytes (lent, idle, held, unwritten) and in number (recycled, mapped); the files of all `file_pools`; the
    process's `budget` (ram, disk and files: limit, used, peak); penstock's `threads` (how many of which kind, how many
    in all as `used`, and the most that there can be with the present pools and loops as `limit`); and under `handover`
    how often `block_in_place` was refused, and how often it let a loop stand still.
    """
    # Not imported for this.
    handover = sys.modules.get("penstock.blocking.handover")
    return {
        "slabs": slab_stats(),
        "file_pools": file_pool_stats(),
        "budget": Budget.shared().stats(),
        "threads": thread_stats(),
        "handover": handover.fallen_back() if handover else {"refused": 0, "direct": 0},
    }


if not TYPE_CHECKING:
    # Type checkers would take every name that is asked for, misspelt ones too, for one that this gives.

    def __getattr__(name: str) -> Any:
        # The client is imported when it is first asked for: programs that only dispatch don't pay for it. So are
        # archives.
        if name in ("barc", "har", "http", "replay"):
            return importlib.import_module(f"penstock.{name}")
        if name in _LAZY:
            return getattr(importlib.import_module(_LAZY[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    # A star import would put `http` in the place of the standard library's.
    return sorted((*__all__, "errors", "http"))
