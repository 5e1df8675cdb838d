"""Bodies in every store and policies of every kind, with real files under tmp_path.

Images are made by fixtures and by `asyncio.to_thread`, never on a running loop's thread: making one in a file writes.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import penstock
import pytest

STORES = ("ram", "file", "mmap")


class MakeTunables(Protocol):
    def __call__(self, **options: Any) -> penstock.Tunables: ...


class MakeImage(Protocol):
    def __call__(self, data: bytes, store: str = "ram", *, pieces: int = 1, **options: Any) -> penstock.BodyImage: ...


@pytest.fixture
def tunables(tmp_path: Path) -> MakeTunables:
    """Tunables whose files go to tmp_path."""

    def make(**options: Any) -> penstock.Tunables:
        return penstock.Tunables(**{"temp_dir": tmp_path, **options})

    return make


@pytest.fixture
def image_in(tunables: MakeTunables) -> MakeImage:
    """Makes an image of `data` in a store, from as many writes as `pieces` says."""

    def make(data: bytes, store: str = "ram", *, pieces: int = 1, **options: Any) -> penstock.BodyImage:
        size = max(1, -(-len(data) // pieces))
        with penstock.BodySink(tunables(**{"max_body_ram": "64MiB", **options})) as sink:
            for start in range(0, len(data), size):
                sink.push(data[start : start + size])
            if store != "ram":
                sink.write_back()
            image = sink.prepare()
        if store == "mmap":
            image = image.mmap()
        assert image.state == (store if data else "ram")
        return image

    return make


@pytest.fixture(scope="session")
def body() -> bytes:
    """100,003 bytes that are nowhere alike: a prime, so that no piece size divides them."""
    return random.Random(7).randbytes(100_003)


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def image(image_in: MakeImage, body: bytes, store: str) -> penstock.BodyImage:
    """An image of `body` in each store, from ten writes."""
    return image_in(body, store, pieces=10)


@pytest.fixture
def pool() -> Iterator[penstock.DispatchPool]:
    with penstock.DispatchPool(threads=4) as pool:
        yield pool


@pytest.fixture(params=["direct", "permit", "dispatch", "default"])
def policy(request: pytest.FixtureRequest) -> Any:
    """Each policy; "default" is None, the default pool."""
    if request.param == "dispatch":
        return penstock.Dispatch(request.getfixturevalue("pool"))
    if request.param == "permit":
        return penstock.Permit(penstock.Semaphore(1))
    return penstock.Direct() if request.param == "direct" else None


@pytest.fixture
def descriptors() -> Callable[[], int]:
    """How many descriptors this process has open."""
    return lambda: len(os.listdir("/dev/fd"))


@contextlib.contextmanager
def small_files(most: int) -> Iterator[None]:
    """No file of this process may grow past `most` bytes, as if the file system were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def shm() -> Iterator[Path]:
    """A folder in a file system that is memory."""
    folder = Path("/dev/shm")
    if not folder.is_dir() or "/dev/shm tmpfs" not in Path("/proc/mounts").read_text():
        pytest.skip("/dev/shm is no tmpfs")
    mine = folder / f"penstock-test-{os.getpid()}"
    mine.mkdir()
    yield mine
    shutil.rmtree(mine)


@pytest.fixture
def settles() -> Callable[[Callable[[], bool]], bool]:
    """Waits until a condition holds: large files are closed by the reaper thread, a little later."""

    def wait(condition: Callable[[], bool]) -> bool:
        end = time.monotonic() + 5
        while not condition():
            if time.monotonic() > end:
                return False
            time.sleep(0.005)
        return True

    return wait
