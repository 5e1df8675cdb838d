"""What commands that make requests have in common: the options of requests, and the client that is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

import penstock
from penstock.cli.common import said

__all__ = ["asking", "client_of", "failure", "without_password"]

F = TypeVar("F", bound=Callable[..., Any])


def asking(command: F) -> F:
    """Adds the options that `client_of` takes."""
    for option in (
        click.option("--proxy", metavar="URL", help="An HTTP proxy, as http://user:password@host:port."),
        click.option(
            "--timeout", metavar="SECONDS", type=float, help="Seconds that a URL may take in all; no limit by default."
        ),
        click.option(
            "-H",
            "--header",
            "headers",
            metavar="NAME:VALUE",
            multiple=True,
            help="A header of each request; may be repeated.",
        ),
    ):
        command = option(command)
    return command


def client_of(
    *,
    headers: tuple[str, ...],
    timeout: float | None,
    proxy: str | None,
    besides: Mapping[str, str] | None = None,
    **options: Any,
) -> penstock.Client:
    """A client with what `asking` adds to a command. Headers `besides` it are sent where none of the name is given.

    Raises:
        click.UsageError: One of them isn't what it has to be.
    """
    pairs = [_pair(header) for header in headers]
    given = {name.lower() for name, _ in pairs}
    own = [(name, value) for name, value in (besides or {}).items() if name not in given]
    try:
        timeouts = penstock.Timeouts(total=timeout)
    except ValueError:
        raise click.BadParameter(f"{timeout}: must be above 0", param_hint="--timeout") from None
    try:
        return penstock.Client(headers=[*own, *pairs], timeout=timeouts, proxy=proxy, **options)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def without_password(url: str) -> str:
    """The URL, as the client's errors have it, too: what goes to standard error is often kept."""
    from penstock.http.url import shown

    return shown(url)


def failure(url: str, error: object) -> str:
    """A line on a URL that failed."""
    return f"penstock: {without_password(url)}: {said(error)}"


def _pair(header: str) -> tuple[str, str]:
    name, colon, value = header.partition(":")
    if not colon:
        # It may be a secret.
        raise click.BadParameter("takes a name, a colon and a value", param_hint="--header")
    return name.strip(), value.strip()
