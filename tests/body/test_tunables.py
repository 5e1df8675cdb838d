"""The limits of a body: defaults, units, and what is refused."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import penstock
import pytest

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30


def test_defaults() -> None:
    tunables = penstock.Tunables()
    assert tunables.max_body_ram == 192 * KiB
    assert tunables.max_body == GiB
    assert tunables.buffer_size_fs == 64 * KiB
    assert tuple(tunables.digests) == ()


@pytest.mark.parametrize(
    ("size", "bytes_"),
    [
        (0, 0),
        (65536, 65536),
        ("64KiB", 65536),
        ("64KB", 64000),
        ("1MiB", MiB),
        ("1MB", 10**6),
        ("2GiB", 2 * GiB),
        ("100B", 100),
        ("1.5KiB", 1536),
        ("2.01MB", 2_010_000),
    ],
)
def test_a_size_is_a_number_of_bytes_or_a_string_with_a_unit(size: int | str, bytes_: int) -> None:
    assert penstock.Tunables(max_body_ram=size, max_body="4GiB").max_body_ram == bytes_


@pytest.mark.parametrize("size", ["65536", "", "KiB", "64 parsecs", "-1KiB", "1e3KiB", "nanKiB", "\ud800", -1, 1 << 64])
def test_a_size_that_cannot_be_read_is_refused_with_its_setting(size: int | str) -> None:
    with pytest.raises((ValueError, OverflowError), match="max_body"):
        penstock.Tunables(max_body=size)


@pytest.mark.parametrize("size", [True, False, 1.5, b"64KiB", [1]])
def test_a_size_of_another_type_is_refused_with_its_setting(size: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="max_body"):
        penstock.Tunables(max_body=size)


@pytest.mark.parametrize(
    ("ratio", "error"), [(-1, ValueError), (0, ValueError), (1 << 64, ValueError), (True, TypeError)]
)
def test_a_ratio_that_is_none_is_refused_with_its_setting(ratio: int, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"max_ratio={ratio}: not "):
        penstock.Tunables(max_ratio=ratio)


def test_a_limit_not_given_follows_the_one_given() -> None:
    low = penstock.Tunables(max_body="64KiB")
    assert (low.max_body_ram, low.max_body) == (64 * KiB, 64 * KiB)
    high = penstock.Tunables(max_body_ram="2GiB")
    assert high.max_body >= high.max_body_ram == 2 * GiB


def test_a_limit_never_given_follows_the_one_that_is_replaced(tmp_path: Path) -> None:
    tunables = penstock.Tunables(temp_dir=tmp_path)
    for each in (tunables, pickle.loads(pickle.dumps(tunables)), tunables.replace(max_ratio=2)):
        low = each.replace(max_body="64KiB")
        assert (low.max_body_ram, low.max_body, low.temp_dir) == (64 * KiB, 64 * KiB, tmp_path)
        high = each.replace(max_body_ram="2GiB")
        assert (high.max_body_ram, high.max_body) == (2 * GiB, 2 * GiB)
        again = low.replace(max_body="1MiB")
        assert (again.max_body_ram, again.max_body) == (192 * KiB, MiB)


def test_copy_replace_knows_them() -> None:
    tunables = penstock.Tunables(max_body="1MiB")
    # `copy.replace`, from CPython 3.13 on, calls this.
    assert tunables.__replace__(max_ratio=2) == tunables.replace(max_ratio=2) != tunables


def test_a_limit_once_given_is_kept_when_the_other_is_replaced() -> None:
    tunables = penstock.Tunables(max_body_ram="1MiB")
    assert tunables.replace(max_body="2MiB").max_body_ram == MiB
    with pytest.raises(ValueError, match=r"max_body_ram.*max_body"):
        tunables.replace(max_body="64KiB")


def test_limits_are_compared_whether_they_were_given_or_not() -> None:
    assert penstock.Tunables(max_body_ram="192KiB", max_body="1GiB") == penstock.Tunables()


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match=r"max_body_ram.*max_body"):
        penstock.Tunables(max_body_ram="2MiB", max_body="1MiB")
    equal = penstock.Tunables(max_body_ram="1MiB", max_body="1MiB")
    assert equal.max_body_ram == equal.max_body


def test_a_buffer_size_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="buffer_size_fs"):
        penstock.Tunables(buffer_size_fs=0)
    assert penstock.Tunables(buffer_size_fs=17).buffer_size_fs == 17


def test_tunables_cannot_be_changed() -> None:
    tunables = penstock.Tunables()
    with pytest.raises(AttributeError):
        tunables.max_body = 1  # type: ignore[misc]
    assert tunables.max_body == GiB


def test_options_are_keywords_and_unknown_ones_are_refused() -> None:
    with pytest.raises(TypeError):
        penstock.Tunables("64KiB")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        penstock.Tunables(max_boddy="64KiB")  # type: ignore[call-arg]


def test_digests_are_named_and_an_unknown_one_is_refused() -> None:
    assert tuple(penstock.Tunables(digests=("sha512", "md5")).digests) == ("sha512", "md5")
    with pytest.raises(ValueError, match="crc7"):
        penstock.Tunables(digests=("crc7",))
    wrong: Any
    for wrong in ("md5", 5, [5], b"md5"):
        with pytest.raises(TypeError, match=f"^digests={re.escape(repr(wrong))}: a sequence of names"):
            penstock.Tunables(digests=wrong)


def test_temp_dir_is_looked_at_when_it_is_used(tmp_path: Path) -> None:
    missing = tmp_path / "not yet"
    tunables = penstock.Tunables(temp_dir=missing)
    assert Path(tunables.temp_dir) == missing
    with penstock.BodySink(tunables) as sink:
        missing.mkdir()
        sink.write_back()
        assert sink.state == "file"


@pytest.mark.parametrize(("place", "why"), [("", 'temp_dir="": empty'), ("a\0b", "a path can't hold a NUL")])
def test_a_temp_dir_that_none_can_be_is_refused_at_once(place: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        penstock.Tunables(temp_dir=place)


def test_temp_dir_may_be_a_path_or_a_string(tmp_path: Path) -> None:
    for temp_dir in (tmp_path, str(tmp_path)):
        with penstock.BodySink(penstock.Tunables(temp_dir=temp_dir)) as sink:
            sink.write_back()
            assert sink.state == "file"


def test_repr_shows_what_is_set() -> None:
    text = repr(penstock.Tunables(max_body=12345))
    assert text.startswith("Tunables(")
    assert "12345" in text
