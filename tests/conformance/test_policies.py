"""One suite for all policies, in everything that takes one: `run_blocking`, sinks, images and the client."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import penstock
import pytest
import pytest_asyncio
from penstock import Direct, Dispatch, DispatchPool, Permit, Policy, PoolClosed, Semaphore, SemaphoreClosed

from tests.calls import Calls
from tests.conftest import until
from tests.http.serving import response, serve

pytestmark = pytest.mark.asyncio

BODY = bytes(i * 7 & 255 for i in range(400_000))

names = itertools.count()

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


class Bench:
    """A policy, and what holds up the work that it is given."""

    def __init__(self, name: str, pool: DispatchPool) -> None:
        self.name = name
        self.pool = pool
        self.semaphore = Semaphore(2)
        policies: dict[str, Callable[[], Policy]] = {
            "Direct": Direct,
            "Permit": lambda: Permit(self.semaphore),
            "Permit on a pool": lambda: Permit(self.semaphore, pool=pool),
            "Dispatch": Dispatch,
            "Dispatch on a pool": lambda: Dispatch(pool),
        }
        self.policy = policies[name]()
        self._gate = threading.Event()

    def hold(self) -> None:
        """What the policy is given from now on has to wait."""
        if isinstance(self.policy, Permit):
            assert self.semaphore.try_acquire(2)
        else:
            for _ in range(self.pool.threads):
                self.pool.dispatch(self._gate.wait, 20)

    def let_go(self) -> None:
        if isinstance(self.policy, Permit):
            self.semaphore.release(2)
        else:
            self._gate.set()

    def close(self) -> type[Exception]:
        """The policy takes no more; what it raises then."""
        if isinstance(self.policy, Permit):
            self.semaphore.close()
            return SemaphoreClosed
        self.pool.shutdown(wait=False)
        return PoolClosed

    async def settles(self) -> dict[str, Any]:
        """Its figures, when nothing runs or waits any more."""
        await until(lambda: not self.policy.stats()["running"] and not self.policy.stats()["waiting"])
        assert self.semaphore.free == 2
        return self.policy.stats()


POLICIES = ("Direct", "Permit", "Permit on a pool", "Dispatch", "Dispatch on a pool")


@pytest_asyncio.fixture
async def pool() -> AsyncIterator[DispatchPool]:
    async with DispatchPool(threads=2, drain_threads=0) as pool:
        yield pool


@pytest.fixture(params=POLICIES)
def bench(request: pytest.FixtureRequest, pool: DispatchPool) -> Bench:
    return Bench(request.param, pool)


@pytest.fixture(params=[name for name in POLICIES if name.endswith("pool")])
def waiting_bench(request: pytest.FixtureRequest, pool: DispatchPool) -> Iterator[Bench]:
    bench = Bench(request.param, pool)
    yield bench
    bench._gate.set()


# What takes a policy. Each gives BODY from `directory`, or fails if that isn't there.


async def function(policy: Policy, directory: Path) -> bytes:
    def work() -> bytes:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(BODY)
            file.seek(0)
            return file.read()

    return await penstock.run_blocking(work, policy=policy)


async def sink(policy: Policy, directory: Path) -> bytes:
    tunables = penstock.Tunables(max_body_ram=0, temp_dir=directory)
    async with penstock.AsyncBodySink(tunables, policy=policy) as sink:
        for start in range(0, len(BODY), 100_000):
            await sink.write(BODY[start : start + 100_000])
        image = await sink.prepare()
    assert image.state == "file"
    return await asyncio.to_thread(bytes, image)


async def image(policy: Policy, directory: Path) -> bytes:
    source = await asyncio.to_thread(penstock.BodyImage.from_bytes, BODY)
    path = directory / str(next(names))
    await penstock.BodyImage(source, policy).save(path)
    body = penstock.BodyImage.from_path(path, policy=policy)
    mapped = penstock.BodyImage.from_path(path, policy=policy, trusted=True)
    assert bytes(await body.to_ram()) == bytes(await mapped.to_mmap())
    assert b"".join([bytes(view) async for view in body.stream()]) == BODY
    return await body.read()


async def client(policy: Policy, directory: Path) -> bytes:
    tunables = penstock.Tunables(max_body_ram=0, temp_dir=directory)
    async with serve([response(BODY)]) as server, penstock.Client(tunables=tunables, policy=policy) as client:
        body = (await client.get(server.url)).body
    assert body.state == "file"
    return await asyncio.to_thread(bytes, body)


Use = Callable[[Policy, Path], Awaitable[bytes]]


@pytest.fixture(params=[function, sink, image, client], ids=lambda use: use.__name__)
def use(request: pytest.FixtureRequest) -> Use:
    return request.param  # type: ignore[no-any-return]


# The same by each policy


async def test_the_result_is_the_same(bench: Bench, use: Use, tmp_path: Path) -> None:
    assert isinstance(bench.policy, Policy)
    assert await use(bench.policy, tmp_path) == BODY
    results = await asyncio.gather(*[use(bench.policy, tmp_path) for _ in range(4)])
    assert results == [BODY] * 4


async def test_a_failure_reaches_who_waits(bench: Bench, use: Use, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        await use(bench.policy, tmp_path / "missing")
    assert (await bench.settles())["count"] >= 1
    assert await use(bench.policy, tmp_path) == BODY


async def test_an_asynchronous_function_is_refused_by_name(bench: Bench) -> None:
    async def work() -> None:
        raise AssertionError

    with pytest.raises(TypeError, match="work is an asynchronous function"):
        await (await bench.policy.run(work))
    await bench.settles()


async def test_all_of_it_is_in_the_figures(bench: Bench, use: Use, tmp_path: Path) -> None:
    assert bench.policy.stats()["count"] == 0
    await use(bench.policy, tmp_path)
    stats = await bench.settles()
    assert stats["count"] >= 1
    for times in (stats["wait"], stats["run"], stats["lag"]):
        assert times["count"] == sum(count for _, count in times["buckets"])
        assert times["p50"] <= times["p99"] <= times["max"] <= times["sum"]
    assert stats["run"]["count"] == stats["count"]
    if isinstance(bench.policy, Direct):
        # Nothing waits, and the loop stands still for as long as it runs.
        assert stats["wait"]["count"] == 0
        assert stats["lag"] == stats["run"]
    else:
        assert stats["wait"]["count"] == stats["count"]
        assert stats["lag"]["count"] == 0
    await use(bench.policy, tmp_path)
    assert (await bench.settles())["count"] > stats["count"]


async def test_it_waits_its_turn_and_the_loop_turns_meanwhile(waiting_bench: Bench, use: Use, tmp_path: Path) -> None:
    waiting_bench.hold()
    task = asyncio.ensure_future(use(waiting_bench.policy, tmp_path))
    await until(lambda: waiting_bench.policy.stats()["waiting"] == 1)
    # uvloop's timers go by whole milliseconds.
    await asyncio.sleep(0.02)
    assert not task.done()
    assert waiting_bench.policy.stats()["count"] == 0
    waiting_bench.let_go()
    assert await task == BODY
    assert (await waiting_bench.settles())["wait"]["max"] >= 0.01


async def test_cancelled_while_it_waits_it_leaves_nothing(waiting_bench: Bench, use: Use, tmp_path: Path) -> None:
    waiting_bench.hold()
    task = asyncio.ensure_future(use(waiting_bench.policy, tmp_path))
    await until(lambda: waiting_bench.policy.stats()["waiting"] == 1)
    task.cancel()
    await asyncio.sleep(0)
    waiting_bench.let_go()
    await asyncio.wait([task])
    assert task.cancelled()
    await waiting_bench.settles()
    assert await use(waiting_bench.policy, tmp_path) == BODY


async def test_what_can_take_no_more_says_so(waiting_bench: Bench, use: Use, tmp_path: Path) -> None:
    error = waiting_bench.close()
    with pytest.raises(error):
        await use(waiting_bench.policy, tmp_path)
    assert (await waiting_bench.settles())["count"] == 0


# Functions


async def test_a_function_gets_its_arguments_and_its_result_comes_back(bench: Bench) -> None:
    assert await bench.policy.run(lambda a, *, b: (a, b), 1, b=2) == (1, 2)
    assert await asyncio.create_task(bench.policy.run(int)) == 0


async def test_a_function_that_fails_does_so_when_it_is_awaited(bench: Bench) -> None:
    future = bench.policy.run(int, "x")
    with pytest.raises(ValueError, match="invalid literal"):
        await future


async def test_a_function_sees_the_context(bench: Bench) -> None:
    variable.set("mine")
    assert await bench.policy.run(variable.get) == "mine"


async def test_what_a_function_sets_in_its_context_is_not_its_callers(bench: Bench) -> None:
    variable.set("mine")
    await bench.policy.run(variable.set, "changed")
    assert variable.get() == "mine"


async def test_a_function_is_counted_while_it_runs(bench: Bench) -> None:
    seen = await bench.policy.run(bench.policy.stats)
    assert (seen["count"], seen["running"], seen["waiting"], seen["run"]["count"]) == (1, 1, 0, 0)
    with pytest.raises(ZeroDivisionError):
        await bench.policy.run(lambda: 1 / 0)
    assert (await bench.settles())["count"] == 2


async def test_only_direct_runs_a_function_on_the_calling_thread(bench: Bench) -> None:
    here = await bench.policy.run(threading.get_ident) == threading.get_ident()
    assert here == isinstance(bench.policy, Direct)


# `Direct` is free of charge


def tunables(store: str, directory: Path) -> penstock.Tunables:
    most = {"ram": "1GiB", "file": 0}[store]
    return penstock.Tunables(max_body_ram=most, max_body="1GiB", temp_dir=directory)


async def received(size: int, store: str, directory: Path) -> int:
    """Calls for a response of `size` bytes."""
    client = penstock.Client(tunables=tunables(store, directory), policy=Direct())
    async with serve([response(bytes(size))]) as server, client:
        with Calls() as calls:
            body = (await client.get(server.url)).body
    assert (len(body), body.state) == (size, store)
    return calls.count


async def written(pieces: int, store: str, directory: Path) -> int:
    """Calls for so many pieces."""
    async with penstock.AsyncBodySink(tunables(store, directory), policy=Direct()) as sink:
        with Calls() as calls:
            for _ in range(pieces):
                await sink.write(bytes(100_000))
        assert (len(sink), sink.state) == (pieces * 100_000, store)
    return calls.count


async def read(pieces: int, store: str, directory: Path) -> int:
    """Calls for so many pieces."""
    async with penstock.AsyncBodySink(tunables(store, directory), policy=Direct()) as sink:
        await sink.write(bytes(pieces * 10_000))
        image = await sink.prepare()
    with Calls() as calls:
        async for piece in image.stream(10_000):
            assert len(piece) == 10_000
    return calls.count


async def test_direct_adds_no_call_for_each_piece_that_the_client_receives(tmp_path: Path) -> None:
    few = await received(1 << 20, "file", tmp_path)
    assert few > 0
    # Windows of 256 KiB: 60 more of them. A turn more or less of the loop while connecting makes a call or two.
    assert await received(16 << 20, "file", tmp_path) < few + 10


async def test_direct_adds_no_call_for_each_piece_that_a_sink_takes(tmp_path: Path) -> None:
    in_memory = await written(50, "ram", tmp_path)
    assert in_memory >= 50
    assert await written(50, "file", tmp_path) == in_memory


async def test_direct_adds_no_call_for_each_piece_that_an_image_gives(tmp_path: Path) -> None:
    in_memory = await read(50, "ram", tmp_path)
    assert in_memory >= 50
    assert await read(50, "file", tmp_path) == in_memory


@pytest.mark.parametrize("other", ["dispatch", 5, Dispatch, Semaphore(1)])
async def test_what_is_no_policy_is_refused_where_it_is_given(other: Any, tmp_path: Path) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield BODY

    file = tmp_path / "file"
    file.write_bytes(BODY)
    keepers: list[Callable[[], object]] = [
        lambda: penstock.AsyncBodySink(policy=other),
        lambda: penstock.BodyImage.from_path(file, policy=other),
        lambda: penstock.barc.AsyncArchive(file, policy=other),
        lambda: penstock.Replay(file, policy=other),
        lambda: penstock.replay.ReplayServer(file, policy=other),
        lambda: penstock.run_blocking(len, BODY, policy=other),
    ]
    for keep in keepers:
        with pytest.raises(TypeError, match=r"^policy=.*: takes a policy, as Dispatch\(pool\)"):
            keep()
    with pytest.raises(TypeError, match="takes a policy"):
        await penstock.collect(pieces(), policy=other)
    with pytest.raises(TypeError, match="takes a policy"):
        await penstock.har.write(tmp_path / "a.har", [], policy=other)
