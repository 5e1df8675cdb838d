"""The file of offsets beside an archive."""

from __future__ import annotations

import errno
import os
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import penstock
import pytest
from penstock import barc
from penstock.barc.index import HEAD

from tests.barc.conftest import MakeDialog


def test_records_are_found_by_number(three: tuple[Path, list[int]]) -> None:
    path, offsets = three
    with barc.open(path) as archive:
        index = barc.Index.of(archive)
        assert (list(index), index[-1], index.end) == (offsets, offsets[2], path.stat().st_size)
        assert Path(f"{path}.index").exists()
        again = barc.Index.of(archive)
        assert (list(again), again.end) == (offsets, index.end)
        assert repr(again) == f"<Index of 3 records to {index.end}>"


def test_the_head_of_a_record_is_as_long_as_an_index_takes_it_for(three: tuple[Path, list[int]]) -> None:
    path, offsets = three
    data = path.read_bytes()
    assert [data.index(b"\r\n\r\n", offset) + 4 - offset for offset in offsets] == [HEAD] * 3


def test_an_index_is_of_an_archive_and_not_of_a_path(three: tuple[Path, list[int]]) -> None:
    path, _ = three
    for other in (path, barc.AsyncArchive(path)):
        with pytest.raises(TypeError, match=r"takes an Archive, as barc\.open gives, not "):
            barc.Index.of(other)  # type: ignore[arg-type]


def test_an_index_grows_with_its_archive_and_spares_the_writer_the_heads(
    three: tuple[Path, list[int]], dialog: MakeDialog
) -> None:
    path, offsets = three
    with barc.open(path) as archive:
        end = barc.Index.of(archive).end
    with barc.open(path, "a", known_end=end) as archive:
        assert archive.append(dialog(3)) == end
        assert list(barc.Index.of(archive)) == [*offsets, end]


def test_an_index_of_something_else_is_made_anew(three: tuple[Path, list[int]], dialog: MakeDialog) -> None:
    path, offsets = three
    beside = Path(f"{path}.index")
    with barc.open(path) as archive:
        numbers = (b"", bytes(17), bytes(16), bytes([100, *bytes(7)]), b"\xff" * 16)
        for content in (b"", b"not an index at all", *(b"BARCIDX1" + data for data in numbers)):
            beside.write_bytes(content)
            assert list(barc.Index.of(archive)) == offsets
        barc.Index.of(archive)
    path.unlink()
    with barc.open(path, "a") as archive:
        archive.append(dialog(0, bytes(1000)))
        assert list(barc.Index.of(archive)) == [0]


def test_no_more_is_read_of_an_index_than_the_archive_may_have_records(three: tuple[Path, list[int]]) -> None:
    path, offsets = three
    beside = Path(f"{path}.index")
    beside.write_bytes(b"BARCIDX1")
    os.truncate(beside, 32 << 20)
    tracemalloc.start()
    try:
        with barc.open(path) as archive:
            assert list(barc.Index.of(archive)) == offsets
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert beside.stat().st_size == 40


def test_looking_at_an_index_of_something_else_is_no_damage(three: tuple[Path, list[int]], dialog: MakeDialog) -> None:
    path, _ = three
    with barc.open(path) as archive:
        barc.Index.of(archive)
    path.unlink()
    with barc.open(path, "a", keep_going=True) as archive:
        archive.append(dialog(0, bytes(10_000)))
        assert list(barc.Index.of(archive)) == [0]
        assert not archive.damage


def test_an_index_of_the_same_records_in_another_order_is_made_anew(path: Path, dialog: MakeDialog) -> None:
    for order in ((1, 2, 3), (2, 1, 3)):
        path.unlink(missing_ok=True)
        with barc.open(path, "a") as archive:
            offsets = [archive.append(dialog(0, bytes(100 * number))) for number in order]
            assert list(barc.Index.of(archive)) == offsets


def test_an_index_of_an_archive_that_was_cut_since_it_was_opened_is_made_anew(path: Path, dialog: MakeDialog) -> None:
    with barc.open(path, "a") as archive:
        offsets = [archive.append(dialog(number, bytes(500_000))) for number in range(2)]
    with barc.open(path) as archive:
        barc.Index.of(archive)
        os.truncate(path, offsets[1] + 1000)
        with pytest.raises(penstock.ArchiveError):
            barc.Index.of(archive)
        os.truncate(path, offsets[1])
        assert list(barc.Index.of(archive)) == offsets[:1]


def test_an_index_goes_where_it_is_told(three: tuple[Path, list[int]], tmp_path: Path) -> None:
    path, offsets = three
    with barc.open(path) as archive:
        assert list(barc.Index.of(archive, tmp_path / "elsewhere")) == offsets
    assert (tmp_path / "elsewhere").exists()
    assert not Path(f"{path}.index").exists()


def test_an_empty_archive_has_an_empty_index(path: Path) -> None:
    with barc.open(path, "a") as archive:
        assert len(barc.Index.of(archive)) == 0
        assert not Path(f"{path}.index").exists()


def test_an_index_that_went_past_damage_is_not_kept_for_the_archive_once_it_is_mended(
    three: tuple[Path, list[int]],
) -> None:
    path, offsets = three
    with open(path, "r+b") as file:
        file.seek(offsets[1])
        file.write(b"XXXX")
    with barc.open(path, keep_going=True) as archive:
        assert list(barc.Index.of(archive)) == [offsets[0], offsets[2]]
        assert [error.offset for error in archive.damage] == [offsets[1]]
    barc.repair(path)
    with barc.open(path) as archive:
        assert list(barc.Index.of(archive)) == offsets


def test_a_repair_that_makes_one_record_of_two_leaves_no_index_with_both(path: Path, dialog: MakeDialog) -> None:
    beside = Path(f"{path}.index")
    with barc.open(path, "a") as archive:
        offsets = [archive.append(dialog(number)) for number in range(100)]
        barc.Index.of(archive)
    # Few of the records are looked at to tell whether an index is good: these aren't.
    _damage(path, offsets[50], offsets[51])
    (mended,) = barc.repair(path)
    assert (mended.offset, mended.end) == (offsets[50], offsets[52])
    assert not beside.exists()
    with barc.open(path) as archive:
        index = barc.Index.of(archive)
        assert list(index) == [entry.offset for entry in archive.entries()]
        assert len(index) == 99
    beside.write_bytes(b"somebody's notes")
    _damage(path, offsets[60])
    assert len(barc.repair(path)) == 1
    assert beside.read_bytes() == b"somebody's notes"


def _damage(path: Path, *offsets: int) -> None:
    with path.open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            file.write(b"XXXX")


def test_threads_bring_an_index_up_to_date_at_the_same_time(
    three: tuple[Path, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, offsets = three
    both, replace = threading.Barrier(2, timeout=20), Path.replace

    def meeting(draft: Path, target: str) -> Path:
        both.wait()
        return replace(draft, target)

    def index(_: int) -> list[int]:
        with barc.open(path) as archive:
            return list(barc.Index.of(archive))

    monkeypatch.setattr(Path, "replace", meeting)
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(index, range(2))) == [offsets] * 2
    assert sorted(one.name for one in path.parent.iterdir()) == [path.name, f"{path.name}.index"]


def test_an_index_is_saved_without_an_object_for_each_record(tmp_path: Path) -> None:
    count = 300_000
    index = barc.Index()
    index._offsets.extend(range(1 << 40, (1 << 40) + count))
    tracemalloc.start()
    try:
        index._save(tmp_path / "index")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / "index").stat().st_size == 8 * (count + 2)
    assert peak < 4 * 8 * count


def test_an_index_that_cannot_be_saved_leaves_nothing(
    three: tuple[Path, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "the disk is full")

    path, offsets = three
    with barc.open(path) as archive:
        monkeypatch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="disk is full"):
            barc.Index.of(archive)
        assert list(path.parent.iterdir()) == [path]
        monkeypatch.undo()
        assert list(barc.Index.of(archive)) == offsets
