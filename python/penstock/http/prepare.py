"""What a method, a URL and options come to, by what a client has: a request, the route that it takes, and its head. One
without options is remembered.
"""

from __future__ import annotations

import asyncio
import functools
import http.cookiejar
import weakref
from typing import NamedTuple

from penstock.http.auth import Auth, authorization
from penstock.http.content import encode
from penstock.http.cookies import cookies_for
from penstock.http.exchange import Exchange
from penstock.http.options import Decode
from penstock.http.proxy import EnvironmentProxies
from penstock.http.request import UNFIT, HeaderPairs, Request, by_name, field_lines
from penstock.http.route import Route
from penstock.http.settings import Options, Settings
from penstock.http.supply import Supply
from penstock.http.url import LONGEST_REMEMBERED, Origin, parse, refused, to_ascii, with_params

__all__ = ["ACCEPT_ENCODING", "Prepared", "Preparer", "head_of"]

USER_AGENT = "penstock/0.1"
REMEMBERED = 1024
"""Of routes, and of prepared requests, in a client."""
ACCEPT_ENCODING = "gzip, deflate, br, zstd"
"""What is taken off a body again."""


class Prepared(NamedTuple):
    """What a method and a URL come to when nothing else is asked for."""

    request: Request
    route: Route
    head: bytes | None
    """`None` if it depends on more."""


class Preparer:
    """Makes a client's requests.

    Args:
        settings: The client's own.
        supply: Bounds the wait for a request's content.
        base_url, headers, auth: As of a client.
    """

    def __init__(
        self,
        settings: Settings,
        supply: Supply,
        *,
        base_url: str | None,
        headers: HeaderPairs | None,
        auth: Auth | None,
    ) -> None:
        self._settings = settings
        self._supply = supply
        self._base = None if base_url is None else _base(base_url)
        self._own = {"user-agent": USER_AGENT, "accept": "*/*", **by_name(headers)}
        if auth is not None:
            self._own["authorization"] = authorization(auth)
        self._fields = _accepting(self._own, settings.decode)
        self._lines = field_lines(self._fields)
        self._env = EnvironmentProxies() if settings.trust_env else None
        self._routes: weakref.WeakValueDictionary[tuple[object, ...], Route] = weakref.WeakValueDictionary()
        """Those that something of the client still goes by, by what they say."""
        self._own_routes: dict[Origin, Route] = {}
        """Known ones, by the client's own settings."""
        self.prepared: dict[tuple[str, str], Prepared] = {}
        """By method and URL."""

    def prepare(self, method: str, url: str) -> Prepared:
        """A request without options, remembered unless something may make the next one different."""
        method = _upper(method)
        key = method, url
        if (known := self.prepared.get(key)) is not None:
            # Asked for with the method in other letters.
            return known
        url = to_ascii(_whole(url, self._base))
        request = Request(method, url, parse(url), self._fields, self._lines)
        request.check()
        route = self.route(request, self._settings)
        # A hook may change the request that it is told of.
        fixed = self._settings.hooks is None and route.proxy is None and self._settings.cookies is None
        if not fixed or len(url) > LONGEST_REMEMBERED:
            return Prepared(request, route, None)
        if len(self.prepared) >= REMEMBERED:
            self.prepared.clear()
        self.prepared[key] = prepared = Prepared(request, route, request.head())
        return prepared

    async def make(self, method: str, url: str, options: Options, settings: Settings, began: float) -> Request:
        """A request with options, and with its content."""
        base = options.get("base_url")
        method, url = _upper(method), _whole(url, self._base if base is None else _base(base))
        if (params := options.get("params")) is not None:
            url = with_params(url, params)
        url = to_ascii(url)
        headers, auth, decode = options.get("headers"), options.get("auth"), options.get("decode")
        fields, lines = self._fields, self._lines
        if headers is not None or auth is not None or decode is not None:
            decode = self._settings.decode if decode is None else decode
            own = self._own
            if auth is False:
                own = {name: value for name, value in own.items() if name != "authorization"}
            fields = _accepting({**own, **by_name(headers)}, decode)
            if auth is not None and auth is not False:
                fields["authorization"] = authorization(auth)
            lines = field_lines(fields)
        request = Request(method, url, parse(url), fields, lines)
        content = encode(options, settings.policy)
        if isinstance(content, functools.partial):
            opening = Exchange(request, b"", settings, began, asyncio.get_running_loop().create_future(), None)
            async with self._supply.within(opening, "content to send"):
                request.content = await content()
        else:
            request.content = content
        request.check()
        return request

    def route(self, request: Request, settings: Settings) -> Route:
        """The way to a request's origin."""
        origin, proxy, own = request.target.origin, None, self._settings
        if settings.way is own.way and (known := self._own_routes.get(origin)) is not None:
            return known
        if settings.proxy is not None:
            proxy = settings.proxy or None
        elif settings.trust_env and not settings.uds:
            if self._env is None:
                self._env = EnvironmentProxies()
            proxy = self._env.for_origin(origin)
        context = settings.ssl_context if origin.scheme == "https" else None
        # Methods that are the same needn't be one object.
        resolver = None if settings.resolver == own.resolver else settings.resolver
        allow_address = None if settings.allow_address == own.allow_address else settings.allow_address
        said = origin, proxy, context, settings.uds or None, resolver, allow_address
        if (route := self._routes.get(said)) is None:
            self._routes[said] = route = Route(*said)
        if settings.way is own.way:
            if len(self._own_routes) >= REMEMBERED:
                self._own_routes.clear()
            self._own_routes[origin] = route
        return route


def head_of(request: Request, route: Route, cookies: http.cookiejar.CookieJar | None) -> bytes:
    """What is sent of a request before its content."""
    plain = route.proxy is None and cookies is None
    return request.head(b"" if plain else _extra(request, route, cookies))


def _extra(request: Request, route: Route, jar: http.cookiejar.CookieJar | None) -> bytes:
    """Lines of the head that aren't the request's own; a proxy is asked for the whole URL."""
    extra = ""
    request.absolute = route.proxy is not None and request.origin.scheme == "http"
    credentials = None if route.proxy is None else route.proxy.authorization
    if request.absolute and credentials is not None and "proxy-authorization" not in request.fields:
        extra += f"proxy-authorization: {credentials}\r\n"
    if jar is not None and "cookie" not in request.fields:
        cookies = cookies_for(jar, request)
        # A jar may hold what no server could have set; the others go without it.
        if fit := "; ".join(pair for pair in (cookies or "").split("; ") if not UNFIT.search(pair)):
            extra += f"cookie: {fit}\r\n"
    return extra.encode("latin-1")


def _upper(method: str) -> str:
    # Beyond ASCII, some would become other methods, and not be refused.
    return method.upper() if method.isascii() else method


def _whole(url: str, base: str | None) -> str:
    """The URL, with the base before it if it is a path."""
    if not isinstance(url, str):
        raise TypeError(f"url: takes a str, not {type(url).__name__}")
    if base is None:
        return url
    if url.startswith("/"):
        return base + url
    if "://" not in url:
        raise refused(url, "with a base_url, a path begins with /")
    return url


def _base(url: str) -> str:
    if not isinstance(url, str):
        raise TypeError(f"base_url: takes a str, not {type(url).__name__}")
    target = parse(to_ascii(url))
    if "?" in target.path:
        raise ValueError("base_url: has a query, and paths are appended to it; give params= to each request")
    return str(target).rstrip("/")


def _accepting(fields: dict[str, str], decode: Decode) -> dict[str, str]:
    """With the codings that are asked for, unless the fields say which."""
    return {"accept-encoding": ACCEPT_ENCODING, **fields} if decode else fields
