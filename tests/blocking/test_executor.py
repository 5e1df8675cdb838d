"""CPython's own tests of executors, run against `DispatchPool` where that CPython came with its `test` package.

Left out is what isn't an executor's: tests of ThreadPoolExecutor's private parts, of its `initializer=` (here
`after_start=`), and of programs that import the class by its name from concurrent.futures.
"""

from __future__ import annotations

import importlib
import unittest
from typing import Any

import penstock
import pytest

from ..conftest import ELSEWHERE

NOT_OURS = {
    # Wants a job begun though the submitter never let the interpreter go; our threads take jobs once they have it.
    "test_cancel_futures",
    # Wants the words of ThreadPoolExecutor's message; ours names the setting and the value.
    "test_max_workers_negative",
    # Programs that say `from concurrent.futures import DispatchPool`; tests/blocking/test_process.py has their like.
    "test_hang_gh83386",
    "test_interpreter_shutdown",
    "test_submit_after_interpreter_shutdown",
}


def suites() -> dict[str, type]:
    """The classes that take any executor, by the part of the interface that they are about."""
    names = {"executor": "ExecutorTest", "shutdown": "ExecutorShutdownTest", "wait": "WaitTests"}
    names["as_completed"] = "AsCompletedTests"
    try:
        package = importlib.import_module("test.test_concurrent_futures")
    except ImportError:
        return {}
    found = {}
    for part, name in names.items():
        # One module until 3.11, a package since.
        module = package
        if not hasattr(package, name):
            module = importlib.import_module(
                f"test.test_concurrent_futures.{'' if part == 'executor' else 'test_'}{part}"
            )
        found[part] = getattr(module, name)
    return found


class Fixture:
    """What CPython's mixins give: an executor with five workers for each test."""

    def setUp(self) -> None:
        super().setUp()  # type: ignore[misc]
        self.executor = penstock.DispatchPool(max_workers=5)

    def tearDown(self) -> None:
        self.executor.shutdown(wait=True)
        super().tearDown()  # type: ignore[misc]

    executor_type = penstock.DispatchPool
    worker_count = 5

    def _prime_executor(self) -> None:
        """The threads have started with the constructor."""


SUITES = suites()


def cases() -> list[Any]:
    return [
        pytest.param(suite, name, id=f"{part}-{name.removeprefix('test_')}")
        for part, suite in SUITES.items()
        for name in unittest.defaultTestLoader.getTestCaseNames(suite)
        if name not in NOT_OURS
    ]


@pytest.mark.skipif(not SUITES, reason=f"{ELSEWHERE}: this CPython came without its test package")
@pytest.mark.parametrize(("suite", "name"), cases())
def test_cpythons_own_tests_of_executors_pass(suite: type, name: str) -> None:
    case = type(suite.__name__, (Fixture, suite, unittest.TestCase), {})(name)
    result = unittest.TestResult()
    case.run(result)
    assert result.testsRun == 1
    assert [text for _, text in result.errors + result.failures] == []
