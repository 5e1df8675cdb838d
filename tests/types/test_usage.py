"""Types as users see them, and the stubs as the binary has it: the type checker's word for both."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.types.test_hints import PUBLIC

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
def test_pyright_sees_the_same_types_and_the_same_mistakes(tmp_path: Path) -> None:
    settings = {
        "include": [str(ROOT / USAGE)],
        "typeCheckingMode": "standard",
        "pythonVersion": "3.11",
        "enableTypeIgnoreComments": False,
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    done = checked("basedpyright", "-p", str(tmp_path), "--pythonpath", sys.executable, "--outputjson")
    found = json.loads(done.stdout)["generalDiagnostics"]
    lines = list(enumerate((ROOT / USAGE).read_text().splitlines(), 1))

    def at(severity: str) -> dict[int, str]:
        return {each["range"]["start"]["line"] + 1: each["message"] for each in found if each["severity"] == severity}

    assert at("error").keys() == {number for number, line in lines if "# type: ignore" in line}
    wanted = {number: match[1] for number, line in lines if (match := re.search(r"reveal_type\(.*  # (.+)$", line))}
    told = {number: message.rpartition('" is "')[2].removesuffix('"') for number, message in at("information").items()}
    assert told.keys() == wanted.keys()
    # They differ in how they write a type, so of each the name is compared, without its module and its arguments.
    differ = {number: (told[number], text) for number, text in wanted.items() if plain(told[number]) != plain(text)}
    assert differ == {}


def plain(text: str) -> str:
    return re.sub(r"\w+\.|\[.*", "", text)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_of_all_that_is_public_the_type_is_known(tmp_path: Path) -> None:
    # As an installed package, which it is not to pyright where its sources are at hand.
    command = [sys.executable, "-m", "basedpyright", "--verifytypes", "penstock", "--ignoreexternal", "--outputjson"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "python")}
    done = subprocess.run(
        [*command, "--pythonpath", sys.executable],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    known = {each["name"]: each["isTypeKnown"] for each in json.loads(done.stdout)["typeCompleteness"]["symbols"]}
    assert {name: known[name] for name in PUBLIC} == dict.fromkeys(PUBLIC, True)


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
