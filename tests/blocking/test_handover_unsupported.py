"""Where the loop can't be handed over, and loops that become able to."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import threading
from collections.abc import Iterator
from typing import Any

import greenlet
import penstock
import pytest
import uvloop
from penstock import HandoverError, block_in_place
from penstock.blocking import handover

from .handing import blocking, needs_handover, run

pytestmark = needs_handover


def test_without_a_running_loop_it_is_a_plain_call() -> None:
    assert block_in_place(divmod, 7, 2) == (3, 1)


@pytest.fixture
def direct() -> Iterator[None]:
    before = penstock.set_unsupported("direct")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handover, "_warned", False)
        yield
    assert penstock.set_unsupported(before) == "direct"


@pytest.mark.asyncio
async def test_other_loops_refuse_it() -> None:
    before = penstock.stats()["handover"]
    with pytest.raises(HandoverError, match="set_unsupported"):
        block_in_place(int)
    assert penstock.stats()["handover"] == {**before, "refused": before["refused"] + 1}


@pytest.mark.asyncio
async def test_other_loops_stand_still_if_they_are_told_to_and_warn_once(direct: None) -> None:
    before = penstock.stats()["handover"]
    with pytest.warns(RuntimeWarning, match="stand still") as caught:
        assert [block_in_place(int, n) for n in "12"] == [1, 2]
    assert len(caught) == 1
    assert penstock.stats()["handover"] == {**before, "direct": before["direct"] + 2}


def test_a_setting_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="maybe"):
        penstock.set_unsupported("maybe")  # type: ignore[arg-type]


def test_a_callback_is_no_task() -> None:
    async def main() -> None:
        done = asyncio.get_running_loop().create_future()

        def callback() -> None:
            with pytest.raises(HandoverError, match="belongs to no task"):
                block_in_place(int)
            done.set_result(None)

        asyncio.get_running_loop().call_soon(callback)
        await done

    run(main())


def test_greenlets_are_refused() -> None:
    async def main() -> None:
        assert block_in_place(int) == 0
        with pytest.raises(HandoverError, match="greenlet"):
            greenlet.greenlet(lambda: block_in_place(int)).switch()
        assert block_in_place(int) == 0

    run(main())


def test_a_cpython_that_was_not_tested_gets_asyncios_loop_and_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "TESTED", set())
    with pytest.warns(RuntimeWarning, match="no hand-over on CPython"):
        loop = penstock.new_event_loop()
    loop.close()
    assert type(loop) is asyncio.SelectorEventLoop

    async def enables() -> bool:
        return await penstock.enable_handover()

    assert asyncio.run(enables()) is False


def test_where_asyncios_loops_were_changed_there_is_no_hand_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_once(self: asyncio.SelectorEventLoop) -> None:
        asyncio.BaseEventLoop._run_once(self)  # type: ignore[attr-defined]

    # As nest_asyncio does, whose loops run within themselves.
    monkeypatch.setattr(asyncio.SelectorEventLoop, "_run_once", run_once, raising=False)
    with pytest.warns(RuntimeWarning, match="no hand-over: something in this process has changed"):
        assert penstock.run(penstock.enable_handover()) is False


def test_on_a_cpython_that_was_not_tested_all_else_works(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> tuple[int, int]:
        with pytest.raises(HandoverError, match="not penstock"):
            block_in_place(int)
        async with penstock.DispatchPool(threads=1) as pool:
            policy = penstock.Permit(penstock.Semaphore(1), pool=pool)
            return await policy.run(threading.get_ident), await pool.run(threading.get_ident)

    monkeypatch.setattr(handover, "TESTED", set())
    with pytest.warns(RuntimeWarning, match="no hand-over on CPython") as caught:
        on_the_pool, its_thread = penstock.run(main())
    assert len(caught) == 1
    assert on_the_pool == its_thread


def test_without_handover_it_is_asyncios_loop() -> None:
    loop = penstock.new_event_loop(handover=False)
    loop.close()
    assert type(loop) is asyncio.SelectorEventLoop


def test_a_loop_of_asyncios_hands_over_when_it_was_enabled() -> None:
    async def main() -> None:
        async with penstock.DispatchPool(threads=1) as pool:
            await pool.run(int)
            assert await penstock.enable_handover()
            assert await penstock.enable_handover()
            barrier = threading.Barrier(4)

            async def after() -> int:
                await pool.run(int)
                return block_in_place(barrier.wait, 15)

            assert sorted(await asyncio.gather(*(after() for _ in range(4)))) == [0, 1, 2, 3]

    asyncio.run(asyncio.wait_for(main(), 20))


def test_tasks_that_enable_it_in_the_same_turn_block_in_the_next() -> None:
    async def enables() -> int:
        assert await penstock.enable_handover()
        return block_in_place(barrier.wait, 15)

    async def main() -> list[int]:
        return await asyncio.gather(*(enables() for _ in range(4)))

    barrier = threading.Barrier(4)
    assert sorted(asyncio.run(asyncio.wait_for(main(), 20))) == [0, 1, 2, 3]


@pytest.mark.parametrize("debug", [False, True])
def test_in_the_turn_in_which_it_is_enabled_it_is_refused(debug: bool) -> None:
    async def blocks() -> None:
        with pytest.raises(HandoverError, match="the turn of the loop"):
            block_in_place(int)
        await asyncio.sleep(0)
        assert block_in_place(int) == 0

    async def main() -> None:
        assert (await asyncio.gather(penstock.enable_handover(), blocks(), blocks()))[0]
        assert asyncio.get_running_loop().get_debug() is debug

    asyncio.run(main(), debug=debug)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="not on this platform: eager tasks came with CPython 3.12")
@pytest.mark.parametrize("debug", [False, True])
def test_in_the_step_in_which_it_is_enabled_an_eager_task_is_refused(debug: bool) -> None:
    # Else a carrier would run what the turn that is under way, asyncio's, has counted.
    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        enabling = asyncio.create_task(penstock.enable_handover())
        with pytest.raises(HandoverError, match="the turn of the loop"):
            await asyncio.create_task(blocking(int))
        assert await enabling
        assert await asyncio.create_task(blocking(int)) == 0

    asyncio.run(main(), debug=debug)


REFUSED = [
    {"max_carriers": -1},
    {"max_carriers": 1 << 64},
    {"threshold": -1},
    {"threshold": float("nan")},
    {"idle_seconds": float("inf")},
    {"idle_seconds": 1e19},
]


@pytest.mark.parametrize("options", REFUSED)
def test_a_loop_whose_options_are_refused_goes_on_as_it_was(options: dict[str, Any]) -> None:
    name, value = next(iter(options.items()))

    async def main() -> type:
        with pytest.raises(ValueError, match=re.escape(f"{name}={value}: not ")):
            await penstock.enable_handover(**options)
        await asyncio.sleep(0)
        return type(asyncio.get_running_loop())

    assert asyncio.run(main()) is asyncio.SelectorEventLoop


@pytest.mark.parametrize("options", REFUSED)
def test_a_loop_that_is_refused_leaves_nothing_open(options: dict[str, Any]) -> None:
    before = os.listdir("/dev/fd")
    with pytest.raises(ValueError, match=next(iter(options))):
        penstock.new_event_loop(**options)
    assert os.listdir("/dev/fd") == before


def test_uvloop_can_not_be_enabled() -> None:
    async def main() -> bool:
        return await penstock.enable_handover()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()) is False


def test_it_is_not_run_within_a_loop() -> None:
    async def inner() -> None: ...

    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"running event loop: await enable_handover\(\)"):
            penstock.run(inner())

    run(main())
