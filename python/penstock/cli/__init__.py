"""The `penstock` command: its parser is put together here; what a command does is in the module that it is about."""

import argparse
from collections.abc import Sequence

import penstock
from penstock.bench import command as bench


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` by default, and return its exit status."""
    parser = argparse.ArgumentParser(prog="penstock")
    parser.add_argument("--version", action="version", version=f"penstock {penstock.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    bench.configure(commands.add_parser("bench", help="measure on this machine"))
    arguments = parser.parse_args(argv)
    status: int = arguments.run(arguments)
    return status
