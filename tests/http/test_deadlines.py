"""Deadlines: each by its name and never early, and none for a fault of our own."""

from __future__ import annotations

import asyncio
import contextlib
import math
import pickle
import socket
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock.http import connection
from penstock.http.deadlines import with_patience

from tests.conftest import uncollected
from tests.http.conftest import Storing
from tests.http.serving import CLOSE, HANG, TURN, chunked, head, response, serve, until

pytestmark = pytest.mark.asyncio

BODY = bytes(100_000)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine what came may take longer to be stored, and a timeout would go without it."""
    monkeypatch.setattr(connection, "PATIENCE", 5)


class Lasting:
    """Takes the time of a block, by the loop's clock."""

    def __enter__(self) -> Lasting:
        self._began = asyncio.get_running_loop().time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = asyncio.get_running_loop().time() - self._began


def told(error: penstock.Timeout, lasting: Lasting, seconds: float, setting: str) -> None:
    """It is not early, as far as the loop's clock tells (uvloop's counts milliseconds), and names its setting; and it
    isn't so late that something else must have ended it."""
    assert seconds - 0.001 <= lasting.seconds < seconds + 10
    assert f"{seconds} s (Timeouts.{setting})" in str(error)
    assert isinstance(error, TimeoutError)
    assert error.retryable
    assert error.url is not None
    assert error.elapsed is not None


@pytest.mark.parametrize("seconds", [0.01, 0.11])
@pytest.mark.parametrize("script", [[HANG], [b"HTTP/1.1 200 ", HANG], [head(status="102 Processing"), HANG]])
async def test_no_head_in_time(seconds: float, script: list[Any]) -> None:
    timeout = penstock.Timeouts(first_byte=seconds)
    async with serve(script) as server, penstock.Client(timeout=timeout) as client:
        with Lasting() as lasting, pytest.raises(penstock.FirstByteTimeout) as caught:
            await client.get(server.url)
        told(caught.value, lasting, seconds, "first_byte")
        assert client.stats()["open"] == 0


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("seconds", [0.06, 0.11])
async def test_nothing_of_the_body_for_too_long(storing: Storing, seconds: float) -> None:
    timeout = penstock.Timeouts(idle=seconds)
    script = [head(f"Content-Length: {len(BODY) + 1}"), BODY, HANG]
    async with serve(script) as server, storing.client(timeout=timeout) as client:
        with Lasting() as lasting, pytest.raises(penstock.IdleTimeout) as caught:
            await client.get(server.url)
        told(caught.value, lasting, seconds, "idle")
        assert await caught.value.partial.read() == BODY
        assert client.stats()["open"] == 0


async def test_a_body_that_trickles_is_not_idle(storing: Storing) -> None:
    pieces = [BODY[:100], 0.1] * 5
    script = [head("Content-Length: 500"), *pieces]
    async with serve(script) as server, storing.client(timeout=penstock.Timeouts(idle=0.3)) as client:
        assert len((await client.get(server.url)).body) == 500


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("seconds", [0.06, 0.11])
async def test_a_request_that_takes_too_long_as_a_whole(storing: Storing, seconds: float) -> None:
    timeout = penstock.Timeouts(total=seconds)
    script = [head("Transfer-Encoding: chunked"), *[chunked(b"x", 1)[:6], 0.01] * 2000]
    async with serve(script) as server, storing.client(timeout=timeout) as client:
        with Lasting() as lasting, pytest.raises(penstock.TotalTimeout) as caught:
            await client.get(server.url)
        told(caught.value, lasting, seconds, "total")
        partial = await caught.value.partial.read()
        assert partial == b"x" * len(partial)


@pytest.mark.usefixtures("patient")
async def test_a_body_that_comes_more_slowly_than_it_may(storing: Storing) -> None:
    drip: list[Any] = [head("Content-Length: 1000")]
    for _ in range(30):
        drip += [b"x", 0.02]
    timeout = penstock.Timeouts(min_rate=(100, 0.2))
    async with serve([*drip, HANG]) as server, storing.client(timeout=timeout) as client:
        with pytest.raises(penstock.TooSlow, match=r"less than 100 a second \(Timeouts\.min_rate\)") as caught:
            await client.get(server.url)
        partial = await caught.value.partial.read()
        assert partial == b"x" * len(partial)
        assert caught.value.retryable
        assert caught.value.elapsed >= 0.2


async def test_a_body_that_comes_fast_enough_or_a_late_head_is_not_too_slow(storing: Storing) -> None:
    body = bytes(1000)
    script: list[Any] = [0.3, head(f"Content-Length: {len(body)}")]
    for start in range(0, 1000, 50):
        script += [body[start : start + 50], 0.02]
    # One piece is enough: that is what a loop that stood still for so long has still time for.
    timeout = penstock.Timeouts(min_rate=(200, 0.2))
    async with serve(script) as server, storing.client(timeout=timeout) as client:
        assert await (await client.get(server.url)).read() == body


@pytest.mark.parametrize("rate", [(0, 1), (1, 0), (True, 1), (1,), 5, (1, None), ("1", 2)])
async def test_a_rate_that_is_none_is_refused(rate: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="min_rate"):
        penstock.Timeouts(min_rate=rate)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), 1 << 5000])
async def test_seconds_that_are_none_are_refused_by_name(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"Timeouts\.connect.*None"):
        penstock.Timeouts(connect=seconds)
    with pytest.raises(ValueError, match=r"Limits\.idle_seconds.*math\.inf"):
        penstock.Limits(idle_seconds=seconds)


@pytest.mark.parametrize("name", ["idle_seconds", "dns_seconds", "dns_failed_seconds"])
async def test_none_is_no_number_of_seconds_in_limits_and_infinity_is(name: str) -> None:
    limits: dict[str, Any] = {name: math.inf}
    async with serve([response(b"ok")]) as server, penstock.Client(limits=penstock.Limits(**limits)) as client:
        for _ in range(2):
            await client.get(f"http://localhost:{server.port}/")
        assert client.stats()["reused"] == client.stats()["idle"] == 1
    with pytest.raises(TypeError, match=rf"^Limits\.{name}=None: seconds are a number, or math\.inf for no limit$"):
        penstock.Limits(**{**limits, name: None})


async def test_a_timeout_that_is_none_does_not_pass() -> None:
    started = [head("Content-Length: 2"), b"a"]
    none = penstock.Timeouts(first_byte=None, idle=None, total=None, min_rate=None)
    async with (
        serve([*started, HANG], [0.06, *started, 0.06, b"b"]) as server,
        penstock.Client(timeout=penstock.Timeouts(idle=0.03)) as client,
    ):
        with pytest.raises(penstock.IdleTimeout):
            await client.get(server.url)
        assert await (await client.get(server.url, timeout=none)).read() == b"ab"


async def test_a_timeout_of_one_request_is_its_own() -> None:
    async with serve([0.2, response(b"late")]) as server, penstock.Client() as client:
        with pytest.raises(penstock.FirstByteTimeout):
            await client.get(server.url, timeout=penstock.Timeouts(first_byte=0.05))
        assert await (await client.get(server.url)).read() == b"late"


@contextlib.contextmanager
def unanswered() -> Iterator[str]:
    """A listener that accepts no connection: its backlog is full, and the kernel drops what else comes."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(address)
        yield f"http://127.0.0.1:{address[1]}/"


@pytest.mark.parametrize(
    ("timeout", "error"),
    [
        (penstock.Timeouts(connect=0.2), penstock.ConnectTimeout),
        (penstock.Timeouts(connect=0.02), penstock.ConnectTimeout),
        (penstock.Timeouts(connect=None, total=0.2), penstock.TotalTimeout),
    ],
)
async def test_no_connection_in_time(timeout: penstock.Timeouts, error: type[penstock.Timeout]) -> None:
    with unanswered() as url:
        async with penstock.Client(timeout=timeout) as client:
            with Lasting() as lasting, pytest.raises(error) as caught:
                await client.get(url)
            name = "connect" if error is penstock.ConnectTimeout else "total"
            told(caught.value, lasting, getattr(timeout, name), name)
            assert client.stats()["open"] == 0


async def test_a_request_that_found_no_connection_in_time_is_in_no_cycle() -> None:
    async def fail(client: penstock.Client, url: str) -> weakref.ref[penstock.ConnectTimeout]:
        try:
            await client.get(url)
        except penstock.ConnectTimeout as error:
            return weakref.ref(error)
        raise AssertionError("it was connected")

    with unanswered() as url:
        async with penstock.Client(timeout=penstock.Timeouts(connect=0.02)) as client:
            with uncollected():
                failure = await fail(client, url)
                await until(lambda: failure() is None)


async def test_what_was_received_within_a_brief_timeout_is_in_no_cycle() -> None:
    timeout = penstock.Timeouts(idle=0.05)
    async with serve([response(BODY)]) as server, penstock.Client(timeout=timeout) as client:
        with uncollected():
            body = weakref.ref((await client.get(server.url)).body)
            await until(lambda: body() is None)


async def test_tls_has_the_time_that_connecting_has(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of asyncio's own minute nobody could wait for the end here; uvloop's can't be changed.
    monkeypatch.setattr("asyncio.constants.SSL_HANDSHAKE_TIMEOUT", 0.05)
    timeout = penstock.Timeouts(connect=0.3)
    async with serve([HANG]) as server, penstock.Client(timeout=timeout) as client:
        with Lasting() as lasting, pytest.raises(penstock.ConnectTimeout) as caught:
            await client.get(server.url.replace("http:", "https:"))
        told(caught.value, lasting, 0.3, "connect")


@pytest.mark.parametrize(
    ("timeout", "error"),
    [
        (penstock.Timeouts(pool=0.1), penstock.PoolTimeout),
        (penstock.Timeouts(total=0.1), penstock.TotalTimeout),
    ],
)
async def test_no_connection_comes_free_in_time(timeout: penstock.Timeouts, error: type[penstock.Timeout]) -> None:
    go = asyncio.Event()
    async with (
        serve([go, response(b"first")]) as server,
        penstock.Client(limits=penstock.Limits(connections=1)) as client,
    ):
        first = asyncio.create_task(client.get(server.url))
        while not server.requests:
            await asyncio.sleep(0)
        with Lasting() as lasting, pytest.raises(error) as caught:
            await client.get(server.url, timeout=timeout)
        told(caught.value, lasting, 0.1, "pool" if error is penstock.PoolTimeout else "total")
        assert client.stats()["waiting"] == 0
        go.set()
        assert await (await first).read() == b"first"
        assert await (await client.get(server.url)).read() == b"first"


@pytest.mark.parametrize("resource", ["files", "disk"])
async def test_no_budget_in_time(file_storing: Storing, resource: str) -> None:
    budget = penstock.Budget(**{"files": 1} if resource == "files" else {"disk": "3MiB"})
    timeout = penstock.Timeouts(budget=0.2)
    kept = penstock.BodySink(file_storing.tunables, budget=budget)
    await penstock.run_blocking(kept.write, b"x" * (2 << 20))
    await penstock.run_blocking(kept.write_back)
    script = [response(bytes(2 << 20))]
    async with serve(script) as server, file_storing.client(timeout=timeout, budget=budget) as client:
        with Lasting() as lasting, pytest.raises(penstock.BudgetExceeded) as caught:
            await client.get(server.url)
        assert 0.2 <= lasting.seconds < 10
        assert caught.value.resource == resource
        assert f"Budget.{resource}" in str(caught.value)
        assert server.sent < 2 << 20 or len(script[0]) == server.sent
        kept.close()
    # A large file is closed elsewhere.
    await until(lambda: budget.stats()["files"]["used"] == 0)


@pytest.mark.parametrize("limits", [{"files": 0}, {"disk": 1}, {"disk": "1MiB"}])
async def test_a_body_that_is_over_the_budget_by_itself_fails_without_waiting(
    file_storing: Storing, limits: dict[str, Any]
) -> None:
    budget = penstock.Budget(**limits)
    timeout = penstock.Timeouts(budget=None)
    async with (
        serve([response(bytes(2 << 20))]) as server,
        file_storing.client(timeout=timeout, budget=budget) as client,
        asyncio.timeout(10),
    ):
        with pytest.raises(penstock.BudgetExceeded) as caught:
            await client.get(server.url)
    assert caught.value.hopeless
    assert pickle.loads(pickle.dumps(caught.value)).hopeless


async def test_budget_that_comes_free_is_waited_for_whatever_the_other_timeouts(file_storing: Storing) -> None:
    budget = penstock.Budget(files=1)
    kept = penstock.BodySink(file_storing.tunables, budget=budget)
    await penstock.run_blocking(kept.write, b"x")
    await penstock.run_blocking(kept.write_back)
    timeout = penstock.Timeouts(budget=20, idle=0.2)
    body = bytes(range(256)) * 8192
    async with serve([response(body)]) as server, file_storing.client(timeout=timeout, budget=budget) as client:
        asking = asyncio.create_task(client.get(server.url))
        done, _ = await asyncio.wait([asking], timeout=0.6)
        assert not done
        kept.close()
        answer = await asking
        assert await answer.read() == body
        assert answer.body.state == "file"


async def test_what_takes_long_to_run_out_of_budget_is_not_tried_all_the_time() -> None:
    tries = 0

    async def step() -> None:
        nonlocal tries
        tries += 1
        await asyncio.sleep(0.2)
        raise penstock.BudgetExceeded("none")

    with pytest.raises(penstock.BudgetExceeded):
        await with_patience(step, 1)
    assert tries <= 4


async def test_a_stalled_loop_kills_no_response_that_lies_in_the_socket(storing: Storing) -> None:
    def stall() -> None:
        time.sleep(0.2)

    timeout = penstock.Timeouts(first_byte=0.1, idle=0.1)
    # What is sent before a stall is in the client's socket when the loop turns again.
    before_the_head = [response(BODY), stall]
    in_the_body = [head(f"Content-Length: {len(BODY)}"), TURN, BODY, stall]
    async with serve(before_the_head, in_the_body) as server, storing.client(timeout=timeout) as client:
        for _ in range(2):
            assert await (await client.get(server.url)).read() == BODY


async def test_a_body_that_has_come_is_not_idle_while_it_is_written(storing_by: Any) -> None:
    storing = storing_by("windows")
    timeout = penstock.Timeouts(idle=0.1)
    async with serve([response(BODY)]) as server, storing.client(timeout=timeout) as client:
        naps = [penstock._native._nap(storing.pool, 0.5) for _ in range(2)]
        assert await (await client.get(server.url)).read() == BODY
        for nap in naps:
            await nap


async def test_the_time_as_a_whole_goes_on_when_the_connection_has_ended(storing_by: Any) -> None:
    storing = storing_by("windows")
    script = [head("Connection: close"), BODY, CLOSE]
    async with serve(script) as server, storing.client(timeout=penstock.Timeouts(total=0.3)) as client:
        # What has come waits to be written.
        naps = [penstock._native._nap(storing.pool, 2) for _ in range(2)]
        with pytest.raises(penstock.TotalTimeout):
            await client.get(server.url)
        assert client.stats()["open"] == 0
        # Nobody wants it any more: it isn't written when the pool has time, perhaps as the loop ends.
        assert storing.pool.stats()["queued"] == 0
        for nap in naps:
            await nap


async def test_what_was_received_is_forgone_when_the_pool_takes_nothing_any_more(storing_by: Any) -> None:
    storing = storing_by("windows")

    def close_pool(*_: Any) -> None:
        storing.pool.close()

    script = [head("Content-Length: 2000"), bytes(1000), CLOSE]
    hooks = penstock.Hooks(head=close_pool)
    async with serve(script) as server, storing.client(hooks=hooks) as client:
        with pytest.raises(penstock.Truncated) as caught:
            await client.get(server.url)
        assert caught.value.partial is None


async def test_a_timeout_is_not_late_for_the_sake_of_the_bytes(storing_by: Any) -> None:
    storing = storing_by("windows")
    script = [head(f"Content-Length: {len(BODY) + 1}"), BODY, HANG]
    async with serve(script) as server, storing.client(timeout=penstock.Timeouts(idle=0.1)) as client:
        naps = [penstock._native._nap(storing.pool, 1) for _ in range(2)]
        with pytest.raises(penstock.IdleTimeout) as caught:
            await client.get(server.url)
        assert not any(nap.done() for nap in naps)
        assert caught.value.partial is None
        for nap in naps:
            await nap


@pytest.mark.parametrize("how", ["content", "files"])
async def test_the_total_time_holds_while_a_busy_pool_is_to_open_a_file(
    storing_by: Any, tmp_path: Path, how: str
) -> None:
    storing = storing_by("windows")
    (path := tmp_path / "body").write_bytes(BODY)
    sent: Any = {"content": path} if how == "content" else {"files": {"a": path}}
    async with serve([response(b"")]) as server, storing.client(timeout=penstock.Timeouts(total=0.1)) as client:
        naps = [penstock._native._nap(storing.pool, 1) for _ in range(2)]
        with pytest.raises(penstock.TotalTimeout, match=r"no content to send within 0\.1 s") as caught:
            await client.put(server.url, **sent)
        assert not any(nap.done() for nap in naps)
        assert (caught.value.url, server.connections) == (server.url, 0)
        for nap in naps:
            await nap
