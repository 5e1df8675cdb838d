"""The `penstock` command. It needs the extra `cli`; nothing else of the package imports what is here."""

import sys
from collections.abc import Sequence
from importlib.util import find_spec

NEEDED = ("click", "rich")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` by default, and return its exit status."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        # Not the extra: penstock isn't on PyPI, and whatever is there by its name is somebody else's.
        print(f"penstock: {' and '.join(missing)} missing: pip install {' '.join(missing)}", file=sys.stderr)
        return 2
    try:
        from penstock.cli import app

        return app.run(argv)
    except KeyboardInterrupt:
        return 130
