"""Every fault of a plan is reported, with its path and the way out."""

import math

import pytest
from hypothesis import given

from helium_jax.errors import PlanError
from helium_jax.plan import Const, Output, Param, Plan, check_plan, check_size, plan_from_document
from helium_jax.plan.limits import MAX_OPS, parse_duration
from helium_jax.plan.spec import parse_value
from tests.plan.strategies import plans


def faults(*, ops=None, outputs=None, version="helium/v1", **rest):
    """(path, message, code) of every fault of a document."""
    document = {"version": version, "ops": ops or {}, "outputs": outputs or {}, **rest}
    try:
        plan_from_document(document)
    except PlanError as error:
        return [(p.path, p.message, p.code) for p in error.problems]
    return []


def op_faults(**fields):
    """Faults of one operator, as paths under it and messages."""
    ops = {"a": {"type": "llm.chat", "user": "x"} | fields}
    found = faults(ops=ops, outputs={"o": "a"})
    return [(path.removeprefix("plan.ops.a."), message) for path, message, _ in found]


@given(plans())
def test_valid_plans_have_no_faults(plan):
    assert check_plan(plan).problems == []


def test_all_faults_are_reported_at_once_and_none_causes_another():
    ops = {
        "a": {"type": "llm.chat", "user": "{{b}} {{qq}}", "temprature": 1, "tools": []},
        "b": {"type": "llm.chat", "user": "{{a}}", "max_tokens": 0},
        "c": {"type": "llm.chat", "messages": [{"role": "usr", "content": "{{ x.y }}"}]},
        "d": {"type": "brunch"},
        "e": {"type": "llm.completion", "prompt": "{{d}}"},
    }
    found = faults(
        version="helium/v9",
        inputs={"q": {"type": "txt"}},
        ops=ops,
        outputs={"o": "aa", "p": None},
        limits={"timeout": -1, "max_llm_calls": -5},
    )
    assert [(path, code) for path, _, code in found] == [
        ("plan.version", "unknown_version"),
        ("plan.inputs.q.type", "plan_invalid"),
        ("plan.ops.a.temprature", "unknown_field"),
        ("plan.ops.a.tools", "unsupported_parameter"),
        ("plan.ops.b.max_tokens", "plan_invalid"),
        ("plan.ops.c.messages[0].role", "plan_invalid"),
        ("plan.ops.c.messages[0].content", "template_syntax"),
        ("plan.ops.d.type", "unknown_op_type"),
        ("plan.outputs.p", "plan_invalid"),
        ("plan.limits.max_llm_calls", "plan_invalid"),
        ("plan.limits.timeout", "plan_invalid"),
        ("plan.ops.a.user", "unknown_reference"),
        ("plan.outputs.o", "unknown_reference"),
        ("plan.ops.a", "cycle"),
    ]
    messages = {path: message for path, message, _ in found}
    assert "did you mean 'temperature'?" in messages["plan.ops.a.temprature"]
    assert "did you mean 'q'?" in messages["plan.ops.a.user"]
    assert "did you mean 'a'?" in messages["plan.outputs.o"]
    assert "did you mean 'branch'?" in messages["plan.ops.d.type"]
    assert "a -> b -> a" in messages["plan.ops.a"]
    assert "helium/v1" in messages["plan.version"]


@pytest.mark.parametrize(
    ("fields", "path", "message"),
    [
        ({"temperature": -1}, "temperature", "-1 must be in [0, 100]"),
        ({"temperature": "0"}, "temperature", "must be a number, not the text '0'"),
        ({"temperature": True}, "temperature", "must be a number, not the boolean true"),
        ({"temperature": math.nan}, "temperature", "nan must be in"),
        ({"temperature": 10**400}, "temperature", "must be in"),
        ({"max_tokens": 1.5}, "max_tokens", "must be a whole number, not the number 1.5"),
        ({"max_tokens": True}, "max_tokens", "must be a whole number, not the boolean true"),
        ({"max_tokens": 2**40}, "max_tokens", "must be in"),
        ({"max_tokens": 3, "min_tokens": 4}, "min_tokens", "4 is more than max_tokens=3"),
        ({"seed": -1}, "seed", "must be in"),
        ({"top_p": 0}, "top_p", "0 keeps no token"),
        ({"top_p": 1.1}, "top_p", "must be in [0, 1]"),
        ({"top_k": -2}, "top_k", "must be in [-1"),
        ({"min_p": 2}, "min_p", "must be in"),
        ({"presence_penalty": 3}, "presence_penalty", "must be in [-2, 2]"),
        ({"frequency_penalty": []}, "frequency_penalty", "must be a number, not a list of 0"),
        ({"repetition_penalty": 0}, "repetition_penalty", "must be in"),
        ({"ignore_eos": "yes"}, "ignore_eos", "must be true or false"),
        ({"stop": ""}, "stop", "is empty, which would stop at once"),
        ({"stop": ["a", ""]}, "stop[1]", "is empty"),
        ({"stop": ["a", 1]}, "stop", "must be a text or a list of texts"),
        ({"stop": ["a"] * 17}, "stop", "at most 16"),
        ({"stop": "x" * 2000}, "stop", "at most 1024"),
        ({"stop_token_ids": [1, "2"]}, "stop_token_ids[1]", "must be a whole number"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "'x' is not a token id"),
        ({"logit_bias": {"٣": 1}}, "logit_bias", "is not a token id"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "must be in [-100, 100]"),
        ({"model": ""}, "model", "leave it out"),
        ({"model": 3}, "model", "must be text"),
        ({"priority": "high"}, "priority", "must be a whole number"),
        ({"cache": {"results": "always"}}, "cache.results", "'always' is unknown"),
        ({"cache": {"ttl": 3}}, "cache.ttl", "is no field of this"),
        ({"cache": "off"}, "cache", "must be a mapping"),
        ({"user": 3}, "user", "must be text, not the number 3; quote it"),
        ({"user": None}, "user", "is missing"),
        ({"system": ["x"]}, "system", "must be text, not a list of 1"),
        ({"user": "{{nope}}"}, "user", "{{nope}} is nothing in this plan"),
        ({"tools": []}, "tools", "is not supported here"),
        ({"retries": 11}, "retries", "must be in [0, 10]"),
        ({"timeout": "soon"}, "timeout", "is no duration"),
        ({"timeout": 0}, "timeout", "must be over 0"),
        ({"on_error": "ignore"}, "on_error", "besides {default: text} are fail, empty"),
        ({"on_error": {}}, "on_error.default", "is missing"),
        ({"history": 3}, "history", "must be text"),
        ({"history": "b"}, "history", "'b' is nothing in this plan"),
        ({"history": "{{a}} and more"}, "history", "must be one name"),
        ({"chat_template": "x"}, "chat_template", "is no field of this"),
        ({"webhook": "http://x"}, "webhook", "is no field of this"),
    ],
)
def test_a_wrong_field_of_a_call_is_one_fault_at_its_path(fields, path, message):
    found = op_faults(**fields)
    assert [where for where, _ in found] == [path]
    assert message in found[0][1]


def test_null_fields_have_their_defaults():
    assert op_faults(temperature=None, stop=None, cache=None, logit_bias=None, system=None) == []


@pytest.mark.parametrize(
    ("op", "path", "message"),
    [
        ({"type": "llm.chat"}, "plan.ops.a.user", "is missing; write user"),
        ({"type": "llm.chat", "messages": []}, "plan.ops.a.messages", "has 0 messages"),
        ({"type": "llm.chat", "messages": "x"}, "plan.ops.a.messages", "must be a list"),
        ({"type": "llm.chat", "messages": [None]}, "plan.ops.a.messages[0]", "must be a mapping"),
        (
            {"type": "llm.chat", "user": "x", "messages": [{"role": "user", "content": "x"}]},
            "plan.ops.a",
            "has both messages and system/user",
        ),
        (
            {"type": "llm.chat", "messages": [{"role": "user", "content": "{{z}}"}]},
            "plan.ops.a.messages[0].content",
            "{{z}} is nothing",
        ),
        ({"type": "llm.completion"}, "plan.ops.a.prompt", "is missing"),
        ({"type": "template", "template": "{{"}, "plan.ops.a.template", "is not a slot"),
        ({"type": "template", "text": "x", "template": ""}, "plan.ops.a.text", "is no field"),
        ({"type": "const"}, "plan.ops.a", "needs either value"),
        ({"type": "const", "value": 1, "values": []}, "plan.ops.a", "needs either value"),
        ({"type": "const", "value": None}, "plan.ops.a.value", "not null"),
        ({"type": "const", "value": [1]}, "plan.ops.a.value", "not a list of 1"),
        ({"type": "const", "values": [1, {}]}, "plan.ops.a.values[1]", "not a mapping"),
        ({"type": "const", "values": "x"}, "plan.ops.a.values", "must be a list"),
        ({"type": "const", "value": 2**70}, "plan.ops.a.value", "must be in"),
        ({"type": "const", "value": math.inf}, "plan.ops.a.value", "must be in"),
        ({"type": "llm.chatt"}, "plan.ops.a.type", "did you mean 'llm.chat'?"),
        ({"type": ["x"]}, "plan.ops.a.type", "a list of 1 is no operator type"),
        ({}, "plan.ops.a.type", "has no type"),
        ("x", "plan.ops.a", "must be a mapping with a type, not the text 'x'"),
        (None, "plan.ops.a", "must be a mapping with a type, not null"),
    ],
)
def test_a_wrong_operator_is_one_fault_at_its_path(op, path, message):
    found = faults(ops={"a": op}, outputs={"o": "a"})
    assert [where for where, _, _ in found] == [path]
    assert message in found[0][1]


@pytest.mark.parametrize(
    ("part", "path", "message"),
    [
        ({"inputs": []}, "plan.inputs", "must be a mapping of names"),
        ({"inputs": {"1x": {}}}, "plan.inputs.1x", "is no name"),
        ({"inputs": {"c": {}}}, "plan.ops.c", "the name is already in inputs"),
        ({"inputs": {"q": {"type": "image"}}}, "plan.inputs.q.type", "'image' is unknown"),
        ({"inputs": {"q": {"default": 1}}}, "plan.inputs.q.default", "is no field"),
        ({"params": {"p": {"type": "int", "default": "1"}}}, "plan.params.p.default", "must be a"),
        (
            {"params": {"p": {"type": "int", "default": 9, "max": 8}}},
            "plan.params.p.default",
            "max=8",
        ),
        ({"params": {"p": {"type": "int", "min": 9, "max": 8}}}, "plan.params.p.min", "than max=8"),
        ({"params": {"p": {"min": 1}}}, "plan.params.p.min", "only for int and float"),
        ({"outputs": {}}, "plan.outputs", "is empty"),
        ({"outputs": {"o": 3}}, "plan.outputs.o", "must be text, not the number 3"),
        ({"outputs": {"o o": "c"}}, "plan.outputs.o o", "is no name"),
        ({"outputs": ["c"]}, "plan.outputs", "must be a mapping of names"),
        ({"limits": {"timeout": "soon"}}, "plan.limits.timeout", "is no duration"),
        ({"limits": {"timeout": 0}}, "plan.limits.timeout", "must be over 0"),
        ({"limits": {"timeout": "1000h"}}, "plan.limits.timeout", "at most"),
        ({"limits": {"on_row_error": "retry"}}, "plan.limits.on_row_error", "'retry' is unknown"),
        ({"limits": {"max_cost": 3}}, "plan.limits.max_cost", "is no field"),
        ({"name": 3}, "plan.name", "must be text"),
        ({"webhook": "http://x"}, "plan.webhook", "is no field"),
        ({"version": 1}, "plan.version", "the number 1 is unknown"),
        ({"version": None}, "plan.version", "is missing; write version: helium/v1"),
    ],
)
def test_a_wrong_part_of_a_plan_is_one_fault_at_its_path(part, path, message):
    good = {"ops": {"c": {"type": "const", "value": 1}}, "outputs": {"o": "c"}}
    found = faults(**(good | part))
    assert (path, True) in [(where, message in text) for where, text, _ in found]
    assert len([where for where, _, code in found if code != "no_outputs"]) <= 1


def test_constant_columns_agree_in_length():
    ops = {"a": {"type": "const", "values": [1, 2]}, "b": {"type": "const", "values": [1]}}
    assert [path for path, _, _ in faults(ops=ops, outputs={"o": "a"})] == ["plan.ops.b.values"]


def test_a_cycle_of_one_is_spelled_out():
    ops = {"a": {"type": "template", "template": "{{a}}"}}
    found = faults(ops=ops, outputs={"o": "a"})
    assert found == [("plan.ops.a", "needs itself: a -> a; a plan may have no cycle", "cycle")]


def test_too_many_operators_are_refused_without_looking_at_them():
    ops = {f"op{i}": {"type": "nonsense"} for i in range(MAX_OPS + 1)}
    assert [code for _, _, code in faults(ops=ops, outputs={"o": "op0"})] == ["plan_too_large"]


def test_the_largest_plan_allowed_is_checked():
    ops = {f"op{i}": {"type": "template", "template": f"{{{{op{i + 1}}}}}"} for i in range(MAX_OPS)}
    found = faults(ops=ops, outputs={"o": "op0"})
    assert [(path, code) for path, _, code in found] == [
        (f"plan.ops.op{MAX_OPS - 1}.template", "unknown_reference")
    ]


def test_a_batch_that_is_too_large_is_refused():
    ops = {f"op{i}": {"type": "llm.chat", "user": "x"} for i in range(100)}
    outputs = {f"o{i}": f"op{i}" for i in range(100)}
    plan, _ = plan_from_document({"version": "helium/v1", "ops": ops, "outputs": outputs})
    check_size(plan, 100_000)
    with pytest.raises(PlanError, match="1000000 rows times 100 calls are possible"):
        check_size(plan, 1_000_000)


def test_unused_operators_and_inputs_are_warnings():
    document = {
        "version": "helium/v1",
        "inputs": {"q": {}, "r": {}},
        "ops": {
            "a": {"type": "template", "template": "{{q}}"},
            "b": {"type": "template", "template": "{{a}}"},
        },
        "outputs": {"o": "a"},
    }
    _, warnings = plan_from_document(document)
    assert [(w.path, w.code) for w in warnings] == [
        ("plan.ops.b", "pruned"),
        ("plan.inputs.r", "unused"),
    ]


def test_a_plan_made_in_python_is_checked_for_what_files_cannot_have():
    const = Const(name="c", value=1)
    plan = Plan(ops=(const, const), outputs=(Output(name="o", source="c"),) * 2)
    assert [p.code for p in check_plan(plan).problems] == ["duplicate_name", "duplicate_name"]
    nan = Plan(
        params=(Param(name="p", type="float", default=math.nan),),
        ops=(const,),
        outputs=(Output(name="o", source="c"),),
    )
    assert [p.message for p in check_plan(nan).problems] == ["must be finite, not nan"]


@pytest.mark.parametrize(
    ("source", "seconds"),
    [("90s", 90), ("15m", 900), ("1h30m", 5400), ("500ms", 0.5), ("1.5s", 1.5), ("2h", 7200)],
)
def test_durations_are_read(source, seconds):
    assert parse_duration(source) == seconds


@pytest.mark.parametrize("source", ["", "15", "m", "-1s", "1s1m", "1e3s", "١s", "1 s", "1d"])
def test_what_is_no_duration_is_none(source):
    assert parse_duration(source) is None


def test_values_on_a_command_line_are_read_by_their_type():
    assert parse_value("3", "int") == 3
    assert parse_value("3", "text") == "3"
    assert parse_value("0.5", "float") == 0.5
    assert parse_value("true", "bool") is True
    for source, type_ in (("x", "int"), ("x", "float"), ("yes", "bool")):
        with pytest.raises(ValueError, match="must be"):
            parse_value(source, type_)
