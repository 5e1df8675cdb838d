"""An image as a value: copied, pickled, and read from many threads at once."""

from __future__ import annotations

import copy
import gc
import pickle
import random
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import penstock
import pytest

MakeImage = Callable[..., penstock.BodyImage]


def out_of_band(image: penstock.BodyImage) -> tuple[bytes, list[pickle.PickleBuffer]]:
    buffers: list[pickle.PickleBuffer] = []
    return pickle.dumps(image, protocol=5, buffer_callback=buffers.append), buffers


def address(buffer: Any) -> int:
    import ctypes

    class View(ctypes.Structure):
        _fields_ = (("buf", ctypes.c_void_p), ("rest", ctypes.c_char * 256))

    view = View()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(buffer), ctypes.byref(view), 0)
    try:
        return view.buf or 0
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))


# Pickling


@pytest.mark.parametrize("pieces", [1, 3, 7])
def test_out_of_band_each_piece_in_memory_is_a_buffer_of_its_own(image_in: MakeImage, body: bytes, pieces: int) -> None:
    image = image_in(body, "ram", pieces=pieces)
    head, buffers = out_of_band(image)
    assert len(head) < 500
    assert len(buffers) == pieces
    assert b"".join(buffer.raw() for buffer in buffers) == body


def test_out_of_band_nothing_in_memory_is_copied(image_in: MakeImage, body: bytes) -> None:
    image = image_in(body, "ram", pieces=3)
    _, buffers = out_of_band(image)
    places = [address(view) for view in image.chunks(len(body))]
    assert [address(buffer) for buffer in buffers] == places
    mapped = image_in(body, "mmap")
    _, [buffer] = out_of_band(mapped)
    assert address(buffer) == address(mapped)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffers_make_the_image_again(image: penstock.BodyImage, body: bytes, kind: Any) -> None:
    head, buffers = out_of_band(image)
    sent = [kind(bytes(buffer.raw())) for buffer in buffers]
    again = pickle.loads(head, buffers=sent)
    assert (again.state, bytes(again)) == ("ram", body)


def test_buffers_that_are_bytes_are_kept_without_a_copy(image: penstock.BodyImage) -> None:
    head, buffers = out_of_band(image)
    sent = [bytes(buffer.raw()) for buffer in buffers]
    again = pickle.loads(head, buffers=sent)
    assert [address(view) for view in again.chunks(1 << 20)] == [address(each) for each in sent]


def test_a_buffer_that_may_change_is_copied(image_in: MakeImage, body: bytes) -> None:
    head, buffers = out_of_band(image_in(body, "ram"))
    sent = [bytearray(buffer.raw()) for buffer in buffers]
    again = pickle.loads(head, buffers=sent)
    sent[0][:] = bytes(len(sent[0]))
    assert bytes(again) == body


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_carries_body_and_digests(image_in: MakeImage, store: str, body: bytes, protocol: int) -> None:
    image = image_in(body, store, pieces=3, digests=("sha256", "md5"))
    again = pickle.loads(pickle.dumps(image, protocol=protocol))
    assert (type(again), again.state, bytes(again)) == (penstock.BodyImage, "ram", body)
    assert again.digests == image.digests


def test_an_empty_image_pickles() -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(penstock.BodyImage.from_bytes(b""), protocol=protocol))
        assert (len(again), again.state) == (0, "ram")


def test_it_travels_to_another_process(
    image: penstock.BodyImage, body: bytes, tmp_path: Path, script: Callable[..., Any]
) -> None:
    (tmp_path / "pickled").write_bytes(pickle.dumps(image))
    source = "import pathlib, pickle, sys; print(bytes(pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())).hex())"
    done = script(source, str(tmp_path / "pickled"))
    assert done.stdout.strip() == body.hex(), done.stderr


def test_an_error_with_what_was_received_travels(tunables: Callable[..., penstock.Tunables]) -> None:
    with penstock.BodySink(tunables(max_body=4)) as sink:
        sink.write(b"abcd")
        with pytest.raises(penstock.BodyTooLong) as caught:
            sink.write(b"e")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.seen, again.limit, bytes(again.partial)) == (5, 4, b"abcd")


# Copying


def test_a_copy_of_what_cannot_change_is_itself(image: penstock.BodyImage) -> None:
    assert copy.copy(image) is image
    assert copy.deepcopy(image) is image
    nested = copy.deepcopy({"images": [image]})
    assert nested["images"][0] is image


def test_it_can_be_weakly_referred_to(image_in: MakeImage, store: str) -> None:
    image = image_in(b"abc", store)
    reference = weakref.ref(image)
    assert reference() is image
    del image
    assert reference() is None


# Memory of others


def test_the_bytes_it_was_made_of_are_let_go_with_it() -> None:
    data = bytes(100_000)
    before = sys.getrefcount(data)
    image = penstock.BodyImage.from_bytes(data)
    assert address(image) == address(data)
    assert sys.getrefcount(data) == before + 1
    view = next(image.chunks(10))
    del image
    assert sys.getrefcount(data) == before + 1
    del view
    assert sys.getrefcount(data) == before


def test_a_view_is_no_way_to_change_it(image: penstock.BodyImage, body: bytes) -> None:
    for view in (memoryview(image), next(image.chunks(10)), image.gather().open().read(10)):
        with pytest.raises(TypeError):
            view[0] = 0  # type: ignore[index]
        with pytest.raises((TypeError, BufferError)):
            memoryview(view).cast("B")[0] = 1
    assert bytes(image) == body


# Threads


def test_eight_threads_read_images_of_one_file_in_every_way(image_in: MakeImage, body: bytes) -> None:
    """Each of them its own mix of readers, over the file, its mapping and its pickled and joined copies."""
    content = body * 4
    file = image_in(content, "file")
    images = [file, file.mmap(), penstock.BodyImage(file), pickle.loads(pickle.dumps(file))]

    def run(seed: int) -> bool:
        chance = random.Random(seed)
        for _ in range(40):
            image = chance.choice(images)
            start, size = chance.randrange(len(content)), chance.randrange(1, 50_000)
            way = chance.randrange(4)
            if way == 0:
                with image.open(chance.choice((0, 100, 65_536))) as reader:
                    reader.seek(start)
                    assert reader.read(size) == content[start : start + size]
            elif way == 1:
                target = bytearray(size)
                count = image.read_into(target, start)
                assert target[:count] == content[start : start + size]
            elif way == 2:
                assert b"".join(image.chunks(size)) == content
            else:
                assert memoryview(image)[start : start + size] == content[start : start + size]
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(run, range(8)))


def test_threads_that_share_one_iterator_get_each_piece_once(image: penstock.BodyImage, body: bytes) -> None:
    chunks = image.chunks(1000)

    def take(_: int) -> list[bytes]:
        return [bytes(piece) for piece in chunks]

    with ThreadPoolExecutor(8) as threads:
        found = [piece for pieces in threads.map(take, range(8)) for piece in pieces]
    assert sum(map(len, found)) == len(body)
    assert sorted(found) == sorted(bytes(piece) for piece in image.chunks(1000))


def test_an_image_and_its_policy_that_holds_it_are_collected() -> None:
    class Holding:
        image: penstock.BodyImage

        def run(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            raise NotImplementedError

        def stats(self) -> dict[str, Any]:
            return {}

    policy = Holding()
    policy.image = penstock.BodyImage(penstock.BodyImage.from_bytes(b"x"), policy)
    gone = weakref.ref(policy.image)
    del policy
    gc.collect()
    assert gone() is None
