"""The tokenizer: any text round-trips, anything else is refused by name."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing

from helium_jax.errors import RequestError
from helium_jax.text import ChatTemplate, TextModel, Tokenizer

UNHURRIED = settings(deadline=None)


@UNHURRIED
@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=60))
def test_any_text_round_trips(tiny, text):
    ids = tiny.encode(text)
    assert tiny.decode(ids, skip_special_tokens=False) == text
    assert all(0 <= i < tiny.tokenizer.vocab_size for i in ids)


def test_all_bytes_are_in_the_vocabulary(tiny):
    everything = {tiny.token_bytes(i) for i in range(tiny.tokenizer.vocab_size)}
    assert {bytes([byte]) for byte in range(256)} <= everything


def test_special_tokens_are_tokens_and_can_be_skipped(tiny):
    ids = tiny.encode("a<|im_end|>b")
    assert tiny.tokenizer.id_of("<|im_end|>") in ids
    assert tiny.decode(ids) == "ab"
    assert tiny.decode(ids, skip_special_tokens=False) == "a<|im_end|>b"


def test_a_bare_text_gets_its_first_token_and_a_conversation_only_the_template_s(tiny):
    """As Llama 3 has it: the post-processor and the template both begin with a first token."""
    backend = Backend.from_str(tiny.tokenizer.backend.to_str())
    first = tiny.tokenizer.id_of("<|endoftext|>")
    backend.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", first)]
    )
    template = ChatTemplate("{{ bos_token + messages[0].content }}", {"bos_token": "<|endoftext|>"})
    model = TextModel(tokenizer=Tokenizer(backend), template=template)
    plain = tiny.encode("red")
    assert model.encode("red") == [first, *plain]
    assert model.encode("red", add_special_tokens=False) == plain
    assert model.encode_chat([{"role": "user", "content": "red"}]) == [first, *plain]


def test_refuses_lone_surrogates(tiny):
    with pytest.raises(RequestError, match=r"lone surrogate U\+D800 at character 2"):
        tiny.encode("ab\ud800c")


@pytest.mark.parametrize("bad", [-1, 2**31, 2**70, 1.0, "1", True, None])
def test_refuses_what_is_no_token_id(tiny, bad):
    with pytest.raises(RequestError, match=r"token_ids\[1\]"):
        tiny.decode([5, bad])


def test_ids_beyond_the_vocabulary_have_no_text(tiny):
    beyond = tiny.tokenizer.vocab_size + 7
    assert tiny.decode([beyond]) == ""
    assert tiny.token_bytes(beyond) == b""
    detokenizer = tiny.detokenizer()
    assert detokenizer.feed(beyond) + detokenizer.finish() == ""


def test_names_the_missing_file(tmp_path):
    with pytest.raises(RequestError, match=r"tokenizer\.json does not exist"):
        Tokenizer.from_folder(tmp_path)


def test_names_the_broken_file(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(RequestError, match=r"tokenizer\.json cannot be read"):
        Tokenizer.from_folder(tmp_path)


def test_a_long_text_has_the_ids_of_its_parts_and_comes_back(tiny):
    text = "Ein längerer Text, \U0001f600 Zeile\n" * 300
    ids = tiny.encode(text)
    assert ids == tiny.tokenizer.backend.encode(text).ids
    assert tiny.decode(ids) == text
    with pytest.raises(RequestError, match=r"lone surrogate U\+D800 at character 9000"):
        tiny.encode("x" * 9000 + "\ud800")
