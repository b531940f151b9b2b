"""Conversations in token space: the same text, made of the ids that are already there."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helium_jax.text import TextModel
from helium_jax.text.chat_template import ChatTemplate

EARLIER = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
LATER = [{"role": "user", "content": "And then?"}]


def conversation(answer):
    return [*EARLIER, {"role": "assistant", "content": answer}, *LATER]


def go_on(tiny, answer, answer_ids):
    prompt_ids = tiny.encode_chat(EARLIER)
    return tiny.continue_chat(EARLIER, answer, LATER, prompt_ids=prompt_ids, answer_ids=answer_ids)


@pytest.mark.parametrize("answer", ["Because.", "", " spaced ", "ünïcödé \n\n lines", "12 345"])
def test_canonical_answers_give_the_ids_of_the_whole_conversation(tiny, answer):
    (eos,) = tiny.eos_token_ids
    ids = [*tiny.encode(answer, add_special_tokens=False), eos]
    assert go_on(tiny, answer, ids) == tiny.encode_chat(conversation(answer))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(3, 1500), min_size=1, max_size=12), st.booleans())
def test_generated_ids_stay_as_they_are_and_spell_the_rendered_text(tiny, ids, is_closed):
    answer = tiny.decode(ids, skip_special_tokens=False)
    (eos,) = tiny.eos_token_ids
    given_ids = [*ids, eos] if is_closed else ids
    result = go_on(tiny, answer, given_ids)
    prompt_ids = tiny.encode_chat(EARLIER)
    assert result is not None
    assert result[: len(prompt_ids) + len(ids)] == [*prompt_ids, *ids]
    assert tiny.template is not None
    rendered = tiny.template.render(conversation(answer))
    assert tiny.decode(result, skip_special_tokens=False) == rendered


def test_an_answer_cut_at_a_stop_string_is_encoded_anew(tiny):
    (eos,) = tiny.eos_token_ids
    ids = [*tiny.encode("Because. STOP and more", add_special_tokens=False), eos]
    assert go_on(tiny, "Because. ", ids) is None


def test_ids_that_are_not_known_are_not_continued(tiny):
    assert go_on(tiny, "Because.", []) is None


@pytest.mark.parametrize(
    "change",
    [
        ("message.content +", "(message.content | trim) +"),
        ("message.content +", "message.content | replace('B', 'b') +"),
        ("'<|im_end|>\\n'", "'</end>\\n'"),
    ],
)
def test_a_template_that_writes_answers_in_another_way_is_rendered_as_a_whole(tiny, change):
    assert tiny.template is not None
    source = tiny.template.source.replace(*change)
    assert source != tiny.template.source
    other = TextModel(
        tokenizer=tiny.tokenizer,
        template=ChatTemplate(source, {}),
        eos_token_ids=tiny.eos_token_ids,
    )
    (eos,) = tiny.eos_token_ids
    ids = [*tiny.encode(" Because.", add_special_tokens=False), eos]
    assert go_on(other, " Because.", ids) is None


def test_a_model_without_a_template_has_no_conversations(tiny):
    assert go_on_without_template(tiny) is None


def go_on_without_template(tiny):
    bare = TextModel(tokenizer=tiny.tokenizer)
    return bare.continue_chat(EARLIER, "a", LATER, prompt_ids=[1], answer_ids=[2])
