"""The smallest operations, by pyperf: that each of them runs; and what an import costs."""

import importlib
import subprocess
import sys
from pathlib import Path

import penstock
import pytest

pytest.importorskip("pyperf")


def test_each_operation_has_a_figure(tmp_path: Path) -> None:
    out = tmp_path / "micro.json"
    command = [sys.executable, "-m", "benches.python.micro", "--debug-single-value", "--worker", "--output", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    text = out.read_text()
    for operation in ("penstock.run_blocking(noop)", "async with penstock.Semaphore", "BodyImage.read, 1 MiB in RAM"):
        assert f'"name":"{operation}"' in text


@pytest.mark.parametrize("name", ["micro", "import_time"])
def test_a_debug_build_is_not_measured(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    module = importlib.import_module(f"benches.python.{name}")
    monkeypatch.setattr(penstock, "BUILD_PROFILE", "debug")
    with pytest.raises(SystemExit, match="this is a debug build: make develop"):
        module.main()
