"""The `penstock` command. It needs the extra `cli`; nothing else of the package imports what is here."""

import codecs
import io
import os
import select
import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

__all__ = ["main"]

NEEDED = ("click", "rich")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` by default, and return its exit status."""
    _open_streams()
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        # Not the extra: penstock isn't on PyPI, and whatever is there by its name is somebody else's.
        print(f"penstock: {' and '.join(missing)} missing: pip install {' '.join(missing)}", file=sys.stderr)
        return 2
    try:
        from penstock.cli import app

        status = app.run(argv)
    except KeyboardInterrupt:
        status = 130
    if status == 130:
        # A second Ctrl-C has nothing to end but the interpreter, which would tell of it at length.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return status


class _Waiting(io.FileIO):
    """Standard output that takes no more for now, as whoever else has it has set it not to wait."""

    def write(self, data: Any, /) -> int:
        while (written := super().write(data)) is None:
            select.select([], [self], [])
        return written


def _printed(error: UnicodeError) -> tuple[str | bytes, int]:
    """What an encoding hasn't: a byte of a file's name as it is, and another character as its escape."""
    assert isinstance(error, UnicodeEncodeError)
    one = UnicodeEncodeError(error.encoding, error.object, error.start, error.start + 1, error.reason)
    try:
        return codecs.lookup_error("surrogateescape")(one)
    except UnicodeEncodeError:
        return codecs.lookup_error("backslashreplace")(one)


def _open_streams() -> None:
    """Has standard streams that were closed be as /dev/null, all of what is written to standard output be written,
    names of files as they are and URLs whatever the encoding."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # Its own descriptor is the lowest that is free, so that no socket and no archive gets that. As the
            # interpreter's own streams, it stays open to the end, of which Python's development mode would warn.
            null = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(null, mode, errors="replace", closefd=False))  # noqa: SIM115
    if not isinstance(sys.stdout, io.TextIOWrapper):
        return
    # It is strict in most locales, and neither a name nor what others have recorded needs to fit.
    errors = sys.stdout.errors
    if errors in ("strict", "surrogateescape"):
        errors = "penstock"
        codecs.register_error(errors, _printed)
    try:
        out = sys.stdout.fileno()
    except io.UnsupportedOperation:
        # Who calls this has put one in its place that is no file.
        sys.stdout.reconfigure(errors=errors)
        return
    if not os.get_blocking(out):
        buffer = io.BufferedWriter(_Waiting(out, "w", closefd=False))
        sys.stdout = io.TextIOWrapper(
            buffer, encoding=sys.stdout.encoding, errors=errors, line_buffering=sys.stdout.line_buffering
        )
    elif isinstance(sys.stdout.buffer, io.RawIOBase):
        # By PYTHONUNBUFFERED. What a write leaves, one that a signal ends or that fills the disk, would be lost.
        sys.stdout = open(out, "w", encoding=sys.stdout.encoding, errors=errors, closefd=False)  # noqa: SIM115
    else:
        sys.stdout.reconfigure(errors=errors)
