"""Which codec a text is read by."""

from __future__ import annotations

import codecs
import encodings
from collections.abc import Mapping
from email.message import Message

__all__ = ["Decoder", "charset_of"]

LONGEST = 1024
"""Characters of a content type that are looked at: `email` takes the square of them."""

UNFIT = frozenset(("idna", "punycode", "raw-unicode-escape", "unicode-escape", "utf-7"))
"""Codecs of text that are no charsets of the web's, most of which take the square of the length."""


def charset_of(fields: Mapping[str, str]) -> str | None:
    """The charset of the content type, UTF-8 if it names none; `None` if no text can be read by it."""
    message = Message()
    message["content-type"] = text = fields.get("content-type", "")[:LONGEST]
    try:
        charset = message.get_content_charset("utf-8")
        codec = codecs.lookup(charset)
        # Codecs that aren't of text, compression among them, refuse this.
        b"?".decode(charset, "replace")
    except (LookupError, TypeError, ValueError):
        _forget_unknown()
        return None
    if "*" in text:
        # By RFC 2231 the name itself may be in a charset, which `email` has looked up.
        _forget_unknown()
    return charset if codec.incrementaldecoder is not None and codec.name not in UNFIT else None


def _forget_unknown() -> None:
    """Python remembers for ever which names no codec has, and servers may make up any number of them."""
    names = getattr(encodings, "_cache", {})
    for name in [name for name, found in list(names.items()) if found is None]:
        names.pop(name, None)


class Decoder:
    """Makes text of bytes that come in pieces. What can't be decoded is replaced."""

    def __init__(self, charset: str) -> None:
        self._charset = charset
        self._decoder = codecs.getincrementaldecoder(charset)("replace")

    def decode(self, piece: bytes, final: bool = False) -> str:
        try:
            return self._decoder.decode(piece, final)
        except UnicodeError:
            # What some codecs refuse in a stream, and take at once.
            piece = self._decoder.getstate()[0] + piece
        if (name := codecs.lookup(self._charset).name) in ("utf-16", "utf-32"):
            # Without a mark it is little-endian (WHATWG Encoding, section 4.2).
            self._decoder = codecs.getincrementaldecoder(f"{name}-le")("replace")
            return self._decoder.decode(piece, final)
        # Escape sequences of ISO 2022 that don't end.
        self._decoder.reset()
        return piece.decode(self._charset, "replace")
