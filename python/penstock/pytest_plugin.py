"""`penstock_replay`, a fixture for pytest, which finds it by itself where penstock is installed.

What answers is imported when a test asks for it.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator

import pytest

import penstock

__all__ = ["Replayed", "penstock_replay"]


class Replayed:
    """Recorded dialogs, for the test that asked for them."""

    def __init__(
        self, source: penstock.replay.Source, key: penstock.replay.Key | None, stack: contextlib.ExitStack
    ) -> None:
        # A generator gives its dialogs once.
        self._source = source if isinstance(source, str | os.PathLike) else tuple(source)
        self._key = key
        self._stack = stack

    @functools.cached_property
    def transport(self) -> penstock.Replay:
        """For `penstock.Client(transport=...)`: no socket. Closed when the test ends."""
        from penstock.replay import Replay

        transport = Replay(self._source, key=self._key)
        self._stack.callback(transport.close)
        return transport

    @functools.cached_property
    def server(self) -> penstock.replay.ReplayServer:
        """A server on a thread of its own, started when it is first asked for, until the test ends."""
        from penstock.replay import serving

        return self._stack.enter_context(serving(self._source, key=self._key))

    @property
    def url(self) -> str:
        """The server's, `http://127.0.0.1:port`, for any client."""
        return self.server.url


@pytest.fixture
def penstock_replay() -> Iterator[Callable[..., Replayed]]:
    """Gives `penstock_replay(source, key=None)`: recorded answers in place of servers, by `.transport` or at `.url`.

    `source` is an archive's path, or dialogs; `key` is what requests are compared by, see `penstock.Replay`.
    """
    with contextlib.ExitStack() as stack:

        def replay(source: penstock.replay.Source, *, key: penstock.replay.Key | None = None) -> Replayed:
            return Replayed(source, key, stack)

        yield replay
