"""How far a command is, on a terminal's standard error. Only what shows it imports rich."""

from __future__ import annotations

import datetime
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from penstock.cli.common import counted, human

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

__all__ = ["Progress"]


class Progress:
    """How many of what, how many bytes, at which rate, and how long it will still take; for `with`.

    Args:
        unit: What is counted, "record" for example.
        total: How many there will be, or, `by_size`, how many bytes; `None` if nobody knows, which leaves out what it
            still takes.
        quiet: Show nothing; nor is anything shown where standard error is no terminal.
    """

    def __init__(self, unit: str, total: int | None = None, *, by_size: bool = False, quiet: bool = False) -> None:
        self.count = 0
        self.size = 0
        self._unit = unit
        self._by_size = by_size
        self._short = False
        """Whether what is measured by its size has ended without all of it."""
        self._began = time.monotonic()
        self._bar = None if quiet or not sys.stderr.isatty() else self._make()
        if self._bar is not None:
            self._task = self._bar.add_task("", total=total, state=self)

    @staticmethod
    def _make() -> Bar:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        return Progress(
            BarColumn(bar_width=30),
            # Formatted when it is drawn, not when something was added.
            TextColumn("{task.fields[state]}"),
            # Lines above it are broken by the terminal: with line ends of ours no URL could be copied.
            console=Console(stderr=True, soft_wrap=True),
            # Lines for a terminal go above the bar; those for a file must not go to standard error.
            redirect_stdout=sys.stdout.isatty(),
        )

    def expect_size(self, size: int) -> None:
        """Says how many bytes there will be, when that is known later; 0 if it isn't."""
        if self._bar is not None and self._by_size and size:
            self._bar.update(self._task, total=size)

    def add(self, count: int = 0, size: int = 0) -> None:
        """So many more are done, or so many more bytes."""
        self.count += count
        self.size += size
        if self._bar is not None:
            self._bar.advance(self._task, size if self._by_size else count)

    def skip(self) -> None:
        """One less is to come, without being counted; or, `by_size`, no more of what there is."""
        self._short = self._by_size
        if self._bar is not None and not self._by_size:
            self._bar.advance(self._task)

    def __str__(self) -> str:
        rate = self.size / max(time.monotonic() - self._began, 0.001)
        done = f"{counted(self.count, self._unit)}, {human(self.size)}, {human(rate)}/s"
        left = None if self._bar is None or self._short else self._bar.tasks[0].time_remaining
        return done if left is None else f"{done}, ETA {datetime.timedelta(seconds=round(left))}"

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
            # It hides the cursor, and what is stopped by Ctrl-Z or ends by a signal couldn't show it again.
            self._bar.console.show_cursor(True)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            if exc is None and not self._short:
                # Also where nobody knew how much there would be, or where not all of it was asked for.
                self._bar.update(self._task, total=self._bar.tasks[0].completed)
            self._bar.stop()
