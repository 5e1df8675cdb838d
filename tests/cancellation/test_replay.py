"""Replayed answers, cancelled at every turn of the loop: nothing is left, and a stream goes on where it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import penstock
import pytest
from penstock import barc
from penstock.replay import ReplayServer

from tests.cancellation.conftest import Held, cancel_everywhere
from tests.replay.test_transport import Cold, recorded

pytestmark = pytest.mark.asyncio

BODY = bytes(i * 13 & 255 for i in range(600_000))


async def step() -> None:
    await asyncio.sleep(0.001)


async def test_a_request_cancelled_at_any_turn_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.barc"
    async with barc.AsyncArchive(path, "a", strategy=barc.Strategy.gzip(check_identity=False)) as archive:
        await archive.append(recorded("http://a/", BODY, res_headers=[("Content-Type", "text/plain")]))

    async def pieces() -> AsyncIterator[bytes]:
        yield BODY

    async def ask() -> None:
        async with penstock.Client(transport=penstock.Replay(path)) as client:
            answer = await client.record("GET", "http://a/", content=pieces())
            assert await answer.res_body.read() == BODY
            async with client.stream("GET", "http://a/") as stream:
                assert await stream.read() == BODY

    await ask()
    before = Held()
    assert await cancel_everywhere(ask, before.is_given_back, step=step) > 5


async def test_a_stream_that_was_cancelled_is_read_on(tmp_path: Path) -> None:
    path = tmp_path / "body"
    path.write_bytes(BODY)
    image = penstock.BodyImage.from_path(path)
    replay = penstock.Replay([recorded("http://a/", image)])
    async with penstock.Client(transport=replay) as client, client.stream("GET", "http://a/") as stream:
        reading = asyncio.ensure_future(stream.read(50_000))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
        # What a cancelled read had taken is lost with it; what comes next isn't.
        rest = await stream.read()
        assert BODY.endswith(rest)
        assert len(rest) >= len(BODY) - 65_536


async def test_a_stream_whose_scope_is_left_amid_a_read_is_closed_whatever_becomes_of_that() -> None:
    async with penstock.Client(transport=penstock.Replay([recorded("http://a/", b"body")])) as client:
        for pieces in [b"abc", b"def"], []:
            with anyio.move_on_after(0.01) as scope:
                async with client.stream("GET", "http://a/") as answer:
                    stored: Any = answer
                    stored._reader = stored._policy = cold = Cold(*pieces)
                    # Of none, the read fails.
                    del cold._pieces[len(pieces) :]
                    await answer.read()
            assert scope.cancelled_caught
            cold.read.set()
            with pytest.raises(penstock.RequestError, match="it was closed"):
                await answer.read()
            await anyio.wait_all_tasks_blocked()


async def test_a_timeout_of_a_stream_doesnt_wait_for_a_read_that_no_thread_has_taken() -> None:
    async with penstock.Client(transport=penstock.Replay([recorded("http://a/", b"body")])) as client:

        async def ask() -> None:
            async with asyncio.timeout(0.01), client.stream("GET", "http://a/") as answer:
                stored: Any = answer
                stored._reader = stored._policy = Cold()
                await answer.read()

        task = asyncio.create_task(ask())
        # Nothing is ever read.
        await asyncio.wait([task], timeout=10)
        assert task.done()
        with pytest.raises(TimeoutError):
            await task


async def test_a_stream_that_is_closed_amid_a_tasks_read_gives_it_what_came() -> None:
    async with penstock.Client(transport=penstock.Replay([recorded("http://a/", b"body")])) as client:
        async with client.stream("GET", "http://a/") as answer:
            stored: Any = answer
            stored._reader = stored._policy = cold = Cold(b"abc", b"def")
            reading = asyncio.ensure_future(anext(answer.stream()))
            await asyncio.sleep(0)
        cold.read.set()
        assert await reading == b"abc"
        with pytest.raises(penstock.RequestError, match="it was closed"):
            await answer.read()


async def test_a_server_that_is_cancelled_leaves_nothing() -> None:
    async def serve() -> None:
        async with ReplayServer([recorded("http://a/", BODY)]) as server, penstock.Client() as client:
            assert await (await client.get(server.url + "/")).read() == BODY

    await serve()
    before = Held()
    assert await cancel_everywhere(serve, before.is_given_back, step=step) > 5
