"""A part that is missing skips its tests, unless PENSTOCK_REQUIRE_ALL is set: then it fails them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

TESTS = """
import pytest

def test_that_needs_what_is_not_there():
    pytest.importorskip("no_such_library")

@pytest.mark.skipif(True, reason="not on this platform: macOS")
def test_of_elsewhere():
    pass

@pytest.mark.xfail
def test_that_is_known_to_fail():
    assert False
"""

MODULE = """
import pytest

pytest.importorskip("no_such_library")
"""


@pytest.mark.parametrize(
    ("value", "counts"), [("", "3 skipped, 1 xfailed"), ("1", "1 failed, 1 skipped, 1 xfailed, 1 error")]
)
def test_a_skip_is_a_failure_where_all_is_required(tmp_path: Path, value: str, counts: str) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_module.py").write_text(MODULE)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", "/dev/null", "--rootdir", str(tmp_path)]
    command += ["--continue-on-collection-errors", str(tmp_path)]
    environment = {**os.environ, "PENSTOCK_REQUIRE_ALL": value}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert counts in done.stdout.splitlines()[-1], done.stdout
    assert ("which PENSTOCK_REQUIRE_ALL forbids: Skipped: could not import 'no_such_library'" in done.stdout) is bool(
        value
    )
