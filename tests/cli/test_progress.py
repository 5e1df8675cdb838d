"""Progress on standard error, where that is a terminal."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from penstock import barc
from penstock.cli.common import human

from tests.barc.conftest import make_dialog
from tests.cli.conftest import in_terminal, start


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "a.barc"
    with barc.open(path, "a") as archive:
        for number in range(1200):
            archive.append(make_dialog(number, bytes(1000)))
    return path


def last_line(sent: str) -> str:
    """What stands there in the end: without colours, and after the last return to the line's start."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sent)
    return plain.replace("\r\n", "\n").rstrip("\n").split("\n")[-1].split("\r")[-1].strip()


@pytest.mark.parametrize("command", ["cp", "check", "repair", "stats"])
def test_a_terminal_shows_records_bytes_rate_and_what_is_left(command: str, archive: Path) -> None:
    rest = ["out.barc"] if command == "cp" else []
    status, sent = in_terminal(command, archive.name, *rest, cwd=archive.parent)
    assert status == 0
    assert re.search(r"1,200 records, 1\.\d MiB, [\d.]+ .?i?B/s, ETA 0:00:00", re.sub(r"\x1b\[[0-9;]*m", "", sent)), (
        sent
    )
    assert len(last_line(sent)) <= 100


def test_a_command_that_is_done_leaves_a_bar_that_is_full(archive: Path) -> None:
    bars = []
    for arguments in (["check", "a.barc"], ["cp", "--count", "100", "a.barc", "out.barc"]):
        _, sent = in_terminal(*arguments, cwd=archive.parent)
        bars.append(re.findall(r"(\x1b\[[0-9;]*m)(━+)", sent)[-1:])
    assert bars[0] == bars[1]
    assert bars[0][0][1] == "━" * 30


def test_the_cursor_is_there_whatever_ends_or_stops_it(archive: Path) -> None:
    _, sent = in_terminal("check", archive.name, cwd=archive.parent)
    before = sent.partition("1,200 records")[0]
    assert before.rfind("\x1b[?25l") < before.rfind("\x1b[?25h")


def test_output_goes_above_it(archive: Path) -> None:
    _, sent = in_terminal("check", archive.name, cwd=archive.parent)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sent).replace("\r\n", "\n").splitlines()
    assert "a.barc: 1,200 good records, 0 damaged places" in [line.split("\r")[-1] for line in lines]
    assert "1,200 records" in last_line(sent)


def test_a_line_above_it_is_left_whole_for_the_terminal_to_break(archive: Path) -> None:
    name = f"{'a long name ' * 12}.barc"
    archive.rename(archive.with_name(name))
    _, sent = in_terminal("check", name, cwd=archive.parent)
    assert f"{name}: 1,200 good records, 0 damaged places\r\n" in sent
    assert len(last_line(sent)) <= 100


def test_quiet_shows_nothing(archive: Path) -> None:
    assert in_terminal("cp", "--quiet", archive.name, "out.barc", cwd=archive.parent) == (0, "")
    assert in_terminal("check", "-q", archive.name, cwd=archive.parent) == (
        0,
        "a.barc: 1,200 good records, 0 damaged places\r\n",
    )
    assert in_terminal("repair", "-q", archive.name, cwd=archive.parent) == (0, "a.barc: 0 places mended\r\n")
    status, sent = in_terminal("stats", "-q", archive.name, cwd=archive.parent)
    assert (status, sent[:24]) == (0, "a.barc: 1,200 records\r\n ")
    assert "ETA" not in sent


def test_a_quiet_record_shows_nothing(site: str, tmp_path: Path) -> None:
    assert in_terminal("record", "--quiet", f"{site}/text/1", "a.barc", cwd=tmp_path) == (0, "")


def test_without_a_terminal_nothing_is_shown_and_rich_is_not_loaded(archive: Path) -> None:
    environment: dict[str, Any] = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with start("check", archive.name, cwd=archive.parent, env=environment, **pipes) as process:
        out, err = process.communicate()
    assert out == b"a.barc: 1,200 good records, 0 damaged places\n"
    told = [line for line in err.decode().splitlines() if not line.startswith("import time:")]
    assert told == []
    assert "penstock.cli.archives" in err.decode()
    assert "rich." not in err.decode()


@pytest.mark.parametrize("quiet", [False, True])
def test_get_shows_it_beside_files_and_never_beside_bodies(quiet: bool, site: str, tmp_path: Path) -> None:
    flag = ["--quiet"] if quiet else []
    urls = [f"{site}/text/1/{1 << 20}", f"{site}/text/2"]
    status, sent = in_terminal("get", *flag, "-o", ".", *urls, cwd=tmp_path)
    assert status == 0
    assert ("2 files, 1.0 MiB" in sent) is not quiet
    assert in_terminal("get", *flag, f"{site}/text/1") == (0, "text 1, ")


def test_a_body_that_ends_early_leaves_a_bar_that_is_not_full(site: str, tmp_path: Path) -> None:
    lasts = []
    for url in (f"{site}/text/1/8", f"{site}/cut"):
        _, sent = in_terminal("get", "-o", "body", "--force", url, cwd=tmp_path)
        lasts.append(sent.rpartition("\x1b[2K")[2])
    bars = [re.search("━+", last) for last in lasts]
    assert [bar and len(bar[0]) for bar in bars] == [30, 15]
    assert ["ETA" in last for last in lasts] == [True, False]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 KiB"),
        (10_240, "10.0 KiB"),
        (512_000, "500 KiB"),
        (1 << 30, "1.0 GiB"),
        (5 << 40, "5,120 GiB"),
    ],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert human(size) == text
