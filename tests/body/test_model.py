"""Sinks and images against a model of a few lines: whatever is done in whatever order, the bytes are those that were
written, the state is the one that the rules say, and in the end everything is given back."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import pickle
import random
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import penstock
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from penstock import _native

MOST = 400_000
SIZES = st.one_of(st.integers(0, 5), st.integers(0, 5000), st.integers(0, 150_000))


class Body:
    """What the images of one body have in common."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.named = False
        self.mapped = False


class Machine(RuleBasedStateMachine):
    """A sink is filled and prepared, and images are made of the image, over and over."""

    policy: Any = None
    asynchronous = False

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
        self.source = random.Random(1)
        self.sink: Any = None
        self.images: list[tuple[penstock.BodyImage, Body, str]] = []
        self.saved = 0
        self.lent = penstock.stats()["slabs"]["lent"]

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(coroutine)

    def of_sink(self, name: str, *args: Any) -> Any:
        method = getattr(self.sink, name)
        return self.run(method(*args)) if self.asynchronous else method(*args)

    # The sink

    @initialize(ram=st.integers(0, MOST), hint=st.none() | st.integers(0, 2 * MOST), budget=st.integers(0, 1 << 20))
    def begin(self, ram: int, hint: int | None, budget: int) -> None:
        self.limits = penstock.Tunables(max_body_ram=ram, max_body=MOST, temp_dir=self.folder, digests=("sha1",))
        self.budget = penstock.Budget(ram=budget)
        self.room = budget
        self.open_sink(hint)

    def open_sink(self, hint: int | None) -> None:
        self.content = b""
        self.spilled = hint is not None and hint > self.limits.max_body_ram
        options: dict[str, Any] = {"budget": self.budget, "size_hint": hint}
        if self.asynchronous:
            self.sink = penstock.AsyncBodySink(self.limits, policy=self.policy, **options)
        else:
            self.sink = penstock.BodySink(self.limits, **options)

    @precondition(lambda self: self.sink is None)
    @rule(hint=st.none() | st.integers(0, 2 * MOST))
    def another(self, hint: int | None) -> None:
        self.open_sink(hint)

    @precondition(lambda self: self.sink is not None)
    @rule(size=SIZES, kind=st.sampled_from([bytes, bytearray, memoryview]))
    def write(self, size: int, kind: Any) -> None:
        data = self.source.randbytes(size)
        # What Hypothesis or a thread that is just done still holds of dropped images counts, too.
        used = self.budget.stats()["ram"]["used"]
        if len(self.content) + size > MOST:
            with pytest.raises(penstock.BodyTooLong) as caught:
                self.of_sink("write", kind(data))
            assert caught.value.seen == len(self.content) + size
            state = "file" if self.spilled and self.content else "ram"
            self.keep(caught.value.partial, Body(self.content), state, digests=False)
            self.sink = None
            return
        assert self.of_sink("write", kind(data)) is None
        self.content += data
        self.spilled |= len(self.content) > self.limits.max_body_ram
        if size and not self.sink.is_ram and not self.spilled:
            # Only the budget may have it spill earlier, and not before it must.
            assert used + size > self.room
            self.spilled = True

    @precondition(lambda self: self.sink is not None)
    @rule()
    def write_back(self) -> None:
        self.of_sink("write_back")
        self.spilled = True

    @precondition(lambda self: self.sink is not None)
    @rule()
    def prepare(self) -> None:
        image = self.of_sink("prepare")
        state = "file" if self.spilled and self.content else "ram"
        self.keep(image, Body(self.content), state)
        assert self.sink.closed
        with pytest.raises(ValueError, match="prepared"):
            self.of_sink("write", b"more")
        self.sink = None

    @precondition(lambda self: self.sink is not None)
    @rule()
    def close(self) -> None:
        self.of_sink("aclose" if self.asynchronous else "close")
        self.sink = None

    @invariant()
    def sink_is_as_modelled(self) -> None:
        if self.sink is not None:
            assert len(self.sink) == len(self.content)
            assert self.sink.state == ("file" if self.spilled else "ram")

    # Images

    def keep(self, image: penstock.BodyImage, body: Body, state: str, *, digests: bool = True) -> None:
        assert (image.state, len(image)) == (state, len(body.content))
        assert set(image.digests) == ({"sha1"} if digests else set())
        self.images = [*self.images[-5:], (image, body, state)]

    @precondition(lambda self: self.images)
    @rule(data=st.data(), limit=st.none() | st.integers(0, MOST))
    def read(self, data: st.DataObject, limit: int | None) -> None:
        image, body, _ = data.draw(st.sampled_from(self.images))
        assert self.run(image.read(limit)) == body.content[:limit]

    @precondition(lambda self: self.images)
    @rule(data=st.data(), size=st.integers(500, MOST), turns=st.booleans())
    def stream(self, data: st.DataObject, size: int, turns: bool) -> None:
        image, body, _ = data.draw(st.sampled_from(self.images))

        async def streamed() -> list[bytes]:
            return [bytes(view) async for view in image.stream(size, policy=self.policy, yield_between=turns)]

        for pieces in (self.run(streamed()), [bytes(view) for view in image.chunks(size)]):
            assert b"".join(pieces) == body.content
            assert all(0 < len(piece) <= size for piece in pieces)

    @precondition(lambda self: self.images)
    @rule(data=st.data(), start=st.integers(0, MOST), size=st.integers(0, MOST))
    def read_range(self, data: st.DataObject, start: int, size: int) -> None:
        image, body, _ = data.draw(st.sampled_from(self.images))
        with image.open() as reader:
            reader.seek(start)
            assert reader.read(size) == body.content[start : start + size]
        whole = io.BytesIO()
        assert image.write_to(whole) == len(body.content)
        assert whole.getvalue() == bytes(image) == body.content

    @precondition(lambda self: self.images)
    @rule(data=st.data())
    def gather(self, data: st.DataObject) -> None:
        image, body, state = data.draw(st.sampled_from(self.images))
        joined = image.gather()
        assert joined.contiguous or state == "file"
        assert bytes(joined) == body.content
        self.keep(joined, body, state, digests=bool(image.digests))

    @precondition(lambda self: self.images)
    @rule(data=st.data(), awaited=st.booleans())
    def mmap(self, data: st.DataObject, awaited: bool) -> None:
        image, body, state = data.draw(st.sampled_from(self.images))
        mapped = self.run(image.to_mmap()) if awaited else image.mmap()
        if state == "file":
            state = "ram" if body.named else "mmap"
            body.mapped |= state == "mmap"
        else:
            assert mapped is image
        assert bytes(mapped) == body.content
        self.keep(mapped, body, state, digests=bool(image.digests))

    @precondition(lambda self: self.images)
    @rule(data=st.data())
    def to_ram(self, data: st.DataObject) -> None:
        image, body, _ = data.draw(st.sampled_from(self.images))
        inner = self.run(image.to_ram())
        assert inner.contiguous
        assert bytes(inner) == body.content
        self.keep(inner, body, "ram", digests=bool(image.digests))

    @precondition(lambda self: self.images)
    @rule(data=st.data(), overwrite=st.booleans())
    def save(self, data: st.DataObject, overwrite: bool) -> None:
        image, body, state = data.draw(st.sampled_from(self.images))
        self.saved += not overwrite
        path = self.folder / str(self.saved)
        self.run(image.save(path, overwrite=overwrite))
        assert path.read_bytes() == body.content
        body.named |= state == "file" and not body.mapped

    @precondition(lambda self: self.images)
    @rule(data=st.data(), protocol=st.integers(2, 5))
    def pickled(self, data: st.DataObject, protocol: int) -> None:
        image, body, _ = data.draw(st.sampled_from(self.images))
        again = pickle.loads(pickle.dumps(image, protocol=protocol))
        assert again.digests == image.digests
        self.keep(again, Body(body.content), "ram", digests=bool(image.digests))

    @rule()
    def drop(self) -> None:
        self.images = self.images[:-1]

    def teardown(self) -> None:
        if self.sink is not None:
            self.of_sink("aclose" if self.asynchronous else "close")
        self.sink = None
        self.images.clear()
        self.runner.close()
        gc.collect()
        assert _native.settle(5)
        shutil.rmtree(self.folder)
        if hasattr(self, "budget"):
            assert {meter["used"] for meter in self.budget.stats().values()} == {0}
        slabs = penstock.stats()["slabs"]
        assert (slabs["lent"], slabs["unwritten"]) == (self.lent, 0)


class Direct(Machine):
    asynchronous = True
    policy = penstock.Direct()


class Default(Machine):
    asynchronous = True


class Permit(Machine):
    asynchronous = True
    policy = penstock.Permit(penstock.Semaphore(1))


class Dispatch(Machine):
    asynchronous = True


@pytest.mark.parametrize("machine", [Machine, Direct, Default, Permit, Dispatch], ids=lambda machine: machine.__name__)
def test_sinks_and_images_do_as_their_model(machine: type[Machine], pool: penstock.DispatchPool) -> None:
    if machine is Dispatch:
        machine.policy = penstock.Dispatch(pool)
    # What other tests left in cycles would be given back while the model counts.
    gc.collect()
    case = machine.TestCase
    case.settings = settings(
        max_examples=200 if "PENSTOCK_NIGHTLY" in os.environ else 15,
        stateful_step_count=25,
        deadline=None,
        # To make a failure small takes longer than a test may: then nothing would be told of it.
        phases=[phase for phase in Phase if phase is not Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    try:
        case("runTest").runTest()
    finally:
        Dispatch.policy = None
