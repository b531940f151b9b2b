"""relax_schema: what cannot be enforced is left out by name, and only that."""

import pytest

from helium_jax.errors import RequestError
from helium_jax.server.openai.relaxing import FORMATS, UNENFORCED, close_objects, relax_schema
from helium_jax.text import GrammarSpec

VALUES = {
    "contains": {"type": "string"},
    "maxContains": 1,
    "minContains": 1,
    "maxProperties": 1,
    "minProperties": 1,
    "uniqueItems": True,
}


async def compiles(text, schema):
    try:
        await text.compile_grammar(GrammarSpec.of_json_schema(schema))
    except RequestError:
        return False
    return True


@pytest.mark.parametrize("key", sorted(UNENFORCED))
async def test_what_is_left_out_could_not_be_enforced(text, key):
    inner = {"properties": {"x": {}}, key: VALUES.get(key, {})}
    schema = {"type": "object", "properties": {"a": inner}}
    assert not await compiles(text, schema)
    relaxed, left_out = relax_schema(schema, "p")
    assert left_out == [f"p.properties.a.{key}"]
    assert await compiles(text, relaxed)


@pytest.mark.parametrize("form", sorted(FORMATS))
async def test_formats_that_are_kept_can_be_enforced(text, form):
    schema = {"type": "string", "format": form}
    assert await compiles(text, schema)
    assert relax_schema(schema, "p")[1] == []


@pytest.mark.parametrize("form", ["int32", "binary", "password", 5])
def test_other_formats_are_left_out(form):
    relaxed, left_out = relax_schema({"type": "integer", "format": form}, "p")
    assert relaxed["type"] == "integer"
    assert (left_out, "format" in relaxed) == (["p.format"], False)


def test_schemas_are_looked_for_where_schemas_are():
    bad = {"uniqueItems": True}
    schema = {
        "properties": {"not": {"type": "string"}, "if": bad},
        "$defs": {"then": bad},
        "anyOf": [{"items": bad}, True, {"prefixItems": [bad]}],
        "additionalProperties": False,
        "const": {"uniqueItems": True, "not": 1},
        "enum": [{"format": "int32"}],
        "default": {"if": 1},
    }
    relaxed, left_out = relax_schema(schema, "p")
    assert left_out == [
        "p.properties.if.uniqueItems",
        "p.$defs.then.uniqueItems",
        "p.anyOf[0].items.uniqueItems",
        "p.anyOf[2].prefixItems[0].uniqueItems",
    ]
    for kept in ("const", "enum", "default", "additionalProperties"):
        assert relaxed[kept] == schema[kept]
    assert relaxed["properties"] == {"not": {"type": "string"}, "if": {}}


async def test_overlapping_alternatives_are_possible(text):
    schema = {"oneOf": [{"type": "string"}, {"enum": ["a"]}]}
    assert not await compiles(text, schema)
    assert await compiles(text, relax_schema(schema, "p")[0])


TOOL = {
    "name": "f",
    "parameters": {
        "type": "object",
        "properties": {"tags": {"type": "array", "items": {"enum": ["a"]}, "uniqueItems": True}},
    },
}
PLACE = "tools[0].function.parameters.properties.tags.uniqueItems"


async def test_a_tool_that_is_not_strict_is_served_with_a_warning(serve, text):
    async with serve() as served:
        answer = await served.chat(tools=[{"type": "function", "function": TOOL}])
        assert answer.json()["warnings"] == [f"{PLACE}: is told to the model, but not enforced"]
        prompt = text.decode(served.generator.requests[0].token_ids)
        assert '"uniqueItems": true' in prompt
        strict = await served.chat(
            tools=[{"type": "function", "function": {**TOOL, "strict": True}}]
        )
        assert (strict.status, strict.error["param"]) == (400, "tools[0].function.parameters")


async def test_a_format_that_is_not_strict_is_served_with_a_warning(serve):
    wanted = {"name": "n", "schema": TOOL["parameters"]}
    path = "response_format.json_schema.schema"
    async with serve() as served:
        answer = await served.chat(response_format={"type": "json_schema", "json_schema": wanted})
        (warning,) = answer.json()["warnings"]
        assert warning.startswith(f"{path}.properties.tags.uniqueItems: is not enforced")
        strict = await served.chat(
            response_format={"type": "json_schema", "json_schema": {**wanted, "strict": True}}
        )
        assert (strict.status, strict.error["param"]) == (400, path)


X = {"x": {"type": "integer"}}


@pytest.mark.parametrize(
    ("schema", "closed"),
    [
        ({"properties": X}, {"properties": X, "additionalProperties": False}),
        ({"type": "object"}, {"type": "object"}),
        (
            {"items": {"properties": {}}},
            {"items": {"properties": {}, "additionalProperties": False}},
        ),
        (
            {"$defs": {"d": {"properties": X}}, "$ref": "#/$defs/d"},
            {
                "$defs": {"d": {"properties": X, "additionalProperties": False}},
                "$ref": "#/$defs/d",
            },
        ),
        (
            {"anyOf": [{"properties": X}, True]},
            {"anyOf": [{"properties": X, "additionalProperties": False}, True]},
        ),
    ],
)
def test_objects_have_what_is_declared(schema, closed):
    assert close_objects(schema) == closed


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": X, "additionalProperties": True},
        {"properties": X, "patternProperties": {"^y": True}},
        {"allOf": [{"properties": X}, {"properties": {"y": {}}}]},
        {"properties": X, "anyOf": [{"properties": {"y": {}}}, {}]},
        {"properties": {"a": {"properties": X, "$ref": "#/$defs/d"}}, "$defs": {"d": {}}},
    ],
)
def test_objects_that_may_have_more_stay_open(schema):
    assert close_objects(schema) == schema
