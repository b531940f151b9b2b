"""Bodies: what is JSON is read, all else is refused with its place."""

import json
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helium_jax.server.errors import InvalidJsonError
from helium_jax.server.json_scan import outside_strings
from helium_jax.server.strict_json import MANY_MARKS, MAX_KEYS, parse_json


def parse(data: bytes):
    return parse_json(data, max_depth=64)


@pytest.mark.parametrize(
    ("data", "why", "position"),
    [
        (b"", "Expecting value", 0),
        (b"{a", "double quotes", 1),
        (b'{"a": 1} x', "Extra data", 9),
        (b'\xef\xbb\xbf{"a": 1}', "", 0),
        (b'{"a": "\xff"}', "not UTF-8", 7),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8", 7),
        (b'{"NaN": NaN}', "NaN", 8),
        (b'{"a": [1, -Infinity]}', "-Infinity", 10),
        ('{"ä": 1e999}'.encode(), "too large", 7),
        (b'{"a": ' + b"9" * 5000 + b"}", "too many digits", 6),
        (b"[" * 100_000, "nested deeper", 64),
        (b'{"a": "\\ud800"}', "lone surrogate", 7),
        (b'{"model": 1, "model": 2}', "'model' appears twice", 1),
        (b'{"a": "x\x00y"}', "control character", 8),
        (b"\x00", "Expecting value", 0),
    ],
)
def test_refuses_with_the_byte_position(data, why, position):
    with pytest.raises(InvalidJsonError) as caught:
        parse(data)
    assert caught.value.code == "invalid_json"
    assert why in caught.value.message
    assert f"at byte {position};" in caught.value.message


def test_of_harmless_duplicates_the_last_wins():
    assert parse(b'{"seed": 1, "seed": 2}') == {"seed": 2}


def test_surrogate_pairs_and_escaped_controls_are_text():
    assert parse(b'{"a": "\\ud83d\\ude00\\u0000"}') == {"a": "😀\0"}


def test_brackets_inside_strings_do_not_nest():
    assert parse(b'["' + b"[" * 1000 + b'"]') == ["[" * 1000]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=20,
)


@given(JSON)
def test_reads_back_whatever_is_json(value):
    assert parse(json.dumps(value).encode()) == value
    assert parse(json.dumps(value, ensure_ascii=False).encode()) == value


MANY = b"[" + b"0," * MANY_MARKS  # so much that another scanner is chosen


@settings(max_examples=20, deadline=None)
@given(JSON)
def test_large_bodies_are_read_in_the_same_way(value):
    *_, read = parse(MANY + json.dumps(value).encode() + b"]")
    assert read == value


@pytest.mark.parametrize(
    "bad", [b"{a", b"NaN", b"1e999", b"9" * 5000, b'"\\ud800"', b'{"role":1,"role":2}']
)
def test_large_bodies_are_refused_at_the_same_place(bad):
    def refusal(data):
        with pytest.raises(InvalidJsonError) as caught:
            parse(data + b"]")
        why, _, place = caught.value.message.partition(" at byte ")
        return why, int(place.split(";")[0])

    why, place = refusal(b"[" + bad)
    assert refusal(MANY + bad) == (why, place + len(MANY) - 1)


def test_too_much_to_decode_is_refused_before_it_is():
    with pytest.raises(InvalidJsonError, match="more than 9 commas and brackets"):
        parse_json(b"[" * 10, max_depth=64, max_marks=9)
    assert parse_json(b"[" + b"0," * 8 + b"0]", max_depth=64, max_marks=9) == [0] * 9
    keys = ",".join(f'"{number}":0' for number in range(MAX_KEYS + 1))
    with pytest.raises(InvalidJsonError, match="more than 100000 keys"):
        parse(f"{{{keys}}}".encode())


@given(
    st.lists(
        st.sampled_from(["\\ud83d", "\\ude00", "\\\\", '\\"', "\\n", "u", "d83d", "[", "\\u0041"])
    )
)
def test_a_lone_surrogate_is_found_whatever_stands_around_it(parts):
    body = '["' + "".join(parts) + '"]'
    try:
        json.loads(body)[0].encode()
    except UnicodeEncodeError:
        with pytest.raises(InvalidJsonError, match="surrogate"):
            parse(body.encode())
    else:
        assert parse(body.encode()) == json.loads(body)


@given(st.text('"\\[]{},:a'))
def test_what_is_outside_of_strings_is_what_the_strings_leave(text):
    ranges = [*outside_strings(text)]
    assert sum((part.count('"') for part in (text[a:b] for a, b in ranges)), 0) == 0
    rest = re.sub(r'"(?:[^"\\]|\\.)*("|$|\\$)', "", text, flags=re.DOTALL)
    assert "".join(text[a:b] for a, b in ranges) == rest


@given(st.binary(max_size=50))
def test_any_bytes_are_read_or_refused(data):
    try:
        value = parse(data)
    except InvalidJsonError:
        return
    if isinstance(value, float):
        assert math.isfinite(value)
