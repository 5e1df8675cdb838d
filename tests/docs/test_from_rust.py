"""docs/check_from_rust.py catches what it is there to catch; the project's own tables pass it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]

TEST = "tests/body/test_sink.py::test_push"

RULES = """\
# keys

bi-1-push   append a buffer
bi-1-save   its old name
bi-1-dialog both halves
"""

TABLE = """\
# From Rust

| key | upstream | penstock | shown by |
|---|---|---|---|
| `bi-1-push` | `push` | `sink.push(data)` | `tests/body/test_sink.py::test_push` |
| `bi-1-save` | `save` | left out because nobody calls it | |
| `bi-1-dialog` | `Dialog` | left out because both halves have names | |
"""

Check = Callable[[], list[str]]


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_from_rust", ROOT / "docs/check_from_rust.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that passes: one rule of each outcome, one Python and two Rust tests."""
    for folder in ("docs", "tests/body", "rust/core/src/body"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "docs/rules.txt").write_text(RULES)
    (tmp_path / "docs/from-rust.md").write_text(TABLE)
    (tmp_path / "tests/body/test_sink.py").write_text(
        "def test_push(): ...\nclass TestFile:\n    async def test_push(self): ...\ndef helper(): ...\n"
    )
    (tmp_path / "rust/core/src/body/sink.rs").write_text(
        "fn plain() {}\n#[cfg(test)]\nmod tests {\n    #[test]\n    #[cfg(not(loom))]\n    fn pushes() {}\n}\n"
    )
    (tmp_path / "rust/core/src/body/mod.rs").write_text("#[test]\nfn opens() {}\n")
    return tmp_path


@pytest.fixture
def check(checker: ModuleType, project: Path) -> Check:
    return lambda: list(checker.problems(project))


def edit(project: Path, old: str, new: str, file: str = "docs/from-rust.md") -> None:
    path = project / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_complete_table_passes(check: Check) -> None:
    assert check() == []


def test_the_projects_own_tables_pass(checker: ModuleType) -> None:
    assert list(checker.problems(ROOT)) == []


def test_every_key_of_the_project_is_listed_once(checker: ModuleType) -> None:
    keys = [key for _, key, _ in checker.rules(ROOT)]
    assert len(keys) == len(set(keys)) > 250


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("| `bi-1-save` | `save` | left out because nobody calls it | |\n", "", "no row for bi-1-save"),
        ("`bi-1-save`", "`bi-1-safe`", "bi-1-safe is not in docs/rules.txt"),
        ("`bi-1-save`", "`bi-1-push`", "bi-1-push has a second row"),
        ("left out because nobody calls it", "", "no name in penstock and no 'left out because …'"),
        ("left out because nobody calls it", "left out", "without 'because …'"),
        ("left out because nobody calls it", "`image.save(path)`", "no test shows it"),
        ("| `push` |", "| `push` | twice |", "bi-1-push has 5 columns instead of 4"),
        ("test_sink.py::test_push", "test_sink.py::test_pull", "no test test_pull in tests/body/test_sink.py"),
        ("test_sink.py::test_push", "test_sink.py::helper", "no test helper in tests/body/test_sink.py"),
        ("test_sink.py::test_push", "test_drain.py::test_push", "no file tests/body/test_drain.py"),
        (TEST, "test_push", "not a test id"),
        (
            "tests/body/test_sink.py::test_push",
            "penstock-core body::sink::tests::pulls",
            "no test body::sink::tests::pulls",
        ),
        (TEST, "penstock-core body::sink::plain", "no test body::sink::plain"),
        (TEST, "penstock-core http::tests::pushes", "no test http::tests::pushes"),
        (TEST, "penstock-cloud tests::pushes", "no crate penstock-cloud"),
    ],
)
def test_a_fault_in_the_table_is_named(check: Check, project: Path, old: str, new: str, complaint: str) -> None:
    edit(project, old, new)
    found = check()
    assert any(complaint in problem for problem in found), found


@pytest.mark.parametrize(
    "test_id",
    [
        "tests/body/test_sink.py::test_push[ram]",
        "tests/body/test_sink.py::TestFile::test_push",
        "penstock-core body::sink::tests::pushes",
        "penstock-core body::opens",
    ],
)
def test_every_form_of_test_id_is_found(check: Check, project: Path, test_id: str) -> None:
    edit(project, TEST, test_id)
    assert check() == []


def test_an_unknown_test_is_caught_beside_a_known_one(check: Check, project: Path) -> None:
    edit(project, f"`{TEST}`", f"`{TEST}` `tests/body/test_sink.py::test_gone`")
    assert len(check()) == 1


def test_a_key_that_stands_twice_in_the_list_is_caught(check: Check, project: Path) -> None:
    edit(project, "bi-1-save", "bi-1-push", "docs/rules.txt")
    assert any("docs/rules.txt:4: bi-1-push stands twice" in problem for problem in check())


def test_the_exit_code_says_whether_something_is_wrong(
    checker: ModuleType, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checker.main(project) == 0
    edit(project, "`bi-1-save`", "`bi-1-safe`")
    assert checker.main(project) == 1
    assert "docs/from-rust.md: no row for bi-1-save" in capsys.readouterr().out
