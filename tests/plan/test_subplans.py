"""Sub-plans: what is left of them after reading, and where their faults are reported."""

import pytest

from helium_jax.errors import PlanError
from helium_jax.plan import (
    Chat,
    Const,
    Loop,
    Message,
    Slot,
    encode_yaml,
    parse_plan,
    plan_from_document,
)

CHAT = {"type": "llm.chat", "user": "x"}
REVIEW = {
    "inputs": {"text": {}},
    "params": {"rounds": {"type": "int", "max": 4}, "style": {"default": "short"}},
    "ops": {
        "first": {"type": "llm.chat", "user": "{{style}}: {{text}}"},
        "talk": {
            "type": "loop",
            "carry": {"said": {"from": "first", "next": "says"}},
            "count": "rounds",
            "body": {"ops": {"says": CHAT | {"user": "{{said}} {{text}}"}}, "result": "says"},
        },
    },
    "outputs": {"verdict": "talk", "opening": "first"},
}


def sub(plan=None, **fields):
    inputs = {"text": "q"}
    return {
        "type": "plan",
        "plan": plan or REVIEW,
        "inputs": inputs,
        "params": {"rounds": 2},
    } | fields


def read(ops, outputs, **rest):
    document = {"version": "helium/v1", "inputs": {"q": {}}, "ops": ops, "outputs": outputs}
    return plan_from_document(document | rest)


def faults(ops, outputs, **rest):
    with pytest.raises(PlanError) as caught:
        read(ops, outputs, **rest)
    return [(p.path, p.code) for p in caught.value.problems]


def test_a_subplan_becomes_operators_with_its_name_before_theirs():
    plan, warnings = read({"a": sub()}, {"v": "a/verdict", "o": "{{a/opening}}"})
    assert warnings == ()
    assert [op.name for op in plan.ops] == ["a/style", "a/first", "a/talk"]
    style, first, talk = plan.ops
    assert style == Const(name="a/style", value="short")
    text = (Slot(name="a/style"), ": ", Slot(name="q"))
    assert first == Chat(name="a/first", messages=(Message(role="user", content=text),))
    assert isinstance(talk, Loop)
    assert (talk.count, talk.carried[0].name, talk.body.result) == (2, "a/said", "a/says")
    assert [(o.name, o.source) for o in plan.outputs] == [("v", "a/talk"), ("o", "a/first")]
    assert parse_plan(encode_yaml(plan), is_json=False)[0] == plan


def test_one_plan_may_be_used_twice_and_equal_uses_are_equal():
    ops = {"a": sub(), "b": sub(), "c": sub(params={"rounds": 3})}
    plan, _ = read(ops, {one: f"{one}/verdict" for one in ops})
    signatures = plan.signatures
    assert signatures["a/talk"] == signatures["b/talk"] != signatures["c/talk"]


def test_the_only_output_is_what_the_name_itself_means():
    one = {"inputs": {"text": {}}, "ops": {"j": CHAT}, "outputs": {"verdict": "j"}}
    ops = {
        "a": sub(one, params={}, inputs={"text": "b"}),  # an input may be another sub-plan
        "b": sub(one, params={}, inputs={"text": "q"}),
        "t": {"type": "template", "template": "{{a}}{{a/verdict}}{{b/j}}"},
    }
    plan, _ = read(ops, {"o": "t"})
    assert plan.nodes["t"].text == (Slot(name="a/j"), Slot(name="a/j"), Slot(name="b/j"))
    two = faults({"a": sub()}, {"o": "a"})
    assert two == [("plan.outputs.o", "unknown_reference")]


def test_an_output_may_be_an_input_that_is_passed_on():
    through = {"inputs": {"text": {}}, "ops": {}, "outputs": {"same": "text"}}
    outer = {
        "inputs": {"text": {}},
        "ops": {"in": sub(through, params={}, inputs={"text": "text"})},
    }
    outer["outputs"] = {"same": "in"}
    ops = {
        "a": sub(outer, params={}),
        "t": {"type": "template", "template": "{{a}} {{a/same}}"},
    }
    plan, _ = read(ops, {"o": "t"})
    assert plan.nodes["t"].text == (Slot(name="q"), " ", Slot(name="q"))


def test_parameters_are_values_or_those_of_the_outer_plan():
    ops = {"a": sub(params={"rounds": {"param": "n"}, "style": "{{ style }} is a word"})}
    n = {"type": "int", "default": 1, "max": 3}
    plan, _ = read(ops, {"v": "a/verdict"}, params={"n": n})
    assert plan.nodes["a/talk"].count == "n"
    assert plan.nodes["a/style"].value == "{{ style }} is a word"
    assert faults({"a": sub(params={})}, {"v": "a/verdict"}) == [
        ("plan.ops.a.params.rounds", "plan_invalid")
    ]
    assert faults({"a": sub(params={"rounds": 9})}, {"v": "a/verdict"}) == [
        ("plan.ops.a.params.rounds", "plan_invalid")
    ]


def test_a_subplan_may_stand_in_a_body_and_hold_another():
    outer = {
        "inputs": {"text": {}},
        "ops": {"inner": sub(inputs={"text": "text"})},
        "outputs": {"verdict": "inner/verdict"},
    }
    each = {
        "type": "map",
        "over": "lines(q)",
        "as": "line",
        "body": {"ops": {"s": sub(outer, params={}, inputs={"text": "line"})}, "result": "s"},
    }
    plan, _ = read({"a": each}, {"o": "a"})
    assert [op.name for op in plan.nodes["a"].body.ops] == [
        "s/inner/style",
        "s/inner/first",
        "s/inner/talk",
    ]
    assert plan.nodes["a"].body.result == "s/inner/talk"
    assert parse_plan(encode_yaml(plan), is_json=False)[0] == plan


def test_7_faults_of_a_subplan_are_reported_where_they_are_written():
    bad = {
        "inputs": {"text": {}},
        "ops": {
            "x": {"type": "llm.chat", "messages": [{"role": "user", "content": "{{nope}}"}]},
            "l": {
                "type": "loop",
                "count": "x",
                "body": {"ops": {"y": CHAT | {"history": "text"}}, "result": "z"},
            },
            "c": {"type": "template", "template": "{{c}}"},
        },
        "outputs": {"o": "x", "p": "nothing"},
        "limits": {"timeout": 3},
    }
    at = "plan.ops.b.then.ops.a.plan"
    branch = {
        "type": "branch",
        "if": "true",
        "then": {"ops": {"a": sub(bad, params={})}, "result": "a/o"},
    }
    assert sorted(faults({"b": branch}, {"o": "b"})) == sorted(
        [
            (f"{at}.limits", "unsupported_parameter"),
            (f"{at}.outputs.p", "unknown_reference"),
            (f"{at}.ops.x.messages[0].content", "unknown_reference"),
            (f"{at}.ops.l.count", "wrong_kind"),
            (f"{at}.ops.l.body.result", "unknown_reference"),
            (f"{at}.ops.l.body.ops.y.history", "wrong_kind"),
            (f"{at}.ops.c", "cycle"),
        ]
    )


def test_7_names_that_would_mean_two_things_are_refused():
    clash = {"inputs": {}, "ops": {"a": CHAT, "b": CHAT}, "outputs": {"a": "b"}}
    found = faults({"s": sub(clash, params={}, inputs={})}, {"o": "s/a"})
    assert found == [("plan.ops.s.plan.outputs.a", "duplicate_name")]
    arm = {"ops": {"a": CHAT}, "result": "a"}
    ops = {"a": sub(), "r": {"type": "race", "arms": [arm]}}
    one = {"inputs": {"text": {}}, "ops": {"j": CHAT}, "outputs": {"v": "j"}}
    ops["a"] = sub(one, params={})
    assert faults(ops, {"o": "a", "p": "r"}) == [("plan.ops.a", "duplicate_name")]


def test_7_inputs_keep_their_types():
    typed = {"inputs": {"text": {"type": "int"}}, "ops": {"j": CHAT}, "outputs": {"v": "j"}}
    found = faults({"a": sub(typed, params={})}, {"o": "a"})
    assert found == [("plan.ops.a.inputs.text", "plan_invalid")]
    plan, _ = read({"a": sub(typed, params={})}, {"o": "a"}, inputs={"q": {"type": "int"}})
    assert plan.nodes["a/j"] is not None
