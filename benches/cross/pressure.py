"""Swap, beyond the memory that a cgroup may hold: what is there, or made for the time where this machine permits it."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benches.cross.cgroups import NotPermitted

SWAPS = Path("/proc/swaps")
SWAP = "1G"


@contextmanager
def swap() -> Iterator[str]:
    """What there is, or compressed memory for the time."""
    if len(SWAPS.read_text().splitlines()) > 1:
        yield "the machine's"
        return
    with ExitStack() as stack:
        device = _run("zramctl", "--find", "--size", SWAP)
        stack.callback(_run, "zramctl", "--reset", device)
        _run("mkswap", device)
        _run("swapon", device)
        stack.callback(_run, "swapoff", device)
        yield f"zram, {SWAP}"


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise NotPermitted(f"there is no swap, and no {command[0]}(8) to make some") from None
    except subprocess.CalledProcessError as error:
        raise NotPermitted(f"there is no swap, and `{' '.join(command)}` says: {error.stderr.strip()}") from None
    return done.stdout.strip()
