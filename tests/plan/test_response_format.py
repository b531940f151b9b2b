"""What answers must look like: the field of a plan, both ways, and who may merge with whom."""

import json

import pytest

from helium_jax.errors import PlanError, RequestError
from helium_jax.plan import PlanBuilder, encode_json, encode_yaml, explain_text, parse_plan
from helium_jax.plan.response_format import response_format_of
from helium_jax.text import GrammarSpec
from tests.plan.test_spec import op_faults

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {}}, "required": ["b"]}
FORMATS = [
    {"type": "json_schema", "schema": SCHEMA},
    {"type": "json_schema", "schema": True},
    {"type": "json_object"},
    {"type": "regex", "pattern": "[0-9]{2} {{x}}"},
    {"type": "choice", "choices": ["yes", "no", 'with "quotes"\n', "\u2028"]},
    {"type": "lark", "grammar": 'start: "a" start | "b"\n'},
]


def plan_with(*formats):
    builder = PlanBuilder("formats")
    question = builder.input("q")
    for index, wanted in enumerate(formats):
        answer = builder.chat(user=question, name=f"op{index}", response_format=wanted)
        builder.output(f"o{index}", answer)
    return builder.build()


@pytest.mark.parametrize("wanted", FORMATS, ids=lambda wanted: wanted["type"])
def test_a_format_survives_files_in_both_languages(wanted):
    plan = plan_with(wanted)
    spec = plan.all_ops[0].settings.response_format
    assert spec is not None
    for text, is_json in ((encode_json(plan), True), (encode_yaml(plan), False)):
        again, _ = parse_plan(text, is_json=is_json)
        assert again == plan
        assert again.plan_id == plan.plan_id
        assert again.all_ops[0].settings.response_format == spec
    assert plan.document["ops"]["op0"]["response_format"] == wanted


def test_the_order_of_a_schemas_properties_tells_plans_and_operators_apart():
    turned = {**SCHEMA, "properties": dict(reversed(SCHEMA["properties"].items()))}
    one, other = ({"type": "json_schema", "schema": schema} for schema in (SCHEMA, turned))
    assert plan_with(one) != plan_with(other)
    assert plan_with(one).plan_id != plan_with(other).plan_id
    signatures = plan_with(one, other).signatures
    assert signatures["op0"] != signatures["op1"]


def test_operators_merge_only_when_they_want_the_same():
    plan = plan_with(None, *FORMATS, *FORMATS)
    signatures = [plan.signatures[f"op{index}"] for index in range(1 + 2 * len(FORMATS))]
    first, second = signatures[1 : 1 + len(FORMATS)], signatures[1 + len(FORMATS) :]
    assert first == second
    assert len(set(signatures)) == 1 + len(FORMATS)


def test_the_tree_says_what_an_answer_must_look_like():
    assert "greedy, as json_schema" in explain_text(plan_with(FORMATS[0]), num_rows=1)


@pytest.mark.parametrize(
    ("wanted", "path", "message"),
    [
        ("json_object", "", "must be a mapping with a type, not the text"),
        ([], "", "must be a mapping with a type"),
        ({}, ".type", "is missing; types are json_schema, json_object, regex, choice, lark"),
        ({"type": "json"}, ".type", "'json' is unknown"),
        ({"type": 3}, ".type", "must be text"),
        ({"type": "json_schema"}, ".schema", "is missing; a json_schema needs it"),
        ({"type": "json_schema", "schema": "x"}, ".schema", "must be a JSON Schema, not the text"),
        ({"type": "json_object", "schema": {}}, ".schema", "is no field of this"),
        ({"type": "regex", "pattern": ""}, ".pattern", "the regex is empty"),
        ({"type": "regex", "pattern": 3}, ".pattern", "must be text, not the number 3"),
        ({"type": "regex", "regex": "a", "pattern": "a"}, ".regex", "is no field of this"),
        ({"type": "choice", "choices": []}, ".choices", "0 choices are given"),
        ({"type": "choice", "choices": ["a", 1]}, ".choices", "must be a list of texts"),
        ({"type": "choice", "choices": ["a", "a"]}, ".choices", "'a' is given twice"),
        ({"type": "lark", "grammar": "\ud800"}, ".grammar", "lone surrogate"),
        ({"type": "lark", "grammar": "a" * 200_000}, ".grammar", "200000 bytes; at most"),
    ],
)
def test_a_wrong_format_is_one_fault_at_its_path(wanted, path, message):
    ((where, said),) = op_faults(response_format=wanted)
    assert where == f"response_format{path}"
    assert message in said


def test_all_faults_are_named_at_once():
    with pytest.raises(PlanError) as caught:
        plan_with({"type": "regex"}, {"type": "choice", "choices": [""]}, {"type": "x"})
    assert [problem.path for problem in caught.value.problems] == [
        "plan.ops.op0.response_format.pattern",
        "plan.ops.op1.response_format.choices",
        "plan.ops.op2.response_format.type",
    ]


def test_the_same_mapping_means_the_same_outside_of_a_plan():
    assert response_format_of(FORMATS[0]) == GrammarSpec.of_json_schema(SCHEMA)
    assert json.loads(response_format_of(FORMATS[4]).source) == FORMATS[4]["choices"]
    with pytest.raises(RequestError, match=r"response_format\.pattern: the regex is empty"):
        response_format_of({"type": "regex", "pattern": ""})
