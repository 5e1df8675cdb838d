"""What the peers' rows do with a file before and after it is written: the reading that upstream's scenarios ask for.

All of it that blocks the naive rows call on the loop, the tuned ones through `asyncio.to_thread`.
"""

import asyncio
import mmap
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import IO

from penstock.bench.reading import PIECE, Take
from penstock.bench.variants import THREADS


def set_threads() -> None:
    """As many for `asyncio.to_thread` on this loop as penstock's rows and upstream's have; the loop ends them."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))


def create(store: str | None) -> IO[bytes]:
    """A file without a name and without a buffer: the tuned rows write large pieces."""
    return tempfile.TemporaryFile(buffering=0, dir=store)


def read(scenario: str, file: IO[bytes], take: Take) -> None:
    """Hand over the file: by 64 KiB for fs, as one mapping for mmap, as a copy of that for mmap_copy, not for drop."""
    file.flush()
    if scenario == "drop":
        return
    if scenario == "fs":
        _read_pieces(file, take)
        return
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        mapping.madvise(mmap.MADV_SEQUENTIAL)
        take(mapping if scenario == "mmap" else bytes(mapping))


def _read_pieces(file: IO[bytes], take: Take) -> None:
    file.seek(0)
    with memoryview(bytearray(PIECE)) as buffer:
        while count := file.readinto(buffer):  # type: ignore[attr-defined]
            take(buffer[:count])
