"""Bodies in the hands of libraries that read files, and of clients whose responses they collect."""

from __future__ import annotations

import asyncio
import bz2
import csv
import gzip
import hashlib
import io
import json
import lzma
import pickle
import shutil
import socket
import struct
import tarfile
import threading
import wave
import zipfile
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import penstock
import pytest

try:
    # Here rather than in its test: its libraries start threads of their own.
    import pandas
except ImportError:
    pandas = None

MakeImage = Callable[..., penstock.BodyImage]

TABLE = [["name", "value"], *([f"row {index}", str(index)] for index in range(2000))]
CSV = "\r\n".join(",".join(row) for row in TABLE).encode()


def test_json_loads_it(image_in: MakeImage, store: str) -> None:
    value = {"list": list(range(5000)), "text": "schön"}
    with image_in(json.dumps(value).encode(), store, pieces=3).open() as file:
        assert json.load(file) == value


def test_csv_reads_it_through_a_text_wrapper(image_in: MakeImage, store: str) -> None:
    with io.TextIOWrapper(image_in(CSV, store, pieces=5).open(), encoding="utf-8", newline="") as text:
        assert list(csv.reader(text)) == TABLE


def test_a_text_wrapper_seeks_and_tells(image_in: MakeImage, store: str) -> None:
    with io.TextIOWrapper(image_in("eins\nzwölf\ndrei\n".encode(), store).open(), encoding="utf-8") as text:
        text.readline()
        place = text.tell()
        assert text.readline() == "zwölf\n"
        text.seek(place)
        assert text.read() == "zwölf\ndrei\n"


def test_zipfile_opens_it(image_in: MakeImage, store: str, body: bytes) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as writer:
        writer.writestr("first", body)
        writer.writestr("second", b"content")
    with zipfile.ZipFile(image_in(packed.getvalue(), store, pieces=4).open()) as archive:
        assert archive.testzip() is None
        assert archive.read("second") == b"content"
        with archive.open("first") as member:
            member.seek(50_000)
            assert member.read() == body[50_000:]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_tarfile_opens_it(image_in: MakeImage, store: str, body: bytes, mode: Any) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as writer:
        member = tarfile.TarInfo("body")
        member.size = len(body)
        writer.addfile(member, io.BytesIO(body))
    with tarfile.open(fileobj=image_in(packed.getvalue(), store, pieces=4).open()) as archive:
        extracted = archive.extractfile("body")
        assert extracted is not None
        assert extracted.read() == body


@pytest.mark.parametrize("module", [gzip, bz2, lzma])
def test_compressed_files_open_it(image_in: MakeImage, store: str, body: bytes, module: Any) -> None:
    with module.open(image_in(module.compress(body), store, pieces=4).open()) as file:
        assert file.read(1000) == body[:1000]
        assert file.read() == body[1000:]


def test_shutil_copies_it(image_in: MakeImage, store: str, body: bytes) -> None:
    target = io.BytesIO()
    with image_in(body, store, pieces=4).open() as file:
        shutil.copyfileobj(file, target)
    assert target.getvalue() == body


def test_pickle_loads_values_from_it(image_in: MakeImage, store: str) -> None:
    values = [{"a": 1}, list(range(1000)), b"x" * 100_000]
    with image_in(b"".join(pickle.dumps(value) for value in values), store, pieces=4).open() as file:
        assert [pickle.load(file) for _ in values] == values
        with pytest.raises(EOFError):
            pickle.load(file)


def test_wave_reads_it(image_in: MakeImage, store: str) -> None:
    sound = io.BytesIO()
    with wave.open(sound, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(8000)
        writer.writeframes(bytes(16_000))
    with wave.open(image_in(sound.getvalue(), store).open(), "rb") as reader:
        assert reader.getnframes() == 8000


def test_hashlib_digests_it(image_in: MakeImage, store: str, body: bytes) -> None:
    if not hasattr(hashlib, "file_digest"):
        pytest.skip("this Python has no hashlib.file_digest")
    with image_in(body, store, pieces=4).open() as file:
        assert hashlib.file_digest(file, "sha256").digest() == hashlib.sha256(body).digest()


def test_what_takes_a_buffer_takes_an_image(image_in: MakeImage, store: str, body: bytes) -> None:
    image = image_in(body, store, pieces=4)
    assert hashlib.sha256(image).digest() == hashlib.sha256(body).digest()
    assert zlib.crc32(image) == zlib.crc32(body)
    assert bytearray(image) == body
    assert b"".join([image, b"!"]) == body + b"!"
    assert struct.unpack_from("<I", image, 8) == struct.unpack_from("<I", body, 8)
    assert body.find(memoryview(image)[500:600]) == 500


def test_a_socket_sends_it(image_in: MakeImage, store: str, body: bytes) -> None:
    image = image_in(body, store, pieces=4)
    left, right = socket.socketpair()
    with left, right:
        received = bytearray()

        def receive() -> None:
            while piece := right.recv(65536):
                received.extend(piece)

        thread = threading.Thread(target=receive)
        thread.start()
        left.sendall(image)
        left.shutdown(socket.SHUT_WR)
        thread.join()
    assert received == body


# Libraries of others


@pytest.mark.extra
@pytest.mark.skipif(pandas is None, reason="pandas is not installed (requirements/extra.txt)")
def test_pandas_reads_a_csv(image_in: MakeImage, store: str) -> None:
    with image_in(CSV, store, pieces=5).open() as file:
        frame = pandas.read_csv(file)
    assert list(frame.columns) == ["name", "value"]
    assert frame["value"].sum() == sum(range(2000))


@pytest.mark.extra
def test_pillow_reads_a_picture(image_in: MakeImage, store: str) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="pillow is not installed (requirements/extra.txt)")
    png = io.BytesIO()
    pillow.new("RGB", (320, 200), "orange").save(png, "png")
    with image_in(png.getvalue(), store, pieces=2).open() as file, pillow.open(file) as picture:
        assert picture.size == (320, 200)
        assert picture.getpixel((100, 100)) == (255, 165, 0)


@pytest.fixture
def server(body: bytes) -> Iterator[str]:
    """Answers each connection once, with `body`."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed below
                return
            with connection:
                connection.recv(65536)
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                connection.sendall(head.encode() + body)

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    listener.close()


@pytest.mark.extra
@pytest.mark.asyncio
@pytest.mark.parametrize("max_body_ram", ["1MiB", "16KiB"])
async def test_a_response_of_aiohttp_is_collected(
    tunables: Callable[..., penstock.Tunables], server: str, body: bytes, max_body_ram: str
) -> None:
    aiohttp = pytest.importorskip("aiohttp", reason="aiohttp is not installed (requirements/extra.txt)")
    limits = tunables(max_body_ram=max_body_ram)
    async with aiohttp.ClientSession() as session, session.get(server) as response:
        image = await penstock.collect(response.content.iter_any(), limits, size_hint=response.content_length)
    assert image.state == ("ram" if max_body_ram == "1MiB" else "file")
    assert await image.read() == body


@pytest.mark.extra
@pytest.mark.asyncio
@pytest.mark.parametrize("max_body_ram", ["1MiB", "16KiB"])
async def test_a_response_of_httpx_is_collected(
    tunables: Callable[..., penstock.Tunables], server: str, body: bytes, max_body_ram: str
) -> None:
    httpx = pytest.importorskip("httpx", reason="httpx is not installed (requirements/extra.txt)")
    limits = tunables(max_body_ram=max_body_ram)
    async with httpx.AsyncClient() as client, client.stream("GET", server) as response:
        image = await penstock.collect(response.aiter_bytes(), limits)
    assert image.state == ("ram" if max_body_ram == "1MiB" else "file")
    assert await image.read() == body


@pytest.mark.asyncio
async def test_a_stream_reader_of_asyncio_is_collected(
    tunables: Callable[..., penstock.Tunables], server: str, body: bytes
) -> None:
    host, port = server.strip("/").split("//")[1].split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")

    async def pieces() -> AsyncIterator[bytes]:
        while piece := await reader.read(8192):
            yield piece

    image = await penstock.collect(pieces(), tunables(max_body_ram="16KiB"))
    writer.close()
    await writer.wait_closed()
    assert (image.state, await image.read()) == ("file", body)
