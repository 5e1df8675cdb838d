"""Types as users see them, and the stubs as the binary has it: the type checker's word for both."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
USAGE = Path("tests/types/usage.py")


def checked(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_revealed_types_are_those_that_the_examples_name() -> None:
    wanted = {
        number: match[1]
        for number, line in enumerate((ROOT / USAGE).read_text().splitlines(), 1)
        if (match := re.search(r"reveal_type\(.*  # (.+)$", line))
    }
    done = checked("mypy", str(USAGE))
    notes = re.findall(rf'^{USAGE}:(\d+): note: Revealed type is "(.*)"$', done.stdout, re.MULTILINE)
    found = {int(number): re.sub(r"\bbuiltins\.", "", text) for number, text in notes}
    assert found == wanted
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_stubs_are_what_the_binary_has() -> None:
    done = checked(
        "mypy.stubtest",
        "penstock._native",
        "--ignore-unused-allowlist",
        "--allowlist",
        "tests/types/stubtest-allowlist.txt",
    )
    assert done.returncode == 0, done.stdout
