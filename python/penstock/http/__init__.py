"""The HTTP/1.1 client: connections, deadlines and policy in Python; everything that touches each byte in the core."""

from penstock.http.auth import BasicAuth, BearerAuth
from penstock.http.client import Client
from penstock.http.hooks import Hooks
from penstock.http.options import Limits, Timeouts
from penstock.http.response import Headers, Response

__all__ = ["BasicAuth", "BearerAuth", "Client", "Headers", "Hooks", "Limits", "Response", "Timeouts"]
