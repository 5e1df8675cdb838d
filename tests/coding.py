"""Codings put on by other libraries than the one under test."""

from __future__ import annotations

import functools
import gzip
import zlib
from collections.abc import Callable

import brotli
import zstandard

__all__ = ["ENCODE", "put_on"]


def raw_deflate(body: bytes) -> bytes:
    encoder = zlib.compressobj(wbits=-15)
    return encoder.compress(body) + encoder.flush()


def in_members(body: bytes) -> bytes:
    half = len(body) // 2
    return b"".join(gzip.compress(part) for part in (body[:half], b"", body[half:]))


ENCODE: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "gzip members": ("gzip", in_members),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "br": ("br", lambda body: brotli.compress(body, quality=5)),
    "zstd": ("zstd", lambda body: zstandard.compress(body, 3)),
}
"""What a header calls it, and what puts it on."""


@functools.lru_cache(maxsize=32)
def put_on(body: bytes, *codings: str) -> bytes:
    """The same again for who asks again: tests do, once a store and loop, and coding takes longer than the test."""
    for coding in codings:
        body = ENCODE[coding][1](body)
    return body
