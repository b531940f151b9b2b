"""ToolParser: text and calls out of an answer, whatever pieces it comes in."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helium_jax.server.tools import (
    HERMES,
    LLAMA,
    MISTRAL,
    MISTRAL_BLANK,
    MISTRAL_NAMED,
    ArgumentsGained,
    CallBegan,
    TextGained,
    ToolCall,
    ToolParser,
    join_events,
)

NAMES = ("f", "fo", "get_weather")


def parse(pieces, syntax=HERMES):
    counter = itertools.count()
    parser = ToolParser(syntax, NAMES, lambda: f"call_{next(counter)}")
    events = [event for piece in pieces for event in parser.push(piece)]
    return [*events, *parser.finish()]


def outcome(pieces, syntax=HERMES):
    whole = join_events(parse(pieces, syntax))
    return whole.text, [(call.name, call.arguments) for call in whole.calls]


def call(name, arguments, syntax=HERMES):
    return syntax.write_call(name, json.dumps(arguments))


def cut(text, places):
    ends = sorted({place % (len(text) + 1) for place in places})
    return [text[i:j] for i, j in itertools.pairwise([0, *ends, len(text)])]


def test_an_answer_without_calls_is_its_text():
    assert outcome(["one <b>two</b>\n"]) == ("one <b>two</b>\n", [])


def test_text_and_calls_come_apart_without_the_space_between_them():
    text = "Let me see.\n" + call("f", {"city": "Rome"}) + "\n" + call("fo", {})
    assert outcome([text]) == ("Let me see.", [("f", '{"city": "Rome"}'), ("fo", "{}")])


def test_events_come_as_soon_as_they_are_certain():
    text = "Hm. " + call("f", {"a": 1})
    assert parse(text)[:6] == [
        *(TextGained(text=char) for char in "Hm."),
        CallBegan(index=0, id="call_0", name="f"),
        ArgumentsGained(index=0, text="{"),
        ArgumentsGained(index=0, text='"'),
    ]


def test_braces_and_quotes_in_arguments_do_not_end_them():
    arguments = {"a": '}"\\', "b": [{"c": "{"}, []], "</tool_call>": "\n</tool_call>"}
    assert outcome([call("f", arguments)]) == ("", [("f", json.dumps(arguments))])


@pytest.mark.parametrize(
    "text",
    [
        "a < b",
        "<tool_calls>",
        '<tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"name": "f", "arguments": []}\n</tool_call>',
        '<tool_call>\n{"name": "f", "args',
        '<tool_call>{"name": "f"}',
    ],
)
def test_what_is_no_call_of_a_known_tool_is_text(text):
    text += " and so on"
    assert outcome([text]) == (text, [])


def test_an_answer_cut_off_in_its_arguments_has_the_arguments_so_far():
    text = "Yes. " + call("f", {"city": "Rome"}).partition("ome")[0]
    assert outcome([text]) == ("Yes.", [("f", '{"city": "R')])


@pytest.mark.parametrize("length", range(len("<tool_call>"), len(HERMES.opening) + 3))
def test_a_call_cut_off_before_its_arguments_is_dropped(length):
    assert outcome(["Yes. " + call("f", {})[:length]]) == ("Yes.", [])


def test_the_end_of_a_text_may_look_like_the_beginning_of_a_call():
    assert outcome(["a <tool"]) == ("a <tool", [])


def test_a_call_that_is_cut_off_is_known_to_be_unfinished():
    parser = ToolParser(HERMES, NAMES, lambda: "id")
    before, end, _ = call("f", {"a": 1}).partition("1}")
    parser.push(before)
    assert parser.is_inside_call
    parser.push(end)
    assert not parser.is_inside_call
    assert parser.num_calls == 1


def test_a_llama_call_is_the_whole_answer_or_none():
    text = call("f", {"a": {}}, LLAMA)
    assert outcome([text], LLAMA) == ("", [("f", '{"a": {}}')])
    assert outcome(["Look: " + text], LLAMA) == ("Look: " + text, [])


def test_ids_and_names_are_kept():
    whole = join_events(parse([call("f", {}) + "\n" + call("f", {})]))
    assert whole.calls == (
        ToolCall(id="call_0", name="f", arguments="{}"),
        ToolCall(id="call_1", name="f", arguments="{}"),
    )


ARGUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='ab"\\{}[]<>/\n é'),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='a"}'), inner, max_size=3)
    ),
    max_leaves=6,
)
CALLS = st.builds(
    lambda name, value: call(name, {"x": value}), st.sampled_from((*NAMES, "unknown")), ARGUMENTS
)
NEAR = st.sampled_from(("<", "<tool_call>", HERMES.opening, HERMES.opening + "f", "\n", " ", "}"))
ANSWERS = st.lists(st.text(max_size=8) | CALLS | NEAR, max_size=6).map("".join)


@given(answer=ANSWERS, places=st.lists(st.integers(0, 2000), max_size=12), cut_at=st.integers(0))
def test_pieces_put_together_are_the_whole_answer(answer, places, cut_at):
    answer = answer[: len(answer) - cut_at % 40] if answer else ""
    assert outcome(cut(answer, places)) == outcome([answer])
    assert outcome(answer) == outcome([answer])


@given(answer=ANSWERS, places=st.lists(st.integers(0, 2000), max_size=12))
def test_pieces_put_together_are_the_whole_answer_in_the_other_syntax(answer, places):
    for text in (answer, call("f", {"x": answer}, LLAMA) + answer, "{" + answer):
        assert outcome(cut(text, places), LLAMA) == outcome([text], LLAMA)


@given(
    before=st.text(alphabet="ab<\n "),
    calls=st.lists(st.tuples(st.sampled_from(NAMES), ARGUMENTS), min_size=1, max_size=4),
)
def test_what_was_written_is_read(before, calls):
    written = "\n".join(call(name, {"x": value}) for name, value in calls)
    expected = [(name, json.dumps({"x": value})) for name, value in calls]
    assert outcome([before + written]) == (before.rstrip(), expected)


@pytest.mark.parametrize("syntax", [MISTRAL, MISTRAL_BLANK, MISTRAL_NAMED])
@given(
    before=st.text(alphabet="ab[T\n "),
    calls=st.lists(st.tuples(st.sampled_from(NAMES), ARGUMENTS), min_size=1, max_size=4),
    after=st.sampled_from(["", "]", ", ", " and so on", ', {"name": "unknown"', "[TOOL_CALLS]"]),
    places=st.lists(st.integers(0, 2000), max_size=12),
    cut_at=st.integers(0, 60),
)
def test_calls_in_mistrals_syntaxes_do_not_depend_on_the_pieces(
    syntax, before, calls, after, places, cut_at
):
    expected = [(name, json.dumps({"x": value})) for name, value in calls]
    written = before + syntax.write_calls(expected)
    assert outcome([written], syntax) == (before.rstrip(), expected)
    answer = (written + after)[: len(written + after) - cut_at]
    assert outcome(cut(answer, places), syntax) == outcome([answer], syntax)
    read = outcome([written + after], syntax)[1]
    assert read == expected


@pytest.mark.parametrize("syntax", [MISTRAL, MISTRAL_NAMED])
def test_a_second_call_that_is_cut_off_before_its_arguments_is_dropped(syntax):
    whole = syntax.write_calls([("f", '{"a": 1}'), ("fo", "{}")])
    length = whole.index("fo") + 1
    assert outcome([whole[:length]], syntax) == ("", [("f", '{"a": 1}')])
