"""Command lines run in this process or as processes of their own, and their output compared with files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from penstock.cli import main

SNAPSHOTS = Path(__file__).parent / "snapshots"
WIDTH = 100
"""Columns of the terminal that there seems to be."""


class Done(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes]) -> Callable[..., Done]:
    """Runs a command line in this process."""

    def run(*arguments: Any) -> Done:
        capfdbinary.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        out, err = capfdbinary.readouterr()
        return Done(status, out.decode("latin-1"), err.decode())

    return run


@pytest.fixture
def snapshot() -> Callable[[str, str], None]:
    """Compares a text with a file of snapshots/, which `PENSTOCK_SNAPSHOTS=write` makes anew."""

    def compare(name: str, text: str) -> None:
        path = SNAPSHOTS / f"{name}.txt"
        if os.environ.get("PENSTOCK_SNAPSHOTS") == "write":
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        assert text == path.read_text()

    return compare
