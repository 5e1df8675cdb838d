"""Counting what is called."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

__all__ = ["Calls"]


class Calls:
    """Counts calls of penstock's Python functions, but those that the clock makes."""

    CLOCK = ("deadlines.py",)

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Calls:
        sys.setprofile(self._note)
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, arg: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and "penstock" in path.parent.parts[-2:] and path.name not in self.CLOCK:
            self.count += frame.f_code.co_name != "check"
