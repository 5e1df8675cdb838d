"""Digests of a body, computed while it comes: in order, whatever the pieces, the store and the policy."""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
from collections.abc import Callable
from typing import Any

import penstock
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

MakeTunables = Callable[..., penstock.Tunables]

ALGORITHMS = ("md5", "sha1", "sha256", "sha512")


def digests_of(data: bytes, algorithms: tuple[str, ...] = ALGORITHMS) -> dict[str, str]:
    return {name: hashlib.new(name, data).hexdigest() for name in algorithms}


@pytest.mark.parametrize("max_body_ram", [0, 50_000, 1 << 20], ids=["file", "ram then file", "ram"])
@pytest.mark.parametrize("size", [1, 999, 65_536, 100_003])
def test_they_are_those_of_hashlib(tunables: MakeTunables, body: bytes, max_body_ram: int, size: int) -> None:
    with penstock.BodySink(tunables(max_body_ram=max_body_ram, digests=ALGORITHMS)) as sink:
        for start in range(0, len(body), size):
            sink.write(body[start : start + size])
        image = sink.prepare()
    assert image.digests == digests_of(body)
    assert list(image.digests) == list(ALGORITHMS)


def test_an_empty_body_has_them(tunables: MakeTunables) -> None:
    with penstock.BodySink(tunables(digests=ALGORITHMS)) as sink:
        assert sink.prepare().digests == digests_of(b"")


def test_none_are_computed_unless_they_are_asked_for(tunables: MakeTunables, body: bytes) -> None:
    with penstock.BodySink(tunables()) as sink:
        sink.write(body)
        assert sink.prepare().digests == {}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(0, 90_000), max_size=12),
    max_body_ram=st.integers(0, 400_000),
    back=st.none() | st.integers(0, 11),
)
def test_they_are_of_all_bytes_in_order(
    tunables: MakeTunables, sizes: list[int], max_body_ram: int, back: int | None
) -> None:
    source = random.Random(5)
    whole = b""
    with penstock.BodySink(tunables(max_body_ram=max_body_ram, digests=("sha256",))) as sink:
        for index, size in enumerate(sizes):
            piece = source.randbytes(size)
            whole += piece
            sink.write(piece)
            if index == back:
                sink.write_back()
        image = sink.prepare()
    assert image.digests == digests_of(whole, ("sha256",))


@pytest.mark.asyncio
@pytest.mark.parametrize("max_body_ram", [0, 300_000, 1 << 23], ids=["file", "ram then file", "ram"])
async def test_an_asynchronous_sink_computes_the_same(
    tunables: MakeTunables, policy: Any, body: bytes, max_body_ram: int
) -> None:
    content = body * 10
    async with penstock.AsyncBodySink(tunables(max_body_ram=max_body_ram, digests=ALGORITHMS), policy=policy) as sink:
        for start in range(0, len(content), 30_011):
            await sink.write(content[start : start + 30_011])
        image = await sink.prepare()
    assert image.digests == digests_of(content)


@pytest.mark.asyncio
async def test_a_small_body_is_digested_without_the_pool(tunables: MakeTunables) -> None:
    gate = threading.Event()
    with penstock.DispatchPool(threads=1) as busy:
        blocker = busy.submit(gate.wait)
        try:
            async with asyncio.timeout(5):
                limits = tunables(digests=("sha256",))
                async with penstock.AsyncBodySink(limits, policy=penstock.Dispatch(busy)) as sink:
                    await sink.write(b"small")
                    image = await sink.prepare()
        finally:
            gate.set()
        blocker.result()
    assert image.digests == digests_of(b"small", ("sha256",))


@pytest.mark.asyncio
async def test_a_large_body_in_memory_is_digested_by_the_policy(tunables: MakeTunables) -> None:
    """A hundred times the time that a loop may be held up: it is the pool that runs."""
    gate = threading.Event()
    content = bytes(8 << 20)
    with penstock.DispatchPool(threads=1) as busy:
        blocker = busy.submit(gate.wait)
        try:
            limits = tunables(max_body_ram="16MiB", digests=("sha512",))
            async with penstock.AsyncBodySink(limits, policy=penstock.Dispatch(busy)) as sink:
                await sink.write(content)
                preparing = asyncio.create_task(sink.prepare())
                await asyncio.sleep(0.05)
                assert not preparing.done()
                gate.set()
                image = await preparing
        finally:
            gate.set()
        blocker.result()
    assert image.state == "ram"
    assert image.digests == digests_of(content, ("sha512",))


def test_every_form_of_a_body_keeps_them(tunables: MakeTunables, body: bytes) -> None:
    with penstock.BodySink(tunables(max_body_ram=0, digests=("sha256",))) as sink:
        sink.write(body)
        image = sink.prepare()
    expected = digests_of(body, ("sha256",))
    assert image.mmap().digests == expected
    assert asyncio.run(image.to_ram()).digests == expected


def test_what_was_received_of_a_body_too_long_has_none(tunables: MakeTunables) -> None:
    """A digest of a part would look like one of the whole."""
    with penstock.BodySink(tunables(max_body=10, digests=("sha256",))) as sink:
        sink.write(b"0123456789")
        with pytest.raises(penstock.BodyTooLong) as caught:
            sink.write(b"!")
    assert caught.value.partial.digests == {}
