"""`Client(transport=...)`: recorded answers in place of the network."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.cookiejar
import os
import re
import tracemalloc
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock import barc
from penstock._native import _panicking
from penstock.replay import ReplayServer
from penstock.replay.keys import by_url_and_path
from penstock.replay.store import Store

from tests.conftest import uncollected
from tests.http.serving import head, response, serve, until

pytestmark = pytest.mark.asyncio

LARGE = bytes(i * 7 & 255 for i in range(900_000))


def recorded(url: str, body: bytes | penstock.BodyImage = b"", **changes: Any) -> penstock.Dialog:
    image = body if isinstance(body, penstock.BodyImage) else penstock.BodyImage.from_bytes(body)
    dialog = penstock.Dialog(
        penstock.Prolog(method="GET", url=url), penstock.Epilog(version="HTTP/1.1", status=200, res_body=image)
    )
    return dialog.replace(**changes)


def client(*dialogs: penstock.Dialog, key: Any = None, **options: Any) -> penstock.Client:
    return penstock.Client(transport=penstock.Replay(dialogs, key=key), **options)


async def test_what_was_recorded_is_answered_without_the_server(tmp_path: Path) -> None:
    path = tmp_path / "site.barc"
    scripts = [
        [head("Location: /two", "Content-Length: 0", status="302 There")],
        [b"HTTP/1.1 200 Fine\r\nX-A:  1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n"],
    ]
    async with serve(*scripts) as server, penstock.Client() as live, barc.AsyncArchive(path, "a") as archive:
        url = server.url
        last = await live.record("GET", url)
        for dialog in (*last.trace.history, last):
            await archive.append(dialog)
    for source in ([last], path):
        async with penstock.Client(transport=penstock.Replay(source)) as replayed:
            answer = await replayed.get(url + "#part")
            assert (answer.status, answer.url, await answer.read()) == (200, url + "two#part", b"abc")
            assert [one.status for one in answer.history] == [302]
            assert answer.headers["x-a"] == "1"
            assert replayed.stats()["connected"] == 0
    # Dialogs have their heads as they were, an archive has what it keeps of them.
    async with client(last) as replayed:
        answer = await replayed.get(last.url)
        assert (answer.reason, answer.trailers, answer.body) == ("Fine", ((b"X-Sum", b"7"),), last.res_body)


async def test_answers_come_in_turn_and_then_the_last_one_again() -> None:
    one, two = recorded("http://a/", b"1"), recorded("http://a/", b"2")
    async with client(one, recorded("http://a/x", b"x"), two) as replayed:
        assert [await (await replayed.get("http://a/")).read() for _ in range(4)] == [b"1", b"2", b"2", b"2"]
        assert await (await replayed.get("http://a/x")).read() == b"x"


async def test_a_url_is_found_however_it_is_spelt() -> None:
    async with client(
        recorded("https://example.test", b"1"),
        recorded("http://example.test:8080/%41?", b"2"),
        recorded("http://b%C3%BCcher.test/", b"3"),
    ) as replayed:
        for url in (
            "https://example.test/",
            "https://EXAMPLE.test#top",
            "https://example.test:443",
            "HTTPS://example.test",
        ):
            assert await (await replayed.get(url)).read() == b"1"
        assert await (await replayed.get("http://Example.test:8080/%41")).read() == b"2"
        for url in ("http://b\u00fccher.test/", "http://xn--bcher-kva.test"):
            assert await (await replayed.get(url)).read() == b"3"
        for url in ("http://example.test/", "https://example.test:8080/%41", "http://example.test:8080/A"):
            with pytest.raises(penstock.NotRecorded):
                await replayed.get(url)


async def test_a_miss_by_a_key_says_that_the_url_was_recorded() -> None:
    replay = penstock.Replay([recorded("http://a/", b"1")], key=lambda prolog: (prolog.url, bytes(prolog.req_body)))
    async with penstock.Client(transport=replay) as asking:
        with pytest.raises(
            penstock.NotRecorded, match=r"for GET http://a/ by this key; what is has another \(key=\)$"
        ) as caught:
            await asking.get("http://a/", content=b"other")
    assert caught.value.nearest == ("GET", "http://a/")


async def test_a_miss_among_many_compares_with_few() -> None:
    compared = 0

    class Counted(str):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

        def __lt__(self, other: str) -> bool:
            nonlocal compared
            compared += 1
            return str.__lt__(self, other)

        __hash__ = str.__hash__

    urls = [f"http://a/{number:05}" for number in range(0, 20_000, 2)]
    store = Store([recorded(Counted(url)) for url in urls[::7] + urls[1::7]], by_url_and_path, None, None)
    compared = 0
    with pytest.raises(penstock.NotRecorded, match=rf"the nearest of {store.size} is GET http://a/14000$"):
        await store.answer(penstock.Prolog(method="GET", url="http://a/14001"))
    assert 0 < compared < 200


async def test_what_is_not_recorded_is_an_error_that_names_the_nearest() -> None:
    dialogs = [recorded(f"http://a/{name}") for name in ("list?page=1", "item", "zebra")]
    async with client(*dialogs) as replayed:
        with pytest.raises(penstock.NotRecorded) as caught:
            await replayed.get("http://a/list?page=2")
        assert str(caught.value) == (
            "nothing is recorded for GET http://a/list?page=2; the nearest of 3 is GET http://a/list?page=1"
        )
        assert (caught.value.nearest, caught.value.retryable) == (("GET", "http://a/list?page=1"), False)
        with pytest.raises(penstock.NotRecorded, match="POST http://a/item; the nearest of 3 is GET http://a/item"):
            await replayed.post("http://a/item")
        assert replayed.stats()["failed"] == 2
    async with client() as empty:
        with pytest.raises(penstock.NotRecorded, match=r"GET http://a/$") as caught:
            await empty.get("http://a/")
        assert (caught.value.nearest, caught.value.url) == (None, "http://a/")


async def test_a_key_compares_by_whatever_a_request_has() -> None:
    def key(prolog: penstock.Prolog) -> Any:
        return prolog.url, prolog.req_headers.get("x-user"), bytes(prolog.req_body)

    def asked(user: str, body: bytes, answer: bytes) -> penstock.Dialog:
        image = penstock.BodyImage.from_bytes(body)
        return recorded("http://a/q", answer, method="POST", req_headers=[("X-User", user)], req_body=image)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"t"
        yield b"wo"

    async with client(
        asked("u", b"one", b"1"), asked("u", b"two", b"2"), asked("v", b"two", b"3"), key=key
    ) as replayed:
        headers = {"X-User": "u"}
        assert await (await replayed.post("http://a/q", content=b"one", headers=headers)).read() == b"1"
        assert await (await replayed.post("http://a/q", content=pieces(), headers=headers)).read() == b"2"
        assert await (await replayed.put("http://a/q", content="two", headers={"X-User": "v"})).read() == b"3"
        with pytest.raises(penstock.NotRecorded):
            await replayed.post("http://a/q", content=b"three", headers=headers)


async def test_what_surrounds_a_request_is_as_with_a_connection() -> None:
    told: list[Any] = []
    hooks = penstock.Hooks(
        request=lambda request: told.append(request.url),
        head=lambda request, status: told.append(status),
        done=lambda response: told.append(response.status),
    )
    sets = recorded("http://a.test/", res_headers=[("Set-Cookie", "a=1")])
    seen: list[str | None] = []

    class Watching(penstock.Replay):
        async def answer(self, prolog: penstock.Prolog, /) -> penstock.Dialog:
            seen.append(prolog.req_headers.get("cookie"))
            return await super().answer(prolog)

    options: Any = {"hooks": hooks, "cookies": http.cookiejar.CookieJar(), "base_url": "http://a.test"}
    async with penstock.Client(transport=Watching([sets]), **options) as replayed:
        await replayed.get("/")
        await replayed.get("/")
    assert seen == [None, "a=1"]
    assert told == ["http://a.test/", 200, 200] * 2


async def test_a_body_that_is_in_a_file_is_told_as_spilled_but_for_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "a.barc"
    async with barc.AsyncArchive(path, "a") as archive:
        await archive.append(recorded("http://a/", LARGE))
        await archive.append(recorded("http://a/small", b"1"))
    told: list[Any] = []
    hooks = penstock.Hooks(spilled=lambda request, size: told.append((request.url, size)))
    async with penstock.Replay(path) as replay, penstock.Client(transport=replay, hooks=hooks) as replayed:
        assert (await replayed.get("http://a/")).body.state == "file"
        await replayed.get("http://a/small")
        async with replayed.stream("GET", "http://a/") as answer:
            assert await answer.read() == LARGE
    assert told == [("http://a/", len(LARGE))]


async def test_a_body_that_was_recorded_as_it_came_is_decoded_as_the_client_says() -> None:
    zipped = gzip.compress(b"text")
    coded = recorded("http://a/", zipped, res_headers=[("Content-Encoding", "gzip")])
    plain = coded.replace(res_body=penstock.BodyImage.from_bytes(b"text"), res_decoded=("gzip", "identity"))
    async with client(coded) as replayed:
        answer = await replayed.get("http://a/")
        assert (await answer.read(), answer.decoded) == (b"text", ("gzip",))
        assert await (await replayed.get("http://a/", decode=False)).read() == zipped
        with pytest.raises(penstock.DecodedTooLong):
            await replayed.get("http://a/", tunables=penstock.Tunables(max_body=3))
    async with client(plain) as replayed:
        answer = await replayed.get("http://a/")
        assert (await answer.read(), answer.decoded) == (b"text", ("gzip",))


async def test_what_fails_while_a_recorded_body_is_decoded_has_it_as_its_partial() -> None:
    zipped = gzip.compress(b"text")
    fields = [("Content-Encoding", "gzip")]
    failing = [(zipped[:-2], penstock.Truncated), (b"text", penstock.DecodeError), (zipped, penstock.DecodedTooLong)]
    for body, error in failing:
        tunables = penstock.Tunables(max_body=3 if error is penstock.DecodedTooLong else 100)
        async with client(recorded("http://a/", body, res_headers=fields), tunables=tunables) as replayed:
            with pytest.raises(error) as caught:
                await replayed.get("http://a/")
            assert await caught.value.partial.read() == body
            with pytest.raises(error):
                await replayed.stream("GET", "http://a/").__aenter__()


async def test_of_a_body_that_more_is_off_than_its_fields_name_nothing_is_taken_off_again() -> None:
    fields = [("content-encoding", "gzip, br")]
    plain = recorded("http://a/", b"text", res_headers=fields).replace(res_decoded=("gzip", "br", "gzip"))
    async with client(plain) as replayed:
        assert await (await replayed.get("http://a/")).read() == b"text"


async def test_a_coding_is_called_by_the_name_that_it_has_on_a_connection() -> None:
    coded = recorded("http://a/", gzip.compress(b"text"), res_headers=[("Content-Encoding", "X-GZip")])
    async with client(coded) as replayed:
        assert (await replayed.get("http://a/")).decoded == ("gzip",)
        dialog = await replayed.record("GET", "http://a/")
    assert (await dialog.res_body.read(), dialog.res_decoded) == (b"text", ("gzip", "identity"))


async def test_head_is_answered_by_its_own_record_or_from_the_get() -> None:
    head_only = recorded("http://a/h", method="HEAD", res_headers=[("Content-Length", "7")])
    async with client(head_only, recorded("http://a/g", b"body", res_headers=[("X", "1")])) as replayed:
        first, second = await replayed.head("http://a/h"), await replayed.head("http://a/g")
        assert (first.headers["content-length"], len(first.body)) == ("7", 0)
        assert (second.headers["x"], len(second.body)) == ("1", 0)


async def test_a_head_leaves_the_turn_to_the_get() -> None:
    async with client(recorded("http://a/", b"1"), recorded("http://a/", b"22")) as replayed:
        for body in (b"1", b"22", b"22"):
            await replayed.head("http://a/")
            assert await (await replayed.get("http://a/")).read() == body


@pytest.mark.parametrize("where", ["ram", "file"])
async def test_a_stream_is_read_from_the_record(where: str) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield LARGE

    image = await penstock.collect(pieces(), penstock.Tunables(max_body_ram=0 if where == "file" else "1MiB"))
    async with client(recorded("http://a/", image)) as replayed:
        async with replayed.stream("GET", "http://a/") as answer:
            assert await answer.read(10) == LARGE[:10]
            views = [bytes(view) async for view in answer.stream(1000)]
            assert max(map(len, views)) <= 1000
            assert b"".join(views) == LARGE[10:]
            assert await answer.read() == b""
        async with replayed.stream("GET", "http://a/") as answer:
            assert await answer.read(1) == LARGE[:1]
            reading = asyncio.create_task(answer.text())
            await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait([reading])
            assert reading.cancelled()
            assert await answer.read() == LARGE[1:]


class Cold:
    """A reader whose pieces have to be waited for, and the policy by which they are."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = [*map(memoryview, pieces), None]
        self.read = asyncio.Event()

    def step(self) -> Any:
        return _panicking()

    async def run(self, op: Any) -> memoryview | None:
        await self.read.wait()
        return self._pieces.pop(0)


@pytest.mark.parametrize("make", [penstock.Replay, ReplayServer])
async def test_what_is_no_source_and_no_function_is_refused_where_it_is_given(make: Any) -> None:
    async def awaited(*_: object) -> str:
        return ""

    for source in (None, b"site.barc", recorded("http://a.test/"), barc.AsyncArchive("site.barc")):
        named = re.escape(f"source={type(source).__name__}: takes an archive's path as a str, or dialogs")
        with pytest.raises(TypeError, match=f"^{named}$"):
            make(source)
    for option in ("key", "on_answer") if make is ReplayServer else ("key",):
        for function in ("url", awaited):
            named = re.escape(f"{option}={function!r}: takes a function that is called, and not awaited")
            with pytest.raises(TypeError, match=f"^{named}$"):
                make([], **{option: function})
    with pytest.raises(TypeError, match=r"^tunables=5: takes Tunables, as "):
        make([], tunables=5)


async def test_a_second_task_that_reads_a_replayed_stream_meanwhile_is_refused_and_the_first_goes_on() -> None:
    async with (
        client(recorded("http://a/", b"body")) as replayed,
        replayed.stream("GET", "http://a/") as answer,
    ):
        stored: Any = answer
        stored._reader = stored._policy = cold = Cold(b"abc", b"def")
        first = asyncio.create_task(answer.read())
        others = asyncio.gather(answer.read(), answer.text(), anext(answer.stream()), return_exceptions=True)
        await asyncio.sleep(0)
        cold.read.set()
        refused = [repr(error) for error in await others]
        assert refused == ["RuntimeError('another task is still reading this response')"] * 3
        assert await first == b"abcdef"


async def test_what_is_recorded_again_is_a_dialog_of_this_request() -> None:
    old = recorded("http://a/", b"body", res_headers=[("X", "1")])
    async with client(old) as replayed:
        dialog = await replayed.record("GET", "http://a/", headers={"X-New": "1"})
    assert (dialog.epilog.res_headers.raw, dialog.res_body) == (old.res_headers.raw, old.res_body)
    assert dialog.req_headers["x-new"] == "1"
    assert (dialog.trace.peer, dialog.trace.req_head.split(b"\r\n")[0]) == (None, b"GET / HTTP/1.1")


async def test_an_archive_is_read_on_when_something_is_not_found(tmp_path: Path) -> None:
    path = tmp_path / "growing.barc"
    async with barc.AsyncArchive(path, "a") as archive:
        await archive.append(recorded("http://a/1", b"1"))
        await archive.append(barc.Record(meta={"note": "no dialog"}))
        async with penstock.Client(transport=penstock.Replay(path)) as replayed:
            both = await asyncio.gather(replayed.get("http://a/1"), replayed.get("http://a/1"))
            assert [await answer.read() for answer in both] == [b"1", b"1"]
            with pytest.raises(penstock.NotRecorded, match="of 1 is"):
                await replayed.get("http://a/2")
            await archive.append(recorded("http://a/2", b"2"))
            assert await (await replayed.get("http://a/2")).read() == b"2"


async def test_a_long_url_is_found_and_takes_little_memory(tmp_path: Path) -> None:
    path, long = tmp_path / "long.barc", "http://a.test/" + "x" * 50_000
    async with barc.AsyncArchive(path, "a", strategy=barc.Strategy.gzip()) as archive:
        for number in range(300):
            await archive.append(recorded(f"{long}{number}", b"%d" % number))
        await archive.append(recorded(f"{long}{long}", b"too long"))
    tracemalloc.start()
    try:
        async with penstock.Replay(path) as replay, penstock.Client(transport=replay) as replayed:
            assert await (await replayed.get(f"{long}7")).read() == b"7"
            with pytest.raises(penstock.NotRecorded):
                await replayed.get(f"{long}{long}")
            async with ReplayServer(path) as server, penstock.Client() as client:
                asked = f"{server.url}/{long.partition('test/')[2]}"
                assert await (await client.get(f"{asked}8")).read() == b"8"
                assert server.recorded == 300
                # Python remembers the parts of 128 URLs.
                assert tracemalloc.get_traced_memory()[0] < 20 << 20
    finally:
        tracemalloc.stop()


async def test_a_long_url_of_a_file_that_was_written_anew_gets_no_answer_to_another(tmp_path: Path) -> None:
    path, long = tmp_path / "a.barc", "http://a.test/" + "x" * 5000
    for end in "ab":
        path.write_bytes(b"")
        async with barc.AsyncArchive(path, "a") as archive:
            await archive.append(recorded(long + end))
            if end == "a":
                replay = penstock.Replay(path)
                await replay.answer(penstock.Prolog(method="GET", url=f"{long}a"))
    async with replay:
        with pytest.raises(penstock.ArchiveError, match="and was another"):
            await replay.answer(penstock.Prolog(method="GET", url=f"{long}a"))


async def test_a_file_that_was_written_anew_gives_no_answer_to_something_else(tmp_path: Path) -> None:
    path, other = tmp_path / "a.barc", tmp_path / "b.barc"
    for file, host in ((path, "a"), (other, "b")):
        async with barc.AsyncArchive(file, "a") as archive:
            for number in range(3):
                await archive.append(recorded(f"http://{host}/{number}", host.encode()))
    async with penstock.Client(transport=penstock.Replay(path)) as replayed:
        assert await (await replayed.get("http://a/0")).read() == b"a"
        path.write_bytes(other.read_bytes())
        with pytest.raises(penstock.ArchiveError, match="it is GET http://b/1, and was GET http://a/1") as raised:
            await replayed.get("http://a/1")
        assert raised.value.kind == "rewritten"
        path.write_bytes(b"")
        for number in (1, 3):
            with pytest.raises(penstock.ArchiveError) as raised:
                await replayed.get(f"http://a/{number}")
            assert raised.value.kind == "short"


async def test_it_says_of_what_it_is_and_how_much_it_has(tmp_path: Path) -> None:
    path = tmp_path / "a.barc"
    async with barc.AsyncArchive(path, "a") as archive:
        end = 0
        for name in "ab":
            end = await archive.append(recorded(f"http://{name}.test/", b"x"))
        records = archive.records(end)
        assert repr(records) == f"<AsyncRecords of <AsyncArchive {str(path)!r} mode='a'> at {end}>"
    async with penstock.Replay(path) as replay:
        assert repr(replay) == f"<Replay 0 recorded of {str(path)!r}>"
        await replay.answer(penstock.Prolog(method="GET", url="http://a.test/"))
        assert repr(replay) == f"<Replay 2 recorded of {str(path)!r}>"
    assert repr(replay) == f"<Replay 2 recorded of {str(path)!r} closed>"
    server = ReplayServer([recorded("http://a.test/")])
    assert repr(server) == "<ReplayServer 1 recorded>"
    async with server:
        assert repr(server) == f"<ReplayServer at {server.url} 1 recorded>"
    assert repr(server) == "<ReplayServer 1 recorded closed>"


async def test_tasks_that_ask_first_together_open_the_archive_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.barc"
    async with barc.AsyncArchive(path, "a") as archive:
        for name in "abc":
            await archive.append(recorded(f"http://a/{name}", name.encode()))
    enter, opened = barc.AsyncArchive.__aenter__, 0

    async def slower_each_time(self: barc.AsyncArchive) -> barc.AsyncArchive:
        nonlocal opened
        opened += 1
        entered = await enter(self)
        for _ in range(opened * 200):
            await asyncio.sleep(0)
        return entered

    monkeypatch.setattr(barc.AsyncArchive, "__aenter__", slower_each_time)
    async with penstock.Replay(path) as replay, penstock.Client(transport=replay) as replayed:
        answers = await asyncio.gather(*(replayed.get(f"http://a/{name}") for name in "abcabc"))
        assert b"".join([await answer.read() for answer in answers]) == b"abcabc"
    assert opened == 1


async def test_a_closed_replay_has_no_file_and_no_answers(tmp_path: Path) -> None:
    def open_files() -> int:
        return sum(file.resolve() == path for file in Path("/proc/self/fd").iterdir())

    path = tmp_path / "a.barc"
    async with barc.AsyncArchive(path, "a") as archive:
        await archive.append(recorded("http://a/", b"1"))
    replay = penstock.Replay(path)
    for _ in range(2):
        async with penstock.Client(transport=replay) as replayed:
            answer = await replayed.get("http://a/")
    assert open_files() == 1
    async with replay:
        pass
    assert (open_files(), await answer.read()) == (0, b"1")
    async with penstock.Client(transport=replay) as replayed:
        with pytest.raises(ValueError, match="the replay is closed"):
            await replayed.get("http://a/")
    await replay.aclose()
    # While it is being opened.
    replay = penstock.Replay(path)
    asking = asyncio.ensure_future(replay.answer(penstock.Prolog(method="GET", url="http://a/")))
    await asyncio.sleep(0)
    replay.close()
    with pytest.raises(ValueError, match="the replay is closed"):
        await asking
    assert open_files() == 0


async def test_an_archive_that_cannot_be_read_is_the_requests_error(tmp_path: Path) -> None:
    async with penstock.Client(transport=penstock.Replay(tmp_path / "none")) as replayed:
        with pytest.raises(FileNotFoundError):
            await replayed.get("http://a/")
    (tmp_path / "bad").write_bytes(b"no archive at all" * 10)
    async with penstock.Client(transport=penstock.Replay(tmp_path / "bad")) as replayed:
        with pytest.raises(penstock.ArchiveError):
            await replayed.get("http://a/")


async def test_bodies_from_an_archive_have_the_limits_of_the_tunables(tmp_path: Path) -> None:
    path = tmp_path / "a.barc"
    async with barc.AsyncArchive(path, "a", strategy=barc.Strategy.gzip(check_identity=False)) as archive:
        await archive.append(recorded("http://a/", LARGE, res_headers=[("Content-Type", "text/plain")]))
        await archive.append(recorded("http://a/small", b"small"))
    replay = penstock.Replay(path, tunables=penstock.Tunables(max_body_ram=1000, max_body="1MiB"))
    async with penstock.Client(transport=replay) as replayed:
        answer = await replayed.get("http://a/")
        assert (await answer.read(), answer.body.state) == (LARGE, "file")
    async with ReplayServer(path, tunables=penstock.Tunables(max_body=len(LARGE))) as server:
        assert server.recorded == 2
    short = penstock.Tunables(max_body=len(LARGE) - 1)
    with pytest.raises(penstock.BodyTooLong, match=r"^record at byte 0 of the archive: .*max_body"):
        async with ReplayServer(path, tunables=short):
            pass


async def test_any_transport_will_do() -> None:
    class Teapot:
        async def answer(self, prolog: penstock.Prolog, /) -> penstock.Dialog:
            return recorded(prolog.url, b"short and stout", status=418)

    async with penstock.Client(transport=Teapot()) as pot:
        answer = await pot.get("https://pot.test/")
        assert (answer.status, await answer.text(), answer.url) == (418, "short and stout", "https://pot.test/")


class Silent:
    """Answers when it is told to, and is slow to stop."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.stopped = False

    async def answer(self, prolog: penstock.Prolog, /) -> penstock.Dialog:
        self.asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            self.stopped = True
        raise AssertionError


async def test_a_client_that_is_closed_ends_what_its_transport_was_asked() -> None:
    silent = Silent()
    closing = penstock.Client(transport=silent)
    asked = asyncio.ensure_future(closing.get("http://a/"))
    await silent.asked.wait()
    await asyncio.gather(closing.aclose(), closing.aclose())
    assert (silent.stopped, closing.stats()["active"]) == (True, 0)
    with pytest.raises(penstock.ClientClosed, match="while the request was in flight") as caught:
        await asked
    assert caught.value.__cause__ is None


async def test_a_redirect_that_comes_from_a_transport_after_the_end_leads_nowhere() -> None:
    class Stubborn(Silent):
        async def answer(self, prolog: penstock.Prolog, /) -> penstock.Dialog:
            with contextlib.suppress(asyncio.CancelledError):
                await super().answer(prolog)
            return recorded(prolog.url, status=302, res_headers=[("Location", "/")])

    stubborn = Stubborn()
    closing = penstock.Client(transport=stubborn)
    asked = asyncio.ensure_future(closing.get("http://a/"))
    await stubborn.asked.wait()
    await closing.aclose()
    with pytest.raises(penstock.ClientClosed):
        await asked


async def test_a_transport_has_the_time_of_the_request_as_a_whole() -> None:
    class Late:
        async def answer(self, prolog: penstock.Prolog, /) -> penstock.Dialog:
            raise TimeoutError("its own")

    async with penstock.Client(transport=Silent(), timeout=penstock.Timeouts(total=0.01)) as replayed:
        with pytest.raises(penstock.TotalTimeout, match=r"no answer within 0.01 s \(Timeouts.total\)") as caught:
            await replayed.get("http://a/")
        assert (caught.value.url, replayed.stats()["active"]) == ("http://a/", 0)
    async with penstock.Client(transport=Late()) as replayed:
        with pytest.raises(TimeoutError, match=r"^its own$"):
            await replayed.get("http://a/")


async def test_live_and_replayed_answers_are_the_same() -> None:
    wire = response(b"body", "X-A: 1", "x-a: 2", "Content-Type: text/plain; charset=latin-1")
    async with serve([wire]) as server, penstock.Client() as live:
        url = server.url
        dialog = await live.record("GET", url)
        answer = await live.get(url)
    async with client(dialog) as replayed:
        again = await replayed.get(url)
    assert (again.status, again.reason, again.headers.raw, await again.text()) == (
        answer.status,
        answer.reason,
        answer.headers.raw,
        await answer.text(),
    )


async def test_a_transport_that_answers_no_dialog_is_told_of() -> None:
    class Absent:
        async def answer(self, prolog: penstock.Prolog, /) -> Any:
            return None

    class Synchronous:
        def answer(self, prolog: penstock.Prolog, /) -> Any:
            return recorded(prolog.url)

    async def ask(transport: Any) -> None:
        async with penstock.Client(transport=transport) as client:
            await client.get("https://pot.test/")

    with pytest.raises(TypeError, match=r"transport=.*Absent.*: answer\(\) gave NoneType, not a Dialog"):
        await ask(Absent())
    with pytest.raises(TypeError, match=r"transport=.*Synchronous.*: answer\(\) gave Dialog, and isn't asynchronous"):
        await ask(Synchronous())


async def test_what_a_body_cut_short_is_told_by_is_in_no_cycle_with_it(tmp_path: Path) -> None:
    path = tmp_path / "body"
    path.write_bytes(LARGE)
    body = penstock.BodyImage.from_path(path)
    os.truncate(path, 10)

    async def read() -> weakref.ref[penstock.Truncated]:
        async with client(recorded("http://a/", body)) as replayed, replayed.stream("GET", "http://a/") as response:
            try:
                await response.read()
            except penstock.Truncated as error:
                return weakref.ref(error)
        raise AssertionError("nothing was wrong")

    with uncollected():
        failure = await read()
        await until(lambda: failure() is None)


async def test_a_replay_whose_archive_was_missing_is_used_on_another_loop_when_it_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.barc"

    async def ask() -> set[type]:
        async with penstock.Client(transport=replay) as replayed:
            asked = (replayed.get("http://a/") for _ in range(3))
            return {type(answer) for answer in await asyncio.gather(*asked, return_exceptions=True)}

    with contextlib.closing(penstock.Replay(path)) as replay:
        assert await asyncio.to_thread(asyncio.run, ask()) == {FileNotFoundError}
        async with barc.AsyncArchive(path, "a") as archive:
            await archive.append(recorded("http://a/"))
        assert await asyncio.to_thread(asyncio.run, ask()) == {penstock.Response}
