"""`penstock_replay`: pytest finds the fixture by itself, and what it starts ends with the test."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import urllib.request
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import penstock
import pytest
import uvloop
from penstock import barc
from penstock.pytest_plugin import Replayed

from tests.replay.test_server import running
from tests.replay.test_transport import recorded


def test_pytest_finds_it(pytestconfig: pytest.Config) -> None:
    (found,) = entry_points(group="pytest11", name="penstock")
    assert found.value == "penstock.pytest_plugin"
    assert pytestconfig.pluginmanager.get_plugin("penstock") is sys.modules["penstock.pytest_plugin"]


def test_a_plain_test_asks_at_its_url(penstock_replay: Callable[..., Any]) -> None:
    replayed = penstock_replay([recorded("https://site.test/a", b"1")])
    assert "penstock-replay" not in running()
    for _ in range(2):
        with urllib.request.urlopen(replayed.url + "/a") as answer:
            assert answer.read() == b"1"
    assert replayed.server.answered == 2


@pytest.mark.asyncio
async def test_a_test_of_a_task_has_a_transport_or_the_url(penstock_replay: Callable[..., Any]) -> None:
    replayed = penstock_replay([recorded("https://site.test/a", b"1")], key=lambda prolog: prolog.url[-2:])
    async with penstock.Client(transport=replayed.transport) as client:
        assert await (await client.get("https://elsewhere.test/a")).read() == b"1"
    async with penstock.Client(base_url=replayed.url) as client:
        assert await (await client.get("/a")).read() == b"1"


@pytest.mark.asyncio
async def test_dialogs_that_come_once_do_for_both(penstock_replay: Callable[..., Any]) -> None:
    replayed = penstock_replay(recorded(f"http://site.test/{name}", name.encode()) for name in "ab")
    async with penstock.Client(transport=replayed.transport) as client:
        assert await (await client.get("http://site.test/b")).read() == b"b"
    assert replayed.server.recorded == 2


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_replay_for_all_tests_answers_in_one_loop_after_another(tmp_path: Path, run: Callable[..., Any]) -> None:
    with barc.open(tmp_path / "site.barc", "a") as archive:
        for body in (b"1", b"2"):
            archive.append(recorded("https://site.test/a", body))

    async def ask() -> bytes:
        async with penstock.Client(transport=replay) as client:
            return await (await client.get("https://site.test/a")).read()

    with contextlib.closing(penstock.Replay(tmp_path / "site.barc")) as replay:
        assert [run(ask()) for _ in range(3)] == [b"1", b"2", b"2"]


def test_what_it_gave_is_closed_when_the_test_ends() -> None:
    stack = contextlib.ExitStack()
    with stack:
        transport = Replayed([recorded("http://a/")], None, stack).transport
    with pytest.raises(ValueError, match="closed"):
        asyncio.run(transport.answer(penstock.Prolog(method="GET", url="http://a/")))


def test_penstock_and_its_plugin_import_no_replay_before_it_is_asked_for(script: Callable[..., Any]) -> None:
    source = (
        "import sys, penstock, penstock.pytest_plugin\n"
        "assert not {'penstock.replay', 'penstock.http', 'penstock.barc'} & set(sys.modules)\n"
        "assert penstock.Replay is penstock.replay.Replay"
    )
    ran = script(source)
    assert ran.returncode == 0, ran.stderr
