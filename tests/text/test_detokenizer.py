"""Deltas put together are the full decoding, cut where a reader of characters would cut it."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helium_jax.text import Detokenizer
from helium_jax.text.byte_level import BYTE_OF_CHAR

UNHURRIED = settings(deadline=None)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
# few letters, so that stop strings do occur, overlap and begin without ending
STOPS = st.lists(st.text("ab é🎉", min_size=1, max_size=4), max_size=4)


def run(detokenizer: Detokenizer, ids: list[int]) -> list[str]:
    return [*(detokenizer.feed(i) for i in ids), detokenizer.finish()]


def cut_by_characters(text: str, stops: list[str], include_stop: bool) -> str:
    """The definition: read character by character until a stop string is complete."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[:end] if include_stop else text[: end - max(map(len, found))]
    return text


@UNHURRIED
@given(TEXTS)
def test_deltas_of_a_text_are_the_text(tiny, text):
    ids = tiny.encode(text, add_special_tokens=False)
    special = [i for i in ids if i in tiny.tokenizer.special_ids]
    pieces = run(tiny.detokenizer(), ids)
    assert "".join(pieces) == tiny.decode(ids)
    if not special:
        assert "".join(pieces) == text


@UNHURRIED
@given(st.data())
def test_deltas_of_any_tokens_are_their_decoding(tiny, data):
    """Random ids are mostly no UTF-8, and may be special or beyond the vocabulary."""
    ids = data.draw(st.lists(st.integers(0, tiny.tokenizer.vocab_size + 5), max_size=40))
    for skip in (True, False):
        pieces = run(Detokenizer(tiny.tokenizer, skip_special_tokens=skip), ids)
        assert "".join(pieces) == tiny.decode(ids, skip_special_tokens=skip)


@UNHURRIED
@given(TEXTS)
def test_no_delta_ends_inside_a_character(tiny, text):
    for piece in run(tiny.detokenizer(), byte_ids(tiny, text)):
        assert "\ufffd" not in piece or "\ufffd" in text


def byte_ids(tiny, text: str) -> list[int]:
    """One token per byte: every character is split as far as it can be."""
    char_of_byte = {byte: char for char, byte in BYTE_OF_CHAR.items()}
    return [tiny.tokenizer.id_of(char_of_byte[byte]) for byte in text.encode()]


@UNHURRIED
@given(st.text("ab é🎉", max_size=24), STOPS, st.booleans())
@example("aab", ["ab", "aa"], False)
@example("aaab", ["aab"], False)
@example("abé", ["é", "abé"], False)
def test_stop_strings_cut_as_if_read_by_character(tiny, text, stops, include_stop):
    for ids in (tiny.encode(text, add_special_tokens=False), byte_ids(tiny, text)):
        detokenizer = Detokenizer(tiny.tokenizer, stops, include_stop=include_stop)
        out = "".join(run(detokenizer, ids))
        assert out == cut_by_characters(text, stops, include_stop)
        assert detokenizer.is_stopped == any(stop in text for stop in stops)
        assert detokenizer.feed(ids[0] if ids else 0) == "" or not detokenizer.is_stopped


@UNHURRIED
@given(st.text("ab é", max_size=20), STOPS)
def test_only_what_may_become_a_stop_string_is_held_back(tiny, text, stops):
    detokenizer = tiny.detokenizer(stops)
    given_out = ""
    for count, token_id in enumerate(byte_ids(tiny, text), 1):
        given_out += detokenizer.feed(token_id)
        seen = text.encode()[:count].decode("utf-8", "ignore")
        if detokenizer.is_stopped:
            break
        held = seen[len(given_out) :]
        assert held == "" or any(stop.startswith(held) for stop in stops)


def test_an_unfinished_character_becomes_a_replacement_at_the_end(tiny):
    ids = byte_ids(tiny, "a🎉")[:-1]
    pieces = run(tiny.detokenizer(), ids)
    assert pieces == ["a", "", "", "", "\ufffd"]


def test_refuses_an_empty_stop_string(tiny):
    with pytest.raises(ValueError, match="empty string"):
        tiny.detokenizer([""])


@UNHURRIED
@given(st.text("thecats .é🎉x", max_size=24))
def test_deltas_of_a_sentencepiece_text_are_its_decoding(sentencepiece_like, text):
    ids = sentencepiece_like.encode(text, add_special_tokens=False)
    pieces = run(sentencepiece_like.detokenizer(), ids)
    assert "".join(pieces) == sentencepiece_like.decode(ids)


def test_token_bytes_put_together_are_the_text(tiny, sentencepiece_like):
    text = "Ada: naïve 🎉 47"
    for model, lead in ((tiny, b""), (sentencepiece_like, b" ")):
        ids = model.encode(text, add_special_tokens=False)
        assert b"".join(map(model.token_bytes, ids)) == lead + text.encode()
