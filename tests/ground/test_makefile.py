"""The Makefile's commands, as the shell gets them: printed by `make -n` in a folder of any name."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("target", ["develop", "lint", "dist", "bench-micro"])
def test_commands_hold_in_a_folder_with_a_blank_in_its_name(tmp_path: Path, target: str) -> None:
    folder = tmp_path / "two words"
    folder.mkdir()
    for name in ("Makefile", "Cargo.toml", "Cargo.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "requirements", folder / "requirements")
    (folder / "rust").mkdir()
    command = ["make", "--dry-run", "--no-print-directory", target]
    # Without what a `make` that runs the tests was told.
    clean = {"PATH": os.environ["PATH"]}
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    words = [word for line in done.stdout.splitlines() if str(tmp_path) in line for word in shlex.split(line)]
    assert any(str(folder) in word for word in words)
    assert not [word for word in words if str(tmp_path) in word and str(folder) not in word]
