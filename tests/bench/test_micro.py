"""The smallest operations, by pyperf: that each of them runs."""

import subprocess
import sys
from pathlib import Path

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
