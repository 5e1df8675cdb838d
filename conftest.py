"""What a skip means. Optional parts (a server program, a mount, a drawing library) skip with one line where they are
missing; with PENSTOCK_REQUIRE_ALL=1, as in .ci/run, such a skip is a failure.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

REQUIRE_ALL = os.environ.get("PENSTOCK_REQUIRE_ALL", "0") not in ("", "0")

ELSEWHERE = "not on this platform: "
"""Begins the reason of a skip that nothing installed could prevent: another system, another CPython."""


def _refuse(report: Any) -> None:
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    place, line, reason = report.longrepr if isinstance(report.longrepr, tuple) else ("", 0, str(report.longrepr))
    reason = reason.removeprefix("Skipped: ")
    if not reason.startswith(ELSEWHERE):
        report.outcome = "failed"
        report.longrepr = f"{place}:{line}: skipped, and PENSTOCK_REQUIRE_ALL is set: {reason}"


if REQUIRE_ALL:

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport() -> Iterator[None]:
        report = yield
        _refuse(report)
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report() -> Iterator[None]:
        report = yield
        _refuse(report)
        return report
