"""What a record takes of memory, written and read, doesn't grow with its size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SIZE = 200_000_000
ALLOWED = 24 << 20

PROGRAM = """
import os, resource, sys
import penstock
from penstock import barc
from tests.barc.conftest import STRATEGIES, make_dialog

kind, folder = sys.argv[1], sys.argv[2]
path = folder + "/x.barc"
tunables = penstock.Tunables(temp_dir=folder)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def everything(body):
    return sum(len(piece) for piece in body.chunks())

# A sparse file, that nobody has to write.
with open(folder + "/body", "wb") as file:
    file.truncate(int(sys.argv[3]))
image = penstock.BodyImage.from_path(folder + "/body")
small = make_dialog(0, b"x" * 1000)
with barc.open(path, "a", strategy=STRATEGIES[kind], tunables=tunables) as archive:
    archive.append(small)
    assert len(list(archive)) == 1
    before = peak()
    archive.append(make_dialog(1, image, req_body=image))
    written = peak()
    for record in archive:
        everything(record.req_body) + everything(record.res_body)
    del record
    read = peak()
    assert all(isinstance(found, barc.Entry) for found in archive.check())
tunables = penstock.Tunables(temp_dir=folder, max_body="1MiB")
with barc.open(path, tunables=tunables) as archive:
    try:
        list(archive)
    except penstock.BodyTooLong:
        print(written - before, read - before, peak() - before)
"""


@pytest.mark.slow
@pytest.mark.timeout(90)
@pytest.mark.parametrize("kind", ["plain", "gzip", "brotli"])
def test_a_record_of_400_mb_takes_24_mib_at_most(kind: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", PROGRAM, kind, str(tmp_path), str(SIZE)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=80, check=False)
    assert done.returncode == 0, done.stderr
    assert max(map(int, done.stdout.split())) < ALLOWED, done.stdout
