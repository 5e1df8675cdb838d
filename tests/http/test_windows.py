"""Windows to receive into: a transport may ask for one as often as it likes, with other connections in between."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
from penstock._native import Scratch

from tests.http.reading import Machine
from tests.http.serving import chunked, head, response

HINTS = (-1, 0, 1, 1 << 30)


def receive(machine: Machine, data: bytes) -> None:
    while data:
        window = machine.get_buffer(-1)
        count = min(len(window), len(data))
        window[:count] = data[:count]
        machine.buffer_updated(count)
        data = data[count:]


@pytest.mark.parametrize("size", [3000, 200_000], ids=["shared window", "own windows"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_window_that_nothing_is_received_into_changes_nothing(size: int, framing: str) -> None:
    bodies = [bytes((i * i >> 3) + first & 255 for i in range(size)) for first in (0, 7)]
    wires = [
        response(body) if framing == "length" else head("Transfer-Encoding: chunked") + chunked(body, 1100)
        for body in bodies
    ]
    scratch = Scratch()
    machines = [Machine(scratch), Machine(scratch)]
    for machine in machines:
        machine.expect("GET")
    step = 1000
    for start in range(0, max(map(len, wires)), step):
        for machine, wire in zip(machines, wires, strict=True):
            # As under TLS, where a window is asked for before there is anything to put into it.
            for each in machines:
                lengths = [len(each.get_buffer(hint)) for hint in HINTS]
                assert lengths == [max(lengths[0], 1)] * len(HINTS)
            receive(machine, wire[start : start + step])
    found = [machine.outcome for machine in machines]
    assert [bytes(image) for _, image, _, _ in found] == bodies
    assert [reusable for *_, reusable in found] == [True, True]


FINALIZER = """
import faulthandler, gc
from penstock import _native

scratch = _native.Scratch()
receiver = _native.Receiver(scratch)
seen = []

class Looks:
    def __del__(self):
        scratch.close()
        seen.append(receiver.progress)

faulthandler.dump_traceback_later(10, exit=True)
gc.disable()
looks = Looks()
looks.itself = looks
del looks
gc.set_threshold(1)
gc.enable()
window = receiver.get_buffer(-1)
gc.collect()
print(len(window) > 0, seen)
"""


def test_a_finalizer_that_a_window_sets_off_may_look_at_the_connection(
    script: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = script(FINALIZER)
    assert (done.stdout, done.stderr) == ("True [0]\n", "")
