"""The `penstock` command: its parser is put together here; what a command does is in the module that it is about."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

import penstock
from penstock.barc import command as archives
from penstock.bench import command as bench


class Parser(argparse.ArgumentParser):
    """Wrong usage is status 1, as with upstream's tool; 2 is for what goes wrong in use."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(1, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` by default, and return its exit status."""
    parser = Parser(prog="penstock")
    parser.add_argument("--version", "-V", action="version", version=f"penstock {penstock.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    archives.configure(commands)
    bench.configure(commands.add_parser("bench", help="measure on this machine"))
    arguments = parser.parse_args(argv)
    status: int = arguments.run(arguments)
    return status
