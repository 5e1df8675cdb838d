"""Recorded dialogs as answers: to a client by `Replay`, to anybody over HTTP by `ReplayServer`.

`penstock.pytest_plugin` has a fixture of both for pytest.
"""

from penstock.replay.server import ReplayServer, serving
from penstock.replay.store import Key, Source
from penstock.replay.transport import Replay

__all__ = ["Key", "Replay", "ReplayServer", "Source", "serving"]
