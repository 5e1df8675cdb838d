"""`image.open()` is a binary file as CPython's own are: its tests for RawIOBase and BufferedReader pass."""

from __future__ import annotations

import array
import io
import os
import threading
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import penstock
import pytest

try:
    import test.test_io.test_bufferedio as test_bufferedio
    import test.test_io.test_general as test_general
except ImportError:
    # Before CPython 3.15 they are one module; some distributions leave it out.
    try:
        import test.test_io as test_general

        test_bufferedio = test_general
    except ImportError:
        test_general = test_bufferedio = None

MakeImage = Callable[..., penstock.BodyImage]

HELLO = b"hello world\n"


def opening_in(store: str) -> Callable[..., Any]:
    """An `open` that gives ours for what is read in binary, or below a text file, and Python's own for the rest."""

    def our_open(path: Any, mode: str = "r", buffering: int = -1, **options: Any) -> Any:
        if "r" not in mode or "+" in mode or not isinstance(path, str):
            return open(path, mode, buffering, **options)
        if store == "ram":
            image = penstock.BodyImage.from_bytes(Path(path).read_bytes())
        else:
            image = penstock.BodyImage.from_path(path, trusted=True)
            image = image.mmap() if store == "mmap" else image
        reader = image.open() if buffering == -1 else image.open(buffering)
        return reader if "b" in mode else io.TextIOWrapper(reader, **options)

    return our_open


def cpython_case(source: Any, group: str, name: str, store: str) -> unittest.TestCase:
    """A case of CPython's, with our `open` and Python's classes otherwise."""
    case = getattr(source, group)(name)
    for member in io.__all__:
        setattr(case, member, getattr(io, member))
    case.open = opening_in(store)
    case.tp = io.BufferedReader
    case.read_mode = "rb"
    return case


@pytest.mark.skipif(test_general is None, reason="this Python comes without its tests")
@pytest.mark.parametrize(
    ("source", "group", "name"),
    [
        (test_general, "CIOTest", "test_raw_file_io"),
        (test_general, "CIOTest", "test_buffered_file_io"),
        (test_general, "CIOTest", "test_readline"),
        (test_general, "CIOTest", "test_invalid_operations"),
        (test_bufferedio, "CBufferedReaderTest", "test_threads"),
    ],
)
def test_a_case_of_cpythons_own_passes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: str, source: Any, group: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = unittest.TestResult()
    cpython_case(source, group, name, store).run(result)
    assert (result.errors, result.failures) == ([], [])
    assert result.testsRun == 1


@pytest.mark.skipif(test_general is None, reason="this Python comes without its tests")
@pytest.mark.parametrize("buffering", [0, 1 << 16, 5])
def test_cpythons_own_reading_passes(image_in: MakeImage, store: str, buffering: int) -> None:
    case = getattr(test_general, "CIOTest")("test_raw_file_io")  # noqa: B009
    with image_in(HELLO, store).open(buffering) as file:
        case.read_ops(file, buffered=buffering > 1)


# What those leave out, by the documentation of io


@pytest.fixture(params=[0, 1 << 16], ids=["raw", "buffered"])
def file(request: pytest.FixtureRequest, image_in: MakeImage, store: str) -> BinaryIO:
    return image_in(HELLO, store, pieces=3).open(request.param)


def test_it_is_of_the_standard_kind(image_in: MakeImage, store: str) -> None:
    image = image_in(HELLO, store)
    assert isinstance(image.open(0), io.RawIOBase)
    assert isinstance(image.open(), io.BufferedReader)
    assert isinstance(image.open().detach(), io.RawIOBase)  # type: ignore[attr-defined]


def test_it_has_no_descriptor_and_is_no_terminal(file: BinaryIO) -> None:
    assert not file.isatty()
    with pytest.raises(io.UnsupportedOperation):
        file.fileno()


def test_it_is_read_only(file: BinaryIO) -> None:
    assert not file.writable()
    for call in (lambda: file.write(b"x"), lambda: file.writelines([b"x"]), lambda: file.truncate()):
        with pytest.raises(io.UnsupportedOperation):
            call()
    file.flush()


def test_seeking_past_the_end_reads_nothing(file: BinaryIO) -> None:
    assert file.seek(100) == 100
    assert file.tell() == 100
    assert file.read() == b""
    assert file.read(5) == b""
    assert file.readline() == b""
    assert file.seek(0) == 0
    assert file.read() == HELLO


def test_seeking_where_nothing_is_is_refused(file: BinaryIO) -> None:
    for offset, whence in ((-1, os.SEEK_SET), (-13, os.SEEK_END), (-1, os.SEEK_CUR)):
        with pytest.raises((ValueError, OSError)):
            file.seek(offset, whence)
    for whence in (3, -1, 9):
        with pytest.raises(ValueError, match="whence"):
            file.seek(0, whence)
    for offset in (0.0, "0", None):
        with pytest.raises(TypeError):
            file.seek(offset)
    assert file.read() == HELLO


def test_seek_takes_what_can_be_an_index(file: BinaryIO) -> None:
    class Six:
        def __index__(self) -> int:
            return 6

    assert file.seek(Six()) == 6  # type: ignore[arg-type]
    assert file.read(5) == b"world"


def test_lines_come_by_iteration_and_readlines(image_in: MakeImage, store: str) -> None:
    lines = [b"one\n", b"\n", b"three\r\n", b"last"]
    image = image_in(b"".join(lines), store, pieces=4)
    for buffering in (0, 4, 1 << 16):
        assert list(image.open(buffering)) == lines
        assert image.open(buffering).readlines() == lines
        assert image.open(buffering).readlines(3) == lines[:1]
        assert image.open(buffering).readline(2) == b"on"


def test_it_reads_into_any_buffer(file: BinaryIO) -> None:
    numbers = array.array("I", bytes(8))
    assert file.readinto(numbers) == 8  # type: ignore[attr-defined]
    assert numbers.tobytes() == HELLO[:8]
    assert file.readinto(memoryview(bytearray(20))[3:]) == 4  # type: ignore[attr-defined]
    assert file.readinto(bytearray(1)) == 0  # type: ignore[attr-defined]


def test_it_does_not_read_into_what_cannot_be_written(file: BinaryIO) -> None:
    for target in (b"constant", memoryview(b"constant"), "text", None):
        with pytest.raises((TypeError, BufferError)):
            file.readinto(target)  # type: ignore[attr-defined]
    assert file.read() == HELLO


def test_peek_shows_without_moving(image_in: MakeImage, store: str) -> None:
    with image_in(HELLO, store).open() as file:
        assert file.peek(3)[:3] == b"hel"  # type: ignore[attr-defined]
        assert file.tell() == 0
        assert file.read1(2) == b"he"  # type: ignore[attr-defined]


def test_a_closed_file_refuses_everything(file: BinaryIO) -> None:
    file.close()
    file.close()
    assert file.closed
    calls: list[Callable[[], object]] = [
        file.read,
        file.readline,
        file.tell,
        file.readable,
        file.seekable,
        file.flush,
        lambda: file.seek(0),
        lambda: file.write(b"x"),
        lambda: next(file),
        lambda: file.readinto(bytearray(1)),  # type: ignore[attr-defined]
        file.__enter__,
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"closed|write"):
            call()


def test_closing_one_leaves_the_image_and_its_other_files(image_in: MakeImage, store: str) -> None:
    image = image_in(HELLO, store)
    one, other = image.open(), image.open()
    one.close()
    assert other.read() == HELLO
    assert bytes(image) == HELLO


def test_an_empty_body_is_an_empty_file() -> None:
    for buffering in (0, 1 << 16):
        with penstock.BodyImage.from_bytes(b"").open(buffering) as file:
            assert (file.read(), file.readline(), file.seek(0, os.SEEK_END)) == (b"", b"", 0)


def test_threads_that_share_a_file_get_each_byte_once(image_in: MakeImage, store: str) -> None:
    content = bytes(range(256)) * 400
    file = image_in(content, store, pieces=7).open(8)
    found: list[bytes] = []

    def read() -> None:
        while piece := file.read(19):
            found.append(piece)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = b"".join(found)
    assert [whole.count(bytes([value])) for value in range(256)] == [400] * 256
