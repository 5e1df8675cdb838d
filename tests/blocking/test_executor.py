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
    # Programs that say `from concurrent.futures import DispatchPool`; test_process.py beside this has the like of each.
    "test_hang_gh83386",
    "test_interpreter_shutdown",
    "test_submit_after_interpreter_shutdown",
}


PUBLIC = {
    "ThreadPoolExecutorTest": ("test_map_submits_without_iteration", "test_executor_map_current_future_cancel"),
    "ThreadPoolWaitTests": ("test_pending_calls_race",),
}
"""Those of ThreadPoolExecutor's own tests that ask for nothing private; not every CPython has all of them."""


def suites() -> dict[str, type]:
    """The classes that take any executor, by the part of the interface that they are about."""
    try:
        package = importlib.import_module("test.test_concurrent_futures")
    except ImportError:
        return {}

    def find(module: str, name: str) -> Any:
        # One module until 3.11, a package since.
        if hasattr(package, name):
            return getattr(package, name)
        return getattr(importlib.import_module(f"test.test_concurrent_futures.{module}"), name)

    def public(module: str, name: str) -> type:
        whole = find(module, name)
        return type(name, (), {test: getattr(whole, test) for test in PUBLIC[name] if hasattr(whole, test)})

    return {
        "executor": find("executor", "ExecutorTest"),
        "shutdown": find("test_shutdown", "ExecutorShutdownTest"),
        "wait": find("test_wait", "WaitTests"),
        "as_completed": find("test_as_completed", "AsCompletedTests"),
        "thread_pool": public("test_thread_pool", "ThreadPoolExecutorTest"),
        "thread_pool_wait": public("test_wait", "ThreadPoolWaitTests"),
    }


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
