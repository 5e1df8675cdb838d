"""The options of one request, and what a client has in their place."""

from __future__ import annotations

import dataclasses
import http.cookiejar
import ssl
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any, Literal, TypedDict

from penstock._native import Budget, Direct, Dispatch, FilePool, Permit, Plan, Tunables
from penstock.blocking.policy import Policy
from penstock.http.auth import Auth
from penstock.http.content import Files, Source
from penstock.http.hooks import Hooks
from penstock.http.options import Decode, Limits, Timeouts
from penstock.http.proxy import Proxy, parse_proxy
from penstock.http.url import Params

__all__ = ["BODIES", "Options", "Settings", "check_kind"]


class Options(TypedDict, total=False):
    """What a request may be given. What it isn't given, or is given as `None`, is the client's."""

    params: Params | None
    """Added to the query of the URL: names and values; a list stands for several. `None` is a TypeError."""
    headers: Mapping[str, str] | None
    """Besides the client's, and instead of those of the same name."""
    auth: Auth | Literal[False] | None
    """A pair of user and password, `BasicAuth` or `BearerAuth`; `False` is none, whatever the client has."""
    content: Source | None
    """The body: bytes, text, a `pathlib.Path`, a `BodyImage`, or an asynchronous iterable of bytes, sent in chunks."""
    json: Any
    """The body: a value that is sent as JSON."""
    form: Params | None
    """The body: fields of a form, URL-encoded."""
    files: Files | None
    """The body: fields and files of a form, as multipart/form-data."""
    timeout: Timeouts | None
    tunables: Tunables | None
    budget: Budget | None
    policy: Policy | None
    file_pool: FilePool | None
    follow_redirects: bool | None
    max_redirects: int | None
    decode: Decode | None
    proxy: str | None
    """Its URL; `""` is none."""
    ssl_context: ssl.SSLContext | None


KNOWN = Options.__optional_keys__
BODIES = frozenset(("content", "json", "form", "files"))

_KINDS: dict[str, tuple[tuple[Any, ...], str]] = {
    "tunables": ((Tunables,), 'Tunables, as Tunables(max_body="1GiB")'),
    "budget": ((Budget,), 'a Budget, as Budget(ram="1GiB")'),
    # The protocol by itself is slow to ask.
    "policy": ((Dispatch, Permit, Direct, Policy), "a policy, as Dispatch(pool)"),
    "timeout": ((Timeouts,), "Timeouts, as Timeouts(total=30)"),
    "file_pool": ((FilePool, NoneType), 'a FilePool, as FilePool(max_bytes="1GiB")'),
    "ssl_context": ((ssl.SSLContext, NoneType), "an SSLContext, as ssl.create_default_context()"),
    "limits": ((Limits,), "Limits, as Limits(connections=20)"),
    "hooks": ((Hooks, NoneType), "Hooks, as Hooks(failed=function)"),
    "follow_redirects": ((bool,), "True or False"),
    "trust_env": ((bool,), "True or False"),
    "resolver": ((Callable, NoneType), "an asynchronous function of a name"),
    "allow_address": ((Callable, NoneType), "a function of an address"),
    "cookies": ((http.cookiejar.CookieJar, NoneType), "a jar, as http.cookiejar.CookieJar()"),
}
"""Of the options that are objects: what they may be, and what to say of others."""


def check_kind(name: str, value: object) -> None:
    """Looks whether an option is what it has to be.

    Raises:
        TypeError: It isn't; says what it takes.
    """
    kinds, what = _KINDS[name]
    # A policy's class has all of its methods, too.
    if isinstance(value, type) or not isinstance(value, kinds):
        raise TypeError(f"{name}={value!r}: takes {what}")


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """What holds for a request, whichever of the two said so."""

    tunables: Tunables
    budget: Budget
    policy: Policy
    timeout: Timeouts
    file_pool: FilePool | None
    follow_redirects: bool
    max_redirects: int
    decode: Decode
    proxy: Proxy | Literal[""] | None
    """`""` is none, whatever the environment says."""
    ssl_context: ssl.SSLContext | None
    plan: Plan = dataclasses.field(init=False)
    """How bodies are received."""

    def __post_init__(self) -> None:
        for name in _CHECKED:
            check_kind(name, getattr(self, name))
        plan = Plan(self.tunables, self.budget, self.file_pool, self.policy, self.decode)
        object.__setattr__(self, "plan", plan)
        most = self.max_redirects
        if isinstance(most, bool) or not isinstance(most, int) or most < 0:
            raise ValueError(f"max_redirects={most!r}: a number of redirects, 0 or more")

    def for_stream(self) -> Settings:
        """For a body that is given away while it arrives: it stays in memory, of which it takes little."""
        tunables = self.tunables.replace(digests=())
        return dataclasses.replace(self, tunables=tunables, file_pool=None, decode=bool(self.decode))

    def overridden(self, options: Options) -> Settings:
        """With what a request was given.

        Raises:
            TypeError: There is no such option, or it takes something else.
            ValueError: Its value isn't one that it takes.
        """
        if unknown := options.keys() - KNOWN:
            known = ", ".join(sorted(KNOWN))
            raise TypeError(f"there is no option {', '.join(sorted(unknown))}: a request takes {known}")
        own = {name: value for name, value in options.items() if name in _FIELDS and value is not None}
        if proxy := options.get("proxy"):
            own["proxy"] = parse_proxy(proxy)
        return dataclasses.replace(self, **own) if own else self  # type: ignore[arg-type]


_FIELDS = frozenset(field.name for field in dataclasses.fields(Settings) if field.init)
_CHECKED = tuple(name for name in _KINDS if name in _FIELDS)
