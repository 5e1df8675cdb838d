"""What a request is given, all of it at once, comes out as one by one: fields of a head, and a query."""

from __future__ import annotations

import urllib.parse
from typing import Any

import penstock
import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock.http.request import by_name, field_lines
from penstock.http.url import encoded

TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
LETTERS = st.text(st.sampled_from("ab-:; \t\r\n\0\x7f\x80\xff\u0100A"), max_size=6)


def is_fit(name: str, value: str) -> bool:
    return bool(name) and set(name) <= TOKEN and all(c == "\t" or (" " <= c <= "\xff" and c != "\x7f") for c in value)


@given(st.dictionaries(LETTERS | st.sampled_from(["a", "x-b"]), LETTERS, max_size=4))
def test_a_field_that_would_break_out_of_its_line_is_refused_wherever_it_stands(headers: dict[str, str]) -> None:
    fields = by_name(headers)
    if all(is_fit(name, value) for name, value in fields.items()):
        lines = b"".join(b"%s: %s\r\n" % (name.encode(), value.encode("latin-1")) for name, value in fields.items())
        assert field_lines(fields) == lines + b"\r\n"
    else:
        with pytest.raises(ValueError, match=r"^header .*(not a token|not latin-1|another control character)"):
            field_lines(fields)


@given(st.dictionaries(LETTERS, LETTERS, max_size=4))
def test_headers_are_the_same_from_a_dict_from_pairs_and_from_what_was_received(headers: dict[str, str]) -> None:
    assert by_name({**headers, "A-B": "1"}) == by_name([*headers.items(), ("A-B", "1")])
    received = penstock.Headers([("Accept", "a"), ("accept", "b"), ("X", "1")])
    assert by_name(received) == by_name([("Accept", "a, b"), ("X", "1")])


SCALARS = st.text(max_size=5) | st.integers() | st.binary(max_size=4) | st.booleans() | st.floats()


@given(st.dictionaries(st.text(max_size=5), SCALARS | st.lists(SCALARS, max_size=3), max_size=4))
def test_a_query_is_as_the_standard_library_writes_it(params: dict[str, Any]) -> None:
    assert encoded(params, "params") == urllib.parse.urlencode(params, doseq=True)
    assert encoded(list(params.items()), "params") == encoded(params, "params")
