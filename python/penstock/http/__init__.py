"""The HTTP/1.1 client: connections, deadlines and policy in Python; everything that touches each byte in the core."""

from penstock.headers import Headers
from penstock.http.auth import BasicAuth, BearerAuth
from penstock.http.client import Client
from penstock.http.hooks import Hooks
from penstock.http.once import fetch, fetch_sync
from penstock.http.options import Limits, Timeouts
from penstock.http.request import Request
from penstock.http.response import Response
from penstock.http.settings import Options
from penstock.http.stream import StreamedResponse
from penstock.http.transport import Transport

__all__ = [
    "BasicAuth",
    "BearerAuth",
    "Client",
    "Headers",
    "Hooks",
    "Limits",
    "Options",
    "Request",
    "Response",
    "StreamedResponse",
    "Timeouts",
    "Transport",
    "fetch",
    "fetch_sync",
]
