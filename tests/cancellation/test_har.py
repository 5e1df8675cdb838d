"""`har.write`, cancelled at every turn of the loop: no file, whole or in part."""

from __future__ import annotations

import asyncio
from pathlib import Path

import anyio
import pytest
from penstock import Dialog, har

from tests.barc.conftest import make_dialog
from tests.cancellation.conftest import Held, cancel_everywhere

pytestmark = pytest.mark.asyncio


async def begin(folder: Path) -> tuple[Path, list[Dialog], Held]:
    """Where to write, what, and what is held before, when what comes with the first write is there."""
    path = folder / "a.har"
    dialogs = [make_dialog(number, b"body") for number in range(2)]
    await har.write(path, dialogs)
    path.unlink()
    return path, dialogs, Held()


async def test_cancelled_at_any_turn_it_leaves_no_file(tmp_path: Path) -> None:
    path, dialogs, before = await begin(tmp_path)

    async def write() -> None:
        await har.write(path, dialogs, overwrite=True)

    async def after() -> None:
        await before.is_given_back()
        assert [one for one in tmp_path.iterdir() if one != path] == []

    async def step() -> None:
        await asyncio.sleep(0.0003)

    assert await cancel_everywhere(write, after, step=step) > 3


async def test_cancelled_by_a_scope_that_cancels_again_and_again_it_leaves_no_file(tmp_path: Path) -> None:
    path, dialogs, before = await begin(tmp_path)
    for turns in range(100):
        scope = anyio.CancelScope()

        async def write(scope: anyio.CancelScope = scope) -> None:
            with scope:
                await har.write(path, dialogs, overwrite=True)

        writing = asyncio.create_task(write())
        for _ in range(turns):
            await asyncio.sleep(0.0003)
        written = writing.done()
        scope.cancel()
        await writing
        del writing
        await before.is_given_back()
        assert [one for one in tmp_path.iterdir() if one != path] == []
        if written:
            break
    assert turns > 0
