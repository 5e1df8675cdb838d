"""Every exception that penstock raises, declared here and raised by one exhaustive match in the Rust core's binding.

A message says what happened, the value that was seen, the limit, and the setting that changes it. The same facts are
attributes, so that a program need not parse the message. All of them pickle, attributes included.
"""

from __future__ import annotations

from typing import Any, Self

# For annotations, which are looked up when somebody asks for them: what they name is imported then.
import penstock

__all__ = [
    "ArchiveError",
    "BlockingInLoop",
    "BodyTooLong",
    "BudgetExceeded",
    "ClientClosed",
    "ConnectError",
    "ConnectTimeout",
    "ConnectionLost",
    "ContentLengthTooLong",
    "DNSError",
    "DecodeError",
    "DecodedTooLong",
    "FirstByteTimeout",
    "HTTPStatusError",
    "HandoverError",
    "HeadTooLong",
    "IdleTimeout",
    "InternalError",
    "InvalidURL",
    "LimitExceeded",
    "NotRecorded",
    "PenstockError",
    "PermitError",
    "PoolClosed",
    "PoolFull",
    "PoolTimeout",
    "ProtocolError",
    "ProxyError",
    "RequestError",
    "SemaphoreClosed",
    "StorageFull",
    "TLSError",
    "Timeout",
    "TooManyRedirects",
    "TooSlow",
    "TotalTimeout",
    "Truncated",
    "UnsupportedEncoding",
    "WriteTimeout",
]


def _rebuild(cls: type[PenstockError], args: tuple[Any, ...], fields: dict[str, Any]) -> PenstockError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(fields)
    return error


class PenstockError(Exception):
    """The root of the tree. Keyword arguments become attributes."""

    retryable: bool = False
    """Whether the same call may succeed when it is made again. Whether it may be repeated is for the caller to know:
    the server may have done what a POST asked for, unless this is a `ConnectError`, `ConnectTimeout` or `PoolTimeout`.
    """

    def __init__(self, *args: object, **fields: Any) -> None:
        super().__init__(*args)
        self.__dict__.update(fields)

    def __new__(cls, *args: object, **fields: Any) -> Self:
        # OSError.__new__ refuses keywords that it doesn't know.
        return super().__new__(cls, *args)

    def __reduce__(self) -> tuple[Any, ...]:
        args = self.args
        if isinstance(self, OSError) and self.filename is not None:
            # OSError leaves the file's name out of its args.
            args = (*args, self.filename)
        return _rebuild, (type(self), args, self.__dict__)


class InternalError(PenstockError):
    """A bug in penstock: a panic in the Rust core, caught where it would cross into Python, or what can't happen."""


# Limits


class LimitExceeded(PenstockError):
    """Something grew past a limit that was set for it."""

    seen: int
    limit: int
    setting: str


class BodyTooLong(LimitExceeded):
    """A body grew past `Tunables.max_body`; `.partial` is the image of what was received, where there is one."""

    partial: penstock.BodyImage | None = None


class ContentLengthTooLong(LimitExceeded):
    """The announced length is over `Tunables.max_body`; nothing of the body was read."""


class HeadTooLong(LimitExceeded):
    """A response head, trailer or chunk head is over one of `Limits`; or a head has more lines or bytes than a dialog
    holds, which no setting changes."""


class DecodedTooLong(LimitExceeded):
    """A coded body grew past `Tunables.max_body`, or past `Tunables.max_ratio` times its length, when decoded;
    `.setting` says which."""

    partial: penstock.BodyImage | None = None


class BudgetExceeded(PenstockError):
    """A `Budget` had no room. The client has waited for some (`Timeouts.budget`); a sink and `collect` don't wait."""

    resource: str
    wanted: int | None = None
    used: int | None = None
    limit: int | None = None
    hopeless: bool = False
    """Whether it is over the limit by itself: waiting for what others give back would be in vain."""


class StorageFull(PenstockError, OSError):
    """The file system of `Tunables.temp_dir`, or of what a body is saved as, is full or over its quota: `errno` says
    which, and `filename` where."""


# Requests


class RequestError(PenstockError):
    """A request failed."""

    request: str | None = None
    """Its method."""
    url: str | None = None
    elapsed: float | None = None
    """Seconds since the call."""


class InvalidURL(RequestError, ValueError):
    """The URL is not one that a request can be made to."""


class ConnectError(RequestError, ConnectionError):
    """No connection could be made."""

    retryable = True


class DNSError(ConnectError):
    """The name did not resolve; not `retryable` where it can't be one."""


class TLSError(ConnectError):
    """The TLS handshake or the verification of the certificate failed."""

    retryable = False


class ProxyError(ConnectError):
    """The proxy refused, with `.status`, or made no tunnel otherwise."""

    status: int | None = None


class ConnectionLost(RequestError, ConnectionError):
    """The peer closed the connection before the response's head was complete."""

    retryable = True


class Truncated(RequestError):
    """The body ended early: after `.received` bytes of `.expected`, if it is known how many were to come. `.partial` is
    the image of what was received."""

    received: int
    expected: int | None
    partial: penstock.BodyImage | None = None
    retryable = True


class ProtocolError(RequestError):
    """The peer sent something that isn't HTTP/1.1, or that can be read in two ways."""

    at: int


class TooManyRedirects(RequestError):
    """More redirects than `max_redirects`; `.history` has the responses on the way."""

    history: tuple[penstock.Response | penstock.StreamedResponse, ...] = ()


class UnsupportedEncoding(RequestError):
    """A body has a coding that isn't decoded, or more than four; `.coding` is its name, where it is one."""

    coding: str | None = None


class DecodeError(RequestError):
    """A coded body could not be decoded: `.coding` is the one at fault, and `.at` the byte of what that coding is taken
    off. `.partial` is the image of what was decoded; with `decode="after"`, also when a decoded body is cut or too
    long, it is that of the body as it came."""

    coding: str = ""
    at: int = 0
    partial: penstock.BodyImage | None = None


class HTTPStatusError(RequestError):
    """`raise_for_status` met a status of 400 or more."""

    # Whoever catches one has it, and isn't to look for `None` each time.
    response: penstock.Response | penstock.StreamedResponse = None  # type: ignore[assignment]
    """`None` in one that you raise yourself without it."""


class NotRecorded(RequestError):
    """A replay has no answer for the request; `.nearest` is the method and URL of one that it has, if there is any."""

    nearest: tuple[str, str] | None = None


class Timeout(RequestError, TimeoutError):
    """A deadline of `Timeouts` passed. `.partial` is what was received of the body, where there is any."""

    partial: penstock.BodyImage | None = None
    retryable = True


class ConnectTimeout(Timeout):
    """`Timeouts.connect`: no connection in time."""


class FirstByteTimeout(Timeout):
    """`Timeouts.first_byte`: no complete response head in time."""


class IdleTimeout(Timeout):
    """`Timeouts.idle`: no byte of the body for too long."""


class WriteTimeout(Timeout):
    """`Timeouts.write`: the peer took no byte of the request for too long."""


class PoolTimeout(Timeout):
    """`Timeouts.pool`: no connection came free in time."""


class TotalTimeout(Timeout):
    """`Timeouts.total`: the request as a whole took too long."""


class TooSlow(Timeout):
    """`Timeouts.min_rate`: the body came more slowly than that."""


# Blocking work


class PermitError(PenstockError, RuntimeError):
    """A permit was misused: entered twice, released without being held."""


class SemaphoreClosed(PenstockError):
    """The semaphore was closed while, or before, a permit was waited for."""


class PoolFull(PenstockError):
    """The queue of a `DispatchPool` is full and its overflow policy says to refuse."""

    limit: int


class PoolClosed(PenstockError, RuntimeError):
    """The `DispatchPool` takes no more jobs."""


class ClientClosed(PenstockError, RuntimeError):
    """The `Client` was closed, or belongs to another event loop."""


class BlockingInLoop(PenstockError, RuntimeError):
    """A call that may wait, for a disk, a permit or a response, was made on the thread of a running event loop."""


class HandoverError(PenstockError, RuntimeError):
    """`block_in_place` can't hand the loop over here, and the setting is to say so; or the loop was closed before the
    function came back."""


class ArchiveError(PenstockError):
    """A BARC file is damaged at `.offset`; `.kind` is a name for what is wrong, and `.end` is where the next record may
    be, if that can be told."""

    offset: int | None
    kind: str
    end: int | None = None
