"""The command line as a whole: help, version, what it needs, and what shells complete."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock.cli.app import commands
from penstock.cli.common import said

from tests.cli.conftest import Done

COMMANDS = sorted(set(commands.commands) - {"bench"})


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(command: str, run: Callable[..., Done], snapshot: Callable[[str, str], None]) -> None:
    done = run(*command.split(), "--help")
    assert (done.status, done.err) == (0, "")
    assert run(*command.split(), "-h") == done
    assert "Examples:\n  " in done.out
    assert f"penstock {command}" in done.out.split("Examples:")[1]
    assert "Exit status:\n  0 done, 1 wrong usage, 2 " in done.out
    snapshot(f"help-{command}" if command else "help", done.out)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("over the limit of 4 bytes (Tunables.max_body)", "over the limit of 4 bytes (--max-body)"),
        ("not connected within 10 s (Timeouts.connect)", "not connected within 10 s"),
        ("none came (Timeouts.pool): all 2 are in use (Limits.connections)", "none came: all 2 are in use"),
        ('coding "x" is not one (decode=False leaves it on the body)', 'coding "x" is not one'),
        ("don't belong in a URL: give them as auth=", 'don\'t belong in a URL: give them by -H "Authorization: ..."'),
        ("cannot connect (refused)", "cannot connect (refused)"),
    ],
)
def test_an_error_names_the_option_that_helps_and_no_setting_that_the_commands_lack(text: str, told: str) -> None:
    assert said(ValueError(text)) == told


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_the_version(flag: str, run: Callable[..., Done]) -> None:
    assert run(flag) == (0, f"penstock {penstock.__version__}\n", "")


def test_help_can_be_asked_for_by_a_command(run: Callable[..., Done]) -> None:
    assert run("help") == run("--help")
    assert run("help", "get") == run("get", "--help")
    assert run("help", "bench", "client") == run("bench", "client", "--help")
    done = run("help", "gone")
    assert (done.status, done.out) == (1, "")
    assert "No such command 'gone'" in done.err


@pytest.mark.parametrize("module", ["penstock", "penstock.cli"])
def test_the_package_run_as_a_module_is_the_command(module: str, run: Callable[..., Done]) -> None:
    done = subprocess.run([sys.executable, "-m", module, "ls", "-h"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == run("ls", "-h")


@pytest.mark.parametrize("debug", [("-d", "get"), ("-dddd", "get", "-d"), ("get", "--debug")])
def test_what_is_done_is_logged_if_it_is_asked_for(debug: tuple[str, ...], run: Callable[..., Done], site: str) -> None:
    done = run(*debug, f"{site}/gzip")
    host = site.removeprefix("http://")
    assert (done.status, done.err.count("\n")) == (0, 1)
    assert done.err == f"DEBUG penstock.http.connect MainThread: connected to http://{host}\n"
    assert run("get", f"{site}/gzip") == (0, done.out, "")


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_it_says_what_to_install(missing: str, tmp_path: Path) -> None:
    # A path that has penstock, and of the extra nothing or the other half.
    (tmp_path / "penstock").symlink_to(Path(penstock.__file__).parent)
    other = {"click": "rich", "rich": "click"}[missing]
    (tmp_path / other).mkdir()
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from penstock.cli import main; sys.exit(main(['ls']))"
    done = subprocess.run([sys.executable, "-S", "-I", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"penstock: {missing} missing: pip install {missing}\n"
    script = script.replace("penstock.cli ", "penstock.bench.command ").replace("'ls'", "'--help'")
    done = subprocess.run([sys.executable, "-S", "-I", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "candidates"),
    [
        (["penstock", "re"], {"repair"}),
        (["penstock", "cp", "--b"], {"--brotli"}),
        (["penstock", "help", "ch"], {"check"}),
        (["penstock", "completion", ""], {"bash", "fish", "zsh"}),
        (["penstock", "bench", ""], {"blocking", "client", "demo", "server"}),
        (["penstock", "bench", "client", "--p"], {"--peers"}),
        (["penstock", "bench", "server", "--framing", "ch"], {"chunked"}),
    ],
)
def test_shells_are_given_candidates(words: list[str], candidates: set[str]) -> None:
    asked = {"bash": str(len(words) - 1), "zsh": str(len(words) - 1), "fish": words[-1]}
    for shell, word in asked.items():
        environment = {**os.environ, "_PENSTOCK_COMPLETE": f"{shell}_complete", "COMP_WORDS": " ".join(words)}
        command = [sys.executable, "-m", "penstock.cli"]
        done = subprocess.run(
            command, env={**environment, "COMP_CWORD": word}, capture_output=True, text=True, check=True
        )
        if shell == "zsh":
            # Three lines each: kind, value, help.
            given = set(done.stdout.splitlines()[1::3])
        else:
            given = {line.split(",")[1].split("\t")[0] for line in done.stdout.splitlines()}
        assert candidates <= given, shell


def test_candidates_are_given_without_loading_the_client(
    script: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = script(
        "import sys; from penstock.cli import main; main(['--version']); "
        "print([name for name in sys.modules if name.startswith(('penstock.http', 'penstock.replay', 'rich.'))])"
    )
    assert (done.stdout.splitlines()[1:], done.stderr) == (["[]"], "")


@pytest.mark.parametrize("shell", ["bash", "fish", "zsh"])
def test_completion_prints_what_the_shell_reads(shell: str, run: Callable[..., Done], tmp_path: Path) -> None:
    done = run("completion", shell)
    assert (done.status, done.err) == (0, "")
    assert f"_PENSTOCK_COMPLETE={shell}_complete" in done.out
    if shutil.which(shell):
        (tmp_path / "completion").write_text(done.out)
        subprocess.run([shell, "-n", tmp_path / "completion"], check=True)


def test_bash_completes_a_command(run: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "completion").write_text(run("completion", "bash").out)
    (tmp_path / "penstock").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m penstock.cli "$@"\n')
    (tmp_path / "penstock").chmod(0o755)
    script = "source completion; COMP_WORDS=(penstock che); COMP_CWORD=1; _penstock_completion penstock; "
    script += 'echo "${COMPREPLY[@]}"'
    environment: dict[str, Any] = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("check\n", "")


INTERRUPTED = """
import sys
from penstock.cli import main

class Interrupting:
    @staticmethod
    def find_spec(name, path, target=None):
        if name == "penstock.cli.app":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupting)
sys.exit(main(["--version"]))
"""


TWICE = """
import asyncio, os, signal
from penstock.cli.common import run

async def stubborn():
    try:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGINT)
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        print("first", flush=True)
        os.kill(os.getpid(), signal.SIGINT)
        print("goes on")

run(stubborn())
"""


def test_interrupted_twice_it_ends_at_once_by_the_signal() -> None:
    done = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "first\n", "")


ENDING = """
import os, signal, sys
from penstock.cli import app, main

def interrupted(argv):
    raise KeyboardInterrupt

app.run = interrupted
status = main(["--version"])
print(status, flush=True)
os.kill(os.getpid(), signal.SIGINT)
print("goes on")
"""


def test_interrupted_again_at_its_end_it_says_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "130\n", "")


def test_interrupted_while_it_loads_it_ends_as_at_any_other_time() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
