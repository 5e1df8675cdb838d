"""The directories that files go to: on disk, in shared memory, and in huge pages where these may be mounted."""

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from penstock.bench import machine

SHARED_MEMORY = Path("/dev/shm")
HUGE = "tmpfs huge"
# Of the usual size, half of the memory: each row of a session keeps a batch of bodies there until its next turn.
MOUNT = ("mount", "-t", "tmpfs", "-o", "huge=always", "tmpfs")


@dataclass
class Stores:
    """Directories by the type of their file system, and why others are missing."""

    directories: dict[str, Path] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, directory: Path, place: Path) -> None:
        """A further one on the same type of file system is called by its place, too, without slashes."""
        kind = machine.file_system(directory)
        where = str(place).strip("/").replace("/", "-")
        self.directories[f"{kind} {where}" if kind in self.directories else kind] = directory


@contextmanager
def opened(disk: Path, more: Sequence[Path]) -> Iterator[Stores]:
    """`disk`, shared memory, huge pages, and `more`."""
    with ExitStack() as stack:
        stores = Stores()
        if SHARED_MEMORY.is_dir():
            stores.add(SHARED_MEMORY, SHARED_MEMORY)
        else:
            stores.missing["tmpfs"] = f"{SHARED_MEMORY} is missing"
        for directory in (disk, *more):
            stores.add(Path(stack.enter_context(tempfile.TemporaryDirectory(dir=directory))), directory)
        mounted = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            done = subprocess.run([*MOUNT, str(mounted)], capture_output=True, text=True, check=False)
            reason = done.stderr.strip() if done.returncode else None
        except FileNotFoundError:
            reason = "there is no mount(8)"
        if reason is None:
            # Lazily: a file that is still open must not cost what was measured.
            stack.callback(subprocess.run, ["umount", "--lazy", str(mounted)], check=False)
            stores.directories[HUGE] = mounted
        else:
            stores.missing[HUGE] = f"{reason}; run it as root, or under `unshare --user --map-root-user --mount`"
        yield stores
