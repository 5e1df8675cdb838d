"""One line on stderr that says how far a long run is; nothing where stderr isn't a terminal."""

import sys
import time

CLEAR = "\r\x1b[K"


class Progress:
    """Told by the driver where it is, and works out what is left."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self.expect(0)

    def say(self, text: str) -> None:
        if self._shown:
            print(f"{CLEAR}{text}", end="", file=sys.stderr, flush=True)

    def expect(self, steps: int) -> None:
        """So many steps are to come."""
        self._steps = steps
        self._done = 0
        self._start = time.monotonic()

    def step(self, text: str) -> None:
        """The next step begins."""
        left = (time.monotonic() - self._start) * (self._steps / self._done - 1) if self._done else 0
        self.say(f"{self._done / self._steps:4.0%}, {left:.0f} s left: {text}")
        self._done += 1

    def end(self) -> None:
        self.say("")
