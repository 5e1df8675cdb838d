"""What happens to a network under a client: it goes away and comes back, is narrow, loses packets, ends somewhere."""

from __future__ import annotations

import pytest

from tests.faults.conftest import Run

pytestmark = [pytest.mark.needs_net, pytest.mark.parametrize("loops", ["asyncio", "uvloop"])]

BEGIN = """
import asyncio, fcntl, gc, subprocess, sys, tempfile, termios
import penstock, uvloop
from penstock._native import settle
from tests.http.serving import HANG, head, response, serve, until

loops, *args = sys.argv[1:]
BODY = bytes(range(251)) * 2000
HALF = BODY[: len(BODY) // 2]

def do(command):
    subprocess.run(command.split(), check=True, timeout=10)

async def fails(asking, *kinds):
    try:
        await asking
    except kinds as error:
        assert error.retryable
        return error
    raise AssertionError(f"none of {kinds}")
"""

END = """
factory = {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}[loops]
with asyncio.Runner(loop_factory=factory) as runner:
    runner.run(main())
gc.collect()
assert settle(5)
figures = penstock.stats()
assert figures["slabs"]["lent"] == figures["slabs"]["unwritten"] == 0, figures
assert all(figures["budget"][name]["used"] == 0 for name in ("ram", "disk", "files")), figures
"""


def check(run: Run, program: str, *args: str, qdisc: str = "") -> None:
    ran = run(BEGIN + program + END, *args, qdisc=qdisc)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""


GOES_AWAY = """
pool = penstock.DispatchPool(threads=2, drain_threads=1 if args[0] == "drained" else 0)
policy = penstock.Direct() if args[0] == "direct" else penstock.Dispatch(pool)
tunables = penstock.Tunables(max_body_ram="1MiB" if args[0] == "ram" else 0, temp_dir=tempfile.gettempdir())

# Which of them it is, kernels differ in.
NO_NETWORK = penstock.ConnectTimeout, penstock.ConnectError

async def main():
    async def break_off():
        peer = server.peers[-1]
        # All that was sent lies in the client's socket.
        await until(lambda: fcntl.ioctl(peer, termios.TIOCOUTQ, bytes(4)) == bytes(4))
        do("ip link set lo down")

    scripts = [
        [break_off, response(BODY), HANG],
        [head(f"Content-Length: {len(BODY)}"), HALF, break_off, BODY[len(HALF) :], HANG],
        [response(BODY)],
    ]
    async with serve(*scripts) as server, penstock.Client(tunables=tunables, policy=policy) as client:
        await fails(client.get(server.url, timeout=penstock.Timeouts(first_byte=0.3)), penstock.FirstByteTimeout)
        await fails(client.get(server.url, timeout=penstock.Timeouts(connect=0.3)), *NO_NETWORK)
        do("ip link set lo up")
        late = await fails(client.get(server.url, timeout=penstock.Timeouts(idle=0.3)), penstock.IdleTimeout)
        # The error doesn't wait for a disk.
        assert late.partial is not None or args[0] != "ram"
        assert late.partial is None or await late.partial.read() == HALF
        await fails(client.get(server.url, timeout=penstock.Timeouts(connect=0.3)), *NO_NETWORK)
        do("ip link set lo up")
        for _ in range(2):
            assert await (await client.get(server.url)).read() == BODY
        figures = client.stats()
        assert (figures["open"], figures["connected"], len(server.requests)) == (1, 3, 4), figures
        del late
    pool.close()
"""


@pytest.mark.parametrize("store", ["ram", "direct", "windows", "drained"])
def test_a_network_that_goes_away_is_a_timeout_and_then_an_error_until_it_is_back(
    with_network: Run, store: str, loops: str
) -> None:
    check(with_network, GOES_AWAY, loops, store)


NO_WAY = """
async def main():
    do("ip route add unreachable 192.0.2.1")
    do("ip route add blackhole 192.0.2.2")
    names = {"far.test": ["192.0.2.1"], "hole.test": ["192.0.2.2"], "all.test": ["192.0.2.1", "192.0.2.2", "127.0.0.1"]}

    async def resolve(host):
        return names[host]

    async with serve([response(BODY)]) as server, penstock.Client(resolver=resolve) as client:
        for host in ("far.test", "hole.test"):
            error = await fails(client.get(server.url.replace("127.0.0.1", host)), penstock.ConnectError)
            assert host in str(error), error
        answer = await client.get(server.url.replace("127.0.0.1", "all.test"))
        assert await answer.read() == BODY
        assert (client.stats()["connecting"], client.stats()["open"]) == (0, 1)
        del answer
"""


def test_addresses_without_a_way_are_an_error_or_passed_over(with_network: Run, loops: str) -> None:
    check(with_network, NO_WAY, loops)


WHOLE = """
async def main():
    async with serve([response(BODY)]) as server, penstock.Client() as client:
        assert await (await client.get(server.url)).read() == BODY
        assert (await client.put(server.url, content=BODY)).status == 200
        assert server.bodies == [BODY]
        async with client.stream("GET", server.url) as answer:
            assert await answer.read() == BODY
        assert server.connections == 1
"""


@pytest.mark.parametrize(
    "qdisc",
    [
        "tbf rate 20mbit burst 16kb limit 1mb",
        "tbf rate 20mbit burst 16kb limit 20kb",
        "netem delay 1ms loss 1% duplicate 1% reorder 10%",
    ],
    ids=["narrow", "narrow and dropping", "lossy"],
)
def test_bodies_go_and_come_whole_over_a_bad_network(with_network: Run, qdisc: str, loops: str) -> None:
    check(with_network, WHOLE, loops, qdisc=qdisc)


TOO_SLOW = """
async def main():
    async with serve([response(BODY)]) as server, penstock.Client() as client:
        timeout = penstock.Timeouts(min_rate=(1_000_000, 0.3))
        error = await fails(client.get(server.url, timeout=timeout), penstock.TooSlow)
        assert BODY.startswith(await error.partial.read())
        do("tc qdisc del dev lo root")
        assert await (await client.get(server.url)).read() == BODY
        del error
"""


def test_a_network_below_the_least_rate_is_too_slow(with_network: Run, loops: str) -> None:
    check(with_network, TOO_SLOW, loops, qdisc="tbf rate 64kbit burst 16kb limit 1mb")
