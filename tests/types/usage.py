"""How penstock is used, for type checkers: `test_usage` runs mypy over this, strictly, and compares each type that is
revealed with the one beside it. Nothing here is ever called.
"""

import asyncio
import concurrent.futures
import contextlib
import functools
import hashlib
import json
import mmap
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, reveal_type

import penstock
from penstock import warc


def parse(text: bytes, *, strict: bool = True) -> dict[str, int]:
    raise NotImplementedError


async def blocking_work() -> None:
    sem = penstock.Semaphore(4)
    async with sem:
        pass
    await sem.acquire(2)
    reveal_type(sem.try_acquire())  # bool
    sem.release(n=2)
    with sem.sync(timeout=1.5):
        pass

    async with penstock.DispatchPool(threads=4, queue_length=100, overflow="refuse", name_prefix="io-") as pool:
        reveal_type(pool)  # penstock.blocking.pool.DispatchPool
        reveal_type(await pool.run(parse, b"{}", strict=False))  # dict[str, int]
        reveal_type(pool.submit(parse, b"{}"))  # concurrent.futures._base.Future[dict[str, int]]
        pool.dispatch(parse, b"{}")
        executor: concurrent.futures.Executor = pool
        reveal_type(await asyncio.get_running_loop().run_in_executor(executor, parse, b"{}"))  # dict[str, int]

        # What `run` gives is taken wherever a coroutine is.
        reveal_type(await asyncio.wait_for(pool.run(len, "abc"), 1))  # int
        reveal_type(await asyncio.gather(pool.run(len, "abc"), pool.run(str, 1)))  # tuple[int, str]
        reveal_type(asyncio.create_task(pool.run(len, "abc")))  # _asyncio.Task[int]
        reveal_type(await asyncio.shield(asyncio.ensure_future(pool.run(len, "abc"))))  # int
        async with asyncio.TaskGroup() as group:
            reveal_type(group.create_task(pool.run(len, "abc")))  # _asyncio.Task[int]

        policies: list[penstock.Policy] = [penstock.Direct(), penstock.Permit(sem), penstock.Dispatch(pool)]
        for policy in policies:
            reveal_type(await policy.run(parse, b"{}"))  # dict[str, int]
            reveal_type(await penstock.run_blocking(parse, b"{}", policy=policy))  # dict[str, int]
        # On a loop that can be handed over, a task.
        reveal_type(penstock.Permit(sem).run(len, "abc"))  # penstock._native.Future[int] | _asyncio.Task[int]
        reveal_type(penstock.Dispatch(pool).run(len, "abc"))  # penstock._native.Future[int]
    async with penstock.blocking_permit(sem) as permit:
        reveal_type(permit)  # penstock._native.BlockingPermit
        reveal_type(permit.run(parse, b"{}"))  # dict[str, int]
        reveal_type(penstock.block_in_place(parse, b"{}"))  # dict[str, int]
        async for number in pool.map_unordered(int, ["1", "2"], window=4):
            reveal_type(number)  # int
        reveal_type(await pool.join())  # None
    with penstock.LoopMonitor(threshold=0.2, on_stall=lambda stall: print(stall.stack)) as monitor:
        reveal_type(monitor.stats())  # dict[str, Any]
        reveal_type(monitor.prometheus())  # str
    started: penstock.blocking.Future[int] = penstock.Dispatch().run(len, "abc")
    reveal_type(started)  # penstock._native.Future[int]
    reveal_type(penstock.default_pool())  # penstock.blocking.pool.DispatchPool


class Executor:
    """A policy of one's own."""

    def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(None, functools.partial(fn, *args, **kwargs))

    def stats(self) -> dict[str, Any]:
        return {}


async def other_policies() -> None:
    reveal_type(await penstock.run_blocking(parse, b"{}", policy=Executor()))  # dict[str, int]
    penstock.Client(policy=Executor())
    penstock.Client(policy=asyncio)  # type: ignore[arg-type]


async def registered_work(pool: penstock.DispatchPool) -> None:
    reveal_type(penstock.register(pool))  # penstock.blocking.pool.DispatchPool | None
    reveal_type(penstock.registered())  # penstock.blocking.pool.DispatchPool | None
    penstock.dispatch(parse, b"{}", strict=False)
    reveal_type(await penstock.run_blocking(parse, b"{}"))  # dict[str, int]
    reveal_type(await penstock.dispatch_or_permit(penstock.Semaphore(1), parse, b"{}"))  # dict[str, int]
    penstock.register(None)


async def misuse(pool: penstock.DispatchPool) -> None:
    """Each line is an error to both type checkers: mypy would complain of a comment that ignores nothing."""
    await pool.run(parse)  # type: ignore[call-arg]
    await pool.run(parse, "text")  # type: ignore[arg-type]
    pool.dispatch(parse, b"{}", strict="yes")  # type: ignore[arg-type]
    pool.submit(parse, b"{}", loose=True)  # type: ignore[call-arg]
    pool.map_unordered(parse, ["text"])  # type: ignore[arg-type]
    penstock.dispatch(parse, 1)  # type: ignore[arg-type]
    penstock.dispatch_or_permit(penstock.Semaphore(1), parse)  # type: ignore[call-arg]
    penstock.run_blocking(parse, b"{}", loose=True)  # type: ignore[call-arg]
    penstock.register("pool")  # type: ignore[arg-type]
    penstock.block_in_place(parse, 1)  # type: ignore[arg-type]
    penstock.set_unsupported("maybe")  # type: ignore[arg-type]
    penstock.Permit(penstock.Semaphore(1), on_unsupported="maybe")  # type: ignore[arg-type]


def misspelt() -> None:
    penstock.Cleint()  # type: ignore[attr-defined]
    penstock.http.Cleint()  # type: ignore[attr-defined]


async def misused_bodies(sink: penstock.AsyncBodySink, dialog: penstock.Dialog, lines: AsyncIterator[str]) -> None:
    """The same."""
    await sink.write("text")  # type: ignore[arg-type]
    penstock.BodyImage.from_bytes("text")  # type: ignore[arg-type]
    await penstock.collect(lines)  # type: ignore[arg-type]
    penstock.Tunables().replace(max_bdy=1)  # type: ignore[call-arg]
    dialog.replace(status="404")  # type: ignore[arg-type]
    penstock.run(blocking_work(), max_carrier=4)  # type: ignore[call-arg]


async def collecting(pieces: AsyncIterator[bytes]) -> None:
    tunables = penstock.Tunables(max_body_ram="192KiB", max_body=1 << 30, temp_dir=Path("/tmp"), digests=("sha256",))
    reveal_type(tunables.max_body_ram)  # int
    reveal_type(tunables.replace(max_body="2GiB", temp_dir=None))  # penstock._native.Tunables
    budget = penstock.Budget(ram="256MiB", files=500)

    image = await penstock.collect(pieces, tunables, budget=budget, policy=penstock.Direct())
    reveal_type(image)  # penstock.body.image.BodyImage

    async with penstock.AsyncBodySink(tunables, budget=budget, size_hint=10) as sink:
        await sink.write(b"piece")
        await sink.write_back()
        reveal_type(sink.state)  # Literal['ram'] | Literal['file']
        reveal_type(await sink.prepare())  # penstock.body.image.BodyImage


def collecting_in_a_thread() -> penstock.BodyImage:
    with penstock.BodySink() as sink:
        reveal_type(sink)  # penstock.body.sink.BodySink
        sink.write(memoryview(b"piece"))
        sink.write(mmap.mmap(-1, 1))
        sink.push(b"piece")
        return sink.prepare()


async def images(image: penstock.BodyImage) -> None:
    reveal_type(len(image))  # int
    reveal_type(image.state)  # Literal['ram'] | Literal['file'] | Literal['mmap']
    reveal_type(image.digests["sha256"])  # str
    reveal_type(await image.read(limit="1MiB"))  # bytes
    async for view in image.stream(65536, yield_between=True):
        reveal_type(view)  # memoryview[int]
    async with contextlib.aclosing(image.stream()) as views:
        reveal_type(await anext(views))  # memoryview[int]
    reveal_type(await image.to_ram())  # penstock.body.image.BodyImage
    reveal_type(await image.to_mmap())  # penstock.body.image.BodyImage
    await image.save(Path("body"), overwrite=True, fsync=True)


def images_in_a_thread(image: penstock.BodyImage) -> None:
    reveal_type(memoryview(image))  # memoryview[int]
    reveal_type(bytes(image))  # bytes
    reveal_type([len(view) for view in image.chunks(65536)])  # list[int]
    reveal_type(image.gather())  # penstock.body.image.BodyImage
    reveal_type(image.mmap())  # penstock.body.image.BodyImage
    with open("copy", "wb") as file, image.open() as source:
        reveal_type(image.write_to(file))  # int
        reveal_type(source)  # _io.BufferedReader[_io._BufferedReaderStream]
        reveal_type(image.open(0))  # typing.BinaryIO
        hashlib.file_digest(source, "sha256")
        json.load(source)
        zipfile.ZipFile(source)
    reveal_type(penstock.BodyImage.from_bytes(b"body"))  # penstock.body.image.BodyImage
    reveal_type(penstock.BodyImage.from_path("body", offset=3, trusted=True))  # penstock.body.image.BodyImage


async def requests() -> None:
    async with penstock.Client(
        base_url="https://example.com",
        headers={"accept": "application/json"},
        tunables=penstock.Tunables(max_body="1GiB"),
        timeout=penstock.Timeouts(connect=5, total=None),
        limits=penstock.Limits(connections=20, per_host=4),
        auth=("user", "password"),
        policy=penstock.Dispatch(),
    ) as client:
        reveal_type(client)  # penstock.http.client.Client
        response = await client.get("/data", headers={"x-request": "1"}, timeout=penstock.Timeouts(idle=1))
        reveal_type(response)  # penstock.http.response.Response
        reveal_type(response.status)  # int
        reveal_type(response.headers["content-type"])  # str
        reveal_type(response.headers.get("content-type"))  # str | None
        reveal_type(response.headers.get_all("set-cookie"))  # list[str]
        reveal_type(response.headers.raw)  # tuple[tuple[bytes, bytes], ...]
        reveal_type(response.body)  # penstock.body.image.BodyImage
        reveal_type(response.elapsed)  # float
        reveal_type(response.history)  # tuple[penstock.http.response.Response, ...]
        reveal_type(await response.text())  # str
        reveal_type(await response.read())  # bytes
        reveal_type(response.raise_for_status())  # penstock.http.response.Response
        reveal_type(client.stats()["open"])  # int
        dialog = await client.record("PUT", "/data", content=b"body", decode=False)
        reveal_type(dialog)  # penstock.dialog.Dialog
        reveal_type(dialog.trace.started)  # datetime.datetime | None
        reveal_type(dialog.trace.peer)  # tuple[str, int] | None
        reveal_type(dialog.response())  # penstock.http.response.Response
        changed = dialog.replace(status=404, req_headers={"accept": "*/*"}, trace=penstock.Trace())
        reveal_type(changed)  # penstock.dialog.Dialog
        async with client.stream("GET", "/data") as streamed:
            reveal_type(streamed)  # penstock.http.stream.StreamedResponse
            reveal_type(streamed.history)  # tuple[penstock.http.stream.StreamedResponse, ...]
            reveal_type(await rest(streamed))  # bytes


def asked(request: penstock.http.Request) -> None:
    reveal_type(request.method)  # str
    reveal_type(request.fields.get("accept"))  # str | None


def spilled(request: penstock.http.Request, length: int) -> None: ...


def over(response: penstock.Response | penstock.StreamedResponse) -> None: ...


def failed(request: penstock.http.Request, error: BaseException) -> None: ...


def hooked() -> penstock.Client:
    return penstock.Client(hooks=penstock.Hooks(request=asked, spilled=spilled, done=over, failed=failed))


async def rest(streamed: penstock.StreamedResponse) -> bytes:
    return await streamed.read()


def archives() -> None:
    with penstock.barc.open("crawl.barc", "a", strategy=penstock.barc.Strategy.gzip(min_len="1KiB")) as archive:
        reveal_type(archive)  # penstock.barc.archive.Archive
        for record in archive:
            reveal_type(record.meta["url"])  # str
            reveal_type(record.res_body)  # penstock.body.image.BodyImage
            reveal_type(record.dialog())  # penstock.dialog.Dialog
            reveal_type(archive.append(record))  # int
        reveal_type(archive.read(0))  # penstock.barc.record.Record | None
        reveal_type(next(archive.entries()).offset)  # int
        reveal_type(next(archive.metas())[1]["url"])  # str


async def archives_of_tasks(dialog: penstock.Dialog) -> None:
    async with penstock.barc.AsyncArchive("crawl.barc", "a", policy=penstock.Direct()) as archive:
        reveal_type(await archive.append(dialog))  # int
        async for record in archive:
            reveal_type(record.offset)  # int | None


async def formats(dialog: penstock.Dialog) -> None:
    reveal_type(await penstock.har.write("a.har", [dialog], max_text="1MiB"))  # int
    reveal_type(warc.write("a.warc.gz", [dialog], max_body="1GiB"))  # int
    for read in warc.read("a.warc.gz", skipped=print):
        reveal_type(read)  # penstock.dialog.Dialog


async def replayed(dialog: penstock.Dialog) -> None:
    replay = penstock.Replay([dialog], key=lambda prolog: (prolog.method, prolog.url))
    reveal_type(await replay.answer(dialog.prolog))  # penstock.dialog.Dialog
    async with penstock.Client(transport=replay) as client, penstock.replay.ReplayServer("crawl.barc") as server:
        reveal_type(await client.get(server.url))  # penstock.http.response.Response
        reveal_type(server.recorded)  # int
    with penstock.replay.serving([dialog], port=8080) as server:
        reveal_type(server.url)  # str


class Echo:
    async def answer(self, prolog: penstock.Prolog) -> penstock.Dialog:
        headers = [("content-type", "text/plain"), (b"set-cookie", b"a=b")]
        again = penstock.Prolog(method="GET", url=prolog.url, req_headers=prolog.req_headers)
        other = penstock.Prolog(method="GET", url=prolog.url, req_headers={"accept": "*/*"}, req_body=prolog.req_body)
        plain = penstock.Epilog(version="HTTP/1.1", status=200, res_headers={"content-type": "text/plain"})
        reveal_type(other.req_headers)  # penstock.headers.Headers
        penstock.Epilog(version="HTTP/1.1", status=200, res_headers="text/plain")  # type: ignore[arg-type]
        penstock.Dialog(again, penstock.Epilog(version="HTTP/1.1", status=404, res_headers=headers))
        return penstock.Dialog(other, plain)


def echoing() -> penstock.Client:
    return penstock.Client(transport=Echo())


def with_any(transport: penstock.http.Transport | None = None) -> penstock.Client:
    return penstock.Client(transport=transport)


def with_some(replay: penstock.Replay) -> list[penstock.Client]:
    return [with_any(), with_any(Echo()), with_any(replay), with_any(print)]  # type: ignore[arg-type]


def failures(error: BaseException) -> None:
    if isinstance(error, penstock.errors.HeadTooLong):
        reveal_type(error)  # penstock.errors.HeadTooLong
    if isinstance(error, penstock.LimitExceeded):
        reveal_type(error.seen)  # int
        reveal_type(error.setting)  # str
    if isinstance(error, penstock.StorageFull):
        reveal_type(error.errno)  # int | None
    if isinstance(error, penstock.PenstockError):
        reveal_type(error.retryable)  # bool
    if isinstance(error, penstock.RequestError):
        reveal_type(error.elapsed)  # float | None
    if isinstance(error, penstock.Timeout):
        reveal_type(error)  # penstock.errors.Timeout
    if isinstance(error, penstock.Truncated):
        reveal_type(error.received)  # int
        reveal_type(error.expected)  # int | None
        reveal_type(error.partial)  # penstock.body.image.BodyImage | None
    if isinstance(error, penstock.ProtocolError):
        reveal_type(error.at)  # int
        reveal_type(error.url)  # str | None
    if isinstance(error, penstock.TooManyRedirects):
        reveal_type(error.history[0])  # penstock.http.response.Response | penstock.http.stream.StreamedResponse
    if isinstance(error, penstock.HTTPStatusError):
        reveal_type(error.response)  # penstock.http.response.Response | penstock.http.stream.StreamedResponse
        reveal_type(error.response.status)  # int
    if isinstance(error, penstock.ProxyError):
        reveal_type(error.status)  # int | None
    if isinstance(error, penstock.PoolFull):
        reveal_type(error.limit)  # int


reveal_type(penstock.BUILD_PROFILE)  # str
reveal_type(penstock.stats())  # dict[str, Any]
