"""The command lines, as users type them."""

import functools
import json
import re
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
from penstock import cli
from penstock.bench import blocking_worker, command, demo, measure, report, rounds, scenarios, server, worker
from penstock.bench.driver import Plan
from penstock.bench.figures import wall
from penstock.bench.progress import CLEAR
from penstock.bench.rounds import Pace, Rounds

from tests.cli.conftest import in_terminal

RESULTS = Path(__file__).parents[2] / "benches" / "results"
# Of a row: its interpreter and its client.
START_SECONDS = 0.5
FEW_ROWS = """
import sys
from penstock.bench import command, measure
from penstock.bench.rounds import Pace

measure.QUICK_PACE, measure.WORKS = Pace(rounds=2, warmup=0, batches=1), ("noop",)
sys.exit(command.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("text", "wanted"), [("0", 0), ("8192", 8192), ("64KiB", 65536), ("8MiB", 8 << 20), ("1GiB", 1 << 30)]
)
def test_sizes(text: str, wanted: int) -> None:
    assert command.size(text) == wanted


@pytest.mark.parametrize("module", ["penstock.bench", "penstock.cli"])
def test_help_names_the_commands(module: str) -> None:
    arguments = ["bench", "--help"] if module == "penstock.cli" else ["--help"]
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=True)
    for name in ("client", "blocking", "demo", "server"):
        assert name in done.stdout


@pytest.mark.parametrize("name", ["", "demo", "client", "blocking", "server"])
def test_help_ends_with_examples_and_exit_statuses(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        command.main([*name.split(), "--help"], "penstock bench")
    assert raised.value.code == 0
    _, end = capsys.readouterr().out.split("Examples:\n")
    examples, statuses = end.split("\n\nExit status:\n  ")
    start = " ".join(["  penstock bench", *name.split()])
    for line in examples.splitlines():
        assert line.startswith(start)
        # What it shows can be typed.
        command._parser("penstock bench").parse_args(line.split()[2:])
    assert statuses.startswith("0 done, 1 wrong usage, 2 ")


@pytest.mark.parametrize(
    ("words", "begun", "wanted"),
    [
        ("", "cl", [("plain", "client")]),
        ("blocking", "--q", [("plain", "--quick")]),
        ("blocking", "d", []),
        ("blocking --json", "a", [("file", "a")]),
        ("blocking --json a.json", "--h", [("plain", "--help"), ("plain", "--html")]),
        ("client --store =", "", [("dir", "")]),
        ("server --framing", "", [("plain", "chunked"), ("plain", "length")]),
        ("server --bind", "", []),
    ],
)
def test_shells_complete_commands_options_and_values(words: str, begun: str, wanted: list[tuple[str, str]]) -> None:
    assert command.candidates(words.split(), begun) == wanted


def test_an_unknown_command_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "nothing"]) == 1
    assert "nothing" in capsys.readouterr().err


@pytest.fixture(scope="module")
def fonts(tmp_path_factory: pytest.TempPathFactory) -> None:
    """matplotlib keeps open what it first draws with."""
    pytest.importorskip("matplotlib.figure")
    report.bars([], {"nothing": wall}).savefig(tmp_path_factory.mktemp("fonts") / "first.svg")


@pytest.mark.usefixtures("fonts")
def test_the_ways_to_download_are_measured_against_a_server_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "QUICK_PLAN", Plan(rounds=1, warmup=0, batches=1, size=50_000, connections=2))
    monkeypatch.setattr(scenarios, "FILES", ("fs",))
    samples, page = tmp_path / "client.json", tmp_path / "client.html"
    with server.running(50_000, 0) as address:
        arguments = ["client", "--quick", "--url", address.url, "--store", str(tmp_path)]
        assert command.main([*arguments, "--json", str(samples), "--html", str(page)]) == 0
    results = json.loads(samples.read_text())
    assert results["settings"]["server"] == address.url
    rows = {row["scenario"]: row for row in results["rows"]}
    assert list(rows) == ["ram", "ram_gather", "fs_direct", "fs_permit", "fs_dispatch"]
    assert all(len(row["samples"]) == 1 for row in rows.values())
    assert "| fs_permit, length, " in capsys.readouterr().out
    assert "<svg" in page.read_text()
    # The directory for files is gone.
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".html"}


@pytest.mark.usefixtures("fonts")
def test_the_demo_shows_a_row_a_store_and_says_where_its_picture_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Each round counts as noisy: a busy machine has something to show, too.
    monkeypatch.setattr(rounds, "NOISE_MS", -1.0)
    small = functools.partial(Plan, warmup=0, batches=1, size=50_000, connections=2, noise=-1.0)
    monkeypatch.setattr(demo, "Plan", small)
    output = tmp_path / "out"
    assert command.main(["demo", "--rounds", "1", "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("2 concurrent GETs of 0 MiB")
    lines = [line.strip() for line in shown.splitlines()]
    places = [
        next(at for at, line in enumerate(lines) if line.startswith(f"{name} "))
        for name in ("RAM", "files", "mapped files")
    ]
    assert places == sorted(places)
    picture = output / "demo.png"
    assert lines[-1] == f"picture: {picture}"
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    # The directory for files is gone.
    assert list(output.iterdir()) == [picture]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("client --store /nowhere", "No such file or directory: '/nowhere/"),
        ("client --json /nowhere/client.json", "No such file or directory: '/nowhere'"),
        ("blocking --html page.html", "--html has pictures, and matplotlib is missing: pip install matplotlib"),
    ],
)
def test_what_cannot_be_written_is_told_before_anything_is_measured(
    arguments: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[Rounds] = []
    monkeypatch.setattr(measure, "_measure", lambda run, *_: measured.append(run))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert command.main(arguments.split(), "penstock bench") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("penstock bench: ")
    assert told in line
    assert not measured


def test_a_row_that_cannot_run_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "QUICK_PLAN", Plan(rounds=1, warmup=0, batches=1, size=50_000, connections=2))
    monkeypatch.setattr(scenarios, "FILES", ())
    # Nobody listens there.
    arguments = ["client", "--quick", "--url", "http://127.0.0.1:1", "--store", str(tmp_path)]
    assert command.main(arguments) == 2
    assert "| ram/length/penstock | " in capsys.readouterr().out


@pytest.mark.parametrize("bind", [":8080", "8080", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:http"])
def test_a_server_listens_on_a_host_that_is_named(bind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        command.main(["server", "--bind", bind])
    assert raised.value.code == 1
    assert f"{bind!r} is not HOST:PORT" in capsys.readouterr().err


def test_the_demo_has_its_table_without_matplotlib_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "Plan", functools.partial(Plan, warmup=0, batches=1, size=50_000, connections=2))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert command.main(["demo", "--rounds", "1", "--output", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "\nmapped files " in shown
    assert shown.endswith("\nno picture: matplotlib is missing: pip install matplotlib\n")
    assert not list(tmp_path.iterdir())


def test_blocking_work_is_measured_with_and_without_others_ways(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "QUICK_PACE", Pace(rounds=1, warmup=0, batches=1))
    monkeypatch.setattr(measure, "WORKS", ("noop",))
    assert command.main(["blocking", "--quick"]) == 0
    alone, progress = capsys.readouterr()
    assert progress == ""
    assert "| noop, asyncio | **penstock dispatch** | " in alone
    assert "run_in_executor" not in alone
    assert command.main(["blocking", "--quick", "--peers"]) == 0
    assert "| noop, asyncio | run_in_executor | " in capsys.readouterr().out


def test_a_terminal_shows_how_far_a_run_is_until_its_table_takes_the_place() -> None:
    status, sent = in_terminal("blocking", "--quick", program=("-c", FEW_ROWS))
    assert status == 0
    steps = re.findall(r"\r\x1b\[K *(\d+)%, \d+ s left: noop/asyncio/penstock \w+", sent)
    # Four rows, in two rounds.
    assert list(map(int, steps)) == [0, 12, 25, 38, 50, 62, 75, 88]
    assert f"{CLEAR}Batches of 100 short functions" in sent


def seconds(run: Rounds) -> float:
    """How long it takes if its rows take as long as those of the published comparison do."""
    parts = json.loads((RESULTS / "compare.json").read_text())["parts"]
    measured = [row for part in ("clients", "strategies") for row in parts[part]["rows"] if row["samples"]]
    batches = {row["id"]: median(wall(each) for each in row["samples"]) for row in measured}
    pace, total = run._pace, 0.0
    for row in (row for session in run._sessions for row in session):
        batch = batches[row.id.replace(f"/{row.store}/", "/ext4/")] / 1000
        # One that isn't timed, and those that are; beside a ticker for a while, or waiting for what is freed.
        if batches_of_work := int(row.options.get("batches") or 0):
            turn = batch * (1 + batches_of_work * pace.batches + 1) + blocking_worker.LAG_SECONDS
        else:
            turn = batch * (1 + pace.batches) + 2 * worker.SETTLE
        total += START_SECONDS + batch + turn * (pace.warmup + pace.rounds)
    return total


@pytest.mark.parametrize("name", ["client", "blocking"])
def test_a_quick_run_with_all_peers_takes_less_than_a_minute(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Rounds] = []

    def planned(run: Rounds, *_: object) -> int:
        runs.append(run)
        return 0

    monkeypatch.setattr(measure, "_measure", planned)
    assert command.main([name, "--quick", "--peers"]) == 0
    (run,) = runs
    assert len([row for session in run._sessions for row in session]) >= 24
    assert seconds(run) < 60
