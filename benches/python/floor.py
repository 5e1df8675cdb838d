"""Builds the native floor of benches/rust/floor and makes its rows: each framing twice, to measure the noise by."""

import subprocess
from pathlib import Path

from penstock.bench.driver import Variant
from penstock.bench.results import Framing

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "benches" / "rust" / "floor" / "Cargo.toml"
TARGET = ROOT / "target" / "floor"


def build() -> Path:
    """The release binary, built if it isn't up to date."""
    command = ["cargo", "build", "--release", "--locked", "--quiet"]
    subprocess.run([*command, "--manifest-path", str(MANIFEST), "--target-dir", str(TARGET)], check=True)
    return TARGET / "release" / "penstock-floor"


def rows(binary: Path, framing: Framing) -> list[Variant]:
    """The floor twice: what differs between the two is noise."""
    return [
        Variant(f"floor/{framing}/{name}", "floor", name, command=(str(binary),), framing=framing)
        for name in ("floor", "floor again")
    ]
