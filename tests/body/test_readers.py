"""The synchronous readers of an image, for threads: chunks, open, write_to."""

from __future__ import annotations

import gc
import io
import os
import random
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import penstock
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from penstock import _native

MakeImage = Callable[..., penstock.BodyImage]
Settles = Callable[[Callable[[], bool]], bool]

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(-1, 3000)),
        st.tuples(st.just("readinto"), st.integers(0, 3000)),
        st.tuples(st.just("seek"), st.integers(0, 6000)),
        st.tuples(st.just("tell"), st.just(0)),
    ),
    max_size=25,
)


# chunks


@pytest.mark.parametrize("size", [1 << 20, 65536, 4096, 1000])
def test_chunks_cover_the_body_in_order(image: penstock.BodyImage, body: bytes, size: int) -> None:
    views = list(image.chunks(size))
    assert b"".join(views) == body
    assert all(0 < len(view) <= size for view in views)
    assert all(isinstance(view, memoryview) and view.readonly for view in views)


def test_a_chunk_size_of_zero_is_refused(image: penstock.BodyImage) -> None:
    for size in (0, -1):
        with pytest.raises((ValueError, OverflowError)):
            image.chunks(size)


def test_chunks_outlive_the_image(image_in: MakeImage, body: bytes, store: str) -> None:
    image = image_in(body, store, pieces=5)
    views = list(image.chunks(4096))
    del image
    gc.collect()
    assert b"".join(views) == body


# open


def test_open_gives_a_seekable_binary_file(image: penstock.BodyImage, body: bytes) -> None:
    with image.open() as reader:
        assert reader.readable()
        assert reader.seekable()
        assert not reader.writable()
        assert reader.read(10) == body[:10]
        assert reader.tell() == 10
        assert reader.seek(-5, io.SEEK_END) == len(body) - 5
        assert reader.read() == body[-5:]
        assert reader.read(1) == b""
        assert reader.seek(0) == 0
        assert reader.seek(3, io.SEEK_CUR) == 3
        assert reader.read() == body[3:]
    with pytest.raises(ValueError, match="closed"):
        reader.read()
    assert bytes(image) == body


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=5000), pieces=st.integers(1, 4), steps=STEPS)
def test_a_reader_behaves_as_bytesio(
    image_in: MakeImage, store: str, data: bytes, pieces: int, steps: list[tuple[str, int]]
) -> None:
    model = io.BytesIO(data)
    with image_in(data, store, pieces=pieces).open() as reader:
        for step, number in steps:
            match step:
                case "read":
                    assert reader.read(number) == model.read(number)
                case "seek":
                    assert reader.seek(number) == model.seek(number)
                case "tell":
                    assert reader.tell() == model.tell()
                case "readinto":
                    mine, theirs = bytearray(number), bytearray(number)
                    assert reader.readinto(mine) == model.readinto(theirs)
                    assert mine == theirs


def test_a_reader_crosses_from_piece_to_piece(image_in: MakeImage, body: bytes) -> None:
    with image_in(body, "ram", pieces=7).open() as reader:
        assert reader.read(50_000) == body[:50_000]
        reader.seek(14_000)
        assert reader.read(1000) == body[14_000:15_000]


def test_each_reader_has_its_own_position(image: penstock.BodyImage, body: bytes) -> None:
    with image.open() as one, image.open() as other:
        one.read(5000)
        assert other.tell() == 0
        assert other.read(100) == body[:100]
        assert one.tell() == 5000


def test_many_threads_read_one_image_at_once(image: penstock.BodyImage, body: bytes) -> None:
    def read(seed: int) -> bool:
        places = random.Random(seed)
        with image.open() as reader:
            for _ in range(200):
                at = places.randrange(len(body))
                reader.seek(at)
                if reader.read(777) != body[at : at + 777]:
                    return False
        return bytes(image) == body

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(8)))


def test_a_buffer_is_no_longer_than_the_body(image_in: MakeImage, body: bytes, store: str) -> None:
    with image_in(body, store).open(buffering=1 << 80) as reader:
        assert reader.read(10) == body[:10]
        assert reader.read() == body[10:]
    with image_in(b"", store).open(buffering=1 << 80) as reader:
        assert reader.read() == b""


@pytest.mark.parametrize(("buffering", "error"), [(-1, ValueError), (True, TypeError), (2.5, TypeError)])
def test_a_buffer_of_no_size_is_refused_by_its_name(buffering: int, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"buffering={buffering}: "):
        penstock.BodyImage.from_bytes(b"x").open(buffering)


def test_a_reader_outlives_its_image(image_in: MakeImage, body: bytes, store: str) -> None:
    image = image_in(body, store)
    reader = image.open()
    del image
    gc.collect()
    assert reader.read() == body
    reader.close()


@pytest.mark.parametrize("size", [10_000, 3 << 20])
def test_the_descriptor_closes_with_the_last_reader(
    image_in: MakeImage, descriptors: Callable[[], int], settles: Settles, size: int
) -> None:
    image_in(b"x" * (3 << 20), "file")  # starts the reaper, which may have a descriptor of its own
    assert _native.settle(5)
    before = descriptors()
    image = image_in(bytes(size), "file")
    reader = image.open()
    del image
    assert descriptors() > before
    reader.close()
    del reader
    gc.collect()
    assert settles(lambda: descriptors() == before)


def test_a_library_that_wants_a_file_can_have_it(image_in: MakeImage, store: str) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr("name", "content")
    with image_in(archive.getvalue(), store).open() as reader, zipfile.ZipFile(reader) as unpacked:
        assert unpacked.read("name") == b"content"


def test_a_file_cut_short_raises_truncated(tmp_path: Path) -> None:
    path = tmp_path / "body"
    path.write_bytes(b"x" * 3000)
    image = penstock.BodyImage.from_path(path)
    os.truncate(path, 1000)
    for read in (bytes, lambda image: list(image.chunks(500)), lambda image: image.write_to(io.BytesIO())):
        with pytest.raises(penstock.Truncated):
            read(image)


# write_to


def test_write_to_returns_the_bytes_written(image: penstock.BodyImage, body: bytes, tmp_path: Path) -> None:
    out = io.BytesIO()
    assert image.write_to(out) == len(body)
    assert out.getvalue() == body
    with open(tmp_path / "out", "wb") as file:
        file.write(b"before ")
        assert image.write_to(file) == len(body)
        file.write(b" after")
    assert (tmp_path / "out").read_bytes() == b"before " + body + b" after"


def test_write_to_completes_short_writes(image: penstock.BodyImage, body: bytes) -> None:
    class Trickle(io.RawIOBase):
        taken = b""

        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            piece = bytes(memoryview(data)[:1234])  # type: ignore[arg-type]
            self.taken += piece
            return len(piece)

    out = Trickle()
    assert image.write_to(out) == len(body)
    assert out.taken == body


def test_an_error_of_the_file_written_to_comes_through(image: penstock.BodyImage) -> None:
    class Full(io.RawIOBase):
        def write(self, data: object) -> int:
            raise OSError(28, "full")

    with pytest.raises(OSError, match="full"):
        image.write_to(Full())


@pytest.mark.parametrize("taken", [None, 0])
def test_a_file_that_takes_nothing_is_not_asked_for_ever(
    image: penstock.BodyImage, body: bytes, taken: int | None
) -> None:
    class Stuck(io.RawIOBase):
        def write(self, data: object) -> int | None:
            return taken

    with pytest.raises(BlockingIOError, match=f"after 0 of {len(body)} bytes"):
        image.write_to(Stuck())
