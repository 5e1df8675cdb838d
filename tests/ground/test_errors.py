"""The tree of errors: what each is besides a PenstockError, what it carries, and that it survives pickling; and that
what fails in the core reaches Python as the class that is meant for it."""

from __future__ import annotations

import asyncio
import copy
import errno
import os
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock import _native, errors

TREE: dict[str, tuple[type[BaseException], ...]] = {
    "LimitExceeded": (errors.PenstockError,),
    "BodyTooLong": (errors.LimitExceeded,),
    "ContentLengthTooLong": (errors.LimitExceeded,),
    "HeadTooLong": (errors.LimitExceeded,),
    "DecodedTooLong": (errors.LimitExceeded,),
    "BudgetExceeded": (errors.PenstockError,),
    "StorageFull": (errors.PenstockError, OSError),
    "RequestError": (errors.PenstockError,),
    "InvalidURL": (errors.RequestError, ValueError),
    "ConnectError": (errors.RequestError, ConnectionError),
    "DNSError": (errors.ConnectError,),
    "TLSError": (errors.ConnectError,),
    "ProxyError": (errors.ConnectError,),
    "ConnectionLost": (errors.RequestError, ConnectionError),
    "Truncated": (errors.RequestError,),
    "ProtocolError": (errors.RequestError,),
    "TooManyRedirects": (errors.RequestError,),
    "UnsupportedEncoding": (errors.RequestError,),
    "DecodeError": (errors.RequestError,),
    "HTTPStatusError": (errors.RequestError,),
    "NotRecorded": (errors.RequestError,),
    "Timeout": (errors.RequestError, TimeoutError),
    "ConnectTimeout": (errors.Timeout,),
    "FirstByteTimeout": (errors.Timeout,),
    "IdleTimeout": (errors.Timeout,),
    "WriteTimeout": (errors.Timeout,),
    "PoolTimeout": (errors.Timeout,),
    "TotalTimeout": (errors.Timeout,),
    "TooSlow": (errors.Timeout,),
    "PermitError": (errors.PenstockError, RuntimeError),
    "SemaphoreClosed": (errors.PenstockError,),
    "PoolFull": (errors.PenstockError,),
    "PoolClosed": (errors.PenstockError, RuntimeError),
    "ClientClosed": (errors.PenstockError, RuntimeError),
    "BlockingInLoop": (errors.PenstockError, RuntimeError),
    "HandoverError": (errors.PenstockError, RuntimeError),
    "ArchiveError": (errors.PenstockError,),
    "InternalError": (errors.PenstockError,),
}

FIELDS: dict[str, Any] = {
    "seen": 11,
    "limit": 10,
    "setting": "Tunables.max_body",
    "url": "http://example.com/",
    "elapsed": 0.25,
    "retryable": True,
    "offset": 7,
}


def declared() -> list[type[errors.PenstockError]]:
    return [getattr(errors, name) for name in errors.__all__]


def test_every_error_hangs_where_the_documentation_says() -> None:
    assert set(errors.__all__) == {"PenstockError", *TREE}
    assert {name: getattr(errors, name).__bases__ for name in TREE} == TREE


def test_every_error_is_public_and_explained() -> None:
    for cls in declared():
        assert getattr(penstock, cls.__name__) is cls
        assert cls.__module__ == "penstock.errors"
        assert cls.__doc__


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("cls", declared(), ids=lambda cls: cls.__name__)
def test_errors_keep_their_message_and_attributes_when_pickled(cls: type[errors.PenstockError], protocol: int) -> None:
    again = pickle.loads(pickle.dumps(cls("what happened", **FIELDS), protocol))
    assert type(again) is cls
    assert again.args == ("what happened",)
    assert str(again) == "what happened"
    assert {name: getattr(again, name) for name in FIELDS} == FIELDS


@pytest.mark.parametrize("cls", [cls for cls in declared() if issubclass(cls, OSError)], ids=lambda cls: cls.__name__)
def test_errors_of_the_system_keep_errno_and_file_name(cls: type[Any]) -> None:
    error = cls(errno.ENOSPC, "no space", "/var/tmp")
    for same in (error, pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (type(same), same.errno, same.strerror, same.filename) == (cls, errno.ENOSPC, "no space", "/var/tmp")


def test_a_pickled_error_keeps_what_was_received() -> None:
    with penstock.BodySink(penstock.Tunables(max_body=4)) as sink:
        sink.write(b"1234")
        with pytest.raises(penstock.BodyTooLong) as raised:
            sink.write(b"5")
    again = pickle.loads(pickle.dumps(raised.value))
    assert bytes(again.partial) == b"1234"
    assert (again.seen, again.limit, again.setting) == (5, 4, "Tunables.max_body")


def test_every_error_says_whether_another_try_may_help() -> None:
    retryable = {cls.__name__ for cls in declared() if cls.retryable}
    timeouts = {name for name in TREE if name.endswith("Timeout")} | {"TooSlow"}
    assert retryable == timeouts | {"ConnectError", "DNSError", "ProxyError", "ConnectionLost", "Truncated"}


# What fails in the core


def test_a_body_over_its_limit() -> None:
    sink = penstock.BodySink(penstock.Tunables(max_body=10))
    with pytest.raises(penstock.BodyTooLong, match=r"11 bytes.*limit of 10 bytes \(Tunables.max_body\)") as raised:
        sink.write(bytes(11))
    assert (raised.value.seen, raised.value.limit, raised.value.setting) == (11, 10, "Tunables.max_body")


def test_a_budget_without_room(tmp_path: Path) -> None:
    budget = penstock.Budget(disk=10)
    with penstock.BodySink(penstock.Tunables(temp_dir=tmp_path), budget=budget) as sink:
        sink.write(bytes(11))
        with pytest.raises(penstock.BudgetExceeded, match=r"\(Budget.disk\)") as raised:
            sink.write_back()
    error = raised.value
    assert (error.resource, error.used, error.limit) == ("disk", 0, 10)
    assert error.wanted
    assert errors.BudgetExceeded("no memory", resource="ram").wanted is None


FULL = """
import resource, sys, penstock
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
with penstock.BodySink(penstock.Tunables(temp_dir=sys.argv[1], max_body_ram=0)) as sink:
    try:
        sink.write(bytes(1 << 20))
        sink.prepare()
    except penstock.StorageFull as error:
        print(error.errno, error.filename, isinstance(error, OSError))
"""


def test_a_file_that_may_not_grow(script: Any, tmp_path: Path) -> None:
    # The limit on a file's size fails a write as a full disk does, without one.
    done = script(FULL, str(tmp_path))
    assert done.stdout == f"{errno.EFBIG} {tmp_path} True\n", done.stderr


def test_a_place_for_files_that_is_not_there(tmp_path: Path) -> None:
    place = tmp_path / "gone"
    with penstock.BodySink(penstock.Tunables(temp_dir=place)) as sink:
        sink.write(b"x")
        with pytest.raises(FileNotFoundError, match=r"Tunables.temp_dir") as raised:
            sink.write_back()
    assert Path(raised.value.filename) == place


def test_a_file_that_became_shorter_than_its_body(tmp_path: Path) -> None:
    path = tmp_path / "body"
    path.write_bytes(bytes(100))
    image = penstock.BodyImage.from_path(path)
    os.truncate(path, 60)
    with pytest.raises(penstock.Truncated, match="60 bytes of 100"):
        bytes(image)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        penstock.BodyImage.from_path(tmp_path / "gone")


@pytest.mark.parametrize("settings", [{"max_body": "ten"}, {"max_body": "1"}, {"max_body": -1}, {"digests": ("crc",)}])
def test_a_setting_that_makes_no_sense(settings: dict[str, Any]) -> None:
    name, value = next(iter(settings.items()))
    with pytest.raises(ValueError, match=name):
        penstock.Tunables(**{name: value})


def test_a_semaphore_that_was_closed() -> None:
    sem = penstock.Semaphore(1)
    sem.close()
    with pytest.raises(penstock.SemaphoreClosed, match="closed"):
        sem.try_acquire()


def test_a_permit_that_nobody_holds() -> None:
    with pytest.raises(penstock.PermitError):
        penstock.Semaphore(1).release()


def test_a_pool_that_was_closed() -> None:
    pool = penstock.DispatchPool(threads=1)
    pool.close()
    with pytest.raises(penstock.PoolClosed):
        pool.submit(print)


@pytest.mark.asyncio
async def test_a_pool_that_is_full() -> None:
    async with penstock.DispatchPool(threads=1, queue_length=1, overflow="refuse") as pool:
        jobs = []
        with pytest.raises(penstock.PoolFull, match=r"DispatchPool.queue_length") as raised:
            jobs.extend(_native._nap(pool, 0.05) for _ in range(9))
        assert raised.value.limit == 1
        await asyncio.gather(*jobs)


@pytest.mark.asyncio
async def test_a_file_read_on_the_loop(tmp_path: Path) -> None:
    path = tmp_path / "body"
    path.write_bytes(b"x")
    image = penstock.BodyImage.from_path(path)
    with pytest.raises(penstock.BlockingInLoop, match="await"):
        bytes(image)


@pytest.mark.asyncio
async def test_a_panic_is_the_result_of_its_job_and_ends_nothing_else() -> None:
    async with penstock.DispatchPool(threads=1) as pool:
        with pytest.raises(penstock.InternalError, match="as asked"):
            await penstock.Dispatch(pool).perform(_native._panicking())
        assert await pool.run(int) == 0


def test_a_panic_on_the_calling_thread_is_named_too() -> None:
    with pytest.raises(penstock.InternalError, match="as asked"):
        _native._panicking()()


# What fails in a response

Get = Callable[[bytes], Awaitable[penstock.Response]]


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """A server that sends this and closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}/"
    finally:
        server.close()
        await server.wait_closed()


async def get(answer: bytes, **options: Any) -> penstock.Response:
    async with answering(answer) as url, penstock.Client(**options) as client:
        return await client.get(url)


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("answer", "cls", "text"),
    [
        (b"", penstock.ConnectionLost, "closed by the peer"),
        (b"SSH-2.0-OpenSSH\r\n", penstock.ProtocolError, "not valid HTTP/1.1"),
        (HEAD + b"Content-Length: 5\r\n\r\nabc", penstock.Truncated, "3 bytes of 5"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc", penstock.Truncated, "after 3 bytes"),
        (HEAD + b"Content-Length: 11\r\n\r\n", penstock.ContentLengthTooLong, r"11 bytes.*10 bytes"),
        (HEAD + b"\r\n" + bytes(11), penstock.BodyTooLong, r"11 bytes.*10 bytes"),
        (HEAD + b"x: y\r\n" * 9 + b"\r\n", penstock.HeadTooLong, r"Limits\.headers"),
    ],
)
async def test_a_response_that_fails(answer: bytes, cls: type[penstock.PenstockError], text: str) -> None:
    options = {"tunables": penstock.Tunables(max_body=10), "limits": penstock.Limits(headers=4)}
    with pytest.raises(cls, match=text) as raised:
        await get(answer, **options)
    error: Any = raised.value
    assert error.url.startswith("http://127.0.0.1:")
    assert error.elapsed >= 0
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.url, again.elapsed) == (str(error), error.url, error.elapsed)
    if cls is penstock.Truncated:
        assert bytes(error.partial) == bytes(again.partial) == b"abc"


@pytest.mark.asyncio
async def test_a_status_that_is_an_error_pickles_with_its_response() -> None:
    response = await get(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno")
    with pytest.raises(penstock.HTTPStatusError, match="404 Not Found") as raised:
        response.raise_for_status()
    again = pickle.loads(pickle.dumps(raised.value))
    assert again.response.status == 404
    assert bytes(again.response.body) == b"no"


def test_a_status_that_is_an_error_by_the_programs_own_word_has_no_response() -> None:
    assert penstock.HTTPStatusError("no").response is None
