"""What a connection's bytes are read as: by penstock's receiver, without a socket, and by h11, for a second opinion."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any

import h11
import penstock
from penstock._native import HeadLimits, Plan, Receiver, Scratch

__all__ = ["Machine", "Message", "Reading", "by_h11", "by_penstock", "disagreement", "first_of"]

TUNABLES = penstock.Tunables(max_body_ram="1MiB", max_body="1MiB")
BUDGET = penstock.Budget(ram="1MiB")
PLAN = Plan(TUNABLES, BUDGET, None, penstock.Direct(), False, HeadLimits())


@dataclasses.dataclass(frozen=True)
class Message:
    """A response that is complete: what it says, and where it ends."""

    status: int
    body: bytes
    end: int


@dataclasses.dataclass(frozen=True)
class Reading:
    """The messages, and why there are no more."""

    messages: tuple[Message, ...]
    end: str
    """`refused`, `cut`, or `closed`: the connection isn't used again."""
    why: str = ""


class Machine(Receiver):
    """A connection without a socket."""

    def __new__(cls, scratch: Scratch | None = None) -> Machine:
        return super().__new__(cls, scratch or Scratch())

    def __init__(self, scratch: Scratch | None = None) -> None:
        self.outcome: Any = None

    def _on_done(self) -> None:
        self.outcome = self.finish()

    def _on_failed(self, error: Exception) -> None:
        self.outcome = error

    def close(self) -> None:
        self.outcome = ConnectionError("bytes behind the response")

    def expect(self, method: str) -> None:
        self.outcome = None
        self.begin(PLAN, head=method == "HEAD", socket=-1, expect=False, tell_head=False, stream=False)

    def feed(self, piece: bytes) -> None:
        window = self.get_buffer(-1)
        assert len(window) >= len(piece)
        window[: len(piece)] = piece
        self.buffer_updated(len(piece))


def by_penstock(wire: bytes, method: str = "GET") -> Reading:
    """Byte by byte, so that it shows where a message ends; then the connection ends."""
    machine = Machine()
    machine.expect(method)
    messages: list[Message] = []
    for at in range(len(wire)):
        machine.feed(wire[at : at + 1])
        if isinstance(machine.outcome, Exception):
            return Reading(tuple(messages), "refused", str(machine.outcome))
        if machine.outcome is not None:
            head, image, _, reusable = machine.outcome
            messages.append(Message(head.status, bytes(image), at + 1))
            if not reusable:
                return Reading(tuple(messages), "closed")
            machine.expect(method)
    machine.feed_eof(False)
    if isinstance(machine.outcome, Exception):
        cut = isinstance(machine.outcome, penstock.Truncated | penstock.ConnectionLost)
        return Reading(tuple(messages), "cut" if cut else "refused", str(machine.outcome))
    head, image, _, _ = machine.outcome
    return Reading((*messages, Message(head.status, bytes(image), len(wire))), "closed")


def first_of(wire: bytes, cuts: Iterable[int], method: str = "GET") -> tuple[str, int, bytes, bool]:
    """How the first message ends when the bytes come in these pieces: how, its status and body, and whether bytes were
    noticed behind it."""
    machine = Machine()
    machine.expect(method)
    start = 0
    excess = False
    for end in (*cuts, len(wire)):
        if end > start:
            machine.feed(wire[start:end])
        start = end
        if machine.outcome is not None:
            excess = end < len(wire) or machine.excess
            break
    if machine.outcome is None:
        machine.feed_eof(False)
    if isinstance(machine.outcome, Exception):
        return type(machine.outcome).__name__, 0, b"", False
    head, image, _, _ = machine.outcome
    return "done", head.status, bytes(image), excess


def by_h11(wire: bytes, method: str = "GET") -> Reading:
    """The same by h11, all bytes at once."""
    connection = h11.Connection(h11.CLIENT)
    messages: list[Message] = []
    connection.receive_data(wire)
    ended = False
    while True:
        connection.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
        connection.send(h11.EndOfMessage())
        status, body, version = 0, b"", b""
        while True:
            try:
                event: Any = connection.next_event()
            except h11.RemoteProtocolError as error:
                return Reading(tuple(messages), "cut" if ended else "refused", str(error))
            if isinstance(event, h11.Response):
                status, version = event.status_code, event.http_version
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            elif event is h11.NEED_DATA and not ended:
                ended = True
                connection.receive_data(b"")
            elif not isinstance(event, h11.InformationalResponse):
                return Reading(tuple(messages), "cut", repr(event))
        messages.append(Message(status, body, len(wire) - len(connection.trailing_data[0])))
        if connection.their_state is not h11.DONE or connection.our_state is not h11.DONE:
            return Reading(tuple(messages), "closed", f"HTTP/{version.decode()}")
        connection.start_next_cycle()


def disagreement(ours: Reading, theirs: Reading, lenient: Sequence[str]) -> str | None:
    """What is wrong, if something is: one takes for a message what the other reads differently. To refuse is always
    right; to take what h11 refuses only for one of the reasons of `lenient`, patterns for h11's words."""
    for mine, its in zip(ours.messages, theirs.messages, strict=False):
        if mine != its:
            return f"read as {mine}, by h11 as {its}"
    if len(ours.messages) < len(theirs.messages):
        return (
            None if ours.end in ("refused", "closed") else f"incomplete, by h11 {theirs.messages[len(ours.messages)]}"
        )
    if len(ours.messages) > len(theirs.messages):
        if theirs.end in ("refused", "closed") and any(re.search(reason, theirs.why) for reason in lenient):
            return None
        return f"read as {ours.messages[len(theirs.messages)]}, by h11 {theirs.end}: {theirs.why}"
    return None
