"""One line on stderr that says how far a long run is; nothing where stderr isn't a terminal."""

import sys
import time

CLEAR = "\r\x1b[K"


class Progress:
    """Told by the driver where it is, and works out what is left."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._start: float | None = None

    def say(self, text: str) -> None:
        if self._shown:
            print(f"{CLEAR}{text}", end="", file=sys.stderr, flush=True)

    def at(self, share: float, text: str) -> None:
        """`share` of the work, from 0 to 1, is done."""
        now = time.monotonic()
        self._start = self._start or now
        left = f", {(now - self._start) * (1 / share - 1):.0f} s left" if share > 0 else ""
        self.say(f"{share:4.0%}{left}  {text}")

    def end(self) -> None:
        self.say("")
