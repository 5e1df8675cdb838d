"""Looks into the wheel and the sdist of a folder: `python .ci/check_dist.py dist`; `make dist` calls it.

The wheel is installed into an environment of its own, and imported and measured with from there, away from the sources.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

LICENCES = ("LICENSE-APACHE", "LICENSE-MIT")
IN_SDIST = (*LICENCES, "Cargo.lock", "Cargo.toml", "README.md", "pyproject.toml", "python/penstock/py.typed")
IMPORT = "import penstock; print(penstock.__version__, penstock.BUILD_PROFILE, penstock.__file__)"


def lacking(names: Iterable[str], endings: Iterable[str]) -> Iterator[str]:
    for ending in endings:
        if not any(f"/{name}".endswith(f"/{ending}") for name in names):
            yield f"no {ending}"


def wheel_problems(wheel: Path) -> Iterator[str]:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        described = archive.read(metadata).decode()
    yield from lacking(names, (*LICENCES, "penstock/py.typed", "penstock/_native.pyi", "penstock/http/client.py"))
    if len(binaries := [name for name in names if name.endswith(".so")]) != 1:
        yield f"{len(binaries)} binaries: {binaries}"
    if "License-Expression: MIT OR Apache-2.0" not in described:
        yield "no licence expression"
    if "\nProject-URL: Repository, https://" not in described:
        yield "no address of the repository"
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-index", str(wheel.resolve())], check=True)
        done = subprocess.run([python, "-c", IMPORT], cwd=folder, capture_output=True, text=True, check=False)
        _, _, rest = done.stdout.partition(" ")
        if not rest.startswith(f"release {folder}"):
            yield f"it can't be imported: {done.stdout}{done.stderr}"
        measuring = [python, "-m", "penstock.bench", "blocking", "--quick"]
        done = subprocess.run(measuring, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode or "**penstock dispatch**" not in done.stdout:
            yield f"it can't measure without the sources: {done.stdout}{done.stderr}"
        done = subprocess.run([Path(folder) / "bin" / "penstock", "ls"], capture_output=True, text=True, check=False)
        if done.returncode != 2 or "missing: pip install click" not in done.stderr:
            yield f"without its extra, penstock doesn't say what it needs: {done.stdout}{done.stderr}"


def sdist_problems(sdist: Path) -> Iterator[str]:
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    yield from lacking(names, (*IN_SDIST, "rust/core/src/lib.rs", "rust/native/src/lib.rs"))
    yield from (f"{name} is not a source" for name in names if name.endswith(".so"))


def main(folder: Path) -> int:
    found = []
    for pattern, problems in (("*.whl", wheel_problems), ("*.tar.gz", sdist_problems)):
        (file,) = folder.glob(pattern)
        found += [f"{file.name}: {problem}" for problem in problems(file)]
        print(f"{file.name}: {file.stat().st_size / 1024:.0f} KiB")
    print("\n".join(found) if found else "both have what they need; the wheel installs and imports")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
