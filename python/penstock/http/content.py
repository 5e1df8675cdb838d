"""What a request sends after its head: bytes, images, both in turn, or pieces from an asynchronous iterable."""

from __future__ import annotations

import functools
import json as json_
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock._native import Image
from penstock.blocking.policy import Policy
from penstock.body.image import BodyImage
from penstock.headers import pairs_of
from penstock.http.url import encoded, utf8

__all__ = ["SMALL", "Content", "Files", "Opening", "Source", "encode", "piece_of"]

Buffer = bytes | bytearray | memoryview
Source = Buffer | str | Path | BodyImage | AsyncIterable[Buffer]
"""What `content=` takes: bytes, text (sent as UTF-8), a file's path, an image, or an asynchronous iterable of bytes."""

Part = str | Buffer | Path | BodyImage
File = Part | tuple[str | None, Part] | tuple[str | None, Part, str]
Files = Mapping[str, File] | Sequence[tuple[str, File]]
"""What `files=` takes: by field name a value, or a tuple of a file name, a value and, if you like, a content type."""

_BODIES = frozenset(("content", "json", "form", "files"))
"""The options that describe a body."""

Opening = functools.partial[Coroutine[Any, Any, "Content"]]
"""Opens the files of a body by a policy, which may be busy."""

_AS_IT_IS = json_.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)

SMALL = 64 << 10
"""Bytes that are sent together with the head."""


class Content:
    """A request's body."""

    __slots__ = ("begun", "kind", "length", "parts", "source")

    def __init__(self, parts: Sequence[bytes | BodyImage], kind: str | None) -> None:
        self.parts: Sequence[bytes | BodyImage] = parts
        self.source: AsyncIterable[Buffer] | None = None
        self.length: int | None = sum(map(len, parts))
        """Bytes; `None` says that it is sent in chunks."""
        self.kind: str | None = kind
        """Its content type."""
        self.begun: bool = False
        """Whether the source was asked for pieces."""

    @classmethod
    def streaming(cls, source: AsyncIterable[Buffer]) -> Content:
        """Pieces as they come."""
        content = cls((), None)
        content.source, content.length = source, None
        return content

    @property
    def kind_is_fixed(self) -> bool:
        """Whether its content type has what is needed to read it."""
        return self.kind is not None and self.kind.startswith("multipart/")

    @property
    def repeatable(self) -> bool:
        """Whether it can be sent from its start; an iterator that was begun is used up, and so is what can be read, as
        anyio's files and aiohttp's streams: each of its iterators goes on where the last one was."""
        used_up = isinstance(self.source, AsyncIterator) or hasattr(self.source, "read")
        return not (self.begun and used_up)

    @property
    def small(self) -> bytes | None:
        """All of it, if it is little and at hand."""
        if len(self.parts) == 1 and isinstance(part := self.parts[0], bytes) and len(part) <= SMALL:
            return part
        return None


def piece_of(piece: Buffer) -> bytes:
    """What a source gave, as it was then.

    Raises:
        TypeError: It isn't bytes.
    """
    if isinstance(piece, bytes):
        return piece
    try:
        # A copy, as what gave it may use it again.
        return bytes(memoryview(piece))
    except TypeError:
        raise TypeError(f"content= gave a piece that is {type(piece).__name__}: each is bytes") from None


def encode(options: Mapping[str, Any], policy: Policy) -> Content | Opening | None:
    """The body that the options of a request describe, or what is to be done for it.

    Raises:
        TypeError: More than one was given, or a value that can't be sent.
        ValueError: A text that isn't UTF-8.
    """
    given = [(name, value) for name, value in options.items() if name in _BODIES and value is not None]
    if not given:
        return None
    if len(given) > 1:
        raise TypeError(f"{' and '.join(sorted(name for name, _ in given))}: a request has one body")
    ((name, value),) = given
    if name == "json":
        return Content((_json(value),), "application/json")
    if name == "form":
        return Content((encoded(value, "form").encode(),), "application/x-www-form-urlencoded")
    if name == "files":
        return Opening(_multipart, value, policy)
    if isinstance(value, str):
        return Content((utf8(value, "content="),), "text/plain; charset=utf-8")
    if isinstance(value, AsyncIterable):
        return Content.streaming(value)
    if isinstance(value, Path):
        return Opening(_file_of, value, policy)
    return Content((_part(value, "content", policy),), None)


def _json(value: Any) -> bytes:
    try:
        return _AS_IT_IS.encode(value).encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair, as JSON may have it and UTF-8 may not (RFC 8259 section 8.2): escaped it can go.
        return json_.dumps(value, separators=(",", ":"), allow_nan=False).encode()


async def _file_of(path: Path, policy: Policy) -> Content:
    return Content((await _opened(path, policy),), None)


def _opened(path: Path, policy: Policy) -> Awaitable[BodyImage]:
    return policy.run(BodyImage.from_path, path, policy=policy)


def _part(value: object, what: str, policy: Policy) -> bytes | BodyImage:
    if isinstance(value, BodyImage | bytes):
        return value
    if isinstance(value, str):
        return utf8(value, f"{what}=")
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, Image):
        return BodyImage(value, policy)
    also = ""
    if what == "content":
        also = ", or an asynchronous iterable of bytes"
    elif isinstance(value, list):
        also = "; several of a name are pairs in a list, as files=[(name, one), (name, another)]"
    raise TypeError(f"{what}={type(value).__name__}: takes bytes, str, a pathlib.Path, a BodyImage{also}")


def _quoted(text: str) -> str:
    """A name in a part's head, as browsers write it (WHATWG HTML, multipart/form-data encoding algorithm)."""
    if not isinstance(text, str):
        raise TypeError(f"files: a name is a str, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError:
        # As the name of a file may be, in a system's own encoding.
        raise ValueError(f"files: the name {text!r} isn't UTF-8: give another, as a tuple of name and value") from None
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


async def _multipart(files: Files, policy: Policy) -> Content:
    """RFC 7578: form fields and files, each with a head of its own; its length is known."""
    if isinstance(files, str | bytes) or not isinstance(files, Iterable):
        raise TypeError(f"files={type(files).__name__}: takes a mapping or a list of names and values")
    boundary = secrets.token_hex(16)
    parts: list[bytes | BodyImage] = []
    for name, file in pairs_of(files, "files"):
        filename, value, kind = _file(name, file)
        head = f'--{boundary}\r\ncontent-disposition: form-data; name="{_quoted(name)}"'
        if filename is not None:
            head += f'; filename="{_quoted(filename)}"'
            kind = kind or "application/octet-stream"
        if kind is not None:
            if not isinstance(kind, str):
                raise TypeError(f"files[{name!r}]: a content type is a str, not {type(kind).__name__}")
            if not (kind.isascii() and kind.isprintable()):
                raise ValueError(f"files[{name!r}]: the content type {kind!r} isn't printable ASCII")
            head += f"\r\ncontent-type: {kind}"
        if isinstance(value, Path):
            part: bytes | BodyImage = await _opened(value, policy)
        else:
            part = _part(value, f"files[{name!r}]", policy)
        parts += [f"{head}\r\n\r\n".encode(), part, b"\r\n"]
    parts.append(f"--{boundary}--\r\n".encode())
    return Content(parts, f"multipart/form-data; boundary={boundary}")


def _file(name: str, file: File) -> tuple[str | None, object, str | None]:
    """File name, value, content type."""
    if isinstance(file, tuple):
        if len(file) not in (2, 3):
            raise TypeError(f"files[{name!r}]: a tuple of {len(file)}, not of a file name, a value and a content type")
        filename, value, *kind = file
        return filename, value, kind[0] if kind else None
    if isinstance(file, Path):
        return file.name, file, None
    # Text is a form's field; everything else is a file, and servers want a name for those.
    return (None if isinstance(file, str) else "file"), file, None
