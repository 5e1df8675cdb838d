"""What the package's modules give to each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import penstock

ROOT = Path(penstock.__file__).parents[1]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.glob("penstock/**/*.py")
}


def given(tree: ast.Module) -> set[str]:
    """What a module has in its `__all__`."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return {name.value for name in ast.walk(node.value) if isinstance(name, ast.Constant)}
    return set()


def taken(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Modules of the package, and what is imported from each that isn't one itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in FILES:
            for alias in node.names:
                if f"{node.module}.{alias.name}" not in FILES and alias.name not in ("*", "__all__"):
                    yield node.module, alias.name


def test_modules_take_from_each_other_what_is_in_all() -> None:
    trees = {name: ast.parse(path.read_text()) for name, path in FILES.items() if "penstock.bench" not in name}
    asked = {found for tree in trees.values() for found in taken(tree)}
    assert len(asked) > 100
    hidden = {(module, name) for module, name in asked if module in trees and name not in given(trees[module])}
    assert hidden - {("penstock", "_native")} == set()
