"""What tests of the client share: bodies in each store by each policy, and a look at what they leave behind."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock._native import _delay_writes, settle


class Storing:
    """Where bodies go, and by which policy."""

    def __init__(self, name: str, directory: Path, pool: penstock.DispatchPool) -> None:
        self.name = name
        self.pool = pool
        self.in_file = name != "ram"
        most = 0 if self.in_file else "1GiB"
        self.tunables = penstock.Tunables(max_body_ram=most, max_body="1GiB", temp_dir=directory)
        self.policy: Any = {
            "ram": lambda: None,
            "direct": penstock.Direct,
            "permit": lambda: penstock.Permit(penstock.Semaphore(2), pool=pool),
            "windows": lambda: penstock.Dispatch(pool),
            "drained": lambda: penstock.Dispatch(pool),
            "recycled": lambda: penstock.Dispatch(pool),
        }[name]()
        self.semaphore: penstock.Semaphore | None = getattr(self.policy, "semaphore", None)

    def client(self, **options: Any) -> penstock.Client:
        if self.name == "recycled":
            options["file_pool"] = penstock.FilePool(max_bytes="16MiB")
        return penstock.Client(**{"tunables": self.tunables, "policy": self.policy, **options})

    def state(self, body: bytes) -> str:
        return "file" if self.in_file and body else "ram"

    def __repr__(self) -> str:
        return self.name


STORINGS = ("ram", "direct", "permit", "windows", "drained")


@pytest.fixture
def storing_by(tmp_path: Path) -> Iterator[Callable[[str], Storing]]:
    """Makes a `Storing` by its name: in memory; or in a file by each policy, windows written by jobs, or the whole body
    drained, or received into files that are recycled ("recycled")."""
    pools = []

    def make(name: str) -> Storing:
        pool = penstock.DispatchPool(threads=2, drain_threads=1 if name == "drained" else 0)
        pools.append(pool)
        return Storing(name, tmp_path, pool)

    yield make
    for pool in pools:
        pool.close()


@pytest.fixture(params=STORINGS)
def storing(request: pytest.FixtureRequest, storing_by: Callable[[str], Storing]) -> Storing:
    return storing_by(request.param)


@pytest.fixture(params=STORINGS[1:])
def file_storing(request: pytest.FixtureRequest, storing_by: Callable[[str], Storing]) -> Storing:
    return storing_by(request.param)


@pytest.fixture
def slow_disk() -> Iterator[Callable[[float], None]]:
    """Has each write of a body take so many seconds longer."""
    yield _delay_writes
    _delay_writes(0)


def at_hand(client: penstock.Client) -> dict[str, int]:
    """What a client has now, of all that it counts."""
    figures = client.stats()
    return {name: figures[name] for name in ("active", "waiting", "connecting", "open", "idle")}


NOTHING = {"active": 0, "waiting": 0, "connecting": 0, "open": 0, "idle": 0}


def lent() -> int:
    return int(penstock.stats()["slabs"]["lent"])


@pytest.fixture(autouse=True)
def no_slab_is_left() -> Iterator[None]:
    """Each test gives back the memory that it received into, and the budget."""
    before, files = lent(), penstock.stats()["budget"]["files"]["used"]
    yield
    end = time.monotonic() + 5
    while (lent() > before or penstock.stats()["budget"]["files"]["used"] > files) and time.monotonic() < end:
        gc.collect()
        settle(1)
        time.sleep(0.001)
    assert lent() <= before
    assert penstock.stats()["budget"]["files"]["used"] <= files
