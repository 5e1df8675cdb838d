"""BodyImage: one value, whether the body is in memory, in a file or mapped."""

from __future__ import annotations

import asyncio
import collections.abc
import errno
import inspect
import io
import os
import pickle
import re
import stat
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock import barc

MakeImage = Callable[..., penstock.BodyImage]
MakeTunables = Callable[..., penstock.Tunables]

# Every synchronous way to a body's bytes.
WAYS: dict[str, Callable[[penstock.BodyImage], bytes]] = {
    "bytes": bytes,
    "memoryview": lambda image: bytes(memoryview(image)),
    "chunks": lambda image: b"".join(image.chunks(1000)),
    "open": lambda image: image.open().read(),
    "gather": lambda image: bytes(image.gather()),
    "mmap": lambda image: bytes(image.mmap()),
    "write_to": lambda image: written(image),
}


def written(image: penstock.BodyImage) -> bytes:
    out = io.BytesIO()
    image.write_to(out)
    return out.getvalue()


def completes_at_once(awaitable: Awaitable[Any]) -> Any:
    """The result of an awaitable that must not suspend."""
    try:
        next(awaitable.__await__())
    except StopIteration as done:
        return done.value
    return pytest.fail("it suspended")


@pytest.fixture
def path(tmp_path: Path, body: bytes) -> Path:
    file = tmp_path / "body"
    file.write_bytes(body)
    return file


# Making one


def test_an_empty_image_is_in_ram() -> None:
    image = penstock.BodyImage.from_bytes(b"")
    assert (len(image), image.state, bytes(image)) == (0, "ram", b"")
    assert not image
    assert list(image.chunks(10)) == []
    assert image.mmap() is image
    assert image.gather() is image


def test_from_bytes_is_in_ram(body: bytes) -> None:
    image = penstock.BodyImage.from_bytes(body)
    assert (len(image), image.state) == (len(body), "ram")
    assert image
    assert bytes(image) == body
    assert image.digests == {}


def test_from_bytes_keeps_nothing_of_a_buffer_that_may_change() -> None:
    buffer = bytearray(b"abcd")
    image = penstock.BodyImage.from_bytes(buffer)
    buffer[:] = b"WXYZ"
    assert bytes(image) == b"abcd"


def test_from_path_reads_the_file(path: Path, body: bytes) -> None:
    for name in (path, str(path)):
        image = penstock.BodyImage.from_path(name)
        assert (len(image), image.state) == (len(body), "file")
        assert bytes(image) == body


def test_from_path_takes_a_range_of_the_file(path: Path, body: bytes) -> None:
    image = penstock.BodyImage.from_path(path, offset=1000, length=5000)
    assert len(image) == 5000
    assert bytes(image) == body[1000:6000]
    assert bytes(penstock.BodyImage.from_path(path, offset=100_000)) == body[100_000:]


def test_an_empty_file_gives_an_empty_image_in_ram(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    image = penstock.BodyImage.from_path(tmp_path / "empty")
    assert (len(image), image.state) == (0, "ram")


def test_an_empty_range_gives_an_empty_image_in_ram(path: Path, body: bytes) -> None:
    for image in (
        penstock.BodyImage.from_path(path, length=0),
        penstock.BodyImage.from_path(path, offset=len(body)),
    ):
        assert (len(image), image.state) == (0, "ram")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("trusted", [False, True])
def test_every_way_of_reading_keeps_to_the_length(path: Path, body: bytes, way: str, trusted: bool) -> None:
    image = penstock.BodyImage.from_path(path, length=10, trusted=trusted)
    assert WAYS[way](image) == body[:10]
    middle = penstock.BodyImage.from_path(path, offset=7, length=4097, trusted=trusted)
    assert WAYS[way](middle) == body[7:4104]


def test_a_length_past_the_end_of_the_file_is_refused(path: Path, body: bytes) -> None:
    past: tuple[dict[str, int], ...] = ({"length": len(body) + 1}, {"offset": 1, "length": len(body)})
    for options in (*past, {"offset": len(body) + 1}, {"offset": 1 << 64}, {"length": 1 << 64}, {"offset": -1}):
        with pytest.raises(ValueError, match=r"length|offset"):
            penstock.BodyImage.from_path(path, **options)


def test_a_missing_file_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing") as caught:
        penstock.BodyImage.from_path(tmp_path / "missing")
    assert caught.value.filename == str(tmp_path / "missing")


@pytest.mark.parametrize("what", ["pipe", "named pipe", "device", "proc"])
def test_what_has_no_length_of_its_own_is_refused_at_once(what: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    read, write = os.pipe()
    os.write(write, b"lost")
    path = {
        "pipe": f"/dev/fd/{read}",
        "named pipe": tmp_path / "fifo",
        "device": "/dev/zero",
        "proc": "/proc/self/status",
    }[what]
    try:
        with pytest.raises(OSError, match="no length") as caught:
            penstock.BodyImage.from_path(path)
        assert caught.value.errno == errno.ESPIPE
    finally:
        os.close(read)
        os.close(write)


def test_a_folder_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        penstock.BodyImage.from_path(tmp_path)


# Asking it


def test_len_and_state_are_known_without_reading(image: penstock.BodyImage, store: str, body: bytes) -> None:
    assert len(image) == len(body)
    assert image.state == store
    assert image


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_reading_gives_the_body(image: penstock.BodyImage, body: bytes, way: str) -> None:
    assert WAYS[way](image) == body
    assert WAYS[way](image) == body


def test_memoryview_is_contiguous_and_read_only(image: penstock.BodyImage, body: bytes) -> None:
    view = memoryview(image)
    assert view.readonly
    assert view.c_contiguous
    assert (view.format, view.itemsize, view.nbytes) == ("B", 1, len(body))
    assert view == body
    with pytest.raises(TypeError):
        view[0] = 0


def test_a_writable_buffer_is_refused(image: penstock.BodyImage, body: bytes) -> None:
    # A view that would be written to is asked for as such.
    with pytest.raises((TypeError, BufferError)):
        io.BytesIO(b"other").readinto(image)
    assert bytes(image) == body


@pytest.mark.skipif(
    sys.version_info < (3, 12), reason="not on this platform: collections.abc.Buffer came with CPython 3.12"
)
def test_an_image_is_a_buffer_by_name(image: penstock.BodyImage, body: bytes) -> None:
    abc: Any = collections.abc
    flags: Any = inspect
    assert isinstance(image, abc.Buffer)
    asked: Any = image
    assert asked.__buffer__(flags.BufferFlags.SIMPLE) == body
    with pytest.raises(BufferError):
        asked.__buffer__(flags.BufferFlags.WRITABLE)


def test_a_memoryview_outlives_the_image(image_in: MakeImage, body: bytes, store: str) -> None:
    view = memoryview(image_in(body, store, pieces=3))
    assert view == body


def test_an_image_cannot_be_changed(image: penstock.BodyImage) -> None:
    with pytest.raises(AttributeError):
        image.state = "ram"  # type: ignore[misc]


def test_repr_tells_state_and_length_and_not_the_content() -> None:
    text = repr(penstock.BodyImage.from_bytes(b"secret"))
    assert "BodyImage" in text
    assert "ram" in text
    assert "6" in text
    assert "secret" not in text


# Changing its state: always a new image


def test_a_file_can_be_mapped(image_in: MakeImage, body: bytes) -> None:
    mapped = image_in(body, "file").mmap()
    assert (mapped.state, len(mapped)) == ("mmap", len(body))
    assert bytes(mapped) == body


@pytest.mark.skipif(sys.platform != "linux", reason="not on this platform: only Linux shows the advice")
def test_a_mapping_is_announced_as_read_from_front_to_back(image_in: MakeImage, body: bytes) -> None:
    def announced() -> set[str]:
        # proc_pid_smaps(5): "sr" is sequential read advice.
        mappings = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
        return {mapping.split()[0] for mapping in mappings if re.search(r"^VmFlags:.* sr ", mapping, re.MULTILINE)}

    image = image_in(body, "file")
    before = announced()
    mapped = image.mmap()
    assert mapped.state == "mmap"
    assert len(announced() - before) == 1


def test_mapping_leaves_the_first_image_with_its_file(image_in: MakeImage, body: bytes) -> None:
    image = image_in(body, "file")
    mapped = image.mmap()
    assert mapped is not image
    assert (image.state, mapped.state) == ("file", "mmap")
    assert bytes(image) == bytes(mapped)


def test_mapping_an_image_in_ram_gives_it_back(image_in: MakeImage, body: bytes) -> None:
    image = image_in(body, "ram", pieces=4)
    assert image.mmap() is image


def test_mapping_a_mapped_image_gives_it_back(image_in: MakeImage, body: bytes) -> None:
    image = image_in(body, "mmap")
    assert image.mmap() is image


def test_a_file_of_others_is_mapped_only_when_trusted(path: Path, body: bytes) -> None:
    assert penstock.BodyImage.from_path(path, trusted=True).mmap().state == "mmap"
    image = penstock.BodyImage.from_path(path).mmap()
    assert image.state != "mmap"
    assert bytes(image) == body


CUT = """
    import asyncio, os, sys, penstock

    image = penstock.BodyImage.from_path(sys.argv[1], offset=1000, trusted=True)
    os.truncate(sys.argv[1], 6000)
    for make in (image.mmap, lambda: asyncio.run(image.to_mmap())):
        try:
            make()
        except penstock.Truncated as error:
            print(error.received, error.expected)
"""


def test_a_trusted_file_that_was_cut_before_it_is_mapped_is_truncated(
    script: Callable[..., subprocess.CompletedProcess[str]], path: Path, body: bytes
) -> None:
    """To read a mapping behind the end of its file would kill the process."""
    done = script(textwrap.dedent(CUT), str(path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"5000 {len(body) - 1000}"] * 2


def test_a_range_that_begins_within_a_page_can_be_mapped(path: Path, body: bytes) -> None:
    image = penstock.BodyImage.from_path(path, offset=4097, length=9000, trusted=True).mmap()
    assert image.state == "mmap"
    assert bytes(image) == body[4097:13_097]


def test_gather_joins_scattered_pieces(image_in: MakeImage, body: bytes) -> None:
    image = image_in(body, "ram", pieces=4)
    joined = image.gather()
    assert joined.state == "ram"
    assert [bytes(view) for view in joined.chunks(len(body))] == [body]
    assert bytes(image) == body


@pytest.mark.parametrize("kind", ["one piece", "file", "mmap"])
def test_gather_gives_back_what_is_one_piece_already(image_in: MakeImage, body: bytes, kind: str) -> None:
    image = penstock.BodyImage.from_bytes(body) if kind == "one piece" else image_in(body, kind)
    assert image.gather() is image


@pytest.mark.asyncio
async def test_to_ram_gives_one_piece(image: penstock.BodyImage, body: bytes) -> None:
    joined = await image.to_ram()
    assert joined.state == "ram"
    assert [bytes(view) for view in joined.chunks(len(body))] == [body]


@pytest.mark.asyncio
async def test_to_mmap_is_the_awaitable_twin(image: penstock.BodyImage, store: str, body: bytes) -> None:
    mapped = await image.to_mmap()
    assert mapped.state == ("ram" if store == "ram" else "mmap")
    assert (mapped is image) == (store != "file")
    assert bytes(mapped) == body


# Reading on a loop


@pytest.mark.asyncio
async def test_read_gives_the_whole_body(image: penstock.BodyImage, body: bytes) -> None:
    assert await image.read() == body
    assert type(await image.read()) is bytes


@pytest.mark.asyncio
async def test_read_takes_at_most_the_limit_from_the_start(image: penstock.BodyImage, body: bytes) -> None:
    for limit in (0, 1, 20_000, len(body), len(body) + 1):
        assert await image.read(limit=limit) == body[:limit]
    assert await image.read(limit="1KiB") == body[:1024]


@pytest.mark.asyncio
async def test_awaiting_a_body_in_ram_does_not_suspend(image_in: MakeImage, body: bytes) -> None:
    image = image_in(body, "ram", pieces=3)
    assert completes_at_once(image.read()) == body
    assert completes_at_once(image.to_mmap()) is image
    assert bytes(completes_at_once(image.to_ram())) == body


@pytest.fixture
def cached_reads(tmp_path: Path) -> None:
    """Skips where the file system can't say what its cache holds."""
    (tmp_path / "probe").write_bytes(b"x")
    with open(tmp_path / "probe", "rb") as probe:
        try:
            os.preadv(probe.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
        except (OSError, AttributeError):
            pytest.skip("no reads from the page cache alone (RWF_NOWAIT) here")


@pytest.mark.asyncio
@pytest.mark.usefixtures("cached_reads")
async def test_what_the_page_cache_holds_is_read_at_once(image_in: MakeImage, body: bytes) -> None:
    image = await asyncio.to_thread(image_in, body, "file")
    for limit in (0, 1, 4097, None):
        assert completes_at_once(image.read(limit)) == body[:limit]


@pytest.mark.asyncio
async def test_a_large_read_of_a_file_is_never_the_loops(image_in: MakeImage, body: bytes) -> None:
    image = await asyncio.to_thread(image_in, body * 10, "file")
    reading = image.read().__await__()
    assert next(reading) is not None
    reading.close()
    assert await image.read() == body * 10


@pytest.mark.asyncio
@pytest.mark.parametrize("way", sorted(set(WAYS) - {"gather"}))
async def test_a_file_may_not_be_read_synchronously_on_a_loop(image_in: MakeImage, body: bytes, way: str) -> None:
    image = await asyncio.to_thread(image_in, body, "file")
    with pytest.raises(penstock.BlockingInLoop, match="await"):
        WAYS[way](image)
    assert await asyncio.to_thread(WAYS[way], image) == body


@pytest.mark.asyncio
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("state", ["ram", "mmap"])
async def test_ram_and_mappings_may_be_read_on_a_loop(image_in: MakeImage, body: bytes, way: str, state: str) -> None:
    image = await asyncio.to_thread(image_in, body, "ram" if state == "ram" else "file", pieces=3)
    if state == "mmap":
        image = await image.to_mmap()
    assert WAYS[way](image) == body


@pytest.mark.asyncio
@pytest.mark.parametrize("way", WAYS)
async def test_with_direct_the_loop_may_read_a_file(tunables: MakeTunables, body: bytes, way: str) -> None:
    async with penstock.AsyncBodySink(tunables(max_body_ram=0), policy=penstock.Direct()) as sink:
        await sink.write(body)
        image = await sink.prepare()
    assert image.state == "file"
    assert WAYS[way](image) == body


# Saving


@pytest.mark.asyncio
async def test_save_gives_the_body_a_name(image: penstock.BodyImage, body: bytes, tmp_path: Path) -> None:
    for name in ("first", "second"):
        await image.save(tmp_path / name)
        assert (tmp_path / name).read_bytes() == body
        assert stat.S_ISREG(os.stat(tmp_path / name).st_mode)
    assert await image.read() == body


@pytest.mark.asyncio
async def test_save_refuses_to_overwrite(image: penstock.BodyImage, body: bytes, tmp_path: Path) -> None:
    target = tmp_path / "taken"
    target.write_bytes(b"old")
    with pytest.raises(FileExistsError, match="taken") as caught:
        await image.save(target)
    assert caught.value.filename == str(target)
    assert target.read_bytes() == b"old"
    await image.save(str(target), overwrite=True, fsync=True)
    assert target.read_bytes() == body
    assert [file.name for file in tmp_path.iterdir()] == ["taken"]


@pytest.mark.asyncio
async def test_save_into_a_missing_folder_leaves_nothing(image: penstock.BodyImage, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing") as caught:
        await image.save(tmp_path / "missing" / "name")
    assert caught.value.filename == str(tmp_path / "missing" / "name")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.asyncio
async def test_save_of_a_range_saves_the_range(path: Path, body: bytes, tmp_path: Path) -> None:
    image = await asyncio.to_thread(penstock.BodyImage.from_path, path, offset=10, length=20)
    await image.save(tmp_path / "range")
    assert (tmp_path / "range").read_bytes() == body[10:30]
    assert path.read_bytes() == body


@pytest.mark.asyncio
async def test_a_saved_file_outlives_the_image(image_in: MakeImage, body: bytes, tmp_path: Path) -> None:
    image = await asyncio.to_thread(image_in, body, "file")
    await image.save(tmp_path / "kept")
    del image
    assert (tmp_path / "kept").read_bytes() == body


@pytest.mark.asyncio
async def test_an_empty_body_is_saved_as_an_empty_file(tmp_path: Path) -> None:
    await penstock.BodyImage.from_bytes(b"").save(tmp_path / "empty")
    assert (tmp_path / "empty").read_bytes() == b""


def test_a_path_with_a_nul_is_a_value_error(tmp_path: Path) -> None:
    path = f"{tmp_path}/a\0b"
    with pytest.raises(ValueError, match="a path can't hold a NUL"):
        penstock.BodyImage.from_path(path)
    with pytest.raises(ValueError, match="a path can't hold a NUL"):
        penstock.BodyImage.from_bytes(b"x").save_op(path, False, False)
    with pytest.raises(ValueError, match="a path can't hold a NUL"):
        barc.open(path)


# Travelling


def test_it_pickles_with_its_bytes_out_of_band(image: penstock.BodyImage, body: bytes) -> None:
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(image, protocol=5, buffer_callback=buffers.append)
    assert len(head) < 4096
    assert b"".join(buffer.raw() for buffer in buffers) == body
    copy = pickle.loads(head, buffers=buffers)
    assert bytes(copy) == body
    assert copy.state == "ram"


@pytest.mark.parametrize("protocol", [4, 5])
def test_it_pickles_in_band(image: penstock.BodyImage, body: bytes, protocol: int) -> None:
    assert bytes(pickle.loads(pickle.dumps(image, protocol=protocol))) == body


def test_digests_travel_with_it(image_in: MakeImage, body: bytes, store: str) -> None:
    image = image_in(body, store, digests=("sha256",))
    assert set(image.digests) == {"sha256"}
    assert pickle.loads(pickle.dumps(image)).digests == image.digests


@pytest.mark.asyncio
async def test_it_can_be_streamed_as_often_as_one_likes(image: penstock.BodyImage, body: bytes) -> None:
    async def joined(stream: AsyncIterator[memoryview]) -> bytes:
        return b"".join([bytes(view) async for view in stream])

    assert await asyncio.gather(*(joined(image.stream(size)) for size in (999, 4096, 1 << 20))) == [body] * 3
