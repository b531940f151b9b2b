"""EXPLAIN shows the plan as it will run, and runs nothing."""

import json

from hypothesis import given

from helium_jax.plan import explain_json, explain_text, parse_plan, plan_from_document
from tests.plan.strategies import plans
from tests.plan.test_wire import EXAMPLE

TEXT = """\
Plan debate-qa  (plan_c4136274bd722347d6cd8a74e892533e, operators=3, calls per row=3, rows=12, \
calls<=36)
Output verdict
  ->  Chat judge  (rows=12, greedy, static prefix=7 tokens)
    ->  Input question  (rows=12, column of text)
    ->  Chat pro  (rows=12, greedy, max_tokens=128)
      ->  Input question  (rows=12, column of text)
    ->  Chat con  (rows=12, greedy, max_tokens=128)
      ->  Input question  (rows=12, column of text)
Output for
  ->  Chat pro  (shown above)
Warnings
  plan.params.rounds: nothing uses it"""


def test_the_text_form_is_a_tree_with_one_operator_a_line():
    plan, warnings = parse_plan(EXAMPLE, is_json=False)
    text = explain_text(plan, num_rows=12, prefix_tokens={"judge": 7}, warnings=warnings)
    assert text == TEXT


def test_pruned_operators_are_shown():
    document = {
        "version": "helium/v1",
        "ops": {
            "a": {"type": "llm.chat", "user": "x", "temperature": 0.5},
            "b": {"type": "llm.completion", "prompt": "{{a}}", "temperature": 0.5, "seed": 3},
            "c": {"type": "const", "values": ["x", "y"]},
        },
        "outputs": {"o": "a", "p": "c"},
    }
    plan, warnings = plan_from_document(document)
    lines = explain_text(plan, warnings=warnings).splitlines()[1:]
    assert lines == [
        "Output o",
        "  ->  Chat a  (temperature=0.5, every call a new draw)",
        "Output p",
        "  ->  Const c  (column of 2 values)",
        "Pruned (no output needs them)",
        "  ->  Completion b  (never executed)",
    ]
    document = json.loads(explain_json(plan, num_rows=2, warnings=warnings))
    assert [(op["name"], op["pruned"]) for op in document["operators"]] == [
        ("a", False),
        ("b", True),
        ("c", False),
    ]
    assert document["operators"][1]["settings"] == {"temperature": 0.5, "seed": 3}
    assert document["warnings"][0]["code"] == "pruned"


@given(plans())
def test_every_needed_operator_is_shown_in_full_once(plan):
    text = explain_text(plan, num_rows=3)
    for op in plan.ops:
        lines = [line for line in text.splitlines() if f" {op.name}  (" in line]
        in_full = [line for line in lines if "shown above" not in line and "never" not in line]
        if op.name in plan.needed and plan.dependencies[op.name]:
            assert len(in_full) == 1
        elif op.name not in plan.needed:
            assert in_full == []
    assert len(json.loads(explain_json(plan))["operators"]) == len(plan.nodes)


def test_a_long_chain_is_shown_without_filling_the_memory():
    ops = {f"op{i}": {"type": "template", "template": f"{{{{op{i + 1}}}}}"} for i in range(5_000)}
    ops["op5000"] = {"type": "const", "value": 1}
    document = {"version": "helium/v1", "ops": ops, "outputs": {"o": "op0"}}
    plan, _ = plan_from_document(document)
    text = explain_text(plan)
    assert len(text.splitlines()) == 5_003
    assert len(text) < 1_000_000
