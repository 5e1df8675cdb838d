"""Pools that are closed, processes that fork or end, while a response is on its way."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable

import penstock
import pytest

from tests.http.conftest import Storing, storing_by  # noqa: F401
from tests.http.serving import head, response, serve

Script = Callable[..., subprocess.CompletedProcess[str]]

BODY = bytes(400_000)


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["windows", "drained"])
async def test_a_pool_closed_under_a_response_fails_it_by_name(
    storing_by: Callable[[str], Storing],  # noqa: F811
    name: str,
) -> None:
    storing = storing_by(name)
    more = asyncio.Event()
    script = [head(f"Content-Length: {len(BODY)}"), BODY[:100_000], more, BODY[100_000:]]
    async with serve(script, [response(b"x")]) as server, storing.client() as client:
        asking = asyncio.create_task(client.get(server.url))
        async with asyncio.timeout(10):
            while server.sent < 100_000 or (name == "drained" and storing.pool.stats()["draining"] == 0):
                await asyncio.sleep(0.001)
        await storing.pool.aclose()
        more.set()
        with pytest.raises(penstock.PoolClosed):
            await asking
        # The client itself is fine.
        answer = await client.get(server.url, policy=penstock.Dispatch())
        assert await answer.read() == b"x"
        assert client.stats()["open"] == 1


COMMON = """
import asyncio, contextlib, os, socket, sys, threading, warnings
import penstock

def serve(listener):
    # Each connection gets half of a body and then, when it asks for it, the rest.
    def converse(connection):
        with connection, contextlib.suppress(ConnectionError):
            while request := connection.recv(65536):
                connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 1000000\\r\\n\\r\\n" + bytes(500000))
                if b"/whole" in request:
                    connection.sendall(bytes(500000))
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=converse, args=(connection,), daemon=True).start()

listener = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=serve, args=(listener,), daemon=True).start()
url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
tunables = penstock.Tunables(max_body_ram=0)
pool = penstock.default_pool()

async def half(client):
    asking = asyncio.create_task(client.get(url))
    asking.add_done_callback(lambda task: task.cancelled() or task.exception())
    while pool.stats()["draining"] == 0:
        await asyncio.sleep(0.001)
    return asking
"""

ENDS = {
    "the loop is closed in order": """
async def main():
    async with penstock.Client(tunables=tunables) as client:
        await half(client)
        raise SystemExit(0)
run(main())
""",
    "the loop is closed, the client is not": """
async def main():
    global client, asking
    client = penstock.Client(tunables=tunables)
    asking = await half(client)
run(main())
""",
    "the loop is left as it is": """
warnings.simplefilter("ignore", ResourceWarning)
async def main():
    global client, asking
    client = penstock.Client(tunables=tunables)
    asking = await half(client)
loop = new_event_loop()
loop.run_until_complete(main())
asking._log_destroy_pending = False
""",
    "an exception ends the program": """
async def main():
    global client, asking
    client = penstock.Client(tunables=tunables)
    asking = await half(client)
    raise KeyError("of the program's")
try:
    run(main())
except KeyError:
    pass
""",
}


@pytest.mark.parametrize("loops", ["asyncio", "uvloop"])
@pytest.mark.parametrize("how", ENDS)
def test_a_program_ends_at_once_while_a_response_is_drained(script: Script, how: str, loops: str) -> None:
    ran = script(f"from {loops} import new_event_loop, run\n" + COMMON + ENDS[how], timeout=15)
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr, ran.stderr


FORK = """
files = penstock.FilePool(max_bytes="16MiB")

def recycled():
    return files.stats()["recycled"]

async def get(client):
    answer = await client.get(url + "whole")
    assert answer.body.state == "file"
    assert await answer.read() == bytes(1000000)

async def child(inherited):
    try:
        await inherited.get(url)
    except penstock.ClientClosed:
        pass
    else:
        raise AssertionError("used in another loop")
    before = recycled()
    async with penstock.Client(tunables=tunables, file_pool=files) as client:
        await asyncio.gather(*[get(client) for _ in range(3)])
        await get(client)
        # The parent may go on with a file that was idle: those that the child recycles are its own.
        async with asyncio.timeout(10):
            while recycled() == before:
                await get(client)

async def main():
    async with penstock.Client(tunables=tunables, file_pool=files) as client:
        await get(client)
        asking = await half(client)
        alive = await client.get(url + "whole")
        await get(client)
        async with asyncio.timeout(10):
            while not files.stats()["files"]:
                await asyncio.sleep(0.001)
        before = recycled()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            code = 1
            try:
                asyncio._set_running_loop(None)
                asyncio.set_event_loop(None)
                loop = new_event_loop()
                loop.run_until_complete(child(client))
                loop.close()
                code = 0
            except BaseException:
                import traceback
                traceback.print_exc()
            finally:
                os._exit(code)
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, status
        # The parent goes on: the one that was on its way, and others on the same connections.
        assert not asking.done()
        # The child may look at what was there at the fork: that is not recycled, and what is made now is.
        await get(client)
        assert recycled() == before
        async with asyncio.timeout(10):
            while recycled() == before:
                await get(client)
        assert await alive.read() == bytes(1000000)
        await asyncio.gather(*[get(client) for _ in range(3)])
        asking.cancel()
        await asyncio.wait([asking])
        await get(client)

run(main())
"""


@pytest.mark.parametrize("loops", ["asyncio", "uvloop"])
def test_a_fork_leaves_the_client_and_its_files_to_the_parent_and_the_child_makes_its_own(
    script: Script, loops: str
) -> None:
    ran = script(f"from {loops} import new_event_loop, run\n" + COMMON + FORK, timeout=25)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""


NO_MEMORY = """
import errno
import penstock
from {loops} import run
from tests.http.serving import response, serve
from tests.limits import allow_memory

async def main():
    async with serve([response(bytes(8 << 20))]) as server, penstock.Client() as client:
        try:
            async with client.stream("GET", server.url) as answer:
                allow_memory(0)
                async for _ in answer.stream():
                    pass
        except OSError as error:
            assert error.errno == errno.ENOMEM, error
        else:
            raise AssertionError("there was memory")
        finally:
            allow_memory(None)
        async with client.stream("GET", server.url) as answer:
            assert len(await answer.read()) == 8 << 20

run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="not on this platform: no /proc")
@pytest.mark.parametrize("loops", ["asyncio", "uvloop"])
def test_memory_that_cannot_be_had_to_receive_into_is_not_laid_to_the_peer(script: Script, loops: str) -> None:
    ran = script(NO_MEMORY.format(loops=loops))
    assert ran.returncode == 0, ran.stderr
