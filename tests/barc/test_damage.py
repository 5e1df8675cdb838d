"""Archives that something happened to: writers killed, files cut and changed; reading on, repair, check."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock import barc
from penstock.barc import archive as archive_module

from tests.barc.conftest import STRATEGIES, MakeDialog, make_dialog, urls

ROOT = Path(__file__).parents[2]
NIGHTLY = os.environ.get("PENSTOCK_NIGHTLY", "0") not in ("", "0")
KILLS = 1000 if NIGHTLY else 100

WRITER = """
import os, sys
from penstock import barc
from penstock._native import _delay_writes
from tests.barc.conftest import STRATEGIES, make_dialog
path = sys.argv[1]
make_dialog()
# So that a kill falls between the writes of a record more often than not.
_delay_writes(0.0005)
for line in sys.stdin:
    # A child for each kill, as starting an interpreter would be most of the time.
    if (child := os.fork()) == 0:
        number = int(line)
        archive = barc.open(path, "a")
        print(os.getpid(), flush=True)
        while True:
            size = number * 7919 % 3 * 40_000 + number % 100
            dialog = make_dialog(number, number.to_bytes(4, "little") * (size // 4))
            archive.append(dialog, strategy=list(STRATEGIES.values())[number % 3])
            number += 1
    os.waitpid(child, 0)
    print("killed", flush=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(600 if NIGHTLY else 60)
def test_a_writer_killed_at_any_point_leaves_records_that_all_read_and_the_next_one_goes_on(path: Path) -> None:
    chance = random.Random(KILLS)
    command = [sys.executable, "-c", WRITER, str(path)]
    unfinished = 0
    start = number = 0
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        for _ in range(KILLS):
            writer.stdin.write(f"{number}\n")
            child = int(writer.stdout.readline())
            time.sleep(chance.random() * 0.01)
            os.kill(child, signal.SIGKILL)
            assert writer.stdout.readline() == "killed\n"
            with barc.open(path) as archive:
                records = archive.records(start)
                for record in records:
                    assert record.meta["url"] == f"http://sample.test/{number}"
                    data = bytes(record.res_body)
                    assert data == number.to_bytes(4, "little") * (len(data) // 4)
                    number += 1
                unfinished += records.offset < path.stat().st_size
                start = records.offset
        writer.stdin.close()
    assert number > 0
    assert unfinished > 0
    # The next writer cuts off what the last one left.
    with barc.open(path, "a") as archive:
        assert path.stat().st_size == start
        archive.append(make_dialog(number))
    assert urls(path) == [f"http://sample.test/{index}" for index in range(number + 1)]


KILLED = """
import resource, signal, sys
from penstock import BodyImage, barc
from tests.barc.conftest import make_dialog
path, inner, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
with barc.open(path, "a") as archive:
    archive.append(make_dialog(0))
    # Of a write over that limit the kernel does a part, and kills whoever goes on.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    archive.append(make_dialog(1, BodyImage.from_path(inner)))
"""


def test_an_archive_within_a_record_whose_writer_was_killed_is_cut_off_with_it(
    path: Path, tmp_path: Path, script: Any
) -> None:
    inner = tmp_path / "inner.barc"
    with barc.open(inner, "a") as archive:
        for number in range(200):
            archive.append(make_dialog(number, bytes(10_000)))
    done = script(KILLED, str(path), str(inner), "1500000")
    assert (done.returncode, done.stderr) == (-signal.SIGXFSZ, "")
    assert path.stat().st_size == 1_500_000
    assert path.read_bytes().count(b"\r\n\r\nurl: http://sample.test/") > 100
    copy = tmp_path / "copy.barc"
    shutil.copy(path, copy)
    assert urls(path, keep_going=True) == ["http://sample.test/0"]
    with barc.open(path, "a") as archive:
        archive.append(make_dialog(1))
    assert urls(path) == ["http://sample.test/0", "http://sample.test/1"]
    (mended,) = barc.repair(copy)
    assert (mended.end, mended.cut, mended.error.kind) == (1_500_000, True, "unfinished")
    assert urls(copy) == ["http://sample.test/0"]


@pytest.mark.parametrize("kind", STRATEGIES)
def test_a_file_cut_anywhere_gives_its_complete_records(kind: str, path: Path, dialog: MakeDialog) -> None:
    with barc.open(path, "a", strategy=STRATEGIES[kind]) as archive:
        offsets = [archive.append(dialog(number, b"text")) for number in range(3)]
    whole = path.read_bytes()
    for cut in [*range(0, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:cut])
        complete = [offset for offset in offsets[1:] if offset <= cut]
        with barc.open(path) as archive:
            records = archive.records()
            assert [next(records).end for _ in complete] == complete
            if cut in (0, *offsets):
                assert next(records, None) is None
                continue
            for _ in range(2):
                with pytest.raises(penstock.ArchiveError) as raised:
                    next(records)
                assert raised.value.offset == records.offset == (complete or [0])[-1]


def test_a_large_body_cut_short_is_an_error_where_upstream_gives_less(path: Path, dialog: MakeDialog) -> None:
    with barc.open(path, "a") as archive:
        archive.append(dialog(0, bytes(1_000_000)))
    os.truncate(path, 500_000)
    with barc.open(path) as archive, pytest.raises(penstock.ArchiveError, match="has 499946 more") as raised:
        archive.read(0)
    assert raised.value.kind == "short"


def change(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


DAMAGE = {
    "not-a-head": (0, b"XXXX"),
    "bad-digit": (9, b"G"),
    "unknown-type": (19, b"Q"),
    "unknown-compression": (20, b"Q"),
    "bad-layout": (33, b"_"),
    "bad-lengths": (22, b"00001"),
    "short": (6, b"f"),
    "bad-headers": (54, b"\n"),
    "unfinished": (0, b"BARC2 000000000000 RP 00000 00000 0000000000 00000\r\n\r\n"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_has_a_name_and_a_place_and_can_be_gone_past_and_mended(
    kind: str, three: tuple[Path, list[int]]
) -> None:
    path, offsets = three
    at, data = DAMAGE[kind]
    change(path, offsets[1] + at, data)
    if kind == "unfinished":
        # As upstream: nobody can know that its writer died.
        assert urls(path) == ["http://sample.test/0"]
    else:
        with pytest.raises(penstock.ArchiveError) as raised:
            urls(path)
        assert (raised.value.offset, raised.value.kind) == (offsets[1], kind)
    with barc.open(path, keep_going=True) as archive:
        assert [record.offset for record in archive] == [offsets[0], offsets[2]]
        assert [(error.offset, error.kind, error.end) for error in archive.damage] == [(offsets[1], kind, offsets[2])]
        assert [error.kind for error in archive.check() if isinstance(error, penstock.ArchiveError)] == [kind]
        assert len(archive.damage) == 1
    if kind not in ("bad-lengths", "bad-headers"):
        with pytest.raises(penstock.ArchiveError) as raised:
            barc.open(path, "a")
        assert raised.value.offset == offsets[1]
    size = path.stat().st_size
    (mended,) = barc.repair(path)
    assert (mended.offset, mended.end, mended.cut, mended.error.kind) == (offsets[1], offsets[2], False, kind)
    assert path.stat().st_size == size
    assert urls(path) == ["http://sample.test/0", "", "http://sample.test/2"]
    assert barc.repair(path) == []
    with barc.open(path) as archive:
        assert [entry.offset for entry in archive.entries()] == offsets
        covered = archive.read(offsets[1])
        assert covered is not None
        with pytest.raises(penstock.ArchiveError, match="no response-status") as raised:
            covered.dialog()
        assert raised.value.kind == "no-dialog"


@pytest.mark.parametrize(
    ("kind", "at", "data"),
    [
        # Of the checksum, and of the request body's length.
        ("bad-stream", -8, b"\xff\xff\xff\xff"),
        ("stream-ends", 34, b"00000fffff"),
    ],
)
def test_damage_within_a_stream_has_a_name_and_a_place_and_is_gone_past(
    kind: str, at: int, data: bytes, path: Path
) -> None:
    with barc.open(path, "a") as archive:
        asked = penstock.BodyImage.from_bytes(b"asked")
        archive.append(make_dialog(0, b"text", req_body=asked, method="POST"), strategy=STRATEGIES["gzip"])
        second = archive.append(make_dialog(1))
    change(path, at % second, data)
    with pytest.raises(penstock.ArchiveError) as raised:
        urls(path)
    assert (raised.value.offset, raised.value.kind) == (0, kind)
    with barc.open(path, keep_going=True) as archive:
        assert [record.offset for record in archive] == [second]
        assert [(error.offset, error.kind, error.end) for error in archive.damage] == [(0, kind, second)]
    (mended,) = barc.repair(path)
    assert (mended.cut, mended.error.kind) == (False, kind)
    assert urls(path) == ["", "http://sample.test/1"]


@pytest.mark.parametrize("what", ["entries", "metas", "records"])
@pytest.mark.parametrize("lost", [1, 10, 60])
@pytest.mark.parametrize("kind", STRATEGIES)
def test_a_record_that_has_lost_bytes_takes_no_other_with_it(kind: str, lost: int, what: str, path: Path) -> None:
    with barc.open(path, "a", strategy=STRATEGIES[kind]) as archive:
        offsets = [archive.append(make_dialog(number, b"text %d " % number * 20)) for number in range(4)]
    whole = path.read_bytes()
    path.write_bytes(whole[: offsets[2] - lost - 4] + whole[offsets[2] - 4 :])
    good = [offsets[0], offsets[2] - lost, offsets[3] - lost]
    with barc.open(path, keep_going=True) as archive:
        found = [one[0] if isinstance(one, tuple) and what == "metas" else one for one in getattr(archive, what)()]
        assert [one.offset for one in found] == good
        assert [(error.offset, error.end) for error in archive.damage] == [(offsets[1], good[1])]


def test_a_compressed_record_before_a_head_that_is_damaged_is_good(path: Path) -> None:
    with barc.open(path, "a", strategy=STRATEGIES["gzip"]) as archive:
        offsets = [archive.append(make_dialog(number)) for number in range(3)]
    change(path, offsets[1], b"XXXX")
    with barc.open(path, keep_going=True) as archive:
        assert [entry.offset for entry in archive.entries()] == [offsets[0], offsets[2]]
        assert [(error.kind, error.offset) for error in archive.damage] == [("not-a-head", offsets[1])]


@pytest.mark.parametrize("what", ["entries", "records"])
def test_a_record_that_seems_to_be_longer_than_the_file_is_damage(what: str, three: tuple[Path, list[int]]) -> None:
    path, offsets = three
    change(path, offsets[1] + 6, b"f")
    with barc.open(path) as archive, pytest.raises(penstock.ArchiveError) as raised:
        list(getattr(archive, what)())
    assert (raised.value.kind, raised.value.offset) == ("short", offsets[1])
    with barc.open(path, keep_going=True) as archive:
        assert [one.offset for one in getattr(archive, what)()] == [offsets[0], offsets[2]]
        assert [(error.kind, error.end) for error in archive.damage] == [("short", offsets[2])]


def test_no_index_is_saved_of_an_archive_that_seems_to_end_too_early(three: tuple[Path, list[int]]) -> None:
    path, offsets = three
    change(path, offsets[1] + 6, b"f")
    with barc.open(path) as archive, pytest.raises(penstock.ArchiveError):
        barc.Index.of(archive)
    with barc.open(path, keep_going=True) as archive:
        assert list(barc.Index.of(archive)) == [offsets[0], offsets[2]]
    assert not Path(f"{path}.index").exists()


@pytest.mark.parametrize("what", ["records", "entries", "metas"])
@pytest.mark.parametrize("left", [0, 1])
def test_an_archive_that_is_cut_while_it_is_read_does_not_end_there(
    left: int, what: str, three: tuple[Path, list[int]]
) -> None:
    path, offsets = three
    end = path.stat().st_size
    with barc.open(path) as archive, barc.open(path, keep_going=True) as going_on:
        walk, other = (getattr(one, what)() for one in (archive, going_on))
        next(walk)
        next(other)
        os.truncate(path, offsets[left])
        for _ in range(2):
            with pytest.raises(penstock.ArchiveError, match=rf"was cut to {offsets[left]} bytes") as raised:
                list(walk)
            assert (raised.value.kind, raised.value.offset) == ("short", end)
        assert len(list(other)) == 2
        assert [(error.kind, error.offset, error.end) for error in going_on.damage] == [("short", end, offsets[left])]


def test_check_tells_of_an_archive_that_is_cut_meanwhile(three: tuple[Path, list[int]]) -> None:
    path, _ = three
    end = path.stat().st_size
    with barc.open(path) as archive:
        found = archive.check()
        next(found)
        os.truncate(path, 0)
        *good, bad = found
    assert len(good) == 2
    assert isinstance(bad, penstock.ArchiveError)
    assert (bad.kind, bad.offset) == ("short", end)


def test_a_record_that_was_cut_is_told_with_what_the_file_has_now(three: tuple[Path, list[int]]) -> None:
    path, offsets = three
    with barc.open(path) as archive:
        os.truncate(path, offsets[2] + 60)
        with pytest.raises(penstock.ArchiveError, match="and the file has 6 more"):
            archive.read(offsets[2])


def test_a_large_body_that_was_cut_since_the_archive_was_opened_is_short(path: Path) -> None:
    with barc.open(path, "a") as archive:
        archive.append(make_dialog(0, bytes(500_000)))
    with barc.open(path) as archive:
        os.truncate(path, 400_000)
        for read in (lambda: archive.read(0), lambda: list(archive)):
            with pytest.raises(penstock.ArchiveError, match="and the file has 399946 more"):
                read()
        (found,) = archive.check()
    assert isinstance(found, penstock.ArchiveError)
    assert found.kind == "short"


@pytest.mark.parametrize("strategy", ["plain", "gzip", "brotli"])
def test_a_length_over_the_limit_is_damage_if_the_record_has_not_so_much(strategy: str, path: Path) -> None:
    asked = penstock.BodyImage.from_bytes(b"x" * 1000)
    with barc.open(path, "a") as archive:
        archive.append(make_dialog(0, req_body=asked, method="POST"), strategy=STRATEGIES[strategy])
        second = archive.append(make_dialog(1))
    with barc.open(path, keep_going=True, tunables=penstock.Tunables(max_body=999)) as archive:
        with pytest.raises(penstock.BodyTooLong):
            list(archive)
        assert not archive.damage
    change(path, 34, b"ff00000000")
    kind = "bad-lengths" if strategy == "plain" else "stream-ends"
    with barc.open(path, keep_going=True) as archive:
        assert [record.offset for record in archive] == [second]
        assert [(error.offset, error.kind, error.end) for error in archive.damage] == [(0, kind, second)]


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_repair_cuts_off_what_is_not_complete(cut: int, three: tuple[Path, list[int]]) -> None:
    path, offsets = three
    os.truncate(path, offsets[2] + cut)
    with barc.open(path) as archive:
        *good, bad = archive.check()
    assert len(good) == 2
    assert isinstance(bad, penstock.ArchiveError)
    assert bad.offset == offsets[2]
    (mended,) = barc.repair(path)
    assert (mended.offset, mended.end, mended.cut) == (offsets[2], offsets[2] + cut, True)
    assert path.stat().st_size == offsets[2]


def test_repair_tells_how_far_it_is_and_changes_nothing_when_it_is_broken_off(three: tuple[Path, list[int]]) -> None:
    path, offsets = three
    with barc.open(path, "a") as archive:
        # So that one step doesn't read all.
        archive.append(make_dialog(3, bytes(9 << 20)))
        archive.append(make_dialog(4))
    change(path, offsets[1], b"XXXX")
    damaged = path.read_bytes()
    steps: list[tuple[int, int]] = []

    def interrupted(records: int, size: int) -> None:
        steps.append((records, size))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        barc.repair(path, progress=interrupted)
    assert path.read_bytes() == damaged
    (mended,) = barc.repair(path, progress=lambda records, size: steps.append((records, size)))
    assert (mended.offset, mended.cut) == (offsets[1], False)
    assert steps[0] == steps[1]
    assert [records for records, _ in steps[1:]] == [4, 1]
    assert sum(size for _, size in steps[1:]) == len(damaged)


def test_check_tells_of_a_record_that_was_never_finished(three: tuple[Path, list[int]]) -> None:
    path, offsets = three
    change(path, offsets[2], DAMAGE["unfinished"][1])
    with barc.open(path) as archive:
        (bad,) = (found for found in archive.check() if isinstance(found, penstock.ArchiveError))
    assert (bad.offset, bad.kind, bad.end) == (offsets[2], "unfinished", path.stat().st_size)


def test_a_record_that_is_finished_while_others_are_looked_for_is_no_damage(path: Path, tmp_path: Path) -> None:
    with barc.open(tmp_path / "other.barc", "a") as archive:
        archive.append(make_dialog(1))
    second = (tmp_path / "other.barc").read_bytes()
    # A body that takes no room, and long to be searched for a head.
    size = 1 << 29
    path.write_bytes(DAMAGE["unfinished"][1])
    os.truncate(path, 54 + size)

    def read() -> tuple[list[int], list[str | None]]:
        with barc.open(path, keep_going=True) as archive:
            return [entry.offset for entry in archive.entries()], [error.kind for error in archive.damage]

    with ThreadPoolExecutor(1) as executor:
        reading = executor.submit(read)
        time.sleep(0.05)
        # What a writer does, in its order.
        change(path, 0, b"BARC2 %012x DP 00000 00000 0000000000 00000\r\n\r\n" % size)
        change(path, 54 + size, second)
        offsets, damage = reading.result()
    assert damage == []
    assert offsets in ([], [0, 54 + size])


def test_check_reads_a_record_that_was_written_when_it_had_come_to_the_end(
    three: tuple[Path, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = three
    with barc.open(path, "a") as archive:
        step, late = archive_module.Records.__next__, [make_dialog(3)]

        def next_(records: Any) -> Any:
            try:
                return step(records)
            except StopIteration:
                if late:
                    archive.append(late.pop())
                raise

        monkeypatch.setattr(archive_module.Records, "__next__", next_)
        found = list(archive.check())
    assert [type(one) for one in found] == [barc.Entry] * 4


def test_check_looks_at_the_file_that_was_opened_whatever_has_its_name_now(
    three: tuple[Path, list[int]], tmp_path: Path
) -> None:
    path, offsets = three
    with barc.open(path) as archive:
        entries = list(archive.entries())
        path.rename(tmp_path / "old.barc")
        assert list(archive.check()) == entries
        path.write_bytes(bytes(100_000))
        assert list(archive.check(offsets[1])) == entries[1:]


def test_too_few_bytes_for_a_record_cannot_be_covered(three: tuple[Path, list[int]]) -> None:
    path, offsets = three
    whole = path.read_bytes()
    path.write_bytes(whole[: offsets[1]] + b"junk" + whole[offsets[1] :])
    with pytest.raises(ValueError, match="too few bytes"):
        barc.repair(path)
    with barc.open(path, keep_going=True) as archive:
        assert len(list(archive)) == 3


def test_if_one_place_cannot_be_covered_nothing_is_changed(three: tuple[Path, list[int]]) -> None:
    path, offsets = three
    change(path, *DAMAGE["bad-headers"])
    whole = path.read_bytes()
    damaged = whole[: offsets[2]] + b"junk" + whole[offsets[2] :]
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="too few bytes"):
        barc.repair(path)
    assert path.read_bytes() == damaged
    with barc.open(path, keep_going=True) as archive:
        assert [record.offset for record in archive] == [offsets[1], offsets[2] + 4]
        assert [error.kind for error in archive.damage] == ["bad-headers", "not-a-head"]


@pytest.mark.parametrize("content", [b"d", b"dear diary\n", b"\x89PNG\r\n\x1a\n" + bytes(1000)])
def test_what_is_no_archive_is_not_mended(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises(penstock.ArchiveError) as raised:
        barc.repair(path)
    assert (raised.value.offset, raised.value.kind) == (0, "not-a-head")
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"BAR", DAMAGE["unfinished"][1], DAMAGE["unfinished"][1] + b"url: "])
def test_of_what_began_as_an_archive_nothing_may_be_left(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    assert [mended.cut for mended in barc.repair(path)] == [True] * bool(content)
    assert path.read_bytes() == b""


def test_an_archive_whose_beginning_is_damaged_is_one(three: tuple[Path, list[int]]) -> None:
    path, offsets = three
    change(path, 0, b"XXXXXX")
    (mended,) = barc.repair(path)
    assert (mended.offset, mended.end, mended.cut) == (0, offsets[1], False)
    assert urls(path) == ["", "http://sample.test/1", "http://sample.test/2"]


def test_a_repair_of_nothing_makes_no_file(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        barc.repair(path)
    assert not path.exists()


def test_only_the_latest_errors_are_kept(path: Path) -> None:
    bad = b"BARC2 000000000003 DP 00003 00000 0000000000 00000\r\n\r\nabc"
    path.write_bytes(bad * 3000)
    with barc.open(path, keep_going=True) as archive:
        assert list(archive) == []
        assert len(archive.damage) == 1000
        assert archive.damage[-1].offset == len(bad) * 2999
