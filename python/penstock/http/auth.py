"""Who asks: what is sent as Authorization (RFC 7617, RFC 6750)."""

from __future__ import annotations

import base64
import dataclasses

from penstock.http.url import utf8

__all__ = ["Auth", "BasicAuth", "BearerAuth", "authorization"]


@dataclasses.dataclass(frozen=True, slots=True)
class BasicAuth:
    """A user and a password, sent in clear: only over https.

    Args:
        user: Without a colon.
        password: Any text; both go out as UTF-8.
    """

    user: str
    password: str = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        _check_text("BasicAuth.user", self.user)
        _check_text("BasicAuth.password", self.password)
        if ":" in self.user:
            # Not the user, as the password may be behind the colon.
            raise ValueError(f"BasicAuth.user: a colon, at {self.user.index(':')}, ends the user (RFC 7617 section 2)")

    def header(self) -> str:
        """The value of the field."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


@dataclasses.dataclass(frozen=True, slots=True)
class BearerAuth:
    """A token that opens for whoever bears it: only over https.

    Args:
        token: As it was given out.
    """

    token: str = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        _check_text("BearerAuth.token", self.token)

    def header(self) -> str:
        """The value of the field."""
        return f"Bearer {self.token}"


def _check_text(name: str, value: object) -> None:
    # Made into text, a setting that is missing would be sent as "None". The value itself may be a secret.
    if not isinstance(value, str):
        raise TypeError(f"{name}: takes a str, not {type(value).__name__}")
    utf8(value, f"{name}=")


Auth = BasicAuth | BearerAuth | tuple[str, str]
"""A pair is a user and a password."""


def authorization(auth: Auth) -> str:
    if isinstance(auth, tuple) and len(auth) == 2:
        auth = BasicAuth(*auth)
    if not isinstance(auth, BasicAuth | BearerAuth):
        raise TypeError(f"auth={type(auth).__name__}: takes a pair of user and password, BasicAuth or BearerAuth")
    return auth.header()
