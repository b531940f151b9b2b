"""make_lark: what an answer may be under each choice, held to by the real constraint."""

import json

import llguidance
import pytest

from helium_jax.builtin import tiny_folder
from helium_jax.server.tools import HERMES, LLAMA, ToolChoice, ToolMode, ToolSpec, make_lark

CITY = {"type": "string"}
WEATHER = ToolSpec(
    name="weather",
    parameters={
        "type": "object",
        "properties": {"city": CITY, "days": {"type": "integer"}},
        "required": ["city"],
        "additionalProperties": False,
    },
)
PICK = ToolSpec(
    name="weather2",
    parameters={
        "type": "object",
        "properties": {"x": {"$ref": "#/$defs/T"}},
        "required": ["x"],
        "$defs": {"T": {"type": "array", "items": {"enum": ["é", "/b"]}}},
    },
)
NOW = ToolSpec(name="now", parameters={"type": "object", "additionalProperties": False})
TOOLS = [WEATHER, PICK, NOW]
ROME = HERMES.write_call("weather", '{"city": "Rome", "days": 2}')
SLASH = HERMES.write_call("weather2", '{"x": ["/b", "é"]}')
TIME = HERMES.write_call("now", "{}")
AUTO = ToolChoice(mode=ToolMode.AUTO, max_calls=3)
REQUIRED = ToolChoice(mode=ToolMode.REQUIRED, max_calls=3)


@pytest.fixture(scope="module")
def tokenizer():
    with tiny_folder() as folder:
        return llguidance.LLTokenizer(str(folder / "tokenizer.json"))


@pytest.fixture
def judge(tokenizer):
    """ "yes", "begun" or "no": whether an answer is whole, may become so or never."""

    def say(choice, answer, syntax=HERMES, **options):
        grammar = make_lark(TOOLS, choice, syntax, **options)
        matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
        assert not matcher.get_error(), matcher.get_error()
        for token in tokenizer.tokenize_str(answer):
            if not matcher.consume_token(token):
                return "no"
        return "yes" if matcher.is_accepting() else "begun"

    return say


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("", "yes"),
        ("I do not know.\nNot at all.", "yes"),
        ("a < b and <tool", "yes"),
        (ROME, "yes"),
        (SLASH, "yes"),
        ("Let me see.\n" + TIME, "yes"),
        (f"{ROME}\n{SLASH}\n{TIME}", "yes"),
        ("<tool_call>", "begun"),
        (ROME[:-1], "begun"),
        (f"{ROME}\n{SLASH}\n{TIME}\n", "no"),
        (ROME + " Done.", "no"),
        (ROME + ROME, "no"),
        ("x<tool_call> ", "no"),
        (ROME.replace("weather", "storm"), "no"),
        (ROME.replace('"Rome"', "5"), "no"),
        (ROME.replace('"city": "Rome", ', ""), "no"),
        (ROME.replace('": 2', '":2'), "no"),
        (SLASH.replace("é", "e"), "no"),
    ],
)
def test_auto_is_text_or_calls_of_known_tools_with_valid_arguments(judge, answer, verdict):
    assert judge(AUTO, answer) == verdict


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [("", "begun"), ("I", "no"), (ROME, "yes"), (f"{TIME}\n{ROME}", "yes"), (f"x{TIME}", "no")],
)
def test_required_is_at_least_one_call(judge, answer, verdict):
    assert judge(REQUIRED, answer) == verdict


def test_named_is_one_call_of_that_tool(judge):
    named = ToolChoice(mode=ToolMode.REQUIRED, names=frozenset({"now"}))
    assert [judge(named, one) for one in (TIME, ROME, f"{TIME}\n{TIME}", "")] == [
        "yes",
        "no",
        "no",
        "begun",
    ]


def test_without_parallel_calls_there_is_one(judge):
    one = ToolChoice(mode=ToolMode.AUTO)
    assert [judge(one, answer) for answer in (ROME, f"{ROME}\n{TIME}")] == ["yes", "no"]


@pytest.mark.parametrize(
    ("answer", "verdict"), [('{"a": 1}', "yes"), ("text", "no"), (ROME, "yes"), ("", "begun")]
)
def test_an_answer_without_calls_may_have_to_be_json(judge, answer, verdict):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert judge(AUTO, answer, text_schema=schema) == verdict


@pytest.mark.parametrize(
    ("choice", "answer", "verdict"),
    [
        (AUTO, "", "yes"),
        (AUTO, "text {", "yes"),
        (AUTO, LLAMA.write_call("now", "{}"), "yes"),
        (AUTO, "{}", "no"),
        (AUTO, LLAMA.write_call("now", "{}") * 2, "no"),
        (REQUIRED, LLAMA.write_call("weather", '{"city": "Rome"}'), "yes"),
        (REQUIRED, "text", "no"),
    ],
)
def test_the_other_syntax_is_held_to_as_well(judge, choice, answer, verdict):
    assert judge(choice, answer, LLAMA) == verdict


def test_names_that_begin_alike_keep_their_own_schemas(judge):
    crossed = HERMES.write_call("weather2", '{"city": "Rome"}')
    assert judge(REQUIRED, crossed) == "no"


def test_a_schema_may_hold_anything_that_json_can(judge, tokenizer):
    odd = {"type": "object", "properties": {"a\n%json {/*": {"const": '"|start: //'}}}
    odd |= {"required": ["a\n%json {/*"], "additionalProperties": False}
    grammar = make_lark([ToolSpec(name="odd", parameters=odd)], REQUIRED, HERMES)
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
    answer = HERMES.write_call("odd", json.dumps({"a\n%json {/*": '"|start: //'}))
    assert all(map(matcher.consume_token, tokenizer.tokenize_str(answer)))
    assert matcher.is_accepting()
