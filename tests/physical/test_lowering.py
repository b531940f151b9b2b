"""Lowering: what rows share becomes literal, what no output needs is gone."""

import pytest
from hypothesis import given

from helium_jax.errors import PlanError
from helium_jax.physical import (
    Apply,
    Generate,
    Hold,
    Read,
    Turn,
    calls_within,
    count_rows,
    lower,
    render_value,
)
from helium_jax.plan import CallSettings, PlanBuilder, Slot, plan_from_document
from helium_jax.types import SamplingParams
from tests.plan.strategies import plans


def test_a_plan_becomes_steps_with_parameters_and_constants_written_out():
    builder = PlanBuilder()
    q = builder.input("q")
    rounds = builder.param("rounds", type="int", default=2)
    role = builder.const("Expert {{q}}", name="role")
    column = builder.const([1, True], name="column")
    prompt = builder.template("Q: " + q + column, name="prompt")
    builder.chat(user=q, name="unused")
    answer = builder.chat(
        system="You: " + role + "; rounds: " + rounds, user=prompt, name="answer", max_tokens=3
    )
    builder.output("a", answer)
    builder.output("r", rounds)
    builder.output("again", answer)
    plan = builder.build()
    physical = lower(plan, {"rounds": 5})
    assert physical.operators == (
        Read(name="q", column="q"),
        Hold(name="rounds", values=("5",), is_column=False),
        Hold(name="column", values=("1", "true"), is_column=True),
        Apply(name="prompt", text=("Q: ", Slot(name="q"), Slot(name="column"))),
        Generate(
            name="answer",
            turns=(
                # A constant that looks like a slot is text all the same.
                Turn(role="system", content=("You: Expert {{q}}; rounds: 5",)),
                Turn(role="user", content=(Slot(name="prompt"),)),
            ),
            settings=CallSettings(sampling=SamplingParams(max_tokens=3)),
        ),
    )
    assert physical.outputs == (("a", "answer"), ("r", "rounds"), ("again", "answer"))
    assert physical.needs["prompt"] == ("q", "column")
    assert physical.users["q"] == ("prompt",)
    assert [op.name for op in physical.calls] == ["answer"]
    assert physical.plan_id == plan.plan_id


@given(plans())
def test_every_step_comes_after_those_it_needs_and_each_is_needed(plan):
    physical = lower(plan)
    seen = set()
    for operator in physical.operators:
        assert set(physical.needs[operator.name]) <= seen
        seen.add(operator.name)
    assert {source for _, source in physical.outputs} <= seen <= plan.needed


def test_a_bare_prompt_is_a_turn_without_a_role():
    builder = PlanBuilder()
    builder.output("o", builder.completion("x" + builder.input("q"), name="c"))
    (_, generate) = lower(builder.build()).operators
    assert generate.turns == (Turn(role=None, content=("x", Slot(name="q"))),)


def plan_with_params(**params):
    ops = {"t": {"type": "template", "template": "x"}}
    document = {"version": "helium/v1", "params": params, "ops": ops, "outputs": {"o": "t"}}
    return plan_from_document(document)[0]


def test_parameters_that_are_missing_unknown_or_wrong_are_all_named():
    plan = plan_with_params(a={"type": "int", "max": 3}, b={"type": "bool"}, c={})
    with pytest.raises(PlanError) as caught:
        lower(plan, {"a": 4, "b": 1, "d": 0})
    assert [(p.path, p.message) for p in caught.value.problems] == [
        ("params.d", "is no parameter of this plan; parameters are a, b, c"),
        ("params.a", "4 is more than max=3"),
        ("params.b", "must be true or false, not the number 1"),
        ("params.c", "is missing and has no default"),
    ]


def test_constants_that_would_grow_without_end_are_refused(monkeypatch):
    monkeypatch.setattr("helium_jax.physical.lowering.MAX_LITERAL_CHARS", 1000)
    builder = PlanBuilder()
    big = builder.const("x" * 100)
    text = builder.fill("{{a}}" * 10, a=big)
    builder.output("fits", builder.template(text))
    assert lower(builder.build()).operators
    builder.output("not", builder.template(big))
    with pytest.raises(PlanError, match="take 1100 characters"):
        lower(builder.build())


def test_values_in_texts_look_as_they_do_in_json():
    values = ["x", 3, -0.5, 1e30, True, False]
    assert [render_value(v) for v in values] == ["x", "3", "-0.5", "1e+30", "true", "false"]


def test_the_number_of_rows_comes_from_the_batch_or_from_constant_columns():
    builder = PlanBuilder()
    builder.output("o", builder.const([1, 2, 3], name="c"))
    plan = builder.build()
    assert count_rows(plan, 0) == 3
    assert count_rows(plan, 3) == 3
    with pytest.raises(PlanError, match=r"values: has 3 values but the batch has 2 rows"):
        count_rows(plan, 2)
    assert count_rows(plan_with_params(), 0) == 1
    assert count_rows(plan_with_params(), 5) == 5


def nested():
    builder = PlanBuilder()
    q = builder.input("q")
    tone = builder.const("calm", name="tone")
    draft = builder.completion("Draft " + q, name="draft")
    better = builder.loop(
        count=2,
        carry={"text": draft, "why": q},
        body=lambda b, text, why: {
            "text": b.completion(tone + ": " + text, name="improve"),
            "why": b.completion("Why " + why, name="explain"),
        },
        name="better",
    )
    lines = builder.map(
        "lines(better)",
        lambda b, item: b.branch(
            "contains(item, tone)", then=lambda b: b.completion(item + q, name="each"), name="if"
        ),
        max_items=4,
        name="all",
    )
    builder.output("o", builder.concat([lines, better], separator=" / ", name="both"))
    return builder.build()


def test_regions_keep_their_calls_and_everything_comes_after_what_it_needs():
    physical = lower(nested())
    assert [call.name for call in physical.calls] == ["draft", "improve", "explain", "each"]
    better = next(op for op in physical.operators if op.name == "better")
    assert calls_within((better,)) == ("improve", "explain")
    seen = set()
    for name, needs in physical.needs.items():
        assert set(needs) <= seen, name
        seen.add(name)
    assert {"if", "all", "both", "better"} <= seen
    # What decides whether a region runs is needed by what stands in it.
    assert "better" in physical.needs["each"]
    assert "better" in physical.users["draft"]


def test_the_last_iteration_computes_only_what_the_loop_gives():
    physical = lower(nested())
    (loop,) = [op for op in physical.operators if op.name == "better"]
    assert [op.name for op in loop.again.operators] == ["improve", "explain"]
    assert [op.name for op in loop.last.operators] == ["improve"]
    assert loop.final == "improve"


def test_a_constant_is_written_out_in_texts_and_held_where_a_formula_reads_it():
    physical = lower(nested())
    (improve,) = [op for op in physical.calls if op.name == "improve"]
    assert improve.turns[0].content[0] == "calm: "
    assert Hold(name="tone", values=("calm",), is_column=False) in physical.operators


def test_a_concatenation_is_a_text():
    physical = lower(nested())
    (both,) = [op for op in physical.operators if op.name == "both"]
    assert both == Apply(name="both", text=(Slot(name="all"), " / ", Slot(name="better")))


def test_more_iterations_than_the_bound_are_refused_before_any_work():
    builder = PlanBuilder()
    rounds = builder.param("rounds", type="int", default=1)
    loop = builder.loop(
        count=rounds,
        max_iterations=3,
        carry={"x": builder.input("q")},
        body=lambda b, x: b.template(x + "!"),
        name="loop",
    )
    builder.output("o", loop)
    with pytest.raises(PlanError, match="5 is more than max_iterations=3"):
        lower(builder.build(), {"rounds": 5})


def test_conversations_are_remembered_only_where_somebody_looks_at_them():
    builder = PlanBuilder()
    q = builder.input("q")
    first = builder.chat(user=q, name="first")
    builder.chat(user=q, name="other")
    last = builder.loop(
        count=2,
        carry={"talk": first},
        body=lambda b, talk: b.chat(user="more", history=talk, name="more"),
    )
    builder.output("o", last)
    builder.output("other", builder.completion("x" + q, name="plain"))
    physical = lower(builder.build())
    assert {"first", "more"} <= physical.remembered
    assert "plain" not in physical.remembered
