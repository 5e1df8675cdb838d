"""`har.write`, cancelled at every turn of the loop: no file, whole or in part."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from penstock import har

from tests.barc.conftest import make_dialog
from tests.cancellation.conftest import Held, cancel_everywhere

pytestmark = pytest.mark.asyncio


async def test_cancelled_at_any_turn_it_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.har"
    dialogs = [make_dialog(number, b"body") for number in range(2)]
    await har.write(path, dialogs)
    path.unlink()
    before = Held()

    async def write() -> None:
        await har.write(path, dialogs, overwrite=True)

    async def after() -> None:
        await before.is_given_back()
        assert [one for one in tmp_path.iterdir() if one != path] == []

    async def step() -> None:
        await asyncio.sleep(0.0003)

    assert await cancel_everywhere(write, after, step=step) > 3
