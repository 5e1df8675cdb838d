"""`BodyImage.decode` and `encode`: any image, to where the tunables say, by any policy."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from pathlib import Path
from typing import Any, cast

import brotli
import penstock
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.coding import ENCODE, put_on

TEXT = b"".join(b"line %d of a body to be coded\n" % number for number in range(20_000))

DECODE: dict[str, Any] = {
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
    "br": brotli.decompress,
    "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("state", ["ram", "file", "mmap"])
@pytest.mark.parametrize("coding", DECODE)
async def test_an_image_in_any_state_is_coded_and_decoded(tmp_path: Path, policy: Any, coding: str, state: str) -> None:
    path = tmp_path / "body"
    path.write_bytes(TEXT)
    image = penstock.BodyImage.from_bytes(TEXT)
    if state != "ram":
        image = penstock.BodyImage.from_path(path, trusted=True)
    if state == "mmap":
        image = await image.to_mmap()
    assert image.state == state
    tunables = penstock.Tunables(max_body_ram=0 if state == "file" else "1MiB", temp_dir=tmp_path)
    coded = await image.encode(coding, policy=policy, tunables=tunables)
    assert len(coded) < len(TEXT) / 4
    assert DECODE[coding](await coded.read()) == TEXT
    decoded = await coded.decode(coding, policy=policy, tunables=tunables)
    assert await decoded.read() == TEXT
    assert (coded.state, decoded.state) == (("file",) * 2 if state == "file" else ("ram",) * 2)


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ENCODE)
async def test_what_others_coded_is_decoded(kind: str) -> None:
    coded = penstock.BodyImage.from_bytes(put_on(TEXT, kind))
    assert await (await coded.decode(ENCODE[kind][0].upper())).read() == TEXT


@pytest.mark.asyncio
async def test_codings_are_names_or_a_headers_value() -> None:
    image = penstock.BodyImage.from_bytes(TEXT)
    coded = await image.encode(["gzip", "identity", "br"])
    assert gzip.decompress(brotli.decompress(await coded.read())) == TEXT
    for codings in ("gzip, br", ["gzip", "br"], ("GZIP , BR",), iter(["x-gzip", "br"])):
        assert await (await coded.decode(codings)).read() == TEXT
    assert (await image.decode([])) is not None
    assert await (await image.decode("identity")).read() == TEXT


@pytest.mark.asyncio
async def test_an_unknown_coding_is_refused_before_anything_is_done() -> None:
    image = penstock.BodyImage.from_bytes(TEXT)
    for act in (image.decode, image.encode):
        with pytest.raises(penstock.UnsupportedEncoding) as caught:
            await act("gzip, compress")
        assert caught.value.coding == "compress"


@pytest.mark.asyncio
async def test_what_comes_out_is_bounded() -> None:
    coded = penstock.BodyImage.from_bytes(put_on(TEXT, "zstd"))
    assert len(await coded.decode("zstd", max_body=len(TEXT))) == len(TEXT)
    with pytest.raises(penstock.DecodedTooLong) as caught:
        await coded.decode("zstd", max_body=len(TEXT) - 1)
    assert (caught.value.seen, caught.value.limit) == (len(TEXT), len(TEXT) - 1)
    with pytest.raises(penstock.DecodedTooLong, match=r"Tunables\.max_ratio"):
        await coded.decode("zstd", tunables=penstock.Tunables(max_ratio=2))
    with pytest.raises(penstock.BodyTooLong):
        await penstock.BodyImage.from_bytes(TEXT).encode("gzip", max_body=100)


@pytest.mark.asyncio
@pytest.mark.parametrize("limits", [{}, {"max_body_ram": "1MiB"}, {"max_body": 500}])
async def test_max_body_holds_instead_of_the_tunables_limits(tmp_path: Path, limits: dict[str, Any]) -> None:
    coded = penstock.BodyImage.from_bytes(put_on(b"x" * 1000, "gzip"))
    tunables = penstock.Tunables(temp_dir=tmp_path, **limits)
    assert len(await coded.decode("gzip", max_body=1000, tunables=tunables)) == 1000
    with pytest.raises(penstock.DecodedTooLong):
        await coded.decode("gzip", max_body=999, tunables=tunables)
    with pytest.raises(penstock.BodyTooLong):
        await penstock.BodyImage.from_bytes(TEXT).encode("gzip", max_body=100, tunables=tunables)


@pytest.mark.asyncio
async def test_a_cut_or_corrupt_image_is_an_error() -> None:
    for kind, (name, _) in ENCODE.items():
        raw = put_on(TEXT, kind)
        with pytest.raises(penstock.Truncated) as cut:
            await penstock.BodyImage.from_bytes(raw[:-1]).decode(name)
        with pytest.raises(penstock.DecodeError) as corrupt:
            await penstock.BodyImage.from_bytes(raw + b"junk").decode(name)
        assert (cut.value.partial, corrupt.value.partial) == (None, None)


@pytest.mark.asyncio
async def test_an_empty_image_has_nothing_to_decode() -> None:
    empty = penstock.BodyImage.from_bytes(b"")
    assert len(await empty.decode("gzip, br")) == 0
    assert gzip.decompress(await (await empty.encode("gzip")).read()) == b""


@pytest.mark.asyncio
async def test_what_are_no_codings_no_policy_and_no_budget_is_refused_by_its_name() -> None:
    image = penstock.BodyImage.from_bytes(b"body")
    wrong: Any
    for call in (image.decode, image.encode):
        for wrong in (None, 5, b"gzip"):
            with pytest.raises(TypeError, match=f"^codings={wrong!r}: takes names, as "):
                await call(wrong)
        for wrong in (0, penstock.Direct):
            with pytest.raises(TypeError, match=r"^policy=.*: takes a policy, as "):
                await call("gzip", policy=wrong)
        with pytest.raises(TypeError):
            await call("gzip", budget=cast(Any, 0))
    with pytest.raises(TypeError, match=r"^policy=5: takes a policy, as "):
        await anext(image.stream(policy=cast(Any, 5)))


@pytest.mark.asyncio
async def test_levels_are_each_codings_own() -> None:
    image = penstock.BodyImage.from_bytes(TEXT[:60_000])
    for coding, least, most in (("gzip", 0, 9), ("deflate", 0, 9), ("br", 0, 11), ("zstd", 1, 22)):
        fast, small = [len(await image.encode(coding, level=level)) for level in (least, most)]
        assert small < fast
        with pytest.raises(ValueError, match=f"level={most + 1}: not between {least} and {most}"):
            await image.encode(coding, level=most + 1)
        with pytest.raises(TypeError, match=r"^level=True: not an int$"):
            await image.encode(coding, level=True)
        for level in (-1, 1 << 64):
            with pytest.raises(ValueError, match=f"level={level}: not between"):
                await image.encode(coding, level=level)
        assert await (await (await image.encode(coding, level=most)).decode(coding)).read() == TEXT[:60_000]


@pytest.mark.asyncio
async def test_memory_counts_against_the_budget_and_a_full_one_spills(tmp_path: Path) -> None:
    coded = penstock.BodyImage.from_bytes(put_on(TEXT, "gzip"))
    tunables = penstock.Tunables(max_body_ram="64MiB", temp_dir=tmp_path)
    budget = penstock.Budget(ram=100_000)
    decoded = await coded.decode("gzip", tunables=tunables, budget=budget)
    assert (decoded.state, budget.stats()["ram"]["used"]) == ("file", 0)
    assert await decoded.read() == TEXT
    with pytest.raises(penstock.BudgetExceeded):
        await coded.decode("gzip", tunables=tunables, budget=penstock.Budget(ram=1, files=0))


@pytest.mark.asyncio
async def test_an_unwritable_directory_is_told_and_the_image_stays(tmp_path: Path) -> None:
    coded = penstock.BodyImage.from_bytes(put_on(TEXT, "gzip"))
    tunables = penstock.Tunables(max_body_ram=0, temp_dir=tmp_path / "missing")
    for act in (coded.decode, coded.encode):
        with pytest.raises(FileNotFoundError, match="missing"):
            await act("gzip", tunables=tunables)
    assert await (await coded.decode("gzip")).read() == TEXT


@pytest.mark.asyncio
@pytest.mark.parametrize("turns", [0, 1, 2, 5])
async def test_cancelled_it_leaves_nothing(pool: penstock.DispatchPool, turns: int, tmp_path: Path) -> None:
    coded = penstock.BodyImage.from_bytes(put_on(TEXT * 4, "gzip"))
    budget = penstock.Budget()
    tunables = penstock.Tunables(max_body_ram=0, temp_dir=tmp_path)
    decoding = asyncio.ensure_future(
        coded.decode("gzip", policy=penstock.Dispatch(pool), budget=budget, tunables=tunables)
    )
    for _ in range(turns):
        await asyncio.sleep(0)
    decoding.cancel()
    await asyncio.wait([decoding])
    del decoding
    async with asyncio.timeout(10):
        while budget.stats()["files"]["used"] or pool.stats()["running"]:
            await asyncio.sleep(0.001)
    assert await (await coded.decode("gzip")).read() == TEXT * 4


@given(
    st.binary(max_size=300).flatmap(lambda piece: st.integers(0, 300).map(lambda count: piece * count)),
    st.lists(st.sampled_from(sorted(DECODE)), max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_decoding_undoes_encoding(body: bytes, codings: list[str]) -> None:
    async def check() -> None:
        coded = await penstock.BodyImage.from_bytes(body).encode(codings)
        raw = await coded.read()
        assert await (await coded.decode(codings)).read() == body
        for coding in reversed(codings):
            raw = DECODE[coding](raw)
        assert raw == body

    asyncio.run(check())
