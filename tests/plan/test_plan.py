"""Plans as values: order, identity, signatures and rewriting."""

import dataclasses

import pytest
from hypothesis import given

from helium_jax.errors import PlanError
from helium_jax.plan import (
    CallSettings,
    Chat,
    Const,
    Input,
    Message,
    Output,
    Plan,
    PlanBuilder,
    Slot,
    Template,
)
from helium_jax.plan.control import is_deterministic
from helium_jax.types import SamplingParams
from tests.plan.strategies import plans

SAMPLED = CallSettings(sampling=SamplingParams(temperature=0.7))
SEEDED = CallSettings(sampling=SamplingParams(temperature=0.7, seed=1))


def chat(name, *parts, settings=CallSettings()):
    text = tuple(Slot(name=p[1:]) if p.startswith("$") else p for p in parts)
    return Chat(name=name, messages=(Message(role="user", content=text),), settings=settings)


def plan_of(*ops, outputs=()):
    outs = tuple(Output(name=f"o{i}", source=s) for i, s in enumerate(outputs))
    return Plan(inputs=(Input(name="q"),), ops=ops, outputs=outs)


@given(plans())
def test_every_node_comes_after_those_it_needs(plan):
    seen = set()
    for name in plan.topological_order:
        assert set(plan.dependencies[name]) <= seen
        seen.add(name)
    assert seen == plan.nodes.keys()


@given(plans())
def test_the_order_of_names_is_not_part_of_a_plan_s_identity(plan):
    other = dataclasses.replace(plan, ops=plan.ops[::-1], inputs=plan.inputs[::-1])
    assert other == plan
    assert other.plan_id == plan.plan_id
    assert hash(other) == hash(plan)


def test_a_plan_shows_itself_in_one_line_whatever_its_size():
    builder = PlanBuilder("many")
    q = builder.input("q")
    for number in range(99):
        builder.output(f"o{number}", builder.completion(str(number) + q, name=f"c{number}"))
    plan = builder.build()
    shown = repr(plan)
    assert shown.startswith("<Plan 'many': 99 operators, inputs=['q'], outputs=99>")


def test_a_plan_id_does_not_change_between_versions_of_this_program():
    plan = plan_of(chat("a", "$q"), outputs=["a"])
    assert plan.plan_id == "plan_d654595955dfd6256a2e3b0152119d06"


def test_one_and_one_point_zero_and_true_are_different_constants():
    ids = {plan_of(Const(name="c", value=v), outputs=["c"]).plan_id for v in (1, 1.0, True, "1")}
    assert len(ids) == 4


def test_a_long_chain_needs_no_recursion():
    ops = [chat("op0", "$q")] + [chat(f"op{i}", f"$op{i - 1}") for i in range(1, 9_000)]
    plan = plan_of(*ops[::-1], outputs=["op8999"])
    assert plan.topological_order[-1] == "op8999"
    assert len(plan.needed) == 9_001
    assert len(set(plan.signatures.values())) == 9_001


def test_the_order_of_a_plan_with_a_cycle_is_refused_with_its_path():
    plan = plan_of(chat("a", "$b"), chat("b", "$a"), outputs=["a"])
    with pytest.raises(PlanError, match="a -> b -> a"):
        _ = plan.topological_order


def test_equal_subplans_have_equal_signatures_whatever_their_names():
    plan = plan_of(chat("a", "$q"), chat("b", "$q"), outputs=["a"])
    plan = dataclasses.replace(
        plan, ops=(*plan.ops[:2], chat("c", "$a", "!"), chat("d", "$b", "!"))
    )
    signatures = plan.signatures
    assert signatures["a"] == signatures["b"]
    assert signatures["c"] == signatures["d"]
    assert signatures["a"] != signatures["c"]


def test_what_changes_an_answer_changes_the_signature():
    variants = [
        chat("a", "$q"),
        chat("a", "q"),
        chat("a", "$q", settings=CallSettings(stop=("x",))),
        chat("a", "$q", settings=SEEDED),
        chat("a", "$q", settings=CallSettings(sampling=SamplingParams(max_tokens=3))),
        Template(name="a", text=(Slot(name="q"),)),
        Chat(name="a", messages=(Message(role="system", content=(Slot(name="q"),)),)),
    ]
    assert len({plan_of(op).signatures["a"] for op in variants}) == len(variants)


def test_two_draws_are_two_values_and_so_is_what_is_made_of_them():
    plan = plan_of(
        chat("a", "$q", settings=SAMPLED),
        chat("b", "$q", settings=SAMPLED),
        chat("c", "$a"),
        chat("d", "$b"),
        chat("e", "$a"),
    )
    signatures = plan.signatures
    assert signatures["a"] != signatures["b"]
    assert signatures["c"] != signatures["d"]
    assert signatures["c"] == signatures["e"]  # of one draw
    assert not is_deterministic(plan.nodes["a"])
    assert is_deterministic(chat("s", "$q", settings=SEEDED))


def merge(plan):
    """A rule of the kind that replace is made for."""
    first = {}
    return plan.replace(lambda op: first.setdefault(_one(op), op) if is_deterministic(op) else op)


def _one(op):
    return repr(dataclasses.replace(op, name=""))


def test_replacing_leads_references_and_outputs_to_the_new_name():
    plan = plan_of(
        chat("a", "$q"), chat("b", "$q"), chat("c", "$a"), chat("d", "$b"), outputs=["d"]
    )
    assert merge(plan) == plan_of(chat("a", "$q"), chat("c", "$a"), outputs=["c"])


def test_replacing_nothing_returns_the_plan_itself():
    plan = plan_of(chat("a", "$q"), outputs=["a"])
    assert plan.replace(lambda op: op) is plan


def test_what_no_output_needs_is_not_needed():
    plan = plan_of(chat("a", "$q"), chat("b", "$a"), chat("c", "$a"), outputs=["b"])
    assert plan.needed == {"q", "a", "b"}
