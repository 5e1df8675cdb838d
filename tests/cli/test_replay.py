"""`penstock replay`: an archive served as it was recorded."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from penstock import barc

from tests.barc.conftest import make_dialog
from tests.cli.conftest import start
from tests.cli.site import ZIPPED, text


@pytest.fixture
def recorded(run: Any, site: str, tmp_path: Path) -> Path:
    file = tmp_path / "a.barc"
    assert run("record", f"{site}/text/1", f"{site}/gzip", f"{site}/to/text/1", file).status == 0
    return file


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_what_was_recorded_is_served_until_ctrl_c(run: Any, recorded: Path) -> None:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with start("replay", recorded, **pipes) as process:
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()
        done = run("get", f"{url}/gzip", f"{url}/text/1")
        assert done == (0, (ZIPPED + text(1)).decode(), "")
        assert status_of(f"{url}/text/2") == 404
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out) == (130, b"")
    assert err.decode().splitlines() == [f"200 GET {url}/gzip", f"200 GET {url}/text/1", f"404 GET {url}/text/2"]


def test_it_tells_machines_where_it_is_and_what_it_answers(recorded: Path) -> None:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with start("replay", "--json", "--bind", "127.0.0.1:0", recorded, **pipes) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert (first["file"], first["records"]) == (str(recorded), 3)
        assert status_of(f"{first['url']}/text/1") == 200
        assert json.loads(process.stdout.readline()) == {
            "method": "GET",
            "url": f"{first['url']}/text/1",
            "status": 200,
        }
        # Whoever reads it goes; the next answer finds that out.
        process.stdout.close()
        assert status_of(f"{first['url']}/text/1") == 200
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 2


FEW = """
import sys
import penstock.cli.replay as module
from penstock.cli import main
module.WAITING = 20
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("as_json", [False, True])
def test_answers_that_nobody_reads_of_keep_nobody_from_asking_and_from_interrupting(
    as_json: bool, recorded: Path
) -> None:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with start("replay", *["--json"] * as_json, recorded, **pipes) as process:
        assert process.stdout is not None
        first = process.stdout.readline().decode()
        url = json.loads(first)["url"] if as_json else first.strip()
        # More than pipes hold.
        for _ in range(150):
            assert status_of(f"{url}/{'x' * 2000}") == 404
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        out, err = process.communicate()
    assert 10_000 < len(out if as_json else err) < 150 * 2000


def test_answers_that_are_not_told_of_as_too_many_wait_are_counted(recorded: Path) -> None:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with start("replay", recorded, program=("-c", FEW), **pipes) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        url = process.stdout.readline().decode().strip()
        for _ in range(150):
            assert status_of(f"{url}/{'x' * 2000}") == 404
        told = 0
        while (line := process.stderr.readline()).startswith(b"404 GET "):
            told += 1
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert line.decode() == f"penstock: {150 - told} answers not told of: too many lines waited to be read\n"
    assert (told >= 20, err) == (True, b"")


def test_the_record_whose_body_is_over_the_limit_is_named(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "a.barc"
    with barc.open(file, "a") as archive:
        archive.append(make_dialog(0, b"short"))
        offset = archive.append(make_dialog(1, bytes(2000)))
    done = run("replay", "--max-body", "1KiB", file)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"penstock: {file}: record at byte {offset} of the archive: body of ")
    assert done.err.endswith(" is over the limit of 1024 bytes (--max-body)\n")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--bind", "8080", "a.barc"], 1, "Invalid value for --bind: '8080' is not HOST:PORT"),
        (["--bind", ":0", "a.barc"], 1, "Invalid value for --bind: ':0' is not HOST:PORT"),
        (["--bind", "[]:0", "a.barc"], 1, "'[]:0' is not HOST:PORT"),
        (["--bind", "127.0.0.1:http", "a.barc"], 1, "'127.0.0.1:http' is not HOST:PORT"),
        (["--bind", "127.0.0.1:70000", "a.barc"], 1, "'127.0.0.1:70000' is not HOST:PORT"),
        (["gone.barc"], 2, "No such file or directory"),
        (["bad.barc"], 2, "penstock: bad.barc: record at byte 0 of the archive: "),
        (["--bind", "192.0.2.1:0", "a.barc"], 2, "annot assign requested address"),
    ],
)
def test_what_cannot_be_served(
    arguments: list[str], status: int, message: str, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.barc").touch()
    Path("bad.barc").write_bytes(b"no archive")
    done = run("replay", *arguments)
    assert (done.status, done.out) == (status, "")
    assert message in done.err
