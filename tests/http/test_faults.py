"""Each fault that a server or a network has, at each stage, in each framing, for each store and policy: an error with a
name and with what was received, in time, and a client that is as good as new."""

from __future__ import annotations

import asyncio
from typing import Any

import penstock
import pytest
from penstock.http import connection

from tests.http.conftest import NOTHING, STORINGS, Storing, at_hand
from tests.http.serving import CLOSE, HANG, RESET, TURN, UNREAD, chunked, head, response, serve, until

pytestmark = pytest.mark.asyncio

BODY = bytes(i * 5 & 255 for i in range(400_000))

WHOLE = {
    "length": response(BODY),
    "chunked": head("Transfer-Encoding: chunked") + chunked(BODY, 8192),
    "until the end": head("Connection: close") + BODY,
}
FAULTS = ("reset", "early close", "stall", "garbage", "slow drip")
STAGES = ("before the head", "in the head", "at the body's start", "in the body", "before the last byte")


def cut_at(framing: str, stage: str) -> int:
    """Where in the response."""
    wire = WHOLE[framing]
    body = wire.index(b"\r\n\r\n") + 4
    return {
        "before the head": 0,
        "in the head": 5,
        "at the body's start": body,
        "in the body": body + 200_000,
        "before the last byte": len(wire) - 1,
    }[stage]


def received(framing: str, stage: str) -> bytes:
    """What came of the body before that."""
    came = WHOLE[framing][: cut_at(framing, stage)].partition(b"\r\n\r\n")[2]
    if framing == "chunked":
        # Each chunk of 8,192 bytes has 6 bytes before it and 2 behind it.
        came = b"".join(came[start + 6 : start + 6 + 8192] for start in range(0, len(came), 8200))[: len(BODY)]
    return came


def script(fault: str, framing: str, stage: str) -> list[Any]:
    wire, at = WHOLE[framing], cut_at(framing, stage)
    sent = [wire[:at], TURN] if at else []
    rest = wire[at:]
    if fault == "reset":
        return [*sent, 0.02, RESET]
    if fault == "early close":
        return [*sent, CLOSE]
    if fault == "stall":
        return [*sent, HANG]
    if fault == "garbage":
        return [*sent, b"\0\xff\r\r\n:\n garbage " * 10, CLOSE]
    drip: list[Any] = []
    for start in range(min(len(rest), 200)):
        drip += [rest[start : start + 1], 0.02]
    return [*sent, *drip, rest[200:], *([CLOSE] if framing == "until the end" else [])]


def deadlines(fault: str, stage: str) -> penstock.Timeouts:
    """What is to pass, and nothing else: on a busy machine, others would pass too."""
    errors = expected(fault, "length", stage) or ()
    if penstock.FirstByteTimeout in errors:
        return penstock.Timeouts(first_byte=0.3)
    if penstock.IdleTimeout in errors:
        return penstock.Timeouts(idle=0.3)
    if penstock.TooSlow in errors:
        return penstock.Timeouts(min_rate=(1000, 0.4))
    return penstock.Timeouts()


def expected(fault: str, framing: str, stage: str) -> tuple[type[BaseException], ...] | None:
    """What is raised; `None` is nothing, as the peer said nothing wrong."""
    early = stage in ("before the head", "in the head")
    if fault == "stall":
        return (penstock.FirstByteTimeout,) if early else (penstock.IdleTimeout,)
    if fault == "slow drip":
        if early:
            return (penstock.FirstByteTimeout,)
        return None if stage == "before the last byte" else (penstock.TooSlow,)
    if fault == "garbage":
        if early:
            return (penstock.ProtocolError,)
        if framing == "chunked":
            # In the middle of a chunk it is the body's, and tells itself at the chunk's end.
            return (penstock.ProtocolError, penstock.Truncated)
        if framing == "length" and stage != "before the last byte":
            return (penstock.Truncated,)
        return None
    if early:
        return (penstock.ConnectionLost,)
    if framing == "until the end" and fault == "early close":
        # It can't be told from a body that is complete: that is what this framing is.
        return None
    return (penstock.Truncated,)


@pytest.mark.parametrize("framing", WHOLE)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("storing", [*STORINGS, "recycled"], indirect=True)
async def test_a_fault_is_an_error_with_what_came_and_the_client_goes_on(
    storing: Storing, fault: str, framing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine what came may take longer to be stored, and a timeout would go without it.
    monkeypatch.setattr(connection, "PATIENCE", 5)
    async with serve([response(BODY)]) as sound, storing.client() as client:

        async def ask(stage: str) -> None:
            errors = expected(fault, framing, stage)
            timeout = deadlines(fault, stage)
            async with serve(script(fault, framing, stage)) as server, asyncio.timeout(10):
                url = server.url
                if errors is None:
                    answer = await client.get(url, timeout=timeout)
                    assert answer.status == 200
                    return
                with pytest.raises(errors) as caught:
                    await client.get(url, timeout=timeout)
            error: Any = caught.value
            assert error.url == url
            partial = getattr(error, "partial", None)
            if partial is not None:
                came, before = await partial.read(), received(framing, stage)
                if fault in ("early close", "stall"):
                    assert came == before
                elif fault == "garbage":
                    assert came.startswith(before)
                else:
                    # A reset may overtake what was sent before it, and a drip goes on.
                    assert BODY.startswith(came)
            if stage in ("in the body", "before the last byte") and hasattr(error, "partial"):
                assert partial is not None

        # All at once, as most of them wait for a timeout.
        await asyncio.gather(*map(ask, STAGES))
        await until(lambda: at_hand(client)["open"] == at_hand(client)["idle"])
        async with asyncio.timeout(10):
            assert await (await client.get(sound.url)).read() == BODY
        await client.aclose()
        assert at_hand(client) == NOTHING


@pytest.mark.parametrize("fault", ["reset", "early close", "stall"])
@pytest.mark.parametrize("where", ["from memory", "from a file", "in chunks"])
async def test_a_fault_while_a_body_is_sent(storing: Storing, fault: str, where: str) -> None:
    async def pieces() -> Any:
        for _ in range(40):
            yield BODY

    image = await penstock.collect(pieces(), penstock.Tunables(max_body_ram=0 if where == "from a file" else "64MiB"))
    content = pieces() if where == "in chunks" else image
    end = {"reset": RESET, "early close": CLOSE, "stall": HANG}[fault]
    timeout = penstock.Timeouts(write=0.3)
    script = [UNREAD, 0.05, end] if fault != "stall" else [UNREAD, 5.0]
    async with serve(script, [response(b"ok")]) as server, storing.client(timeout=timeout) as client:
        error = penstock.WriteTimeout if fault == "stall" else penstock.ConnectionLost
        with pytest.raises(error):
            await client.put(server.url, content=content)
        assert at_hand(client) == NOTHING
        assert (await client.put(server.url, content=image)).status == 200
        assert server.bodies == [BODY * 40]
