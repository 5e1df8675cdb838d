"""However a response is cut on its way, the answer is the same: every position, and byte by byte."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.http.conftest import Storing
from tests.http.serving import CLOSE, Script, chunked, cut, head, response, serve

pytestmark = pytest.mark.asyncio

TEXT = b"The quick brown fox"


class Case:
    """A response on the wire, and what it says."""

    def __init__(self, wire: bytes, body: bytes = b"", *, closes: bool = False, **expected: Any) -> None:
        self.wire = wire
        self.body = body
        self.closes = closes
        self.status = expected.get("status", 200)
        self.trailers = expected.get("trailers", ())
        self.method = expected.get("method", "GET")


CASES = {
    "length": Case(response(TEXT), TEXT),
    "no bytes": Case(response(b"")),
    "chunked": Case(
        head("Transfer-Encoding: chunked")
        + chunked(TEXT, 7, extension=';a="b;\\"c"; d', trailers=["X-Sum: 1", "Y: 2"]),
        TEXT,
        trailers=((b"X-Sum", b"1"), (b"Y", b"2")),
    ),
    "chunked, equal chunks": Case(head("Transfer-Encoding: chunked") + chunked(TEXT * 2, 2), TEXT * 2),
    "chunked, no bytes": Case(head("Transfer-Encoding: chunked") + chunked(b"", 1)),
    "until the end": Case(head("Connection: close") + TEXT, TEXT, closes=True),
    "until the end, HTTP/1.0": Case(head(version="HTTP/1.0") + TEXT, TEXT, closes=True),
    "HEAD": Case(head("Content-Length: 19"), method="HEAD"),
    "204": Case(head(status="204 No Content"), status=204),
    "304": Case(head("Content-Length: 19", status="304 Not Modified"), status=304),
    "after informational heads": Case(
        head("Link: </a>", status="103 Early Hints") + head(status="100 Continue") + response(TEXT), TEXT
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def cuts(case: Case) -> Iterator[list[Any]]:
    end = [CLOSE] if case.closes else []
    for position in range(1, len(case.wire)):
        yield cut(case.wire, position) + end
    yield cut(case.wire, *range(1, len(case.wire))) + end
    yield [case.wire, *end]


async def test_every_cut_gives_the_same_answer(storing: Storing, case: Case) -> None:
    scripts: list[Script] = list(cuts(case))
    async with serve(*scripts) as server, storing.client() as client:
        for _ in scripts:
            answer = await client.request(case.method, server.url)
            assert (answer.status, answer.trailers) == (case.status, case.trailers)
            assert await answer.read() == case.body
            assert answer.body.state == storing.state(case.body)
        assert server.connections == (len(scripts) if case.closes else 1)
        assert client.stats()["connected"] == server.connections


BIG = bytes(i * 7 & 255 for i in range(300_001))


@pytest.mark.parametrize("framing", ["length", "chunked 5", "chunked 8192", "until the end"])
async def test_large_bodies_cut_anywhere_come_whole(storing: Storing, framing: str) -> None:
    kind, _, size = framing.partition(" ")
    end: list[Any] = []
    if kind == "length":
        wire = response(BIG)
    elif kind == "chunked":
        wire = head("Transfer-Encoding: chunked") + chunked(BIG, int(size))
    else:
        wire, end = head("Connection: close") + BIG, [CLOSE]
    # Around the sizes at which memory changes hands, and a piece at a time.
    edges = [1, 40, 4095, 32_767, 65_536, 65_600, 262_143, 262_144, 262_250, len(wire) - 1]
    scripts: list[Script] = [[*cut(wire, edge), *end] for edge in edges]
    scripts.append([*cut(wire, *edges), *end])
    scripts.append([*cut(wire, *range(9973, len(wire), 9973)), *end])
    async with serve(*scripts) as server, storing.client() as client:
        for _ in scripts:
            answer = await client.get(server.url)
            assert await answer.read() == BIG
            assert answer.body.state == storing.state(BIG)


@pytest.mark.parametrize("most", [1, 999, 1000, 1001])
async def test_a_body_moves_to_a_file_where_it_grows_over_the_limit(
    storing_by: Callable[[str], Storing], most: int
) -> None:
    body = BIG[:1000]
    wire = head("Transfer-Encoding: chunked") + chunked(body, 100)
    for name in ("direct", "permit", "windows", "drained"):
        storing = storing_by(name)
        tunables = storing.tunables.replace(max_body_ram=most, digests=("sha256",))
        scripts = [cut(wire, at) for at in (40, 60, 500, 990)]
        async with serve(*scripts) as server, storing.client(tunables=tunables) as client:
            for _ in scripts:
                answer = await client.get(server.url)
                assert await answer.read() == body
                assert answer.body.state == ("ram" if len(body) <= most else "file")
                assert answer.body.digests == {"sha256": hashlib.sha256(body).hexdigest()}
