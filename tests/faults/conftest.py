"""Programs of their own, in file systems and networks of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ELSEWHERE

ROOT = Path(__file__).parents[2]

# ip(8), tc(8), mkfs.ext4(8) and mkfs.btrfs(8) are there.
PROGRAMS = f"{os.environ['PATH']}:/usr/sbin:/sbin"

Run = Callable[..., subprocess.CompletedProcess[str]]


def namespace(what: str, *command: str, timeout: float = 25, users: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs a command in a namespace of its own, as the root of a namespace of `users`, or as who this is."""
    return subprocess.run(
        ["unshare", *(["--user", "--map-root-user"] if users else []), what, *command],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PATH": PROGRAMS},
    )


@pytest.fixture(scope="session")
def mounts() -> None:
    """File systems can be mounted in a user namespace."""
    try:
        tried = namespace("--mount", "mount", "-t", "tmpfs", "-o", "size=1m", "none", "/mnt")
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
        return namespace("--mount", "sh", "-c", shell, "sh", *program)

    return run


def _disk(tmp_path: Path, kind: str, options: str = "", then: str = "true") -> Run:
    """Runs a program with a disk at `sys.argv[1]`: a small file system on a loop device."""
    if os.geteuid() != 0:
        pytest.skip(f"{ELSEWHERE}: only root mounts disks")
    if shutil.which(f"mkfs.{kind}", path=PROGRAMS) is None:
        pytest.skip(f"no mkfs.{kind}(8)")
    device, directory = str(tmp_path / "device"), str(tmp_path / "disk")
    (tmp_path / "disk").mkdir()

    def mounted(*command: str) -> subprocess.CompletedProcess[str]:
        # Without its name the device goes with the mount, and that with the namespace.
        shell = (
            f'truncate --size=128M "{device}" && mkfs.{kind} -q "{device}" && mount -o loop,{options} "{device}" '
            f'"{directory}" && rm "{device}" && {then} && exec "$@"'
        )
        return namespace("--mount", "sh", "-c", shell, "sh", *command, users=False)

    try:
        tried = mounted("true")
    except FileNotFoundError:
        pytest.skip("no unshare(1)")
    if tried.returncode != 0:
        pytest.skip(f"{ELSEWHERE}: it has no loop device to mount: {tried.stderr.strip()}")

    def run(source: str, *args: str) -> subprocess.CompletedProcess[str]:
        return mounted(sys.executable, "-W", "error", "-X", "faulthandler", "-c", source, directory, *args)

    return run


@pytest.fixture
def with_disk(tmp_path: Path) -> Run:
    """Runs a program with a disk at `sys.argv[1]`, where each write waits for it."""
    return _disk(tmp_path, "ext4", "sync")


@pytest.fixture
def with_quota(tmp_path: Path) -> Run:
    """Runs a program with a disk at `sys.argv[1]`, of which it may have 8 MiB, as root too."""
    disk = tmp_path / "disk"
    return _disk(tmp_path, "btrfs", then=f'btrfs -q quota enable "{disk}" && btrfs -q qgroup limit 8M "{disk}"')


@pytest.fixture(scope="session")
def networks() -> None:
    """Networks can be made and changed in a user namespace."""
    try:
        tried = namespace("--net", "sh", "-c", "ip link set lo up && tc qdisc show dev lo")
    except FileNotFoundError:
        pytest.skip("no unshare(1)")
    if tried.returncode != 0:
        pytest.skip(f"no networks in a user namespace here: {tried.stderr.strip()}")


@pytest.fixture
def with_network(networks: None) -> Run:
    """Runs a program in a network that has nothing but a loopback device, whose packets go by the queueing discipline
    `qdisc`."""

    def run(source: str, *args: str, qdisc: str = "") -> subprocess.CompletedProcess[str]:
        shell = "ip link set lo mtu 1500 up"
        if qdisc:
            shell += f" && tc qdisc add dev lo root {qdisc}"
            tried = namespace("--net", "sh", "-c", shell)
            if "qdisc kind is unknown" in tried.stderr or "No such file" in tried.stderr:
                pytest.skip(f"{ELSEWHERE}: its kernel has no {qdisc.split()[0]}")
        program = (sys.executable, "-W", "error", "-X", "faulthandler", "-c", source, *args)
        return namespace("--net", "sh", "-c", f'{shell} && exec "$@"', "sh", *program)

    return run
