"""What takes long to free is freed by a thread of its own, not by whoever lets go of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import penstock
import pytest
from penstock import _native

from tests.conftest import check_traced

MakeTunables = Callable[..., penstock.Tunables]

MiB = 1 << 20
GiB = 1 << 30


def spilled(tunables: penstock.Tunables, size: int) -> penstock.BodyImage:
    piece = bytes(min(size, 8 * MiB))
    with penstock.BodySink(tunables) as sink:
        for _ in range(size // len(piece)):
            sink.write(piece)
        return sink.prepare()


def open_below(folder: Path) -> int:
    """How many descriptors this process has of files in a folder, named or not."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}").startswith(str(folder))
        except OSError:  # the descriptor that listed them
            continue
    return found


def mapped_below(folder: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(folder))


@pytest.mark.parametrize("state", ["file", "mmap"])
def test_16_large_bodies_dropped_at_once_are_freed_by_the_reaper(
    tunables: MakeTunables, tmp_path: Path, thread_names: Callable[[], set[str]], state: str
) -> None:
    images = [spilled(tunables(max_body_ram=0), 8 * MiB) for _ in range(16)]
    if state == "mmap":
        images = [image.mmap() for image in images]
        assert mapped_below(tmp_path) == 16
    assert open_below(tmp_path) == 16
    images.clear()
    assert _native.settle(10)
    assert "penstock-reaper" in thread_names()
    assert (open_below(tmp_path), mapped_below(tmp_path)) == (0, 0)


def test_small_bodies_are_freed_at_once(tunables: MakeTunables, tmp_path: Path) -> None:
    images = [spilled(tunables(max_body_ram=0), MiB // 2) for _ in range(4)]
    assert open_below(tmp_path) == 4
    images.clear()
    assert open_below(tmp_path) == 0


TRACED = """
    import sys, threading, penstock
    from penstock import _native

    folder, count, size, state = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    tunables = penstock.Tunables(max_body_ram=0, max_body="2GiB", temp_dir=folder)
    images = []
    for _ in range(count):
        with penstock.BodySink(tunables) as sink:
            for _ in range(size >> 23):
                sink.write(bytes(8 << 20))
            image = sink.prepare()
        images.append(image.mmap() if state == "mmap" else image)
        del image
    assert [image.state for image in images] == [state] * count
    images.clear()
    print(threading.get_native_id(), flush=True)
    assert _native.settle(60)
"""


@pytest.mark.parametrize("state", ["file", "mmap"])
@pytest.mark.parametrize(
    ("count", "size"),
    [(16, 8 * MiB), pytest.param(1, GiB, marks=[pytest.mark.slow, pytest.mark.timeout(90)])],
    ids=["16 of 8 MiB", "1 of 1 GiB"],
)
def test_the_thread_that_drops_large_bodies_neither_closes_nor_unmaps_them(
    tmp_path: Path, count: int, size: int, state: str
) -> None:
    """By the system calls that each thread makes."""
    if (strace := shutil.which("strace")) is None:
        pytest.skip("strace is not installed")
    if shutil.disk_usage(tmp_path).free < 3 * GiB:
        pytest.skip("less than 3 GiB of disk are free")
    folder, trace = tmp_path / "bodies", tmp_path / "trace"
    folder.mkdir()
    command = [strace, "-f", "-y", "-e", "trace=close,munmap", "-o", str(trace), sys.executable, "-c"]
    command += [textwrap.dedent(TRACED), str(folder), str(count), str(size), state]
    done = subprocess.run(command, capture_output=True, text=True, timeout=80, check=False)
    check_traced(done)
    calls = [line.split(maxsplit=1) for line in trace.read_text().splitlines()]
    # By its name alone: strace escapes what of a path isn't ASCII.
    freed = [thread for thread, call in calls if call.startswith("close(") and f"/{folder.name}/#" in call]
    unmapped = [thread for thread, call in calls if call.startswith("munmap(") and f", {size})" in call]
    assert len(freed) == count
    assert len(unmapped) >= (count if state == "mmap" else 0)
    assert done.stdout.strip() not in {*freed, *(unmapped if state == "mmap" else [])}


def test_a_large_body_in_memory_beyond_what_is_kept_idle_is_freed() -> None:
    before = penstock.stats()["slabs"]["lent"]
    size = 300 * MiB  # more than is ever kept idle
    image = penstock.BodyImage.from_bytes(bytearray(size))
    assert penstock.stats()["slabs"]["lent"] >= before + size
    del image
    assert _native.settle(10)
    slabs = penstock.stats()["slabs"]
    assert slabs["lent"] == before
    assert slabs["idle"] <= 256 * MiB


@pytest.mark.parametrize("timeout", [-1, float("inf"), float("nan"), 1e30])
def test_to_wait_for_it_for_more_than_a_clock_holds_is_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout="):
        _native.settle(timeout)
