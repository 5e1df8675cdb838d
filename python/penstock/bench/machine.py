"""The machine that is measured on: its processors, what else runs on them, and what a reader of results must know.

Pinning, the load of others and the description of the environment live here; what is done with them is the driver's.
Everything that only Linux tells is None elsewhere.
"""

import contextlib
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

import penstock
from penstock.bench.results import Environment

CPUINFO = Path("/proc/cpuinfo")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
MOUNTS = Path("/proc/self/mountinfo")
STAT = Path("/proc/stat")

MAX_DESCRIPTORS = 65536
SLEEP_SECONDS = 1.0


def processors() -> tuple[frozenset[int] | None, frozenset[int] | None]:
    """The CPUs of the server and those of the clients: the first and the second, or None where nothing can be pinned.

    Client and server on the same two CPUs cost 50 to 120 ms a batch in any order, and the order is noise: so each has
    its own, and on larger machines the others stay idle.
    """
    if sys.platform != "linux":
        return None, None
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        return None, None
    return frozenset(usable[:1]), frozenset(usable[1:2])


@contextlib.contextmanager
def pinned(cpus: frozenset[int] | None) -> Iterator[None]:
    """Pin this thread for the time of a spawn: the child inherits it before its first instruction."""
    if cpus is None or sys.platform != "linux":
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def raise_descriptor_limit() -> None:
    """Lift the soft limit: 500 connections with a file each are more than the usual 1024 leave room for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def busy_ms() -> float | None:
    """Milliseconds that all CPUs together have been busy since boot, those that the hypervisor stole included."""
    if not STAT.exists():
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, STAT.read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) * 1000 / os.sysconf("SC_CLK_TCK")


def process_ms(pid: int) -> float:
    """Milliseconds of CPU that a process with its threads has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def counters(pid: int) -> dict[str, int]:
    """What the kernel has counted of a process that waits: calls of write(2) and its kin, and major page faults."""
    io, stat = Path(f"/proc/{pid}/io"), Path(f"/proc/{pid}/stat")
    found = {}
    # Who reads what the process wrote is woken before the kernel counts that write: not so once it sleeps.
    deadline = time.monotonic() + SLEEP_SECONDS
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "S" and time.monotonic() < deadline:
        time.sleep(0.001)
    if io.exists():
        found["writes"] = int(io.read_text().partition("syscw:")[2].split()[0])
    if stat.exists():
        found["major_faults"] = int(stat.read_text().rpartition(")")[2].split()[9])
    return found


def file_system(directory: Path) -> str:
    """The type of the file system that holds `directory`: "ext4", "tmpfs", or "unknown"."""
    if not MOUNTS.exists():
        return "unknown"
    device = directory.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in MOUNTS.read_text().splitlines():
        mount, _, source = line.partition(" - ")
        if mount.split()[2] == wanted:
            return source.split()[0]
    return "unknown"


def environment(packages: Sequence[str], stores: Sequence[Path]) -> Environment:
    """What a reader needs to know about the machine and the versions, as far as the system tells it."""
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return {
        "cpu": _cpu_model(),
        "cpus": usable or 1,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": f"{platform.system()} {platform.release()}",
        "governor": _first_line(GOVERNOR),
        "huge_pages": _first_line(HUGE_PAGES),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {name: version for name in packages if (version := _version(name))},
        "rustc": _output("rustc", "--version"),
        "commit": commit(),
        "build_profile": penstock.BUILD_PROFILE,
        "stores": {str(store): file_system(store) for store in stores},
    }


def _cpu_model() -> str:
    if CPUINFO.exists():
        for line in CPUINFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _first_line(path: Path) -> str | None:
    return path.read_text().strip() if path.exists() else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the working tree that this file is part of, with a plus if there are changes; None for what is
    installed."""
    here = Path(__file__)
    git = ("git", "-C", str(here.parent))
    # What is installed may lie in somebody else's tree, which doesn't know it.
    if not _output(*git, "ls-files", here.name):
        return None
    head = _output(*git, "rev-parse", "HEAD")
    if head and _output(*git, "status", "--porcelain", "--untracked-files=no"):
        return f"{head}+"
    return head


def _output(program: str, *arguments: str) -> str | None:
    if shutil.which(program) is None:
        return None
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None if done.returncode == 0 else None
