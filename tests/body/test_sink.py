"""BodySink: where bytes are kept as they come in, when they move to a file, and the limits."""

from __future__ import annotations

import array
import asyncio
import hashlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import penstock
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import small_files

MakeTunables = Callable[..., penstock.Tunables]
MakeSink = Callable[..., penstock.BodySink]

# What a sink that was prepared or closed raises.
USED_UP = (RuntimeError, ValueError)


@pytest.fixture(params=["ram", "file"])
def sink_state(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(tunables: MakeTunables, sink_state: str) -> MakeSink:
    """A sink in each state, before anything is written."""

    def sink(**options: Any) -> penstock.BodySink:
        made = penstock.BodySink(tunables(**options))
        if sink_state == "file":
            made.write_back()
        assert made.state == sink_state
        return made

    return sink


# Where the bytes are


def test_a_new_sink_is_in_ram_and_empty(tunables: MakeTunables) -> None:
    with penstock.BodySink(tunables()) as sink:
        assert sink.is_ram
        assert sink.state == "ram"
        assert len(sink) == 0
    with penstock.BodySink() as default:
        assert default.is_ram


def test_it_stays_in_ram_up_to_max_body_ram(tunables: MakeTunables) -> None:
    with penstock.BodySink(tunables(max_body_ram=8)) as sink:
        sink.write(b"abcd")
        sink.push(b"efgh")
        assert sink.is_ram
        assert bytes(sink.prepare()) == b"abcdefgh"


def test_it_moves_to_a_file_above_max_body_ram(tunables: MakeTunables) -> None:
    with penstock.BodySink(tunables(max_body_ram=8)) as sink:
        sink.write(b"abcd")
        sink.push(b"efgh")
        sink.write(b"i")
        assert not sink.is_ram
        assert sink.state == "file"
        sink.push(b"jkl")
        image = sink.prepare()
    assert image.state == "file"
    assert bytes(image) == b"abcdefghijkl"


def test_a_size_hint_within_max_body_ram_starts_in_ram(tunables: MakeTunables) -> None:
    with penstock.BodySink(tunables(max_body_ram=8), size_hint=8) as sink:
        assert sink.is_ram


def test_a_size_hint_over_max_body_ram_starts_in_a_file(tunables: MakeTunables) -> None:
    with penstock.BodySink(tunables(max_body_ram=8), size_hint=9) as sink:
        sink.write(b"a")
        assert sink.state == "file"
        image = sink.prepare()
    assert bytes(image) == b"a"


def test_a_wrong_size_hint_does_no_harm(tunables: MakeTunables) -> None:
    for hint in (1, 1 << 20):
        with penstock.BodySink(tunables(max_body_ram="1MiB"), size_hint=hint) as sink:
            sink.write(b"x" * 1000)
            assert bytes(sink.prepare()) == b"x" * 1000


def test_a_missing_temp_dir_fails_at_first_use(tunables: MakeTunables, tmp_path: Path) -> None:
    missing = tmp_path / "missing"

    def use(sink: penstock.BodySink) -> None:
        sink.write(b"e")  # gathered with what follows, so the file may be made later
        sink.prepare()

    with penstock.BodySink(tunables(temp_dir=missing, max_body_ram=4)) as sink:
        sink.write(b"abcd")
        with pytest.raises(FileNotFoundError, match="missing"):
            use(sink)


def test_the_file_has_no_name(tunables: MakeTunables, tmp_path: Path) -> None:
    with penstock.BodySink(tunables()) as sink:
        sink.write_back()
        sink.write(b"x" * 100_000)
        assert list(tmp_path.iterdir()) == []
        image = sink.prepare()
        assert list(tmp_path.iterdir()) == []
    assert len(bytes(image)) == 100_000


def test_a_budget_out_of_ram_moves_it_to_a_file(tunables: MakeTunables) -> None:
    budget = penstock.Budget(ram="64KiB")
    with penstock.BodySink(tunables(max_body_ram="1MiB"), budget=budget) as sink:
        for _ in range(8):
            sink.write(b"x" * 32768)
        assert sink.state == "file"
        assert bytes(sink.prepare()) == b"x" * 8 * 32768


# Writing


def test_what_is_pushed_comes_out_again(make: MakeSink) -> None:
    with make() as sink:
        for piece in (b"one ", b"", b"two ", b"three"):
            sink.push(piece)
        assert bytes(sink.prepare()) == b"one two three"


def test_pushed_bytes_are_kept_without_a_copy(tunables: MakeTunables) -> None:
    data = bytes(1 << 20)
    with penstock.BodySink(tunables(max_body_ram="4MiB")) as sink:
        before = sys.getrefcount(data)
        sink.push(data)
        assert sys.getrefcount(data) > before


def test_a_written_buffer_may_be_used_again_at_once(make: MakeSink) -> None:
    with make(max_body_ram="1MiB") as sink:
        buffer = bytearray(8192)
        for value in range(16):
            buffer[:] = bytes([value]) * len(buffer)
            sink.write(buffer)
        buffer.clear()  # raises BufferError if somebody still held it
        assert bytes(sink.prepare()) == b"".join(bytes([value]) * 8192 for value in range(16))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda data: array.array("I", data)])
def test_any_contiguous_buffer_can_be_written(make: MakeSink, kind: Callable[[bytes], Any]) -> None:
    with make() as sink:
        sink.write(kind(b"abcdefgh"))
        assert bytes(sink.prepare()) == b"abcdefgh"


@pytest.mark.parametrize("data", ["text", 7, None, [b"a"], memoryview(b"abcdef")[::2]])
def test_what_is_no_contiguous_buffer_is_refused(make: MakeSink, data: Any) -> None:
    with make() as sink:
        for write in (sink.write, sink.push):
            with pytest.raises((TypeError, BufferError, ValueError)):
                write(data)
        assert len(sink) == 0


def test_writing_returns_nothing(make: MakeSink) -> None:
    with make() as sink:
        assert sink.write(b"a") is None
        assert sink.push(b"b") is None


def test_an_empty_write_is_ignored(make: MakeSink, sink_state: str) -> None:
    with make() as sink:
        sink.write(b"")
        sink.push(b"")
        sink.write(bytearray())
        assert (len(sink), sink.state) == (0, sink_state)
        sink.write(b"ab")
        sink.push(b"")
        assert bytes(sink.prepare()) == b"ab"


def test_len_counts_what_was_written(make: MakeSink) -> None:
    with make() as sink:
        total = 0
        for size in (1, 0, 4095, 70_000):
            sink.write(bytes(size))
            total += size
            assert len(sink) == total
        assert len(sink.prepare()) == total


def test_single_bytes_make_the_same_body(make: MakeSink, body: bytes) -> None:
    with make() as sink:
        for value in body[:5000]:
            sink.write(bytes([value]))
        assert bytes(sink.prepare()) == body[:5000]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(st.binary(max_size=300), max_size=30),
    max_body_ram=st.integers(0, 2000),
    back=st.none() | st.integers(0, 30),
)
def test_any_writes_give_the_body_back(
    tunables: MakeTunables, pieces: list[bytes], max_body_ram: int, back: int | None
) -> None:
    whole = b"".join(pieces)
    with penstock.BodySink(tunables(max_body_ram=max_body_ram)) as sink:
        for index, piece in enumerate(pieces):
            if index == back:
                sink.write_back()
            (sink.write if index % 2 else sink.push)(piece)
        moved = back is not None and back < len(pieces)
        assert sink.state == ("file" if moved or len(whole) > max_body_ram else "ram")
        image = sink.prepare()
    assert bytes(image) == whole
    assert len(image) == len(whole)


# Moving to a file


def test_write_back_moves_what_is_there_to_a_file(tunables: MakeTunables, body: bytes) -> None:
    with penstock.BodySink(tunables()) as sink:
        sink.push(body[:60_000])
        sink.write_back()
        assert sink.state == "file"
        assert len(sink) == 60_000
        sink.write(body[60_000:])
        assert bytes(sink.prepare()) == body


def test_write_back_of_an_empty_sink_makes_a_file(tunables: MakeTunables) -> None:
    with penstock.BodySink(tunables()) as sink:
        sink.write_back()
        assert sink.state == "file"
        assert len(sink) == 0


def test_a_second_write_back_does_nothing(tunables: MakeTunables) -> None:
    with penstock.BodySink(tunables()) as sink:
        sink.write(b"abc")
        sink.write_back()
        sink.write_back()
        assert sink.state == "file"
        assert bytes(sink.prepare()) == b"abc"


def test_a_failed_write_back_keeps_the_body(tunables: MakeTunables, tmp_path: Path) -> None:
    with penstock.BodySink(tunables(temp_dir=tmp_path / "missing")) as sink:
        sink.write(b"abcd")
        with pytest.raises(FileNotFoundError):
            sink.write_back()
        assert len(sink) == 4
        image = sink.prepare()
    assert (image.state, bytes(image)) == ("ram", b"abcd")


@pytest.fixture
def largest_file() -> Iterator[int]:
    """No file of this process may grow past so many bytes."""
    with small_files(1 << 20):
        yield 1 << 20


def test_a_sink_whose_file_failed_gives_no_image_that_lacks_bytes(tunables: MakeTunables, largest_file: int) -> None:
    def fill(sink: penstock.BodySink) -> None:
        for _ in range(4):
            sink.write(b"x" * largest_file)
        sink.prepare()

    with penstock.BodySink(tunables(max_body_ram=0)) as sink:
        with pytest.raises(OSError, match=r"large|space"):
            fill(sink)
        with pytest.raises((OSError, *USED_UP)):
            sink.prepare()


def test_a_first_write_that_failed_half_way_loses_nothing(tunables: MakeTunables, largest_file: int) -> None:
    body = bytes(largest_file) + b"x" * largest_file
    with penstock.BodySink(tunables(max_body_ram=0, digests=("sha256",))) as sink:
        with pytest.raises(penstock.StorageFull):
            sink.write(body)
        assert len(sink) == len(body)
        image = sink.prepare()
    assert (image.state, bytes(image) == body) == ("ram", True)
    assert image.digests == {"sha256": hashlib.sha256(body).hexdigest()}


# Becoming an image


def test_prepare_in_ram_gives_an_image_in_ram(tunables: MakeTunables) -> None:
    with penstock.BodySink(tunables()) as sink:
        sink.write(b"abcd")
        image = sink.prepare()
    assert isinstance(image, penstock.BodyImage)
    assert (len(image), image.state, bytes(image)) == (4, "ram", b"abcd")


def test_prepare_in_a_file_gives_an_image_that_reads_from_the_start(tunables: MakeTunables, body: bytes) -> None:
    with penstock.BodySink(tunables(max_body_ram=0)) as sink:
        sink.write(body)
        image = sink.prepare()
    assert (len(image), image.state) == (len(body), "file")
    assert bytes(image) == body
    assert image.open().read(10) == body[:10]


def test_an_empty_file_prepares_to_an_empty_image_in_ram(tunables: MakeTunables) -> None:
    with penstock.BodySink(tunables()) as sink:
        sink.write_back()
        image = sink.prepare()
    assert (len(image), image.state, bytes(image)) == (0, "ram", b"")


def test_a_sink_is_prepared_once(make: MakeSink) -> None:
    with make() as sink:
        sink.write(b"abc")
        image = sink.prepare()
        for again in (sink.prepare, sink.write_back, lambda: sink.write(b"d"), lambda: sink.push(b"d")):
            with pytest.raises(USED_UP, match="prepared"):
                again()
    assert bytes(image) == b"abc"


@pytest.mark.parametrize("name", ["md5", "sha1", "sha256", "sha512"])
def test_digests_are_made_as_bytes_arrive(make: MakeSink, body: bytes, name: str) -> None:
    with make(digests=(name,)) as sink:
        for start in range(0, len(body), 7001):
            sink.write(body[start : start + 7001])
        assert sink.prepare().digests == {name: hashlib.new(name, body).hexdigest()}


def test_digests_survive_the_move_to_a_file(tunables: MakeTunables, body: bytes) -> None:
    with penstock.BodySink(tunables(digests=("md5", "sha256"), max_body_ram=50_000)) as sink:
        sink.write(body[:40_000])
        sink.write(body[40_000:])
        assert sink.prepare().digests == {
            "md5": hashlib.md5(body).hexdigest(),
            "sha256": hashlib.sha256(body).hexdigest(),
        }


def test_a_write_that_failed_is_not_tried_again_on_a_loops_thread(tunables: MakeTunables, largest_file: int) -> None:
    async def prepare(sink: penstock.BodySink) -> None:
        sink.prepare()

    with penstock.BodySink(tunables(max_body_ram=0)) as sink:
        sink.write(b"x" * largest_file)
        with pytest.raises(penstock.StorageFull):
            sink.write(b"x" * largest_file)
        with pytest.raises(penstock.BlockingInLoop):
            asyncio.run(prepare(sink))


def test_what_a_loops_thread_may_not_write_another_can_while_the_error_is_handled(
    tunables: MakeTunables, body: bytes
) -> None:
    async def collect(sink: penstock.BodySink) -> penstock.BodyImage:
        try:
            sink.write(body * 4)
        except penstock.BlockingInLoop:
            return await asyncio.to_thread(sink.prepare)
        raise AssertionError("it was written")

    with penstock.BodySink(tunables(max_body_ram=0)) as sink:
        image = asyncio.run(collect(sink))
    assert bytes(image) == body * 4


def test_a_sink_is_not_prepared_while_a_write_is_under_way(tunables: MakeTunables, body: bytes) -> None:
    with penstock.BodySink(tunables(max_body_ram=0)) as sink:
        sink.write(body)
        write = sink.work(True)
        assert write is not None
        with pytest.raises(RuntimeError, match="under way"):
            sink.prepare()
        write()
        assert bytes(sink.prepare()) == body


# Limits


def test_exactly_max_body_is_allowed(make: MakeSink) -> None:
    with make(max_body=10, max_body_ram=10) as sink:
        sink.write(b"abcdef")
        sink.write(b"ghij")
        assert bytes(sink.prepare()) == b"abcdefghij"


def test_one_byte_over_max_body_raises_with_what_was_received(make: MakeSink) -> None:
    with make(max_body=10, max_body_ram=10) as sink:
        sink.write(b"abcdef")
        sink.write(b"ghij")
        with pytest.raises(penstock.BodyTooLong) as caught:
            sink.write(b"k")
    assert (caught.value.seen, caught.value.limit) == (11, 10)
    assert isinstance(caught.value.partial, penstock.BodyImage)
    assert bytes(caught.value.partial) == b"abcdefghij"


def test_a_single_write_over_max_body_raises(make: MakeSink, body: bytes) -> None:
    for method in ("write", "push"):
        with make(max_body=1000, max_body_ram=1000) as sink:
            with pytest.raises(penstock.BodyTooLong) as caught:
                getattr(sink, method)(body)
            assert caught.value.limit == 1000
            assert caught.value.seen > 1000
            assert len(caught.value.partial) <= 1000
            assert body.startswith(bytes(caught.value.partial))


def test_what_is_in_the_file_already_counts_against_max_body(tunables: MakeTunables) -> None:
    with penstock.BodySink(tunables(max_body_ram=4, max_body=10)) as sink:
        for piece in (b"abcd", b"e", b"fghij"):
            sink.write(piece)
        assert sink.state == "file"
        with pytest.raises(penstock.BodyTooLong) as caught:
            sink.write(b"k")
    assert caught.value.seen == 11
    assert (len(caught.value.partial), caught.value.partial.state) == (10, "file")


def test_the_message_names_the_length_the_limit_and_the_setting(tunables: MakeTunables) -> None:
    with penstock.BodySink(tunables(max_body=10)) as sink:
        with pytest.raises(penstock.BodyTooLong, match=r"11 .*10 .*max_body") as caught:
            sink.write(b"elevenbytes")
        assert caught.value.setting == "Tunables.max_body"


# Closing


def test_a_closed_sink_takes_no_more(make: MakeSink) -> None:
    sink = make()
    sink.write(b"abc")
    sink.close()
    for call in (lambda: sink.write(b"d"), lambda: sink.push(b"d"), sink.write_back, sink.prepare):
        with pytest.raises(USED_UP, match="closed"):
            call()


def test_close_may_be_called_again_and_after_prepare(make: MakeSink) -> None:
    sink = make()
    sink.close()
    sink.close()
    other = make()
    other.write(b"abc")
    image = other.prepare()
    other.close()
    assert bytes(image) == b"abc"


def test_leaving_the_with_block_gives_the_file_back(tunables: MakeTunables, descriptors: Callable[[], int]) -> None:
    before = descriptors()
    with pytest.raises(KeyError), penstock.BodySink(tunables()) as sink:  # noqa: PT012
        sink.write(b"abc")
        sink.write_back()
        assert descriptors() > before
        raise KeyError
    assert descriptors() == before


def test_a_forgotten_sink_warns_and_gives_its_file_back(tunables: MakeTunables, descriptors: Callable[[], int]) -> None:
    def forget() -> None:
        sink = penstock.BodySink(tunables())
        sink.write(b"abc")
        sink.write_back()

    before = descriptors()
    with pytest.warns(ResourceWarning, match="BodySink"):
        forget()
    assert descriptors() == before


def test_the_file_is_for_its_owner_only(tunables: MakeTunables) -> None:
    def inodes() -> dict[int, os.stat_result]:
        found = {}
        for name in os.listdir("/dev/fd"):
            try:
                status = os.fstat(int(name))
            except OSError:  # the descriptor that listed the folder
                continue
            found[status.st_ino] = status
        return found

    with penstock.BodySink(tunables()) as sink:
        before = inodes()
        sink.write(b"secret")
        sink.write_back()
        new = [status for inode, status in inodes().items() if inode not in before]
    assert [status.st_mode & 0o777 for status in new] == [0o600]


NO_MEMORY = """
    import errno, os, resource, penstock

    data = bytearray(b"x") * (64 << 20)
    with penstock.BodySink(penstock.Tunables(max_body_ram="128MiB")) as sink:
        sink.write(b"kept")
        with open("/proc/self/statm") as statm:
            size = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (size + (16 << 20), resource.RLIM_INFINITY))
        try:
            sink.write(data)
        except OSError as error:
            assert error.errno == errno.ENOMEM, error
        else:
            raise AssertionError("there was memory")
        assert len(sink) == 4
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        sink.write(data)
        image = sink.prepare()
    assert bytes(image) == b"kept" + data
"""


def test_what_there_is_no_memory_for_is_not_counted(script: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = script(textwrap.dedent(NO_MEMORY))
    assert done.returncode == 0, done.stderr


WITH_A_SUB_INTERPRETER = """
    import asyncio, importlib, sys, penstock
    others = importlib.import_module("_xxsubinterpreters" if sys.version_info < (3, 13) else "_interpreters")
    others.destroy(others.create())
    piece = bytes(1 << 20)

    async def main():
        async with penstock.DispatchPool(threads=1) as pool:
            async with penstock.AsyncBodySink(
                penstock.Tunables(max_body_ram=0, temp_dir=sys.argv[1]), policy=penstock.Dispatch(pool)
            ) as sink:
                before = sys.getrefcount(piece)
                await sink.write(piece)
                await asyncio.sleep(0)
                # The write is before this in the queue of the only thread, and the loop doesn't turn meanwhile.
                pool.submit(int).result()
                print(sys.getrefcount(piece) - before)
                await sink.write(bytes(1 << 20))
                image = await sink.prepare()
                print(sys.getrefcount(piece) - before, len(image))

    asyncio.run(main())
"""


def test_after_a_sub_interpreter_no_other_thread_lets_go_of_bytes(
    script: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = script(textwrap.dedent(WITH_A_SUB_INTERPRETER), str(tmp_path))
    assert (done.returncode, done.stdout) == (0, f"1\n0 {2 << 20}\n"), done.stderr
