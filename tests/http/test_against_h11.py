"""Framing against a second opinion: no bytes that h11 reads as two messages are read as one, nor the reverse; and what
they are read as doesn't depend on how they are cut."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.http.reading import by_h11, by_penstock, disagreement, first_of

CORPUS: dict[str, bytes] = {
    name: wire.encode("latin-1")
    for name, wire in json.loads((Path(__file__).parents[1] / "data/responses.json").read_text()).items()
}

NIGHTLY = "PENSTOCK_NIGHTLY" in os.environ
INPUTS = 1_000_000 if NIGHTLY else 10_000
AT_ONCE = 20
"""Inputs made from what hypothesis draws once: drawing costs more than reading."""

TOKENS = [
    *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 103 E\r\n", b"HTTP/1.1 204 N\r\n"),
    *(b"content-length: 5\r\n", b"Content-Length: ", b"transfer-encoding: chunked\r\n", b"Transfer-Encoding: "),
    *(b"chunked", b"gzip", b"identity", b"connection: close\r\n", b"connection: keep-alive\r\n", b"a: b\r\n"),
    *(b"hello", b"0\r\n\r\n", b"5\r\nhello\r\n", b"ffffffffffffffff", b"0x", b"\r\n", b"\r\n\r\n", b"\r", b"\n"),
    *(bytes([byte]) for byte in b'a: \t;="\\,015f_+-\0\x0b\x7f\xe9'),
]

LENIENT = [
    # RFC 9112 section 2.2: a reader should pass over a blank line before a message.
    r"^no response line received",
    # Section 7.1.1: blanks before a chunk extension are bad but allowed.
    r"^illegal chunk header: bytearray\(b[\"'][0-9a-fA-F]+[ \\t]+;",
    # Section 6.1: the codings are for whoever decodes; what matters is that chunked is the last.
    r"^Only Transfer-Encoding: chunked is supported",
    # Section 9.3: a server of version 1.0 may say that it keeps the connection open.
    r"^HTTP/1\.0$",
]
"""What h11 refuses and penstock doesn't, by h11's words."""


def mutated(chance: random.Random) -> bytes:
    """One of the corpus, or two, with a few things wrong."""
    wire = bytearray(chance.choice(WIRES))
    if chance.random() < 0.1:
        wire += chance.choice(WIRES)
    for _ in range(chance.randrange(5)):
        at = chance.randrange(len(wire) + 1)
        match chance.randrange(6):
            case 0:
                wire[at:at] = chance.choice(TOKENS)
            case 1:
                del wire[at : at + chance.randrange(1, 5)]
            case 2:
                wire[at:at] = wire[at : at + chance.randrange(1, 40)]
            case 3:
                wire[at : at + 1] = chance.randbytes(1)
            case 4:
                token = chance.choice(TOKENS)
                wire[at : at + len(token)] = token
            case _:
                other = chance.choice(WIRES)
                start = chance.randrange(len(other) + 1)
                wire[at:] = other[start:]
    return bytes(wire)


WIRES = list(CORPUS.values())


def check(wire: bytes, method: str, cuts: list[list[int]]) -> None:
    ours = by_penstock(wire, method)
    assert disagreement(ours, by_h11(wire, method), LENIENT) is None, wire
    single = first_of(wire, range(1, len(wire)), method)
    for places in cuts:
        assert first_of(wire, places, method) == single, (wire, places)
    if ours.messages:
        first = ours.messages[0]
        assert single == ("done", first.status, first.body, first.end < len(wire)), wire


@pytest.mark.parametrize("name", CORPUS)
def test_the_corpus_is_read_as_h11_reads_it_or_refused_in_one_piece_and_at_every_cut(name: str) -> None:
    wire = CORPUS[name]
    for method in ("GET", "HEAD"):
        check(wire, method, [[], *([position] for position in range(len(wire)))])


@pytest.mark.slow
@pytest.mark.timeout(3600 if NIGHTLY else 120)
@settings(
    max_examples=INPUTS // AT_ONCE,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
@given(st.integers(0, (1 << 64) - 1), st.sampled_from(["GET", "GET", "HEAD"]))
def test_whatever_is_wrong_with_a_message_h11_reads_it_the_same_or_it_is_refused(seed: int, method: str) -> None:
    chance = random.Random(seed)
    for _ in range(AT_ONCE):
        wire = mutated(chance)
        check(wire, method, [[], [chance.randrange(len(wire) + 1)]])


@given(st.lists(st.sampled_from(TOKENS), max_size=24), st.sampled_from(["GET", "HEAD"]))
@settings(max_examples=300, deadline=None)
def test_words_of_the_protocol_in_any_order_are_read_as_h11_reads_them_or_refused(
    words: list[bytes], method: str
) -> None:
    for start in (b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"):
        check(start + b"".join(words), method, [[]])
