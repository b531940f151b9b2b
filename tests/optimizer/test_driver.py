"""The driver: order, fixed point, distrust, and the trace."""

import dataclasses

import pytest

from helium_jax.errors import InternalError, PlanError, RequestError
from helium_jax.optimizer import (
    RULE_NAMES,
    RULES,
    Note,
    Rewriting,
    TraceStep,
    format_trace,
    optimize,
)
from helium_jax.plan import Const, Output, RunLimits
from tests.optimizer.plans import call, const, names, plan_of, read, trading

PLAN = read("""
ops:
  who: {type: const, value: judge}
  role: {type: template, template: "You are a {{who}}."}
  same: {type: const, value: "You are a judge."}
  a: {type: llm.chat, system: "{{role}}", user: "{{q}}"}
  b: {type: llm.chat, system: "{{same}}", user: "{{q}}"}
  unused: {type: llm.chat, user: "{{a}}"}
outputs: {a: a, b: b}
""")


def test_rules_open_the_way_for_each_other():
    optimized = optimize(PLAN)
    assert names(optimized.plan) == ["role", "a"]
    assert optimized.trace == (
        TraceStep(
            rule="prune_unused_nodes",
            notes=(Note(operator="unused", reason="no output needs it"),),
            num_ops=(6, 5),
            num_calls=(3, 2),
        ),
        TraceStep(
            rule="fold_constant_templates",
            notes=(Note(operator="role", reason="its parts are constants"),),
            num_ops=(5, 5),
            num_calls=(2, 2),
        ),
        TraceStep(
            rule="merge_equal_subplans",
            notes=(
                Note(operator="same", reason="computes the same as role"),
                Note(operator="b", reason="computes the same as a"),
            ),
            num_ops=(5, 3),
            num_calls=(2, 1),
        ),
        TraceStep(
            rule="prune_unused_nodes",
            notes=(Note(operator="who", reason="no output needs it"),),
            num_ops=(3, 2),
            num_calls=(1, 1),
        ),
    )


def test_merged_operators_name_the_one_that_stands_for_them():
    optimized = optimize(PLAN)
    assert optimized.merged == {"same": "role", "b": "a"}
    assert optimize(PLAN, disable={"merge_equal_subplans"}).merged == {}


def later(name, by):
    def rule(plan, facts):
        if all(op.name != name for op in plan.ops):
            return Rewriting(plan=plan)
        left = tuple(op for op in plan.ops if op.name != name)
        return Rewriting(plan=dataclasses.replace(plan, ops=left), merged={name: by})

    return rule


def test_what_stood_for_another_may_be_merged_itself():
    plan = plan_of(const("a", 1), const("b", 1), const("c", 1), outputs=("c",))
    merged = optimize(plan, rules=(later("a", "b"), later("b", "c"))).merged
    assert merged == {"a": "c", "b": "c"}


def test_the_trace_reads_well():
    assert format_trace(optimize(PLAN).trace) == (
        "prune_unused_nodes: operators 6 -> 5, calls 3 -> 2\n"
        "  unused: no output needs it\n"
        "fold_constant_templates: 5 operators\n"
        "  role: its parts are constants\n"
        "merge_equal_subplans: operators 5 -> 3, calls 2 -> 1\n"
        "  same: computes the same as role\n"
        "  b: computes the same as a\n"
        "prune_unused_nodes: operators 3 -> 2\n"
        "  who: no output needs it"
    )
    assert format_trace(()) == "no rule fired"


def test_operators_that_share_a_reason_share_a_line():
    plan = plan_of(*(call(f"c{i}", "{{q}}") for i in range(10)), outputs=("q",))
    assert format_trace(optimize(plan).trace).splitlines()[1] == (
        "  c0, c1, c2, c3, c4, c5, c6, c7 and 2 more: no output needs it"
    )


def test_a_plan_that_cannot_be_better_is_returned_itself():
    plan = plan_of(call("a", "{{q}}"), outputs=("a",))
    optimized = optimize(plan)
    assert optimized.plan is plan
    assert (optimized.trace, optimized.fetched, optimized.known_rows) == ((), (), {})


def test_optimizing_twice_changes_nothing_more():
    once = optimize(trading()).plan
    assert optimize(once).plan is once


@pytest.mark.parametrize("name", RULE_NAMES)
def test_a_disabled_rule_leaves_no_trace(name):
    assert name not in {step.rule for step in optimize(PLAN, disable={name}).trace}


def test_all_rules_disabled_leave_the_plan_alone():
    assert optimize(PLAN, disable=RULE_NAMES).plan is PLAN


def test_an_unknown_rule_is_refused_with_the_nearest_name():
    with pytest.raises(RequestError, match=r"'merge_equal_plans'.*mean 'merge_equal_subplans'"):
        optimize(PLAN, disable={"merge_equal_plans"})
    with pytest.raises(RequestError, match="rules are prune_unused_nodes, "):
        optimize(PLAN, disable={"xyz"})


def test_an_invalid_plan_is_the_authors_fault():
    with pytest.raises(PlanError, match="nothing in this plan"):
        optimize(plan_of(call("a", "{{missing}}"), outputs=("a",)))


def renames_an_output(plan, facts):
    outputs = tuple(Output(name=f"{o.name}_", source=o.source) for o in plan.outputs)
    return Rewriting(plan=dataclasses.replace(plan, outputs=outputs))


def loses_an_operator(plan, facts):
    return Rewriting(plan=dataclasses.replace(plan, ops=plan.ops[1:]))


def lifts_a_limit(plan, facts):
    limits = RunLimits(max_llm_calls=None if plan.limits.max_llm_calls else 1)
    return Rewriting(plan=dataclasses.replace(plan, limits=limits))


def never_ends(plan, facts):
    return Rewriting(plan=dataclasses.replace(plan, ops=(*plan.ops, const(f"c{len(plan.ops)}", 1))))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (renames_an_output, "renames_an_output changed which outputs there are"),
        (loses_an_operator, "loses_an_operator made an invalid plan: (?s:.*)nothing in this plan"),
        (lifts_a_limit, "lifts_a_limit changed what a run is given"),
        (never_ends, "the rules never_ends still rewrite the plan after 32 rounds"),
    ],
)
def test_a_rule_that_breaks_its_promise_is_a_bug_with_a_name(rule, message):
    plan = plan_of(const("c", 1), call("a", "{{c}}{{q}}"), outputs=("a",))
    with pytest.raises(InternalError, match=message):
        optimize(plan, rules=(rule,))


def test_every_rule_says_what_it_does_when_it_may_and_when_it_pays():
    for rule in RULES:
        for entry in ("Rewrite:", "Legal when:", "Pays off when:"):
            assert entry in (rule.__doc__ or "")


def test_fetched_operators_are_calls_that_became_columns():
    assert all(isinstance(op, Const) for op in optimize(PLAN).plan.ops[:1])
    assert optimize(PLAN).fetched == ()
