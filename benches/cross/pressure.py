"""A cgroup that bounds memory, and swap beyond it: what cooperative swapping needs, where this machine permits it."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

OWN = Path("/proc/self/cgroup")
MOUNTS = Path("/proc/self/mountinfo")
SWAPS = Path("/proc/swaps")
SWAP = "1G"


class NotPermitted(Exception):
    """What was tried, and what became of it."""


@dataclass(frozen=True)
class Groups:
    """Makes cgroups below the one that this process is in."""

    parent: Path
    limit_file: str

    @contextmanager
    def limited(self, name: str, limit: int) -> Iterator[Path]:
        """One that holds no more than `limit` bytes; what runs in it has ended when it goes."""
        made = self.parent / f"penstock-{name}"
        try:
            made.mkdir(exist_ok=True)
            (made / self.limit_file).write_text(str(limit))
        except OSError as error:
            raise NotPermitted(f"a cgroup with a limit, {made}: {error.strerror}") from None
        try:
            yield made
        finally:
            made.rmdir()


def groups() -> Groups:
    """By the memory controller of version 1, else by version 2."""
    for line in OWN.read_text().splitlines() if OWN.exists() else ():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return Groups(_mounted("cgroup", "memory") / path.lstrip("/"), "memory.limit_in_bytes")
        if not controllers and (parent := _mounted("cgroup2", "") / path.lstrip("/")).is_dir():
            controlled = parent / "cgroup.subtree_control"
            if "memory" not in controlled.read_text().split():
                try:
                    controlled.write_text("+memory")
                except OSError as error:
                    raise NotPermitted(f"+memory in {controlled}: {error.strerror}") from None
            return Groups(parent, "memory.max")
    raise NotPermitted("this process is in no cgroup that controls memory")


def _mounted(kind: str, option: str) -> Path:
    for line in MOUNTS.read_text().splitlines():
        mount, _, source = line.partition(" - ")
        found, _, options = source.split(" ", 2)
        if found == kind and (not option or option in options.split(",")):
            return Path(mount.split()[4])
    raise NotPermitted(f"no file system of the kind {kind} is mounted")


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
