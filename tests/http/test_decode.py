"""Coded responses: every coding in every framing to every store; what is cut, corrupt, unknown or too much."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import pickle
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import penstock
import pytest

from tests.coding import ENCODE, put_on
from tests.http.conftest import Storing
from tests.http.serving import CLOSE, HANG, TURN, Script, Server, chunked, cut, head, response, serve, until

pytestmark = pytest.mark.asyncio

WORDS = [random.Random(5).randbytes(random.Random(n).randrange(2, 9)).hex().encode() for n in range(400)]
TEXT = b" ".join(random.Random(7).choices(WORDS, k=30_000))
"""Some 300 KB, a third of that when coded."""

FRAMINGS = ("length", "chunked", "small chunks", "close")


def framed(raw: bytes, how: str, *fields: str) -> list[Any]:
    match how:
        case "length":
            return [response(raw, *fields)]
        case "chunked":
            return [head("Transfer-Encoding: chunked", *fields) + chunked(raw, 8192)]
        case "small chunks":
            return [head("Transfer-Encoding: chunked", *fields) + chunked(raw, 97)]
        case _:
            return [head("Connection: close", *fields) + raw, CLOSE]


@pytest.mark.parametrize("decode", [True, "after"])
@pytest.mark.parametrize("how", FRAMINGS)
async def test_a_coded_body_is_what_was_put_in(storing: Storing, how: str, decode: Any) -> None:
    cases = [(kind, name, text) for kind, (name, _) in ENCODE.items() for text in (TEXT, TEXT[:900])]
    scripts = [framed(put_on(text, kind), how, f"Content-Encoding: {name.upper()}") for kind, name, text in cases]
    async with serve(*scripts) as server, storing.client(decode=decode) as client:
        for kind, name, text in cases:
            answer = await client.get(server.url)
            assert await answer.read() == text, kind
            assert answer.decoded == (name,)
            assert answer.headers["content-encoding"] == name.upper()
            assert answer.body.state == storing.state(text)
        assert server.connections == (len(cases) if how == "close" else 1)


@pytest.mark.parametrize("kind", ENCODE)
async def test_wherever_it_is_cut_the_body_is_the_same(kind: str) -> None:
    name, _ = ENCODE[kind]
    text = TEXT[:60]
    wire = head("Transfer-Encoding: chunked", f"content-encoding: {name}") + chunked(put_on(text, kind), 23)
    scripts = [cut(wire, position) for position in range(1, len(wire))]
    scripts.append(cut(wire, *range(1, len(wire))))
    async with serve(*scripts) as server, penstock.Client() as client:
        for script in scripts:
            answer = await client.get(server.url)
            assert await answer.read() == text, script
        assert server.connections == 1


@pytest.mark.parametrize("decode", [True, "after"])
async def test_up_to_four_codings_on_each_other_and_a_transfer_coding(storing: Storing, decode: Any) -> None:
    raw = put_on(TEXT, "br", "gzip", "zstd", "gzip")
    fields = ["Content-Encoding: br, GZIP", "Content-Encoding: identity, zstd", "Transfer-Encoding: gzip, chunked"]
    async with serve([head(*fields) + chunked(raw, 5000)]) as server, storing.client(decode=decode) as client:
        answer = await client.get(server.url)
        assert await answer.read() == TEXT
        assert answer.decoded == ("br", "gzip", "zstd", "gzip")


async def test_five_codings_are_refused() -> None:
    async with serve([response(b"x", "Content-Encoding: br, br, br, br, br")]) as server, penstock.Client() as client:
        with pytest.raises(penstock.UnsupportedEncoding, match="5 codings on one body are over the limit of 4"):
            await client.get(server.url)


@pytest.mark.parametrize("coding", ["compress", "x-compress", "gzip;q=1", "chunked", "gzip\u00e9"])
async def test_an_unknown_coding_is_refused_or_left_on(coding: str) -> None:
    script: Script = [response(b"whatever", f"Content-Encoding: {coding}")]
    async with serve(script) as server, penstock.Client() as client:
        for decode in (True, "after"):
            with pytest.raises(penstock.UnsupportedEncoding, match="decode=False leaves it on the body") as caught:
                await client.get(server.url, decode=decode)
            assert caught.value.coding == coding.encode("latin-1").decode("ascii", "backslashreplace")
            assert caught.value.url == server.url
        answer = await client.get(server.url, decode=False)
        assert (await answer.read(), answer.decoded) == (b"whatever", ())
    script = [head("Transfer-Encoding: compress, chunked") + chunked(b"whatever", 3)]
    async with serve(script) as server, penstock.Client() as client:
        with pytest.raises(penstock.UnsupportedEncoding, match="compress"):
            await client.get(server.url)
        assert await (await client.get(server.url, decode=False)).read() == b"whatever"


async def test_what_is_asked_for_is_what_is_taken_off() -> None:
    def asked(server: Server) -> list[bytes]:
        return [line for line in server.requests[-1].lower().split(b"\r\n") if line.startswith(b"accept-encoding")]

    all_of_them = [b"accept-encoding: gzip, deflate, br, zstd"]
    async with serve([response(b"")]) as server, penstock.Client() as client:
        await client.get(server.url)
        assert asked(server) == all_of_them
        await client.get(server.url, decode="after")
        assert asked(server) == all_of_them
        await client.get(server.url, decode=False)
        assert asked(server) == []
        await client.get(server.url, headers={"Accept-Encoding": "br"})
        assert asked(server) == [b"accept-encoding: br"]
    async with serve([response(b"")]) as server, penstock.Client(decode=False) as client:
        await client.get(server.url)
        assert asked(server) == []
        await client.get(server.url, decode=True)
        assert asked(server) == all_of_them


@pytest.mark.parametrize("decode", [1, "before", None])
async def test_decode_is_one_of_three(decode: Any) -> None:
    with pytest.raises(ValueError, match="decode="):
        penstock.Client(decode=decode)


@pytest.mark.parametrize("decode", [True, "after"])
@pytest.mark.parametrize("how", FRAMINGS)
async def test_a_cut_coded_body_is_an_error_with_what_came(storing: Storing, how: str, decode: Any) -> None:
    for kind, (name, _) in ENCODE.items():
        whole = put_on(TEXT, kind)
        raw = whole[: len(whole) * 3 // 4]
        async with serve(framed(raw, how, f"content-encoding: {name}")) as server, storing.client() as client:
            with pytest.raises(penstock.Truncated, match=f"{name} data is cut") as caught:
                await client.get(server.url, decode=decode)
            assert (caught.value.received, caught.value.expected) == (len(raw), None)
            partial = await caught.value.partial.read()
            if decode == "after":
                assert partial == raw
            else:
                assert TEXT.startswith(partial)
                assert len(partial) > len(TEXT) // 3
            if decode is True:
                await until(lambda: client.stats()["open"] == 0)


async def test_a_body_cut_by_the_framing_has_what_could_be_decoded(storing: Storing) -> None:
    for kind, (name, _) in ENCODE.items():
        raw = put_on(TEXT, kind)
        wire = response(raw, f"content-encoding: {name}")[: -len(raw) // 4]
        async with serve([wire, CLOSE]) as server, storing.client() as client:
            with pytest.raises(penstock.Truncated) as caught:
                await client.get(server.url)
            partial = await caught.value.partial.read()
            assert TEXT.startswith(partial)


async def test_a_corrupt_body_says_which_coding_and_where(storing: Storing) -> None:
    for kind, (name, _) in ENCODE.items():
        raw = put_on(TEXT, kind) + b"junk"
        async with serve(framed(raw, "length", f"content-encoding: {name}")) as server, storing.client() as client:
            with pytest.raises(penstock.DecodeError, match=f"not valid {name}: .* \\(at byte ") as caught:
                await client.get(server.url)
            error = caught.value
            assert (error.coding, error.url) == (name, server.url)
            assert len(raw) - 4 <= error.at <= len(raw)
            assert await error.partial.read() == TEXT
            again = pickle.loads(await penstock.run_blocking(pickle.dumps, error))
            assert (str(again), again.at) == (str(error), error.at)


@pytest.mark.parametrize("fields", [("content-encoding: gzip",), ("content-encoding: br, zstd",)])
async def test_a_response_without_a_body_has_nothing_to_decode(fields: tuple[str, ...]) -> None:
    scripts: list[Script] = [
        [head(*fields, status="304 Not Modified")],
        [head(*fields, status="204 No Content")],
        [head("Content-Length: 0", *fields)],
        [head("Transfer-Encoding: chunked", *fields) + chunked(b"", 1)],
    ]
    async with serve(*scripts, [head("Content-Length: 5", *fields)]) as server, penstock.Client() as client:
        for _ in scripts:
            answer = await client.get(server.url)
            assert (await answer.read(), answer.decoded) == (b"", ())
        assert (await client.head(server.url)).decoded == ()
        assert server.connections == 1


async def test_nothing_until_the_connection_ends_was_cut() -> None:
    script: Script = [head("Connection: close", "Content-Encoding: gzip"), CLOSE]
    async with serve(script) as server, penstock.Client() as client:
        with pytest.raises(penstock.Truncated, match="gzip data is cut"):
            await client.get(server.url)


@pytest.mark.parametrize("decode", [True, "after"])
@pytest.mark.parametrize("how", FRAMINGS)
async def test_a_decoded_body_is_as_long_as_max_body_or_an_error(storing: Storing, how: str, decode: Any) -> None:
    for kind, (name, _) in ENCODE.items():
        script = framed(put_on(TEXT, kind), how, f"content-encoding: {name}")
        async with serve(script) as server, storing.client(decode=decode) as client:
            fits = client_tunables(storing, max_body=len(TEXT))
            assert len((await client.get(server.url, tunables=fits)).body) == len(TEXT)
            with pytest.raises(penstock.DecodedTooLong, match=r"Tunables\.max_body") as caught:
                await client.get(server.url, tunables=client_tunables(storing, max_body=len(TEXT) - 1))
            assert (caught.value.seen, caught.value.limit) == (len(TEXT), len(TEXT) - 1)
            if decode is True:
                assert await caught.value.partial.read() == TEXT[:-1]


def client_tunables(storing: Storing, **changes: Any) -> penstock.Tunables:
    if changes["max_body"] < storing.tunables.max_body_ram:
        changes["max_body_ram"] = changes["max_body"]
    return storing.tunables.replace(**changes)


async def test_a_ratio_can_be_bounded() -> None:
    zeros = bytes(1 << 20)
    tunables = penstock.Tunables(max_ratio=20)
    scripts = [framed(put_on(text, "gzip"), "length", "content-encoding: gzip") for text in (TEXT, zeros)]
    async with serve(*scripts) as server, penstock.Client(tunables=tunables) as client:
        assert len((await client.get(server.url)).body) == len(TEXT)
        with pytest.raises(penstock.DecodedTooLong, match=r"Tunables\.max_ratio"):
            await client.get(server.url)


async def test_digests_are_of_what_came_out(storing: Storing) -> None:
    raw = put_on(TEXT, "zstd")
    tunables = storing.tunables.replace(digests=("sha256",))
    async with serve(framed(raw, "chunked", "content-encoding: zstd")) as server, storing.client() as client:
        for decode, text in ((True, TEXT), ("after", TEXT), (False, raw)):
            answer = await client.get(server.url, decode=decode, tunables=tunables)  # type: ignore[arg-type]
            assert answer.body.digests == {"sha256": hashlib.sha256(text).hexdigest()}


async def test_a_length_over_max_body_is_refused_before_the_body_is_read() -> None:
    tunables = penstock.Tunables(max_body=1000)
    script: Script = [head("Content-Length: 1001", "Content-Encoding: gzip"), HANG]
    async with serve(script) as server, penstock.Client(tunables=tunables) as client:
        with pytest.raises(penstock.ContentLengthTooLong):
            await client.get(server.url)


async def test_while_a_slow_disk_holds_up_decoding_the_server_waits(
    file_storing: Storing, slow_disk: Callable[[float], None]
) -> None:
    # What can be ahead of the disk is bounded: the socket's buffers, and a megabyte or two here.
    noise = random.Random(3).randbytes(16 << 20)
    raw = put_on(noise, "gzip")
    slow_disk(0.03)
    async with serve(framed(raw, "length", "content-encoding: gzip")) as server, file_storing.client() as client:
        getting = asyncio.ensure_future(client.get(server.url))
        await asyncio.sleep(0.1)
        assert server.sent < len(raw)
        slow_disk(0)
        assert await (await getting).read() == noise


@pytest.mark.parametrize("turns", [1, 3, 10, 30])
async def test_cancelled_while_it_decodes_nothing_is_left(storing: Storing, turns: int) -> None:
    raw = put_on(TEXT * 8, "gzip")
    script = cut(response(raw, "content-encoding: gzip"), 50_000, 300_000)
    async with serve(script) as server, storing.client() as client:
        for decode in (True, "after"):
            getting = asyncio.ensure_future(client.get(server.url, decode=decode))
            for _ in range(turns):
                await asyncio.sleep(0)
            getting.cancel()
            await asyncio.wait([getting])
        answer = await client.get(server.url)
        assert await answer.read() == TEXT * 8


@contextlib.asynccontextmanager
async def without_room(storing: Storing, **options: Any) -> AsyncIterator[Any]:
    """A request whose coded body has come, with no descriptor for the decoded one; its client, and what frees one."""
    budget = penstock.Budget(files=2)
    with penstock.BodySink(storing.tunables, budget=budget) as kept:
        await penstock.run_blocking(kept.write, b"x")
        await penstock.run_blocking(kept.write_back)
        script = framed(put_on(TEXT, "zstd"), "length", "content-encoding: zstd")
        async with serve(script) as server, storing.client(budget=budget, decode="after", **options) as client:
            asking = asyncio.create_task(client.get(server.url))
            await until(lambda: client.stats()["idle"] == 1)
            await asyncio.sleep(0.05)
            yield asking, client, kept.close


async def test_decoding_after_waits_for_budget(storing_by: Callable[[str], Storing]) -> None:
    async with without_room(storing_by("windows")) as (asking, _, free):
        assert not asking.done()
        free()
        assert await (await asking).read() == TEXT


async def test_decoding_after_waits_for_budget_no_longer_than_it_may(storing_by: Callable[[str], Storing]) -> None:
    timeout = penstock.Timeouts(budget=0.2)
    async with without_room(storing_by("windows"), timeout=timeout) as (asking, _, _):
        with pytest.raises(penstock.BudgetExceeded, match=r"Budget\.files"):
            await asking


async def test_decoding_after_ends_with_the_total_time(storing_by: Callable[[str], Storing]) -> None:
    timeout = penstock.Timeouts(total=2)
    async with without_room(storing_by("windows"), timeout=timeout) as (asking, _, _):
        with pytest.raises(penstock.TotalTimeout, match=r"no decoded body within 2 s \(Timeouts\.total\)") as caught:
            await asking
        assert await caught.value.partial.read() == put_on(TEXT, "zstd")


async def test_decoding_after_ends_with_the_client(storing_by: Callable[[str], Storing]) -> None:
    async with without_room(storing_by("windows")) as (asking, client, _):
        await client.aclose()
        with pytest.raises(penstock.ClientClosed):
            await asking


async def test_many_bodies_are_decoded_at_once(storing: Storing) -> None:
    scripts = [
        [TURN, *framed(put_on(TEXT, kind), how, f"content-encoding: {name}")]
        for kind, (name, _) in ENCODE.items()
        for how in ("length", "chunked")
    ]
    async with serve(*scripts, *scripts) as server, storing.client() as client:
        answers = await asyncio.gather(*(client.get(server.url) for _ in range(2 * len(scripts))))
        for answer in answers:
            assert await answer.read() == TEXT


async def test_decoders_are_as_many_as_processors_and_step_back_for_the_loop(
    storing_by: Callable[[str], Storing],
) -> None:
    windows = storing_by("windows")
    tunables = penstock.Tunables(max_body_ram="1GiB")
    script = framed(put_on(TEXT * 8, "gzip"), "length", "content-encoding: gzip")
    async with serve(script) as server, windows.client(tunables=tunables) as client:
        taken = windows.pool.stats()["taken"]
        answers = await asyncio.gather(*(client.get(server.url) for _ in range(8)))
        assert {len(answer.body) for answer in answers} == {8 * len(TEXT)}
        # Only what may wait for a disk is the pool's.
        assert windows.pool.stats()["taken"] == taken
        assert windows.policy.stats()["count"] >= 8
    cpus = min(len(os.sched_getaffinity(0)), 64)
    decoders = [task for task in Path("/proc/self/task").iterdir() if name(task) == "penstock-decode"]
    assert 1 <= len(decoders) <= cpus
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert {os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in decoders} == {min(own + 10, 19)}


async def test_a_page_is_decoded_on_the_loop_and_of_br_only_a_small_one(storing_by: Callable[[str], Storing]) -> None:
    windows = storing_by("windows")
    tunables = penstock.Tunables(max_body_ram="1GiB")
    cases = [("gzip", 60_000, 0), ("br", 8000, 0), ("br", 60_000, 1)]
    scripts = [framed(put_on(TEXT[:size], name), "length", f"content-encoding: {name}") for name, size, _ in cases]
    async with serve(*scripts) as server, windows.client(tunables=tunables) as client:
        for name, size, jobs in cases:
            before = windows.policy.stats()["count"]
            assert await (await client.get(server.url)).read() == TEXT[:size]
            assert windows.policy.stats()["count"] - before == jobs, (name, size)


def name(task: Path) -> str:
    return (task / "comm").read_text().strip()


async def test_what_is_decoded_into_files_is_the_policys(storing_by: Callable[[str], Storing]) -> None:
    windows = storing_by("windows")
    script = framed(put_on(TEXT * 8, "gzip"), "length", "content-encoding: gzip")
    async with serve(script) as server, windows.client() as client:
        taken = windows.pool.stats()["taken"]
        assert await (await client.get(server.url)).read() == TEXT * 8
        assert windows.pool.stats()["taken"] > taken


async def test_what_is_decoded_after_is_one_step_on_the_pool(storing_by: Callable[[str], Storing]) -> None:
    windows = storing_by("windows")
    tunables = penstock.Tunables(max_body_ram="1GiB")
    script = framed(put_on(TEXT * 8, "gzip"), "length", "content-encoding: gzip")
    async with serve(script) as server, windows.client(tunables=tunables, decode="after") as client:
        taken = windows.pool.stats()["taken"]
        for times in (1, 2):
            answer = await client.get(server.url)
            assert (len(answer.body), answer.body.state) == (8 * len(TEXT), "ram")
            assert windows.pool.stats()["taken"] == taken + times
