"""A revision beside an older one: which rows moved, and that each runs with its own package."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from penstock.bench.driver import Driver, Plan
from penstock.bench.results import Results, Row

from benches.cross import revisions


def test_rows_that_moved_are_told_and_others_are_not(row: Callable[..., Row], results: Callable[..., Results]) -> None:
    made = results(
        row("fs_direct/length/ext4/penstock/now", [12.0, 12.1, 12.2], client="now"),
        row("fs_direct/length/ext4/penstock/base", [10.0, 10.1, 10.2], client="base"),
        row("ram/length/penstock/now", [10.0, 10.2, 10.1], client="now"),
        row("ram/length/penstock/base", [10.1, 10.0, 10.1], client="base"),
    )
    lines = revisions.moved(made).splitlines()[2:]
    assert [line.partition(" | 1.")[0] for line in lines] == [
        "| fs_direct/length/ext4/penstock | CPU",
        "| fs_direct/length/ext4/penstock | wall",
    ]


def test_the_bases_rows_run_with_the_bases_package(tmp_path: Path) -> None:
    found = list(revisions.sessions(tmp_path, Plan(rounds=1), Path("/the/base")))
    driver = Driver(found, Plan(rounds=1))
    (now, base) = found[0][:2]
    assert (now.wrapper, base.wrapper) == ((), ("env", "PYTHONPATH=/the/base"))
    assert driver.command(base) == driver.command(now)


@pytest.mark.skipif(shutil.which("git") is None, reason="no git(1)")
def test_the_base_is_built_from_its_own_tree_and_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tree, target = tmp_path / "tree", tmp_path / "target"
    for each in (tree, target):
        each.mkdir()
    source = tree / "source"
    source.write_text("as it was")
    git = ["git", "-C", str(tree), "-c", "user.name=A", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "As it was"]):
        subprocess.run([*git, *arguments], check=True)
    source.write_text("as it is")
    ran = []

    def run(*command: str, cwd: Path) -> None:
        """Of maturin a wheel that is the source, and of pip what is in the wheel."""
        ran.append(command[0])
        if command[0] == "maturin":
            wheels = Path(command[-1])
            wheels.mkdir()
            shutil.copy(cwd / "source", wheels / "made.whl")
        else:
            site = Path(command[command.index("--target") + 1])
            site.mkdir()
            shutil.copy(command[-1], site / "source")

    monkeypatch.setattr(revisions, "ROOT", tree)
    monkeypatch.setattr(revisions, "BUILT", target / "base")
    monkeypatch.setattr(revisions, "_run", run)
    site = revisions.build("HEAD")
    assert (site / "source").read_text() == "as it was"
    assert revisions.build("HEAD") == site
    assert ran == ["maturin", sys.executable]
