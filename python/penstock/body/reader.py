"""A body as a raw binary file, for whatever reads files: json, csv, zipfile, an image library."""

from __future__ import annotations

import io
import operator
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.body.image import BodyImage

__all__ = ["ImageReader"]


class ImageReader(io.RawIOBase):
    """Reads a `BodyImage` from a position of its own. Closing it leaves the image as it is."""

    def __init__(self, image: BodyImage) -> None:
        self._image = image
        self._position = 0

    def _open(self) -> BodyImage:
        if self.closed:
            raise ValueError("I/O operation on closed file.")
        return self._image

    def readable(self) -> bool:
        self._open()
        return True

    def seekable(self) -> bool:
        self._open()
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._open().read_into(buffer, self._position)
        self._position += count
        return count

    def readall(self) -> bytes:
        image = self._open()
        rest = bytearray(max(0, len(image) - self._position))
        del rest[self.readinto(rest) :]
        return bytes(rest)

    def tell(self) -> int:
        self._open()
        return self._position

    def write(self, data: Any) -> int:
        self._open()
        raise io.UnsupportedOperation("write")

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        image = self._open()
        offset = operator.index(offset)
        if whence == os.SEEK_SET:
            position = offset
        elif whence == os.SEEK_CUR:
            position = self._position + offset
        elif whence == os.SEEK_END:
            position = len(image) + offset
        else:
            raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)")
        if position < 0:
            raise ValueError(f"negative seek position {position}")
        self._position = position
        return position

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"at {self._position}"
        return f"<ImageReader {state} of {self._image!r}>"
