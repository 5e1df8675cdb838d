"""Holds docs/from-rust.md to its word; `make lint` runs it.

docs/rules.txt lists a key for each call and each rule of the Rust crates that penstock follows. Each key has one row in
docs/from-rust.md, and a row says what became of it: a name in penstock with the tests that show it, or the reason why
it was left out. The tests named must exist: pytest's are looked up by parsing the files, Rust's by reading the sources,
so that nothing has to be built or imported.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CRATES = {"penstock-core": "rust/core", "penstock-native": "rust/native"}

ROW = re.compile(r"^\| `(?P<key>[a-z]{2}-[^`]+)` \|(?P<cells>.*)\|$")
PYTEST_ID = re.compile(r"(?P<file>tests/[\w/]+\.py)::(?P<names>[\w:]+)(?:\[[^\]]*\])?$")
RUST_ID = re.compile(r"(?P<crate>penstock-\w+) (?P<path>\w+(?:::\w+)*)$")
RUST_TEST = re.compile(r"#\[test\](?:\s*#\[[^\]]*\])*\s*(?:async\s+)?fn\s+(\w+)")


class Row(NamedTuple):
    line: int
    key: str
    upstream: str
    outcome: str
    shown_by: str


def rules(root: Path) -> Iterator[tuple[int, str, str]]:
    """Line number, key and gist of each line of rules.txt that isn't empty or a comment."""
    for number, line in enumerate((root / "docs/rules.txt").read_text().splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            key, _, gist = line.partition(" ")
            yield number, key, gist.strip()


def rows(root: Path) -> Iterator[Row | str]:
    """The rows of the tables, or what is wrong with one."""
    for number, line in enumerate((root / "docs/from-rust.md").read_text().splitlines(), 1):
        if match := ROW.match(line.rstrip()):
            cells = [cell.strip() for cell in match["cells"].split("|")]
            if len(cells) == 3:
                yield Row(number, match["key"], *cells)
            else:
                yield f"docs/from-rust.md:{number}: {match['key']} has {len(cells) + 1} columns instead of 4"


def python_tests(file: Path) -> set[str]:
    """`name` and `Class::name` of the tests in a file."""

    def walk(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
                yield prefix + node.name
            elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
                yield from walk(node.body, f"{prefix}{node.name}::")

    return set(walk(ast.parse(file.read_text()).body, ""))


def rust_tests(crate: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    """Module path of the file and name of each test in a crate."""
    for folder in ("src", "tests"):
        for file in sorted((crate / folder).rglob("*.rs")):
            parts = file.relative_to(crate / folder).with_suffix("").parts
            module = parts[:-1] if parts[-1] in ("mod", "lib", "main") else parts
            for name in RUST_TEST.findall(file.read_text()):
                yield module, name


class Tests:
    """Looks test ids up; each file is read once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.python: dict[Path, set[str]] = {}
        self.rust: dict[str, list[tuple[tuple[str, ...], str]]] = {}

    def problem(self, test: str) -> str | None:
        """Why no test has this id, or None when one has it."""
        if match := PYTEST_ID.match(test):
            file = self.root / match["file"]
            if file not in self.python:
                if not file.is_file():
                    return f"no file {match['file']}"
                self.python[file] = python_tests(file)
            return None if match["names"] in self.python[file] else f"no test {match['names']} in {match['file']}"
        if match := RUST_ID.match(test):
            crate = match["crate"]
            if crate not in CRATES:
                return f"no crate {crate}"
            if crate not in self.rust:
                self.rust[crate] = list(rust_tests(self.root / CRATES[crate]))
            *path, name = match["path"].split("::")
            # A file's path begins the test's: inline modules, `tests` above all, come after it.
            found = any(name == n and tuple(path[: len(module)]) == module for module, n in self.rust[crate])
            return None if found else f"no test {match['path']} in {CRATES[crate]}"
        return "not a test id: tests/….py::name, or a crate and the path of a Rust test"


def problems(root: Path) -> Iterator[str]:
    """Everything that is wrong, a line each."""
    known: set[str] = set()
    for number, key, gist in rules(root):
        if key in known:
            yield f"docs/rules.txt:{number}: {key} stands twice"
        if not gist:
            yield f"docs/rules.txt:{number}: {key} has no gist"
        known.add(key)

    tests = Tests(root)
    seen: set[str] = set()
    for row in rows(root):
        if isinstance(row, str):
            yield row
            continue
        where = f"docs/from-rust.md:{row.line}: {row.key}"
        if row.key in seen:
            yield f"{where} has a second row"
        if row.key not in known:
            yield f"{where} is not in docs/rules.txt"
        seen.add(row.key)
        named = re.findall(r"`([^`]+)`", row.shown_by)
        if row.outcome.startswith("left out"):
            if not re.match(r"left out because \S", row.outcome):
                yield f"{where} is left out without 'because …'"
        elif not row.outcome:
            yield f"{where} has no name in penstock and no 'left out because …'"
        elif not named:
            yield f"{where} names {row.outcome}, and no test shows it"
        for test in named:
            if problem := tests.problem(test):
                yield f"{where}: {problem}"
    for key in sorted(known - seen):
        yield f"docs/from-rust.md: no row for {key}"


def main(root: Path) -> int:
    found = list(problems(root))
    print("\n".join(found) if found else "docs/from-rust.md: every rule has its row, every test named exists")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent.parent))
