"""GET to a named file, complete or not at all: python examples/save.py URL PATH

The body is received into a file without a name on the file system of PATH, so that saving is giving it one: no copy, no
half-written file, and nothing left behind if the program is killed.
"""

import asyncio
import sys
from pathlib import Path

import penstock


async def save(url: str, path: Path) -> penstock.Response:
    tunables = penstock.Tunables(temp_dir=path.parent, max_body="16GiB", digests=("sha256",))
    async with penstock.Client(tunables=tunables) as client:
        response = await client.get(url)
        response.raise_for_status()
        await response.body.save(path, overwrite=True, fsync=True)
        return response


async def main(url: str, path: str) -> int:
    try:
        response = await save(url, Path(path))
    except (penstock.PenstockError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"{path}: {len(response.body)} bytes in {response.elapsed:.2f} s, sha256 {response.body.digests['sha256']}")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
