"""Builds the native programs of benches/rust, each with the lock file of its own folder.

`python -m benches.python.native` builds those of the comparison. It needs nothing that has to be installed.
"""

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Folder by folder, what `benches.cross.compare` runs.
COMPARED = {
    "floor": ("penstock-floor",),
    "upstream": ("blocking", "client", "client_mimalloc", "streams"),
    "today": ("penstock-today",),
    "core": ("penstock-from-rust",),
}


class Unavailable(Exception):
    """The program can't be built here; the message says why."""


def build(folder: str, program: str, *more: str) -> Path:
    """The release binary of benches/rust/`folder`, built if it isn't up to date, and `more` of them beside it."""
    manifest = ROOT / "benches" / "rust" / folder / "Cargo.toml"
    target = ROOT / "target" / folder
    command = ["cargo", "build", "--release", "--locked", "--quiet"]
    for each in (program, *more):
        command += ["--bin", each]
    try:
        subprocess.run(
            [*command, "--manifest-path", str(manifest), "--target-dir", str(target)],
            check=True,
            stderr=subprocess.PIPE,
            text=True,
        )
    except FileNotFoundError:
        raise Unavailable("cargo is not installed") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"cargo ended with status {error.returncode}"]
        raise Unavailable(next((line for line in lines if line.startswith("error")), lines[-1])) from None
    return target / "release" / program


def build_compared() -> None:
    """Builds them as far as that can be done here: whoever asks for one is told why it isn't there."""
    # Two folders at a time, and the programs of each: the last step of one takes one CPU, and most of the time.
    with ThreadPoolExecutor(2) as builders:
        list(builders.map(_build_all, COMPARED, COMPARED.values()))


def _build_all(folder: str, programs: Sequence[str]) -> None:
    print(f"building benches/rust/{folder}: {', '.join(programs)}", file=sys.stderr, flush=True)
    with suppress(Unavailable):
        build(folder, *programs)


if __name__ == "__main__":
    build_compared()
