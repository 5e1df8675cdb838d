"""Cookies, for a client that is given a jar: `http.cookiejar` decides, by the two interfaces that it has here."""

from __future__ import annotations

import email.message
import http.cookiejar
import types
import urllib.request
from typing import cast

from penstock.http.request import Request
from penstock.http.response import Answer

__all__ = ["cookies_for", "keep_cookies"]


def cookies_for(jar: http.cookiejar.CookieJar, request: Request) -> str | None:
    """The value of the Cookie field for a request."""
    asked = urllib.request.Request(request.url)
    jar.add_cookie_header(asked)
    return asked.get_header("Cookie")


def keep_cookies(jar: http.cookiejar.CookieJar, request: Request, response: Answer) -> None:
    """Takes the cookies of a response into the jar, as its policy allows."""
    if response.headers.get("set-cookie") is None:
        return
    headers = email.message.Message()
    for value in response.headers.get_all("set-cookie"):
        headers["Set-Cookie"] = value
    face = types.SimpleNamespace(info=lambda: headers)
    jar.extract_cookies(cast("http.client.HTTPResponse", face), urllib.request.Request(request.url))
