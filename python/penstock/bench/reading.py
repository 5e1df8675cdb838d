"""How a stored body is read: each variant hands every buffer of it to a `Take`, and all get the same one.

Within the timed part that is a `Summary` (length and greatest byte, as upstream does it), outside it a digest. The
variants decide how the buffers come to be; nothing here knows where they are from.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, TypeAlias

from penstock import _native

if TYPE_CHECKING:
    from typing_extensions import Buffer

PIECE = 64 * 1024

Take: TypeAlias = "Callable[[Buffer], object]"
"""Is given the buffers of one body, in order."""

Fetch: TypeAlias = "Callable[[str, Take], Awaitable[None]]"
"""Gets a URL, stores the body in the variant's way, hands it over from there, and drops it."""

Factory: TypeAlias = "Callable[..., AbstractAsyncContextManager[Fetch]]"
"""Opens a client with the options of a row."""


summary: "Callable[[Buffer], tuple[int, int]]" = _native.summarise
"""Length and greatest byte of a buffer, in one pass without the GIL."""


class Summary:
    """Length and greatest byte of a body that comes in several buffers."""

    __slots__ = ("greatest", "length")

    def __init__(self) -> None:
        self.length = 0
        self.greatest = 0

    def add(self, buffer: "Buffer") -> None:
        length, greatest = summary(buffer)
        self.length += length
        self.greatest = max(self.greatest, greatest)

    def check(self, size: int) -> None:
        """Raise unless the whole body was read: `size` bytes, of which the last, and it alone, is 0xFF."""
        if (self.length, self.greatest) != (size, 0xFF):
            raise ValueError(f"read {self.length} bytes up to {self.greatest:#x}; expected {size} up to 0xff")
