"""Builds the native programs of benches/rust, each with the lock file of its own folder."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


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
