"""The options of one request, and what a client has in their place."""

from __future__ import annotations

import dataclasses
import http.cookiejar
import os
import ssl
from collections.abc import Callable, Mapping, Set
from types import NoneType
from typing import Any, Literal, Self, TypedDict

from penstock._native import Budget, Direct, Dispatch, FilePool, HeadLimits, Permit, Plan, Tunables
from penstock.blocking.policy import Policy
from penstock.http.auth import Auth
from penstock.http.content import Files, Source
from penstock.http.hooks import Hooks
from penstock.http.options import Decode, Limits, Timeouts
from penstock.http.proxy import Proxy, parse_proxy
from penstock.http.request import HeaderPairs
from penstock.http.resolve import AllowAddress, Resolver
from penstock.http.route import socket_path
from penstock.http.transport import Transport
from penstock.http.url import Params

__all__ = ["APART", "Options", "Settings", "check_kinds"]


class Options(TypedDict, total=False):
    """What a request may be given, for itself and its redirects. What isn't given, or is `None`, is the client's."""

    base_url: str | None
    """What a URL that begins with `/` is appended to."""
    params: Params | None
    """Added to the query of the URL: names and values; a list stands for several. `None` is a TypeError."""
    headers: HeaderPairs | None
    """Besides the client's, and instead of those of the same name. Several values of a name are joined."""
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
    limits: Limits | None
    """Of a head and of what surrounds a body. How many connections there are, and how long names are remembered, is the
    client's: another number of these is a ValueError."""
    tunables: Tunables | None
    budget: Budget | None
    policy: Policy | None
    file_pool: FilePool | None
    follow_redirects: bool | None
    max_redirects: int | None
    decode: Decode | None
    proxy: str | None
    """Its URL; `""` is none."""
    trust_env: bool | None
    ssl_context: ssl.SSLContext | None
    uds: str | os.PathLike[str] | None
    """`""` is none; with another than the client's, its proxy isn't asked. Those with another `uds`, `ssl_context`,
    `resolver` or `allow_address` don't share connections."""
    resolver: Resolver | None
    allow_address: AllowAddress | None
    cookies: http.cookiejar.CookieJar | Literal[False] | None
    """`False` is none."""
    hooks: Hooks | None
    """In place of the client's; `Hooks()` are none."""
    transport: Transport | None


KNOWN = Options.__optional_keys__
APART = frozenset(
    ("timeout", "limits", "tunables", "budget", "policy", "file_pool", "follow_redirects", "max_redirects")
)
"""The options that say nothing of what is asked of whom."""

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
    "transport": ((NoneType, Transport), "what has answer(prolog), as Replay(path)"),
}
"""Of the options that are objects: what they may be, and what to say of others."""


def check_kinds(options: Mapping[str, object]) -> None:
    """Looks whether options are what they have to be.

    Raises:
        TypeError: One isn't; says what it takes.
    """
    for name, value in options.items():
        if name not in _KINDS:
            continue
        kinds, what = _KINDS[name]
        # A policy's class has all of its methods, too.
        if isinstance(value, type) or not isinstance(value, kinds):
            # Cookies are secrets.
            given = type(value).__name__ if name == "cookies" else repr(value)
            raise TypeError(f"{name}={given}: takes {what}")


def _check_hashable(name: str, value: object) -> None:
    """Connections are told apart by it."""
    try:
        hash(value)
    except TypeError:
        raise TypeError(f"{name}={value!r}: of a single request it has to be hashable") from None


@dataclasses.dataclass
class Settings:
    """What holds for a request, whichever of the two said so. Requests share it, and nobody changes it; it isn't frozen
    and has no slots so that it can be copied at once for one that has options.
    """

    tunables: Tunables
    budget: Budget
    policy: Policy
    timeout: Timeouts
    limits: Limits
    head_limits: HeadLimits
    """Of `limits`, as the core takes them."""
    file_pool: FilePool | None
    follow_redirects: bool
    max_redirects: int
    decode: Decode
    proxy: Proxy | Literal[""] | None
    """`""` is none, whatever the environment says."""
    trust_env: bool
    ssl_context: ssl.SSLContext | None
    uds: str | None
    """`""` is none."""
    resolver: Resolver | None
    allow_address: AllowAddress | None
    cookies: http.cookiejar.CookieJar | None
    hooks: Hooks | None
    transport: Transport | None
    plan: Plan = dataclasses.field(init=False)
    """How bodies are received."""
    way: object = dataclasses.field(init=False)
    """The same one in those by which all origins are reached in the same way."""
    _streaming: Settings | None = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._follow_from(_FIELDS)

    def _follow_from(self, names: Set[str]) -> None:
        """Makes what follows from fields of these names."""
        self._streaming = None
        if not _OF_PLAN.isdisjoint(names):
            self.plan = Plan(self.tunables, self.budget, self.file_pool, self.policy, self.decode, self.head_limits)
        if not _OF_WAY.isdisjoint(names):
            self.way = object()
        most = self.max_redirects
        if isinstance(most, bool) or not isinstance(most, int):
            raise TypeError(f"max_redirects={most!r}: takes a number of redirects, as 10")
        if most < 0:
            raise ValueError(f"max_redirects={most}: a number of redirects, 0 or more")

    def _with(self, **own: object) -> Settings:
        """As `dataclasses.replace`, which looks at each field, and takes a request longer than sending it."""
        other = object.__new__(Settings)
        other.__dict__.update(self.__dict__)
        other.__dict__.update(own)
        other._follow_from(own.keys())
        return other

    @classmethod
    def of(cls, **options: Any) -> Self:
        """All of them, as a client has them.

        Raises:
            TypeError: One takes something else.
            ValueError: The value of one isn't one that it takes.
        """
        check_kinds(options)
        return cls(head_limits=options["limits"]._head(), **options)

    def for_stream(self) -> Settings:
        """For a body that is given away while it arrives: it stays in memory, of which it takes little."""
        if self._streaming is None:
            tunables = self.tunables.replace(digests=())
            self._streaming = self._with(tunables=tunables, file_pool=None, decode=bool(self.decode))
        return self._streaming

    def overridden(self, options: Options) -> Settings:
        """With what a request was given.

        Raises:
            TypeError: There is no such option, or it takes something else.
            ValueError: Its value isn't one that it takes.
        """
        if not KNOWN.issuperset(options):
            known, unknown = ", ".join(sorted(KNOWN)), ", ".join(sorted(options.keys() - KNOWN))
            raise TypeError(f"there is no option {unknown}: a request takes {known}")
        if _FIELDS.isdisjoint(options):
            return self
        own: dict[str, Any] = {name: value for name, value in options.items() if name in _FIELDS and value is not None}
        if own.get("cookies") is False:
            own["cookies"] = None
        check_kinds(own)
        if (proxy := options.get("proxy")) is not None and proxy != "":
            own["proxy"] = parse_proxy(proxy)
        if (uds := options.get("uds")) is not None and uds != "":
            own["uds"] = socket_path(uds)
            if own["uds"] != self.uds:
                # The client's proxy listens elsewhere, and what it is told is for nobody else.
                own.setdefault("proxy", "")
        if limits := options.get("limits"):
            limits._check_shared(self.limits)
            own["head_limits"] = limits._head()
        for name in ("resolver", "allow_address"):
            if name in own:
                _check_hashable(name, own[name])
        return self._with(**own) if own else self


_FIELDS = frozenset(field.name for field in dataclasses.fields(Settings) if field.init)
_OF_PLAN = frozenset(("tunables", "budget", "file_pool", "policy", "decode", "head_limits"))
_OF_WAY = frozenset(("proxy", "trust_env", "ssl_context", "uds", "resolver", "allow_address"))
