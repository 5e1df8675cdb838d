"""What a program under test may have."""

from __future__ import annotations

import os
import resource
from pathlib import Path

__all__ = ["allow_memory"]


def allow_memory(more: int | None) -> None:
    """So many bytes of addresses beyond those that it has; `None` is as many as it likes."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (hard if more is None else size + more, hard))
