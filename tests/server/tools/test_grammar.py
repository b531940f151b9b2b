"""make_grammar: what an answer may be under each choice, held to by the real constraint."""

import json

import pytest

from helium_jax.builtin import tiny_folder
from helium_jax.errors import RequestError
from helium_jax.server.tools import (
    HERMES,
    LLAMA,
    ToolChoice,
    ToolMode,
    ToolSpec,
    compile_tools,
    make_grammar,
)
from helium_jax.text import load_text

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
def text():
    with tiny_folder() as folder:
        return load_text(folder)


@pytest.fixture
def judge(text):
    """ "yes", "begun" or "no": whether an answer is whole, may become so or never."""

    async def say(choice, answer, syntax=HERMES, tools=TOOLS, **options):
        grammar = await compile_tools(text, tools, choice, syntax, **options)
        state = grammar.start()
        try:
            for token in text.encode(answer, add_special_tokens=False):
                state.accept(token)
        except RequestError:
            return "no"
        return "yes" if state.is_accepting else "begun"

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
async def test_auto_is_text_or_calls_of_known_tools_with_valid_arguments(judge, answer, verdict):
    assert await judge(AUTO, answer) == verdict


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [("", "begun"), ("I", "no"), (ROME, "yes"), (f"{TIME}\n{ROME}", "yes"), (f"x{TIME}", "no")],
)
async def test_required_is_at_least_one_call(judge, answer, verdict):
    assert await judge(REQUIRED, answer) == verdict


async def test_named_is_one_call_of_that_tool(judge):
    named = ToolChoice(mode=ToolMode.REQUIRED, names=frozenset({"now"}))
    assert [await judge(named, one) for one in (TIME, ROME, f"{TIME}\n{TIME}", "")] == [
        "yes",
        "no",
        "no",
        "begun",
    ]


async def test_without_parallel_calls_there_is_one(judge):
    one = ToolChoice(mode=ToolMode.AUTO)
    assert [await judge(one, answer) for answer in (ROME, f"{ROME}\n{TIME}")] == ["yes", "no"]


@pytest.mark.parametrize(
    ("answer", "verdict"), [('{"a": 1}', "yes"), ("text", "no"), (ROME, "yes"), ("", "begun")]
)
async def test_an_answer_without_calls_may_have_to_be_json(judge, answer, verdict):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert await judge(AUTO, answer, text_schema=schema) == verdict


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
async def test_the_other_syntax_is_held_to_as_well(judge, choice, answer, verdict):
    assert await judge(choice, answer, LLAMA) == verdict


async def test_names_that_begin_alike_keep_their_own_schemas(judge):
    crossed = HERMES.write_call("weather2", '{"city": "Rome"}')
    assert await judge(REQUIRED, crossed) == "no"


async def test_a_schema_may_hold_anything_that_json_can(judge):
    name, value = "a\n%json {/*", '"|start: //'
    odd = {
        "type": "object",
        "properties": {name: {"const": value}},
        "required": [name],
        "additionalProperties": False,
    }
    tools = [ToolSpec(name="odd", parameters=odd)]
    answer = HERMES.write_call("odd", json.dumps({name: value}))
    assert await judge(REQUIRED, answer, tools=tools) == "yes"


async def test_a_schema_that_cannot_be_used_is_named(text):
    wrong = ToolSpec(
        name="wrong",
        parameters={"type": "object", "properties": {"a": {"type": "strong"}}, "required": ["a"]},
        path="tools[1].function.parameters",
    )
    with pytest.raises(RequestError, match="strong") as raised:
        await compile_tools(text, [WEATHER, wrong], AUTO, HERMES)
    assert raised.value.param == "tools[1].function.parameters"


async def test_many_tools_are_told_apart(judge):
    tools = [
        ToolSpec(
            name=f"tool_{i}",
            parameters={
                "type": "object",
                "properties": {f"field_{j}": {"type": "string"} for j in range(20)},
                "required": [f"field_{i % 20}"],
                "additionalProperties": False,
            },
        )
        for i in range(128)
    ]
    right = HERMES.write_call("tool_77", '{"field_17": "x"}')
    assert await judge(AUTO, right, tools=tools) == "yes"
    assert await judge(AUTO, right.replace("77", "78"), tools=tools) == "no"


def test_schemas_that_are_too_long_together_are_refused():
    long = {"type": "object", "properties": {f"p{i}": CITY for i in range(1000)}}
    tools = [ToolSpec(name=f"t{i}", parameters=long) for i in range(8)]
    with pytest.raises(RequestError, match="bytes; at most"):
        make_grammar(tools, AUTO, HERMES)
