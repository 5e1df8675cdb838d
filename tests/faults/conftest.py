"""Programs of their own, in file systems of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

Run = Callable[..., subprocess.CompletedProcess[str]]


def namespace(*command: str, timeout: float = 25) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["unshare", "-Urm", *command], capture_output=True, text=True, timeout=timeout, check=False, cwd=ROOT
    )


@pytest.fixture(scope="session")
def mounts() -> None:
    """File systems can be mounted in a user namespace."""
    try:
        tried = namespace("mount", "-t", "tmpfs", "-o", "size=1m", "none", "/mnt")
    except FileNotFoundError:
        pytest.skip("no unshare(1)")
    if tried.returncode != 0:
        pytest.skip(f"no mounts in a user namespace here: {tried.stderr.strip()}")


@pytest.fixture
def with_tmpfs(mounts: None, tmp_path: Path) -> Run:
    """Runs a program with a tmpfs of 8 MiB at `sys.argv[1]`."""

    def run(source: str, *args: str) -> subprocess.CompletedProcess[str]:
        shell = f'mount -t tmpfs -o size=8m none "{tmp_path}" && exec "$@"'
        program = (sys.executable, "-W", "error", "-X", "faulthandler", "-c", source, str(tmp_path), *args)
        return namespace("sh", "-c", shell, "sh", *program)

    return run
