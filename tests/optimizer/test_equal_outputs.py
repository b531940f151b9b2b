"""Optimised plans give the outputs of the plans they came from, whatever is known and cached."""

import asyncio
import dataclasses
import hashlib

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helium_jax.errors import RequestError
from helium_jax.executor import RunOptions, run_plan
from helium_jax.optimizer import RULE_NAMES, Facts, describe_column, optimize
from helium_jax.plan import Output, bound_names
from helium_jax.plan.references import rename_all
from helium_jax.testing import LOWER_CASE, FakeGenerator, FakeText
from tests.executor.nested_plans import nested_plans
from tests.optimizer.plans import map_reduce, trading
from tests.plan.nested import nested_plans as any_nested_plans
from tests.plan.strategies import plans
from tests.plan.strategies import rows as row_lists

WORDS = tuple(b"abc \n")
DISABLED = st.sets(st.sampled_from(RULE_NAMES), max_size=2)


def refuse_some(request, num_sent):
    """Refuses every fourth prompt for good, so that rows fail as well."""
    digest = hashlib.blake2b(repr(request.token_ids).encode()).digest()
    return RequestError("this prompt is refused", code="refused") if digest[0] < 64 else None


REFUSALS = st.sampled_from([None, refuse_some])


def run(plan, rows, *, fail=None, alphabet=LOWER_CASE):
    generator = FakeGenerator(fail=fail, alphabet=alphabet)
    as_it_is = RunOptions(disabled_rules=frozenset(RULE_NAMES))
    running = run_plan(plan, rows, generator=generator, codec=FakeText(), options=as_it_is)
    result = asyncio.run(
        asyncio.wait_for(running, 20)
    )  # a plan that hangs is shown, not waited for
    return [row.outputs for row in result.rows], len(generator.requests)


def facts_of(plan, rows, known):
    columns = {
        node.name: describe_column([str(row[node.name]) for row in rows]) for node in plan.inputs
    }
    return Facts(deterministic=True, num_rows=len(rows), columns=columns, known=known)


def all_answers(plan, rows, fail):
    """Every call's value in every row, learned by asking for all of them."""
    calls = [op.name for op in plan.ops if op.name in plan.needed and hasattr(op, "settings")]
    asking = dataclasses.replace(plan, outputs=tuple(Output(name=n, source=n) for n in calls))
    outputs, _ = run(asking, rows, fail=fail) if calls else ([], 0)
    return {
        (name, row): text
        for row, values in enumerate(outputs)
        for name, text in values.items()
        if text is not None
    }


@settings(max_examples=50, deadline=None)
@given(
    plans(deterministic=True),
    row_lists(min_size=1, max_size=4),
    DISABLED,
    REFUSALS,
    st.randoms(use_true_random=False),
)
def test_optimised_plans_give_equal_outputs_with_no_more_calls(plan, rows, disable, fail, random):
    share = random.choice([0, 0.5, 1])
    answers = all_answers(plan, rows, fail) if share else {}
    known = {place: text for place, text in answers.items() if random.random() < share}
    optimized = optimize(plan, facts_of(plan, rows, known), disable=disable)
    outputs, num_calls = run(plan, rows, fail=fail)
    optimized_outputs, num_optimized = run(optimized.plan, rows, fail=fail)
    assert optimized_outputs == outputs
    assert num_optimized <= num_calls


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(nested_plans(), st.lists(st.sampled_from(["a", "b c", "a b\nc", ""]), max_size=2), REFUSALS)
def test_5_14_optimised_bodies_give_equal_outputs(plan, column, fail):
    """Every operator is there twice, as in plans that were put together from others."""
    names = {name: f"{name}_" for op in plan.all_ops for name in (op.name, *bound_names(op))}
    outputs = tuple(
        Output(name=f"{o.name}_", source=names.get(o.source, o.source)) for o in plan.outputs
    )
    doubled = dataclasses.replace(
        plan,
        ops=(*plan.ops, *(rename_all(op, names) for op in plan.ops)),
        outputs=(*plan.outputs, *outputs),
    )
    rows = [{"q": text} for text in column]
    optimized = optimize(doubled, facts_of(doubled, rows, {})).plan
    assert optimize(optimized).plan is optimized
    found, num_optimized = run(optimized, rows, fail=fail, alphabet=WORDS)
    expected, num_calls = run(doubled, rows, fail=fail, alphabet=WORDS)
    for row, expected_row in zip(found, expected, strict=True):
        for name, text in expected_row.items():
            # What a loop carried for nobody may have failed, and is not carried any more.
            assert text in (row[name], None)
    assert num_optimized <= num_calls


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(any_nested_plans(), DISABLED)
def test_any_valid_plan_can_be_optimised_and_then_no_further(plan, disable):
    optimized = optimize(plan, disable=disable)
    assert optimize(optimized.plan, disable=disable).plan is optimized.plan
    assert [o.name for o in optimized.plan.outputs] == [o.name for o in plan.outputs]


@settings(max_examples=20, deadline=None)
@given(plans(deterministic=True), row_lists(min_size=1, max_size=4))
def test_rows_that_are_said_to_be_alike_are(plan, rows):
    grouping = optimize(plan, facts_of(plan, rows, {})).grouping
    asked = dataclasses.replace(
        plan, outputs=tuple(Output(name=name, source=name) for name in grouping.values)
    )
    if not grouping.values:
        return
    outputs, _ = run(asked, rows)
    for name, numbers in grouping.values.items():
        values = {}
        for row, number in enumerate(numbers):
            assert values.setdefault(number, outputs[row][name]) == outputs[row][name]
    assert sorted(grouping.row_order) == list(range(len(rows)))


def test_5_1_merging_traders_and_experts_changes_no_token():
    rows = [{"q": f"stock {i}"} for i in range(2)]
    for plan in (trading(max_tokens=6), map_reduce(max_tokens=6)):
        plan = dataclasses.replace(
            plan, outputs=tuple(Output(name=f"o_{op.name}", source=op.name) for op in plan.ops)
        )
        outputs, num_calls = run(plan, rows)
        assert run(optimize(plan).plan, rows) == (outputs, num_calls)
        assert not any(value is None for row in outputs for value in row.values())
        assert outputs[0] != outputs[1]
