"""Memory cgroups for rows, one each, where this machine permits it: to bound what they hold, or to count it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

OWN = Path("/proc/self/cgroup")
MOUNTS = Path("/proc/self/mountinfo")


class NotPermitted(Exception):
    """What was tried, and what became of it."""


class _Files(NamedTuple):
    """What a version of the controller calls what is needed here: two files, and an entry of memory.stat."""

    limit: str
    usage: str
    cache: str


# https://docs.kernel.org/admin-guide/cgroup-v1/memory.html, https://docs.kernel.org/admin-guide/cgroup-v2.html#memory
FILES = {
    1: _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "cache"),
    2: _Files("memory.max", "memory.current", "file"),
}


@dataclass(frozen=True)
class Group:
    """One cgroup."""

    path: Path
    files: _Files

    @property
    def entering(self) -> tuple[str, ...]:
        """Starts a command in it, as the process that it was: the number is the shell's, which becomes the program."""
        return ("/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.path / "cgroup.procs"))

    def held(self) -> int:
        """The bytes that it holds now: without the cache of files, which costs nobody anything, but with shared memory,
        which the kernel counts as such, too."""
        usage = int((self.path / self.files.usage).read_text())
        counted = dict(line.split() for line in (self.path / "memory.stat").read_text().splitlines())
        return usage - int(counted[self.files.cache]) + int(counted["shmem"])

    def swapped(self) -> int:
        """The bytes of it that are in swap now; 0 where the kernel doesn't count them by cgroup."""
        current = self.path / "memory.swap.current"
        if current.exists():
            return int(current.read_text())
        counted = dict(line.split() for line in (self.path / "memory.stat").read_text().splitlines())
        return int(counted.get("swap", 0))


@dataclass(frozen=True)
class Groups:
    """Makes cgroups below the one that this process is in."""

    parent: Path
    version: Literal[1, 2]

    @contextmanager
    def made(self, name: str, limit: int | None = None) -> Iterator[Group]:
        """One that holds no more than `limit` bytes; what runs in it has ended when it goes."""
        made = Group(self.parent / f"penstock-{os.getpid()}-{name}", FILES[self.version])
        try:
            made.path.mkdir()
            if limit is not None:
                (made.path / made.files.limit).write_text(str(limit))
        except OSError as error:
            raise NotPermitted(f"a cgroup, {made.path}: {error.strerror}") from None
        try:
            yield made
        finally:
            made.path.rmdir()


def groups() -> Groups:
    """By the memory controller of version 1, else by version 2."""
    for line in OWN.read_text().splitlines() if OWN.exists() else ():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return Groups(_mounted("cgroup", "memory") / path.lstrip("/"), 1)
        if not controllers and (parent := _mounted("cgroup2", "") / path.lstrip("/")).is_dir():
            controlled = parent / "cgroup.subtree_control"
            if "memory" not in controlled.read_text().split():
                try:
                    controlled.write_text("+memory")
                except OSError as error:
                    raise NotPermitted(f"+memory in {controlled}: {error.strerror}") from None
            return Groups(parent, 2)
    raise NotPermitted("this process is in no cgroup that controls memory")


def _mounted(kind: str, option: str) -> Path:
    for line in MOUNTS.read_text().splitlines():
        mount, _, source = line.partition(" - ")
        found, _, options = source.split(" ", 2)
        if found == kind and (not option or option in options.split(",")):
            return Path(mount.split()[4])
    raise NotPermitted(f"no file system of the kind {kind} is mounted")
