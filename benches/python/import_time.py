"""What `import penstock` adds to `import asyncio, ssl, concurrent.futures`: `python -m benches.python.import_time`.

Each sample is an interpreter of its own. CPU time decides, since others may use the machine; the least wall time stands
beside it. The tests hold the list of modules that are loaded; this gives the milliseconds that it stands for.
"""

import os
import subprocess
import sys
from statistics import median

import penstock

LIMIT_MS = 15.0
ROUNDS = 40

PROGRAM = """
import asyncio, ssl, concurrent.futures, time
wall, cpu = time.perf_counter(), time.process_time()
import penstock
print((time.perf_counter() - wall) * 1000, (time.process_time() - cpu) * 1000)
"""


def sample() -> tuple[float, float]:
    """Milliseconds, wall and CPU, that the import takes in a new interpreter that has the others already."""
    # Without bytecode, which an installed package has, compiling would be measured.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=env)
    wall, cpu = map(float, done.stdout.split())
    return wall, cpu


def main() -> int:
    if penstock.BUILD_PROFILE != "release":
        sys.exit("this is a debug build: make develop")
    sample()  # the first reads the disk and writes bytecode
    walls, cpus = zip(*(sample() for _ in range(ROUNDS)), strict=True)
    print(f"import penstock: {median(cpus):.1f} ms of CPU (limit {LIMIT_MS:.0f}); {min(walls):.1f} ms wall at least")
    return int(median(cpus) > LIMIT_MS)


if __name__ == "__main__":
    sys.exit(main())
