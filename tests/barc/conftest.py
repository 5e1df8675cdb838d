"""Archives in files of their own, and dialogs to put there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import penstock
import pytest
from penstock import barc

DATA = Path(__file__).parents[1] / "data/barc"

ALWAYS = {"min_len": 0, "check_identity": False, "non_compressible_coef": 0.0}
STRATEGIES = {
    "plain": barc.Strategy.plain(),
    "gzip": barc.Strategy.gzip(**ALWAYS),
    "brotli": barc.Strategy.brotli(**ALWAYS),
}
"""That compress whatever they are given."""


class MakeDialog(Protocol):
    def __call__(self, number: int = 0, body: Any = b"", **changes: Any) -> penstock.Dialog: ...


def make_dialog(number: int = 0, body: Any = b"", **changes: Any) -> penstock.Dialog:
    image = body if isinstance(body, penstock.BodyImage) else penstock.BodyImage.from_bytes(body)
    dialog = penstock.Dialog(
        penstock.Prolog(method="GET", url=f"http://sample.test/{number}", req_headers=[("Accept", "*/*")]),
        penstock.Epilog(
            version="HTTP/1.1",
            status=200,
            res_headers=[("Content-Type", "text/plain"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")],
            res_body=image,
            res_decoded=("chunked", "identity"),
        ),
    )
    return dialog.replace(**changes)


@pytest.fixture
def dialog() -> MakeDialog:
    return make_dialog


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "test.barc"


@pytest.fixture
def three(path: Path) -> tuple[Path, list[int]]:
    """An archive of three records, and their offsets."""
    with barc.open(path, "a") as archive:
        return path, [archive.append(make_dialog(number, b"text %d" % number)) for number in range(3)]


@pytest.fixture(params=STRATEGIES)
def strategy(request: pytest.FixtureRequest) -> barc.Strategy:
    return STRATEGIES[request.param]


def urls(path: Path, **options: Any) -> list[str]:
    """Those of the records that an archive gives; an empty text for one without."""
    with barc.open(path, **options) as archive:
        return [record.meta.get("url", "") for record in archive]


@pytest.fixture(params=["direct", "permit", "dispatch", "default"])
def policy(request: pytest.FixtureRequest) -> Any:
    """Each policy; "default" is None, the default pool."""
    makers: dict[str, Callable[[], Any]] = {
        "direct": penstock.Direct,
        "permit": lambda: penstock.Permit(penstock.Semaphore(1)),
        "dispatch": lambda: penstock.Dispatch(request.getfixturevalue("threads")),
        "default": lambda: None,
    }
    return makers[request.param]()


@pytest.fixture
def threads() -> Any:
    with penstock.DispatchPool(threads=4) as pool:
        yield pool


async def in_thread(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return await asyncio.to_thread(fn, *args, **kwargs)
