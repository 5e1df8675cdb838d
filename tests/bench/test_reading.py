"""What every row's bodies are read with."""

import mmap
import random

import pytest
from penstock.bench.reading import Summary, summary


@pytest.mark.parametrize("size", [1, 1000, 65536, 65537, 200_000])
def test_summary_is_length_and_greatest_byte_of_any_buffer(size: int) -> None:
    data = random.Random(size).randbytes(size)
    wanted = (size, max(data))
    assert summary(data) == wanted
    assert summary(bytearray(data)) == wanted
    assert summary(memoryview(data)[: size // 2 + 1]) == (size // 2 + 1, max(data[: size // 2 + 1]))
    with mmap.mmap(-1, size) as mapping:
        mapping[:] = data
        assert summary(mapping) == wanted


def test_summaries_of_pieces_add_up() -> None:
    whole = Summary()
    for piece in (b"\x01\x02", b"", b"\xff"):
        whole.add(piece)
    whole.check(3)
    with pytest.raises(ValueError, match="read 3 bytes up to 0xff; expected 4 up to 0xff"):
        whole.check(4)


def test_a_body_without_its_last_byte_is_noticed() -> None:
    part = Summary()
    part.add(bytes(10))
    with pytest.raises(ValueError, match="up to 0x0"):
        part.check(10)
