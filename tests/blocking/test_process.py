"""What a pool does to its process: at import, at exit, in a forked child."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ELSEWHERE

Script = Callable[..., "subprocess.CompletedProcess[str]"]


# CPython ≥ 3.12 warns of forks beside threads, which is what these are about.
FORK = "import warnings; warnings.simplefilter('ignore', DeprecationWarning)\n"


def check(result: subprocess.CompletedProcess[str], *expected: str) -> None:
    assert (result.returncode, result.stderr, result.stdout.split()) == (0, "", list(expected))


def test_importing_starts_no_thread(script: Script) -> None:
    check(script("import penstock, os; print(len(os.listdir('/proc/self/task')))"), "1")


def test_queued_jobs_run_at_exit(script: Script) -> None:
    source = """
import os, penstock, time
def job(n):
    time.sleep(0.01)
    os.write(1, b"%d\\n" % n)
for n in range(10):
    penstock.blocking.default_pool().submit(job, n).add_done_callback(lambda f: None)
pool = penstock.DispatchPool(threads=1)
for n in range(10, 15):
    pool.dispatch(job, n)
"""
    result = script(source)
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(map(int, result.stdout.split())) == list(range(15))


def test_jobs_whose_loop_is_gone_run_at_exit(script: Script) -> None:
    source = """
import asyncio, os, penstock, time
async def main():
    for n in range(4):
        kept.append(penstock.run_blocking(lambda: (time.sleep(0.05), os.write(1, b"ran "))))
kept = []
asyncio.run(main())
"""
    check(script(source), *["ran"] * 4)


def test_a_job_that_makes_jobs_at_exit_is_let_end(script: Script) -> None:
    source = """
import penstock, time
pool = penstock.DispatchPool(threads=2)
def job():
    time.sleep(0.05)
    try:
        pool.dispatch(print, "never")
    except penstock.errors.PoolClosed:
        print("closed", flush=True)
pool.dispatch(job)
"""
    check(script("import penstock.errors\n" + source), "closed")


@pytest.mark.parametrize(
    ("options", "printed"), [("wait=False", [["apple"]]), ("wait=False, cancel_futures=True", [["apple"], []])]
)
def test_a_job_of_a_pool_that_nobody_waited_for_runs_to_its_end_at_exit(
    script: Script, options: str, printed: list[list[str]]
) -> None:
    source = f"""
import os, penstock, time
pool = penstock.DispatchPool(threads=3)
pool.submit(lambda: (time.sleep(0.2), os.write(1, b"apple")))
pool.shutdown({options})
"""
    result = script(source)
    assert (result.returncode, result.stderr) == (0, "")
    # Nothing, if the job had not begun.
    assert result.stdout.split() in printed


def test_a_pool_takes_no_jobs_once_the_interpreter_has_joined_its_threads(script: Script) -> None:
    source = """
import atexit
@atexit.register
def late():
    try:
        pool.submit(id, None)
    except RuntimeError as error:
        print(type(error).__name__, flush=True)
import penstock
pool = penstock.DispatchPool(threads=5)
"""
    check(script(source), "PoolClosed")


def test_a_pool_that_is_made_as_the_interpreter_ends_is_refused(script: Script) -> None:
    source = """
import os, penstock
class Late:
    def __del__(self, make=penstock.DispatchPool, write=os.write):
        try:
            make(threads=2).submit(int).result(5)
        except Exception:
            write(1, b"refused")
late = Late()
"""
    check(script(source), "refused")


def test_a_forked_child_starts_afresh_and_runs_nothing_twice(script: Script) -> None:
    source = """
import asyncio, os, penstock, threading, sys
pool = penstock.DispatchPool(threads=2, name_prefix="f-")
release = threading.Event()
for _ in range(2):
    pool.dispatch(release.wait)
pool.dispatch(lambda: os.write(1, b"once "))
pid = os.fork()
if pid == 0:
    assert len(os.listdir("/proc/self/task")) == 1
    async def main():
        return await asyncio.gather(*[pool.run(lambda n: n, n) for n in range(20)])
    assert asyncio.run(main()) == list(range(20))
    assert pool.submit(lambda: threading.current_thread().name).result(5).startswith("f-")
    with penstock.DispatchPool(threads=1) as mine:
        assert mine.submit(int).result(5) == 0
    os.write(1, b"child ")
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
release.set()
pool.close()
os.write(1, b"parent")
"""
    check(
        script(FORK + source),
        "child",
        "once",
        "parent",
    )


NO_THREAD = """
import os, penstock, resource, sys
pool = penstock.DispatchPool(threads=2, name_prefix="f-")
pid = os.fork()
if pid == 0:
    if os.getuid() == 0:
        # Whom the limit doesn't hold.
        os.setuid(61_234)
    _, most = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, most))
    for _ in range(2):
        try:
            pool.submit(int)
        except OSError as error:
            assert "cannot start thread 1 of 2 of the pool f-* (DispatchPool.threads): " in str(error), error
        else:
            raise AssertionError("there was a thread")
    resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
    assert pool.submit(int).result(5) == 0
    pool.close()
    os.write(1, b"child")
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
pool.close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason=f"{ELSEWHERE}: a limit on threads is Linux's")
def test_a_forked_child_that_has_no_thread_for_a_pool_tries_again_with_the_next_job(script: Script) -> None:
    check(script(FORK + NO_THREAD), "child")


@pytest.mark.skipif(sys.version_info >= (3, 14), reason=f"{ELSEWHERE}: from 3.14 on no task ends a forked child")
def test_a_forked_child_that_leaves_the_pools_alone_ends_and_runs_nothing(script: Script) -> None:
    source = """
import asyncio, os, penstock, sys, threading
release = threading.Event()
pool = penstock.DispatchPool(threads=2, after_start=lambda n: None)
for target in (pool, penstock.default_pool()):
    for _ in range(target.threads):
        target.dispatch(release.wait)
    target.dispatch(lambda: os.write(1, b"once "))
async def main():
    kept.append(pool.run(lambda: os.write(1, b"run ")))
    pid = os.fork()
    if pid == 0:
        # Ends as a program does: hooks at exit, destructors, no use of a pool.
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    os.write(1, b"child ")
    release.set()
    await kept[0]
kept = []
asyncio.run(main())
pool.close()
"""
    result = script(FORK + source)
    assert (result.returncode, result.stderr) == (0, "")
    first, *rest = result.stdout.split()
    assert (first, sorted(rest)) == ("child", ["once", "once", "run"])


def test_in_a_forked_child_after_start_may_use_the_pool_that_starts(script: Script) -> None:
    source = """
import os, penstock, signal
made = []
def after_start(n):
    if os.getpid() != parent:
        made.append(pool.submit(int, "3"))
parent = os.getpid()
pool = penstock.DispatchPool(threads=2, after_start=after_start)
pid = os.fork()
if pid == 0:
    signal.alarm(10)
    assert pool.submit(int).result() == 0
    assert [future.result() for future in made] == [3, 3]
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
pool.close()
print("went on")
"""
    check(script(FORK + source), "went", "on")


def test_a_pool_closed_before_the_fork_is_closed_after_it(script: Script) -> None:
    source = """
import os, penstock, penstock.errors
pool = penstock.DispatchPool(threads=1)
pool.close()
pid = os.fork()
if pid == 0:
    try:
        pool.submit(int)
    except penstock.errors.PoolClosed:
        print("closed", flush=True)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""
    check(script(FORK + source), "closed")


def test_forking_under_load_leaves_a_working_child(script: Script) -> None:
    source = """
import os, penstock, threading
pool = penstock.DispatchPool(threads=4)
stop = threading.Event()
def load():
    while not stop.is_set():
        pool.dispatch(int)
threads = [threading.Thread(target=load) for _ in range(2)]
for thread in threads: thread.start()
for _ in range(30):
    pid = os.fork()
    if pid == 0:
        ok = pool.submit(int).result(10) == 0
        os._exit(0 if ok else 1)
    assert os.waitpid(pid, 0)[1] == 0
stop.set()
for thread in threads: thread.join()
pool.close()
"""
    check(script(FORK + source))


def test_a_forked_child_lets_go_of_a_loop_and_its_futures_while_threads_of_its_parent_work(
    script: Script, tmp_path: Path
) -> None:
    source = """
import asyncio, gc, os, signal, sys
import penstock
from penstock._native import ArchiveReader
async def main():
    loop = asyncio.get_running_loop()
    with penstock.DispatchPool(threads=2) as pool:
        policy = penstock.Dispatch(pool)
        reader = await policy.perform(ArchiveReader.open_op(sys.argv[1]))
        for _ in range(30):
            futures = [policy.perform(reader.read_op(0)) for _ in range(1000)]
            pid = os.fork()
            if pid == 0:
                # A lock that a thread had then is never let go.
                signal.alarm(10)
                [future.cancel() for future in futures]
                loop._selector._fd_to_key.clear()
                gc.collect()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            await asyncio.gather(*futures)
asyncio.run(main())
"""
    archive = tmp_path / "empty.barc"
    archive.touch()
    check(script(FORK + source, str(archive)))


def test_multiprocessing_by_fork_works(script: Script) -> None:
    source = """
import multiprocessing, penstock
def job(n):
    return penstock.blocking.default_pool().submit(lambda: n * n).result(5)
penstock.blocking.default_pool().submit(int).result(5)
with multiprocessing.get_context("fork").Pool(2) as processes:
    print(*processes.map(job, range(4)))
"""
    check(script(FORK + source), "0", "1", "4", "9")
