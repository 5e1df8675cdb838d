"""Holds the sources to docs/design.md: `unsafe` stands in the modules that its table lists, and in no other.

`make lint` runs it. Tests may need `unsafe` as well, to lend memory as a caller would; they say so with an `allow`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROW = re.compile(r"^\| (?P<crate>core|native) `(?P<module>[\w/]+)` \|", re.MULTILINE)
CRATES = {"core": "rust/core/src", "native": "rust/native/src"}
NOT_CODE = re.compile(r"//[^\n]*|\"(?:\\.|[^\"\\])*\"", re.DOTALL)
UNSAFE = re.compile(r"\bunsafe\b")


def listed(root: Path) -> set[str]:
    """The files that the table allows."""
    section = (root / "docs/design.md").read_text().partition("\n## `unsafe`\n")[2].partition("\n## ")[0]
    return {f"{CRATES[row['crate']]}/{row['module']}.rs" for row in ROW.finditer(section)}


def holding(root: Path) -> set[str]:
    """The files in which the word stands outside of comments and strings."""
    return {
        file.relative_to(root).as_posix()
        for source in CRATES.values()
        for file in (root / source).rglob("*.rs")
        if UNSAFE.search(NOT_CODE.sub("", file.read_text()))
    }


def problems(root: Path) -> Iterator[str]:
    allowed, found = listed(root), holding(root)
    yield from (f"{file}: unsafe, and not listed in docs/design.md" for file in sorted(found - allowed))
    yield from (f"docs/design.md: {file} has no unsafe" for file in sorted(allowed - found))


def main(root: Path) -> int:
    found = list(problems(root))
    print("\n".join(found) if found else "unsafe: in the modules that docs/design.md lists, and nowhere else")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent.parent))
