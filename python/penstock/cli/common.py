"""What commands share: how they end, what their help ends with, and options that several have."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

__all__ = ["Command", "Failure", "exclusive", "json_option", "print_json"]

F = TypeVar("F", bound=Callable[..., Any])

STATUSES = "0 done, 1 wrong usage, 2 an error or damage, 130 interrupted"


class Failure(Exception):
    """Ends a command with exit status 2; its text is what the user gets."""


class Command(click.Command):
    """With examples, one a line, and the exit statuses at the end of its help."""

    def __init__(self, *args: Any, examples: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self.examples = examples.splitlines()

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, lines in (("Examples", self.examples), ("Exit status", [STATUSES])):
            with formatter.section(title):
                for line in lines:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def exclusive(options: Mapping[str, object]) -> None:
    """Refuses more than one of several options, given with their values.

    Raises:
        click.UsageError: Two were given.
    """
    given = [name for name, value in options.items() if value not in (None, False)]
    if len(given) > 1:
        raise click.UsageError(f"{given[0]} can't be given together with {given[1]}")


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="An object a line, for machines.")(command)


def print_json(**fields: Any) -> None:
    """A line of standard output."""
    print(json.dumps(fields))
