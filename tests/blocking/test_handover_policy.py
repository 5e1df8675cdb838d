"""Permits on a loop that can be handed over: the function runs in place, and the loop goes on."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock import HandoverError, Permit, Semaphore, blocking_permit, har
from penstock.body import AsyncBodySink, Tunables

from .handing import Met, needs_handover, run, stats, until

pytestmark = needs_handover


def test_a_policys_function_runs_in_place_under_its_permit_while_the_loop_goes_on() -> None:
    async def main() -> None:
        sem, met = Semaphore(1), Met()
        policy = Permit(sem)

        async def opens() -> None:
            await until(met.entered.is_set)
            assert sem.free == 0
            met.opened.set()

        other = asyncio.create_task(opens())
        here = threading.get_ident()
        assert await policy.run(met) == here
        await other
        assert sem.free == 1
        assert stats()["blocks"] == stats()["taken"] == 1
        found = policy.stats()
        assert (found["count"], found["waiting"], found["running"]) == (1, 0, 0)

    run(main())


def test_a_callback_runs_one_in_a_task_of_its_own() -> None:
    async def main() -> None:
        policy, loop = Permit(Semaphore(1)), asyncio.get_running_loop()
        begun = loop.create_future()
        loop.call_soon(lambda: begun.set_result(policy.run(divmod, 7, 2)))
        assert await (await begun) == (3, 1)
        assert stats()["blocks"] == 1

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="not on this platform: eager tasks came with CPython 3.12")
def test_with_eager_tasks_whoever_begins_one_goes_on_and_may_be_a_callback() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        policy, mets = Permit(Semaphore(3), on_unsupported="error"), [Met() for _ in range(3)]
        runs: list[Any] = [policy.run(met) for met in mets[:2]]
        loop.call_soon(lambda: runs.append(policy.run(mets[2])))
        assert not any(met.entered.is_set() for met in mets)
        await until(lambda: all(met.entered.is_set() for met in mets))
        cancelled = policy.run(mets.clear)
        cancelled.cancel()
        for met in mets:
            met.opened.set()
        await asyncio.gather(*runs)
        assert cancelled.cancelled()
        assert (policy.semaphore.free, len(mets)) == (3, 3)

    run(main())


def test_no_more_run_at_once_than_there_are_permits() -> None:
    async def main() -> None:
        sem, most, running = Semaphore(3), 0, 0
        lock = threading.Lock()

        def fn() -> None:
            nonlocal most, running
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.003)
            with lock:
                running -= 1

        policy = Permit(sem)
        await asyncio.gather(*(policy.run(fn) for _ in range(12)))
        assert 2 <= most <= 3
        assert sem.free == 3

    run(main())


def test_one_cancelled_before_it_starts_never_starts_and_after_that_keeps_its_permit_to_its_end() -> None:
    async def main() -> None:
        sem, met, ran = Semaphore(1), Met(), []
        policy = Permit(sem)
        first, second = policy.run(met), policy.run(ran.append, 1)
        await until(met.entered.is_set)
        second.cancel()
        first.cancel()
        await asyncio.sleep(0.005)
        assert sem.free == 0
        met.opened.set()
        results = await asyncio.gather(first, second, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        assert (sem.free, ran) == (1, [])

    run(main())


def test_without_a_carrier_left_it_is_dispatched() -> None:
    async def main() -> None:
        mets = [Met() for _ in range(3)]
        async with penstock.DispatchPool(threads=1, name_prefix="spare-") as pool:
            policy = Permit(Semaphore(3), pool=pool)
            runs = [policy.run(met) for met in mets]
            await until(lambda: all(met.entered.is_set() for met in mets))
            assert stats()["capped"] == 1
            for met in mets:
                met.opened.set()
            assert len(set(await asyncio.gather(*runs))) == 3
            assert policy.semaphore.free == 3

    run(main(), max_carriers=2)


@pytest.mark.asyncio
async def test_on_another_loop_it_does_as_it_was_told() -> None:
    here = threading.get_ident()
    assert await Permit(Semaphore(1)).run(threading.get_ident) != here
    sem = Semaphore(1)
    with pytest.raises(HandoverError, match=r'Permit\(on_unsupported="direct"'):
        await Permit(sem, on_unsupported="error").run(threading.get_ident)
    assert sem.free == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("penstock.blocking.handover._warned", True)
        direct: Any = Permit(sem, on_unsupported="direct")
        assert await direct.run(lambda: (threading.get_ident(), sem.free)) == (here, 0)
    assert (sem.free, direct.on_unsupported) == (1, "direct")


def test_only_what_is_known_is_taken_for_unsupported() -> None:
    with pytest.raises(ValueError, match='"maybe"'):
        Permit(Semaphore(1), on_unsupported="maybe")  # type: ignore[arg-type]


def test_a_blocking_permits_run_hands_the_loop_over() -> None:
    async def main() -> None:
        sem, met = Semaphore(1), Met()
        other = asyncio.create_task(until(met.entered.is_set))
        other.add_done_callback(lambda _: met.opened.set())
        async with blocking_permit(sem) as permit:
            assert permit.run(met) == threading.get_ident()
        await other
        assert (sem.free, stats()["taken"]) == (1, 1)

    run(main())


def test_a_body_is_written_in_place() -> None:
    async def main() -> None:
        policy = Permit(Semaphore(2))
        async with AsyncBodySink(Tunables(max_body_ram=0), policy=policy) as sink:
            for _ in range(8):
                await sink.write(b"x" * 300_000)
            image = await sink.prepare()
        assert image.state == "file"
        assert len(image) == 2_400_000
        assert policy.stats()["count"] > 0
        assert stats()["blocks"] > 0
        assert stats()["away"] == 0

    run(main())


def test_a_har_is_written_in_place(tmp_path: Path) -> None:
    async def main() -> None:
        policy = Permit(Semaphore(1))
        assert await har.write(tmp_path / "empty.har", [], policy=policy) == 0
        assert policy.stats()["count"] == stats()["blocks"] > 0

    run(main())
    assert json.loads((tmp_path / "empty.har").read_text())["log"]["entries"] == []
