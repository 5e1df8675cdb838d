"""What holds connections, files or threads: there is one of it, which may be referred to weakly."""

from __future__ import annotations

import copy
import pickle
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock import barc, replay

HOLDERS: dict[str, Callable[[Path], Any]] = {
    "Client": lambda path: penstock.Client(),
    "LoopMonitor": lambda path: penstock.LoopMonitor(),
    "Replay": lambda path: penstock.Replay(path),
    "ReplayServer": lambda path: replay.ReplayServer(path),
    "Archive": lambda path: barc.open(path, "a"),
    "AsyncArchive": lambda path: barc.AsyncArchive(path),
    "Records": lambda path: barc.open(path).records(),
    "BodySink": lambda path: penstock.BodySink(),
    "AsyncBodySink": lambda path: penstock.AsyncBodySink(),
    "Budget": lambda path: penstock.Budget(),
    "FilePool": lambda path: penstock.FilePool(),
    "DispatchPool": lambda path: penstock.default_pool(),
    "Semaphore": lambda path: penstock.Semaphore(1),
    "Direct": lambda path: penstock.Direct(),
    "Dispatch": lambda path: penstock.Dispatch(),
    "Permit": lambda path: penstock.Permit(penstock.Semaphore(1)),
}


@pytest.fixture(params=HOLDERS)
def holder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    path = tmp_path / "some.barc"
    with barc.open(path, "a"):
        pass
    made = HOLDERS[request.param](path)
    yield made
    if isinstance(made, barc.Archive):
        made.close()


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps])
def test_it_is_neither_copied_nor_pickled(holder: Any, way: Callable[[Any], object]) -> None:
    with pytest.raises(TypeError, match=r"can't be copied or pickled: share it, or make another$|^cannot pickle "):
        way(holder)


def test_it_can_be_referred_to_weakly(holder: Any) -> None:
    assert weakref.ref(holder)() is holder
    kept = weakref.WeakKeyDictionary({holder: 1})
    assert kept[holder] == 1
