"""Proxies: which one serves an origin, and the tunnel through it (RFC 9110 section 9.3.6)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import urllib.parse
import urllib.request
from typing import NamedTuple

from penstock._native import Head
from penstock.errors import InvalidURL, ProtocolError, ProxyError
from penstock.headers import brief
from penstock.http.auth import BasicAuth
from penstock.http.options import Limits
from penstock.http.resolve import as_address
from penstock.http.url import Origin, to_ascii

__all__ = ["EnvironmentProxies", "Proxy", "parse_proxy", "tunnel"]

# The URL of a proxy may hold a password, so messages don't hold the URL.
UNCLEAR = "isn't http://user:password@host:port; what is special in a password is percent-encoded, / as %2F"

REMEMBERED = 1024
"""Origins of which the environment's proxy is remembered."""


class Proxy(NamedTuple):
    """An HTTP proxy."""

    host: str
    port: int
    authorization: str | None = None
    """The value of Proxy-Authorization."""

    def __str__(self) -> str:
        return f"proxy {self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"<{self}>"


def parse_proxy(url: str, name: str = "proxy") -> Proxy:
    """A proxy by its URL, `http://user:password@host:port`; `name` is where that stands, for errors.

    Raises:
        TypeError: It is no text.
        ValueError: It isn't one.
    """
    if not isinstance(url, str):
        raise TypeError(f"{name}={type(url).__name__}: takes the URL of a proxy, for http and https, as a str")
    try:
        parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError:
        raise ValueError(f"{name}: {UNCLEAR}") from None
    if parts.scheme != "http":
        raise ValueError(f"{name}: {parts.scheme!r} is not spoken, proxies are reached over http")
    if not parts.hostname:
        raise ValueError(f"{name}: has no host")
    if "@" in parts.path + parts.query + parts.fragment:
        # Cut within the password, it would have another host.
        raise ValueError(f"{name}: {UNCLEAR}")
    authorization = None
    if parts.username is not None:
        user, password = urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or "")
        authorization = BasicAuth(user, password).header()
    return Proxy(parts.hostname, port or 80, authorization)


class EnvironmentProxies:
    """What HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY said when it was made, in lower case too."""

    def __init__(self) -> None:
        self._found = urllib.request.getproxies_environment()
        names = [_as_asked(name.strip()) for name in self._found.get("no", "").split(",")]
        # Python takes * for everything only where it stands alone.
        self._found["no"] = "*" if "*" in names else ",".join(names)
        self._known: dict[Origin, Proxy | None] = {}

    def for_origin(self, origin: Origin) -> Proxy | None:
        """The proxy for an origin, if there is one."""
        if origin not in self._known:
            kind = origin.scheme if origin.scheme in self._found else "all"
            url = self._found.get(kind)
            address = f"{as_address(origin.host) or origin.name}:{origin.port}"
            bypassed = urllib.request.proxy_bypass_environment(address, self._found)  # type: ignore[attr-defined]
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[origin] = None if url is None or bypassed else parse_proxy(url, f"{kind.upper()}_PROXY")
        return self._known[origin]


def _as_asked(name: str) -> str:
    """A name of NO_PROXY as it is compared: an address in one of its spellings, a name as DNS has it."""
    if (address := as_address(name[1:-1] if name[:1] + name[-1:] == "[]" else name)) is not None:
        return address
    with contextlib.suppress(InvalidURL):
        return to_ascii(f"http://{name.lstrip('.')}").removeprefix("http://")
    return name


async def tunnel(sock: socket.socket, origin: Origin, proxy: Proxy, limits: Limits) -> None:
    """Has the proxy that `sock` is connected to connect it on to the origin.

    Raises:
        ProxyError: It refused, or answered something else, or more than the limits.
    """
    loop = asyncio.get_running_loop()
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    lines = [f"CONNECT {host}:{origin.port} HTTP/1.1", f"host: {host}:{origin.port}"]
    if proxy.authorization is not None:
        lines.append(f"proxy-authorization: {proxy.authorization}")
    await loop.sock_sendall(sock, "\r\n".join([*lines, "", ""]).encode())
    answer, rest = await _answer(sock, proxy, limits)
    if not 200 <= answer.status < 300:
        message = f"{proxy} answered {answer.status} {brief(answer.reason)} to CONNECT {host}:{origin.port}"
        raise ProxyError(message, status=answer.status, retryable=answer.status >= 500)
    if rest:
        raise ProxyError(f"{proxy} sent {len(rest)} bytes into the tunnel")


async def _answer(sock: socket.socket, proxy: Proxy, limits: Limits) -> tuple[Head, bytes]:
    """The answer to CONNECT, as strict as any head, and what came behind it. Informational ones are passed over."""

    def check(seen: int, what: str, setting: str) -> None:
        most = getattr(limits, setting)
        if seen > most:
            raise ProxyError(f"{proxy} answered more than {most} {what} to CONNECT (Limits.{setting})")

    loop = asyncio.get_running_loop()
    received, begin, informational = b"", 0, 0
    while True:
        end = received.find(b"\r\n\r\n", begin) + 4
        head = received[begin:end] if end >= 4 else received[begin:]
        check(begin + len(head), "bytes", "head_bytes")
        if head.count(b"\n") > head.count(b"\r\n"):
            raise ProxyError(f"{proxy} answered CONNECT with a line that ends with LF alone")
        if end < 4:
            more = await loop.sock_recv(sock, 4096)
            if not more:
                raise ProxyError(f"{proxy} closed the connection in answer to CONNECT")
            received += more
            continue
        try:
            answer = Head(head, ())
        except ProtocolError as error:
            raise ProxyError(f"{proxy} answered CONNECT: {error}") from error
        check(len(answer), "headers", "headers")
        if not 100 <= answer.status < 200 or answer.status == 101:
            return answer, received[end:]
        begin, informational = end, informational + 1
        check(informational, "informational responses", "informational")
