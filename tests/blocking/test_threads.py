"""`penstock.stats()["threads"]`: how many threads there are, and the most that there can be."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import penstock
import pytest
from penstock import DispatchPool
from penstock.bench import server

from .conftest import Gate

Script = Callable[..., "subprocess.CompletedProcess[str]"]


def figures() -> dict[str, int]:
    return penstock.stats()["threads"]  # type: ignore[no-any-return]


def test_the_limit_is_the_sum_over_the_pools() -> None:
    before = figures()
    with DispatchPool(threads=3, drain_threads=2), DispatchPool(threads=4, drain_threads=0):
        with DispatchPool(queue_length=0, overflow="caller", drain_threads=0):
            now = figures()
        assert now["limit"] - before["limit"] == 3 + 2 + 4
        assert now["workers"] - before["workers"] == 3 + 4
        assert now["drains"] == before["drains"]
    assert figures() == before


def test_a_pool_counts_until_its_last_thread_has_ended(gate: Gate) -> None:
    before = figures()
    pool = DispatchPool(threads=2, drain_threads=1)
    pool.dispatch(gate)
    gate.wait_entered()
    pool.shutdown(wait=False)
    assert figures()["limit"] - before["limit"] == 3
    gate.open.set()
    pool.close()
    assert figures() == before


@pytest.mark.asyncio
async def test_a_closing_thread_counts_while_it_waits(gate: Gate) -> None:
    before = figures()
    pool = DispatchPool(threads=1, drain_threads=0)
    pool.dispatch(gate)
    closing = pool.aclose()
    now = figures()
    assert (now["closing"] - before["closing"], now["limit"] - before["limit"]) == (1, 2)
    gate.open.set()
    await closing
    assert figures() == before


# Everything that starts threads, at once. The formula is that of docs/how-to/size-threads.md.
PROGRAM = """
import asyncio, gzip, os, sys, time
import penstock

def tasks():
    return len(os.listdir("/proc/self/task"))

# Of many CPUs some, so that the default pool tells how many a cgroup's quota leaves.
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:8])
with penstock.DispatchPool(drain_threads=0) as usual:
    cpus = usual.threads - 4
assert 1 <= cpus <= len(os.sched_getaffinity(0))
default = min(32, cpus + 4) + 1
files = 3 + 2
database = 4 + 0
reaper = 1
decoders = cpus
most = 1 + default + files + database + reaper

async def coded(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    body = gzip.compress(os.urandom(1 << 20), 1)
    writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Encoding: gzip\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
    await writer.drain()
    writer.close()

def check(workers, most):
    figures = penstock.stats()["threads"]
    # With nothing starting or ending the kernel counts what the figures say, and the main thread.
    assert tasks() == 1 + figures["used"], (tasks(), figures)
    assert 1 + figures["limit"] == most, (figures, most)
    assert figures["workers"] == workers and figures["drains"] >= 2 and figures["reaper"] == 1, figures

async def main(url):
    async with (
        penstock.DispatchPool(threads=3, drain_threads=2) as files,
        penstock.DispatchPool(threads=4, drain_threads=0) as database,
    ):
        for _ in range(100):
            files.dispatch(time.sleep, 0.001)
            database.dispatch(time.sleep, 0.001)
        tunables = penstock.Tunables(max_body_ram="64KiB")
        async def get(client):
            body = (await client.get(f"{url}/{4 << 20}/0")).body
            assert len(await body.to_ram()) == 4 << 20
        async with (
            penstock.Client(tunables=tunables, policy=penstock.Dispatch(files)) as one,
            penstock.Client(tunables=tunables) as other,
        ):
            gets = [asyncio.create_task(get(client)) for client in (one, other) for _ in range(8)]
            while not all(each.done() for each in gets):
                figures = penstock.stats()["threads"]
                assert figures["used"] <= figures["limit"], figures
                assert tasks() <= most, (tasks(), most)
                await asyncio.sleep(0.001)
            await asyncio.gather(*gets)
        await asyncio.gather(files.join(), database.join())
        workers = default - 1 + 3 + 4
        check(workers, most)
        server = await asyncio.start_server(coded, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        async with server, penstock.Client(tunables=penstock.Tunables(max_body_ram="16MiB")) as client:
            assert len((await client.get(f"http://{host}:{port}/")).body) == 1 << 20
        check(workers + decoders, most + decoders)
    print("bounded")

asyncio.run(main(sys.argv[1]))
"""


def test_a_process_never_has_more_threads_than_the_formula_says(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BENCH_SERVER_URL", raising=False)
    with server.running(1, 0) as address:
        done = script(PROGRAM, address.url)
    assert (done.stdout, done.stderr) == ("bounded\n", "")


def test_a_forked_child_counts_its_own_threads(script: Script) -> None:
    source = """
import os, penstock, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
pool = penstock.DispatchPool(threads=3, drain_threads=0)
pid = os.fork()
if pid == 0:
    assert penstock.stats()["threads"]["used"] == 0
    assert pool.submit(int).result(10) == 0
    assert penstock.stats()["threads"]["workers"] == 3
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert penstock.stats()["threads"]["workers"] == 3
pool.close()
"""
    done = script(source)
    assert (done.returncode, done.stderr) == (0, "")
