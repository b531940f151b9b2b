"""Plan files: what comes out goes in again, and what is wrong is refused with its place."""

import json

import pytest
from hypothesis import given

from helium_jax.errors import PlanError, RequestError
from helium_jax.plan import (
    Chat,
    Message,
    Param,
    RunLimits,
    Slot,
    encode_json,
    encode_yaml,
    load_plan,
    parse_plan,
    plan_from_document,
)
from helium_jax.plan.wire import MAX_YAML_BYTES, decode_json, decode_yaml
from tests.plan.nested import FEW, nested_plans
from tests.plan.strategies import plans

EXAMPLE = """
version: helium/v1
name: debate-qa
inputs:
  question: {type: text}          # a column: one value per row
params:
  rounds: {type: int, default: 1, max: 8}
ops:
  pro:   {type: llm.chat, system: "You argue FOR.", user: "{{question}}", max_tokens: 128}
  con:   {type: llm.chat, system: "You argue AGAINST.", user: "{{question}}", max_tokens: 128}
  judge:
    type: llm.chat
    messages:
      - {role: system, content: "You are a fair judge."}
      - {role: user, content: "Q: {{question}}\\nFOR: {{pro}}\\nAGAINST: {{con}}"}
    temperature: 0
    cache: {results: auto, kv: auto}
outputs: {verdict: judge, for: pro}
limits: {max_llm_calls: 3000, max_total_tokens: 2000000, timeout: 15m, on_row_error: skip}
"""


def test_the_documented_example_is_a_plan():
    plan, warnings = parse_plan(EXAMPLE, is_json=False)
    q, pro, con = Slot(name="question"), Slot(name="pro"), Slot(name="con")
    assert plan.nodes["judge"] == Chat(
        name="judge",
        messages=(
            Message(role="system", content=("You are a fair judge.",)),
            Message(role="user", content=("Q: ", q, "\nFOR: ", pro, "\nAGAINST: ", con)),
        ),
    )
    assert plan.params == (Param(name="rounds", type="int", default=1, max=8),)
    assert plan.limits == RunLimits(
        max_llm_calls=3000, max_total_tokens=2000000, timeout_s=900, on_row_error="skip"
    )
    assert [(o.name, o.source) for o in plan.outputs] == [("verdict", "judge"), ("for", "pro")]
    assert [w.path for w in warnings] == ["plan.params.rounds"]


def test_yaml_and_json_of_one_plan_are_one_plan():
    plan, _ = parse_plan(EXAMPLE, is_json=False)
    same, _ = parse_plan(json.dumps(decode_yaml(EXAMPLE)), is_json=True)
    assert same.plan_id == plan.plan_id


@given(plans())
def test_every_plan_survives_json(plan):
    assert parse_plan(encode_json(plan), is_json=True)[0] == plan


@given(plans())
def test_every_plan_survives_yaml(plan):
    assert parse_plan(encode_yaml(plan), is_json=False)[0] == plan


@FEW
@given(nested_plans())
def test_every_plan_with_bodies_survives_both(plan):
    assert parse_plan(encode_json(plan), is_json=True)[0] == plan
    read, _ = parse_plan(encode_yaml(plan), is_json=False)
    assert read == plan
    assert read.ops == plan.ops  # also in the author's order


def test_the_long_and_the_short_form_of_a_chat_are_one_plan():
    def plan(**fields):
        ops = {"a": {"type": "llm.chat", **fields}}
        return plan_from_document({"version": "helium/v1", "ops": ops, "outputs": {"o": "a"}})[0]

    turns = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    assert plan(messages=turns) == plan(system="S", user="U")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a: &a [*a]", "uses *a before &a"),
        ("a: !!python/object:os.system {}", "uses the tag"),
        ("a: !x 1", "uses the tag '!x'"),
        ("a: !x [1]", "uses the tag '!x'"),
        ("a: !!binary aGk=", "uses the tag"),
        ("a: 2020-01-01", "has a date (line 1); quote it"),
        ("b: 1\n<<: {a: 1}", "uses a merge key (line 2)"),
        ("a: 1\nb: 1\na: 2", "has the key 'a' twice (line 3)"),
        ("ops:\n  x: {type: const}\n  x: {type: const}", "plan.ops: has the key 'x' twice"),
        ("a: '\x00'", "is not YAML: it has characters"),
        ("a: 1" + "0" * 5000, "is no int"),
        ("a: !!int x", "is no int"),
        ("a: !!bool x", "is no bool"),
        ("--- 1\n--- 2", "several YAML documents"),
        ("[1", "is not YAML"),
        ("? [a]\n: b", "key that is no plain text"),
        ("a: {{q}}", "no plain text (line 1); quote a text that begins with {{"),
        ("a: *x", "uses *x before &x"),
        ("[" * 100_000 + "]" * 100_000, "nested more than 32 deep"),
        ("- " * 50_000 + "x", "nested more than 32 deep"),
        ("x" * (MAX_YAML_BYTES + 1), "a plan in YAML may have"),
        (b"\xff\xfe", "is not UTF-8: byte 0"),
        ("", "must be a mapping with version, ops and outputs, not null"),
        ("[]", "must be a mapping with version, ops and outputs, not a list of 0"),
        ("1: 2", "the key 1 must be text"),
    ],
)
def test_yaml_that_is_no_plain_document_is_refused(source, message):
    with pytest.raises(PlanError) as caught:
        parse_plan(source, is_json=False)
    assert message in str(caught.value)


def test_a_flood_of_aliases_is_refused_before_it_is_written_out():
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(PlanError, match="once its aliases are written out"):
        parse_plan("\n".join(lines), is_json=False)


def test_an_alias_that_is_no_flood_is_fine():
    document = decode_yaml("a: &a {x: 1}\nb: [*a, *a]")
    assert document == {"a": {"x": 1}, "b": [{"x": 1}, {"x": 1}]}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{a", "is not JSON: Expecting property name"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "has the key 'c' twice"),
        ('{"a": NaN}', "NaN, which is not finite"),
        ('{"a": -Infinity}', "-Infinity, which is not finite"),
        ('{"a": 1' + "0" * 5000 + "}", "too many digits"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        (b"\xff", "is not UTF-8"),
        ("[]", "not a list of 0"),
        ('"x"', "not the text 'x'"),
        ("null", "not null"),
        ("3", "not the number 3"),
    ],
)
def test_json_that_is_no_plain_document_is_refused(source, message):
    with pytest.raises(PlanError) as caught:
        parse_plan(source, is_json=True)
    assert message in str(caught.value)


def test_lone_surrogates_are_refused_wherever_they_stand():
    source = (
        '{"version": "helium/v1", "name": "\\ud800", "ops": {"a": {"type": "const", '
        '"values": ["x", "y\\udfff"]}}, "outputs": {"\\ud801": "a"}}'
    )
    with pytest.raises(PlanError) as caught:
        parse_plan(source, is_json=True)
    assert sorted((p.path, p.code) for p in caught.value.problems) == [
        ("plan.name", "invalid_unicode"),
        ("plan.ops.a.values[1]", "invalid_unicode"),
        ("plan.outputs", "invalid_unicode"),
    ]
    assert str(caught.value).isascii()


def test_a_byte_order_mark_is_skipped():
    assert decode_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


def test_a_file_is_read_by_its_name(tmp_path):
    plan, _ = parse_plan(EXAMPLE, is_json=False)
    (tmp_path / "p.json").write_bytes(encode_json(plan))
    (tmp_path / "p.yaml").write_text(EXAMPLE)
    assert load_plan(tmp_path / "p.json")[0] == load_plan(tmp_path / "p.yaml")[0] == plan
    with pytest.raises(RequestError, match=r"cannot read the plan .*No such file"):
        load_plan(tmp_path / "q.yaml")
