"""What a program can be told of while requests run: functions that are called on the loop's thread."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from penstock.http.marks import check_called
from penstock.http.request import Request
from penstock.http.response import Response
from penstock.http.stream import StreamedResponse

__all__ = ["Hooks"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Hooks:
    """Functions that are called at the stages of each request; `None` isn't called.

    They run on the loop's thread with the context variables of the request's task, aren't awaited, and are to be
    quick. What one raises is the request's error.

    Raises:
        TypeError: One can't be called, or would have to be awaited.
    """

    request: Callable[[Request], object] | None = None
    """A request is about to be sent, a redirected one too: its `method`, `url` and `fields`."""
    connected: Callable[[str, float], object] | None = None
    """A connection was made: to what, and the seconds that it took. Told to the request that asked for it."""
    head: Callable[[Request, int], object] | None = None
    """The head of the response is complete: its status."""
    spilled: Callable[[Request, int], object] | None = None
    """A response's body went to a file: its length in bytes."""
    done: Callable[[Response | StreamedResponse], object] | None = None
    """A response is complete, or the head of a stream."""
    failed: Callable[[Request, BaseException], object] | None = None
    """A request failed, or was cancelled; or reading the body of a stream failed."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_called(f"Hooks.{field.name}", getattr(self, field.name))
