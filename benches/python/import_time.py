"""What `import penstock` adds to `import asyncio, ssl, concurrent.futures`: `python -m benches.python.import_time`.

Each sample is an interpreter of its own; with and without take turns, so that both meet the same machine. Nothing of
this is in the driver's results: there is one figure, and the tests hold the list of modules instead.
"""

import subprocess
import sys
from statistics import median, quantiles

LIMIT_MS = 15.0
ROUNDS = 40

CLOCK = "import time; start = time.perf_counter()\n"
BASE = "import asyncio, ssl, concurrent.futures\n"
OURS = "import penstock\n"
PRINT = "print((time.perf_counter() - start) * 1000)"


def sample(*imports: str) -> float:
    """Milliseconds that these imports take in a new interpreter."""
    program = CLOCK + "".join(imports) + PRINT
    return float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)


def main() -> int:
    for imports in ((BASE,), (BASE, OURS)):
        sample(*imports)  # the first reads the disk and writes bytecode
    without, added = [], []
    for _ in range(ROUNDS):
        base = sample(BASE)
        without.append(base)
        added.append(sample(BASE, OURS) - base)
    low, *_, high = quantiles(added, n=20)
    print(f"{BASE.strip()}: {median(without):.1f} ms")
    print(f"and {OURS.strip()}: {median(added):.1f} ms more ({low:.1f} to {high:.1f}; limit {LIMIT_MS:.0f})")
    return int(median(added) > LIMIT_MS)


if __name__ == "__main__":
    sys.exit(main())
