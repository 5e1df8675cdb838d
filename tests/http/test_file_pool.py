"""Recycled files: a body never shows a byte of the one before it, and nothing that is looked at is recycled."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import penstock
import pytest
from penstock._native import settle

from tests.http.conftest import STORINGS, Storing
from tests.http.serving import CLOSE, TURN, Script, chunked, cut, head, response, serve, until

pytestmark = pytest.mark.asyncio


def body(size: int, seed: int) -> bytes:
    return bytes((i * 7 + seed) & 255 for i in range(size))


@pytest.mark.parametrize("name", [name for name in STORINGS if name != "ram"])
async def test_bodies_of_all_sizes_through_the_same_files(storing_by: Callable[[str], Storing], name: str) -> None:
    storing = storing_by(name)
    files = penstock.FilePool(max_bytes="16MiB")
    bodies = [body(size, seed) for seed, size in enumerate([900_000, 70_000, 1, 262_144, 300_001, 899_999, 5])]
    scripts: list[Script] = []
    for content in bodies:
        wire = response(content)
        scripts.append(cut(wire, len(wire) // 3, len(wire) // 2))
        wire = head("Transfer-Encoding: chunked") + chunked(content, 8192)
        scripts.append(cut(wire, len(wire) // 2))
        scripts.append([head() + content[:40], content[40:], CLOSE])
    try:
        async with serve(*scripts) as server, storing.client(file_pool=files) as client:
            for content in bodies:
                for mapped in (False, True, True):
                    answer = await client.get(server.url)
                    image = await answer.body.to_mmap() if mapped else answer.body
                    assert await image.read() == content
                    del answer, image
        assert settle(5)
        assert files.stats()["recycled"] > 0
    finally:
        await penstock.run_blocking(files.clear)


async def test_what_is_looked_at_is_not_recycled(storing_by: Callable[[str], Storing]) -> None:
    storing = storing_by("drained")
    files = penstock.FilePool(max_bytes="16MiB")
    first, second = body(500_000, 1), body(500_000, 2)
    try:
        async with serve([response(first)], [response(second)]) as server, storing.client(file_pool=files) as client:
            image = await (await client.get(server.url)).body.to_mmap()
            view = memoryview(image)
            del image
            gc.collect()
            for _ in range(3):
                assert await (await client.get(server.url)).read() == second
            assert view == first
            view.release()
    finally:
        gc.collect()
        settle(5)
        await penstock.run_blocking(files.clear)


@pytest.mark.parametrize("how", ["truncated", "too long"])
async def test_a_body_that_failed_leaves_its_file_to_nobody_who_still_looks(
    storing_by: Callable[[str], Storing], how: str
) -> None:
    storing = storing_by("drained")
    files = penstock.FilePool(max_bytes="16MiB")
    content, other = body(400_000, 1), body(400_000, 2)
    script: Script = [head(f"Content-Length: {len(content) + 1}"), content, CLOSE]
    most = 300_000 if how == "too long" else 1 << 20
    if how == "too long":
        script = [head("Transfer-Encoding: chunked"), chunked(content, 8192)]
    try:
        async with serve(script, [response(other)]) as server, storing.client(file_pool=files) as client:
            tunables = storing.tunables.replace(max_body=most)
            with pytest.raises((penstock.Truncated, penstock.BodyTooLong)) as caught:
                await client.get(server.url, tunables=tunables)
            partial = caught.value.partial
            for _ in range(2):
                assert await (await client.get(server.url)).read() == other
            assert await partial.read() == content[:most]
            del partial, caught
    finally:
        gc.collect()
        settle(5)
        await penstock.run_blocking(files.clear)


async def test_a_file_that_cannot_be_had_is_waited_for(storing_by: Callable[[str], Storing]) -> None:
    storing, budget = storing_by("direct"), penstock.Budget(files=1)
    files, content = penstock.FilePool(), body(2 << 20, 1)
    kept = penstock.BodySink(storing.tunables, budget=budget)
    await penstock.run_blocking(kept.write, b"x")
    await penstock.run_blocking(kept.write_back)
    # Whoever knows that the body goes to a file before any of it is there receives into the file.
    script: Script = [head(f"Content-Length: {len(content)}"), TURN, content]
    try:
        async with serve(script) as server, storing.client(budget=budget, file_pool=files) as client:
            with pytest.raises(penstock.BudgetExceeded, match="files"):
                await client.get(server.url, timeout=penstock.Timeouts(budget=0.1))
            asking = asyncio.create_task(client.get(server.url))
            assert await asyncio.wait([asking], timeout=0.1) == (set(), {asking})
            kept.close()
            assert await (await asking).read() == content
            del asking
    finally:
        await penstock.run_blocking(files.clear)


async def test_a_body_counts_against_its_own_clients_budget(storing_by: Callable[[str], Storing]) -> None:
    storing, files = storing_by("permit"), penstock.FilePool()
    small, large = penstock.Budget(ram="1MiB", disk="1MiB"), penstock.Budget(files=10)
    content, timeout = body(4 << 20, 1), penstock.Timeouts(budget=0.1)
    try:
        async with (
            serve([response(bytes(100_000))], [response(content)]) as server,
            storing.client(file_pool=files, budget=small) as first,
            storing.client(file_pool=files, budget=large, timeout=timeout) as second,
        ):
            await first.get(server.url)
            await until(lambda: files.stats()["files"] == 1)
            answer = await second.get(server.url)
            assert (large.stats()["files"]["used"], small.stats()["files"]["used"]) == (1, 1)
            assert await answer.read() == content
            del answer
    finally:
        gc.collect()
        settle(5)
        await penstock.run_blocking(files.clear)


@pytest.mark.parametrize("age", [-1, float("nan"), float("inf"), 1 << 80, pytest.param(1 << 20_000, id="huge")])
async def test_an_age_that_is_no_time_is_refused_by_its_name(age: float) -> None:
    with pytest.raises(ValueError, match="max_age="):
        penstock.FilePool(max_age=age)
