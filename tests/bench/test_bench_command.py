"""The command lines, as users type them."""

import subprocess
import sys

import pytest
from penstock import cli
from penstock.bench import command


@pytest.mark.parametrize(
    ("text", "wanted"), [("0", 0), ("8192", 8192), ("64KiB", 65536), ("8MiB", 8 << 20), ("1GiB", 1 << 30)]
)
def test_sizes(text: str, wanted: int) -> None:
    assert command.size(text) == wanted


@pytest.mark.parametrize("module", ["penstock.bench", "penstock.cli"])
def test_help_names_the_commands(module: str) -> None:
    arguments = ["bench", "--help"] if module == "penstock.cli" else ["--help"]
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=True)
    assert "demo" in done.stdout
    assert "server" in done.stdout


def test_an_unknown_command_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(["bench", "nothing"])
    assert raised.value.code == 1
    assert "nothing" in capsys.readouterr().err
