"""Disks while a response is received: a full one, or a quota that is used up, is an error by its name, with everything
released; one that stands still holds up no loop."""

from __future__ import annotations

import errno

import pytest

from tests.faults.conftest import Run

PROGRAM = """
import asyncio, gc, os, sys
import penstock, uvloop
from penstock._native import settle
from tests.http.serving import chunked, head, response, serve

directory, name, loops, number = sys.argv[1:5]
pool = penstock.DispatchPool(threads=2, drain_threads=1 if name == "drained" else 0)
policy = {
    "direct": penstock.Direct,
    "permit": lambda: penstock.Permit(penstock.Semaphore(1), pool=pool),
    "windows": lambda: penstock.Dispatch(pool),
    "drained": lambda: penstock.Dispatch(pool),
    "recycled": penstock.Direct,
}[name]()
files = penstock.FilePool(max_bytes="16MiB") if name == "recycled" else None
tunables = penstock.Tunables(max_body_ram=0, temp_dir=directory)
# By itself it leaves a gibibyte free, which these disks never had.
budget = penstock.Budget(disk="64MiB")
large, small = bytes(range(256)) * (12 << 12), b"small" * 1000
scripts = [[response(large)], [head("Transfer-Encoding: chunked") + chunked(large, 8192)], [response(small)]]

async def main():
    turns = 0
    async def tick():
        nonlocal turns
        while True:
            await asyncio.sleep(0.001)
            turns += 1
    ticker = asyncio.create_task(tick())
    client = penstock.Client(tunables=tunables, policy=policy, budget=budget, file_pool=files)
    async with serve(*scripts) as server, client:
        for _ in range(2):
            try:
                await client.get(server.url)
            except penstock.StorageFull as error:
                assert error.errno == int(number) and directory in str(error), error
                assert error.url == server.url
            else:
                raise AssertionError("12 MiB went into 8")
            before = turns
            await asyncio.sleep(0.05)
            assert turns > before
        answer = await client.get(server.url)
        assert await answer.read() == small
        assert answer.body.state == "file"
        del answer
    ticker.cancel()

asyncio.run(main(), loop_factory=uvloop.new_event_loop) if sys.version_info >= (3, 12) and loops == "uvloop" else (
    uvloop.run(main()) if loops == "uvloop" else asyncio.run(main()))
gc.collect()
assert settle(5)
pool.close()
if files is not None:
    files.clear()
figures = penstock.stats()
assert figures["slabs"]["lent"] == figures["slabs"]["unwritten"] == 0, figures
assert all(budget.stats()[name]["used"] == 0 for name in ("ram", "disk", "files")), budget
# What failed had up to 8 MiB, and has given them back.
with open(os.path.join(directory, "rest"), "wb") as file:
    file.write(bytes(7 << 20))
"""


@pytest.mark.needs_mount
@pytest.mark.parametrize("loops", ["asyncio", "uvloop"])
@pytest.mark.parametrize("name", ["direct", "permit", "windows", "drained", "recycled"])
def test_a_full_file_system_fails_the_response_and_nothing_else(with_tmpfs: Run, name: str, loops: str) -> None:
    ran = with_tmpfs(PROGRAM, name, loops, str(errno.ENOSPC))
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""


@pytest.mark.needs_mount
@pytest.mark.parametrize("loops", ["asyncio", "uvloop"])
@pytest.mark.parametrize("name", ["direct", "permit", "windows", "drained"])
def test_a_quota_that_is_used_up_fails_the_response_and_nothing_else(with_quota: Run, name: str, loops: str) -> None:
    ran = with_quota(PROGRAM, name, loops, str(errno.EDQUOT))
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""


STOPPED = """
import asyncio, contextlib, fcntl, os, signal, subprocess, sys
import penstock, uvloop
from tests.http.serving import head, serve, until

directory, name, stage, loops = sys.argv[1:5]
pool = penstock.DispatchPool(threads=2, drain_threads=1 if name == "drained" else 0)
policy = penstock.Dispatch(pool)
tunables = penstock.Tunables(max_body_ram=0, temp_dir=directory)
budget = penstock.Budget(disk="16MiB")
body = bytes(range(256)) * (4 << 10)
# From linux/fs.h.
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878

@contextlib.contextmanager
def standstill():
    # A loop that waits for its disk can't set it going again: somebody else does then, which shows.
    shell = 'sleep 10; fsfreeze --unfreeze "$1"'
    nothing = subprocess.DEVNULL
    rescuer = subprocess.Popen(
        ["sh", "-c", shell, "sh", directory], start_new_session=True, stdin=nothing, stdout=nothing, stderr=nothing
    )
    disk = os.open(directory, os.O_RDONLY)
    try:
        fcntl.ioctl(disk, FIFREEZE, 0)
        yield
        assert rescuer.poll() is None, "the loop stood still with its disk"
    finally:
        with contextlib.suppress(OSError):
            fcntl.ioctl(disk, FITHAW, 0)
        os.close(disk)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(rescuer.pid, signal.SIGKILL)
        rescuer.wait()

async def main():
    more = asyncio.Event()
    script = [head(f"Content-Length: {len(body)}") + body[: len(body) // 2], more, body[len(body) // 2 :]]
    async with serve(script) as server, penstock.Client(tunables=tunables, policy=policy, budget=budget) as client:
        with contextlib.ExitStack() as stack:
            if stage == "while a file is made":
                stack.enter_context(standstill())
            asking = asyncio.create_task(client.get(server.url))
            if stage == "while one is written":
                await until(lambda: budget.stats()["disk"]["used"] > 0)
                stack.enter_context(standstill())
            more.set()
            # A ticker: each time the loop has turned.
            for _ in range(200):
                await asyncio.sleep(0.001)
        assert not asking.done()
        answer = await asking
        assert await answer.read() == body
        assert answer.body.state == "file"

with asyncio.Runner(loop_factory=uvloop.new_event_loop if loops == "uvloop" else None) as runner:
    runner.run(main())
pool.close()
"""


@pytest.mark.needs_mount
@pytest.mark.parametrize("loops", ["asyncio", "uvloop"])
@pytest.mark.parametrize("stage", ["while a file is made", "while one is written"])
@pytest.mark.parametrize("name", ["windows", "drained"])
def test_a_disk_that_stands_still_holds_up_no_loop(with_disk: Run, name: str, stage: str, loops: str) -> None:
    ran = with_disk(STOPPED, name, stage, loops)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
