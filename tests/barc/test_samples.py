"""Files that upstream's crate wrote, or that are damaged in a way of their own: the manifest beside them says what each
must give."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock import barc

from tests.barc.conftest import DATA

MANIFEST: dict[str, Any] = json.loads((DATA / "manifest.json").read_text())["files"]

KINDS = {
    "ReadIncompleteRecHead": "incomplete-head",
    "ReadInvalidRecHead": "not-a-head",
    "ReadInvalidRecHeadHex": "bad-digit",
    "UnknownRecordType": "unknown-type",
    "UnknownCompression": "unknown-compression",
    # In all of these the file ends before the record does, which is seen before anything is decoded.
    "Io": "short",
    "Body": "short",
}
"""What upstream's errors are called here."""

DAMAGED = [name for name, file in MANIFEST.items() if file["end"]["kind"] == "error"]


def pairs(headers: penstock.Headers) -> list[list[str]]:
    return [[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers.raw]


def told(body: penstock.BodyImage) -> list[Any]:
    return [len(body), hashlib.sha256(bytes(body)).hexdigest()] if body else [0]


def test_every_sample_is_the_one_that_the_manifest_describes() -> None:
    assert {file.name for file in DATA.glob("*.barc")} == set(MANIFEST)
    for name, expected in MANIFEST.items():
        data = (DATA / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (expected["length"], expected["sha256"])


@pytest.mark.parametrize("max_body_ram", [0, 5, 1 << 20])
@pytest.mark.parametrize("name", MANIFEST)
def test_its_records_are_those_of_the_manifest(name: str, max_body_ram: int, tmp_path: Path) -> None:
    tunables = penstock.Tunables(max_body_ram=max_body_ram, temp_dir=tmp_path)
    with barc.open(DATA / name, tunables=tunables) as archive:
        records = archive.records()
        for expected in MANIFEST[name]["records"]:
            record = next(records)
            assert (record.offset, record.end) == (expected["offset"], expected["end_offset"])
            assert record.compression == expected["compression"]
            assert pairs(record.meta) == expected["meta"]
            assert pairs(record.req_headers) == expected["req_headers"]
            assert told(record.req_body) == expected["req_body"]
            assert pairs(record.res_headers) == expected["res_headers"]
            assert told(record.res_body) == expected["res_body"]
        end = MANIFEST[name]["end"]
        if end["kind"] == "none":
            assert next(records, None) is None
        else:
            with pytest.raises(penstock.ArchiveError) as raised:
                next(records)
            assert (raised.value.offset, raised.value.kind) == (end["offset"], KINDS[end["error"]["variant"]])
            assert f"byte {end['offset']}" in str(raised.value)
        # Upstream moves on; here an error leaves the place where it was.
        assert records.offset == end["offset"]


@pytest.mark.parametrize("name", MANIFEST)
def test_places_are_found_by_heads_alone(name: str) -> None:
    with barc.open(DATA / name) as archive:
        entries = archive.entries()
        for expected in MANIFEST[name]["records"]:
            assert next(entries) == (expected["offset"], expected["end_offset"], expected["compression"])


@pytest.mark.parametrize("name", [name for name, file in MANIFEST.items() if len(file["records"]) > 1])
def test_records_are_read_by_offset_in_any_order(name: str) -> None:
    with barc.open(DATA / name) as archive:
        for expected in reversed(MANIFEST[name]["records"]):
            record = archive.read(expected["offset"])
            assert record is not None
            assert told(record.res_body) == expected["res_body"]


def test_a_record_behind_an_unfinished_one_is_had_by_its_offset_or_by_going_on() -> None:
    seek = MANIFEST["reserved_middle.barc"]["seek"]
    with barc.open(DATA / "reserved_middle.barc") as archive:
        record = archive.read(seek["offset"])
        assert record is not None
        assert (record.end, record.meta["url"]) == (seek["end_offset"], seek["meta_url"])
        assert told(record.res_body) == seek["res_body"]
    with barc.open(DATA / "reserved_middle.barc", keep_going=True) as archive:
        assert [record.offset for record in archive] == [0, seek["offset"]]
        assert [(error.offset, error.kind, error.end) for error in archive.damage] == [
            (312, "unfinished", seek["offset"])
        ]


@pytest.mark.parametrize("name", DAMAGED)
def test_going_on_behind_damage_at_the_end_gives_what_was_good(name: str) -> None:
    expected = MANIFEST[name]
    with barc.open(DATA / name, keep_going=True) as archive:
        assert [record.offset for record in archive] == [record["offset"] for record in expected["records"]]
        (error,) = archive.damage
    assert (error.offset, error.end) == (expected["end"]["offset"], expected["length"])


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("after", [1, 2])
def test_going_on_finds_the_records_behind_damage(name: str, after: int, path: Path) -> None:
    plain = (DATA / "plain.barc").read_bytes()
    damaged = (DATA / name).read_bytes()
    path.write_bytes(damaged + plain * after)
    with barc.open(path, keep_going=True) as archive:
        found = [record.offset for record in archive]
    # One that only lacks its end takes those of the next record for its own; what follows then is found by its head.
    behind = [len(damaged) + index * len(plain) for index in range(after)]
    assert found == behind or (name.startswith("truncated") and found in (behind, [0, *behind], [0, *behind[1:]]))


PLAIN = [
    name
    for name, file in MANIFEST.items()
    if name not in DAMAGED and all(record["compression"] == "plain" for record in file["records"])
]


@pytest.mark.parametrize("name", PLAIN)
def test_a_copy_of_a_sample_is_byte_for_byte_what_upstream_wrote(name: str, path: Path) -> None:
    expected = MANIFEST[name]
    with barc.open(DATA / name) as source, barc.open(path, "a") as target:
        for record in source:
            target.append(record)
    good = (DATA / name).read_bytes()[: expected["end"]["offset"]]
    if name == "foreign.barc":
        assert b"x-space-after: v\r\n" in path.read_bytes()
    else:
        assert path.read_bytes() == good


def test_strategies_choose_as_upstream_did(path: Path) -> None:
    gzip, brotli = barc.Strategy.gzip(), barc.Strategy.brotli(min_len=0)
    with barc.open(DATA / "strategy.barc") as source, barc.open(path, "a") as target:
        chosen = []
        for record, strategy in zip(source, [gzip, gzip, gzip, gzip, brotli], strict=True):
            written = target.read(target.append(record, strategy=strategy))
            assert written is not None
            chosen.append((written.compression, record.compression))
    assert [ours for ours, _ in chosen] == [theirs for _, theirs in chosen]
