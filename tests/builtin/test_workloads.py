"""The bundled plans are valid, their rows fit them, and their answers are in the contexts."""

import pytest

from helium_jax.builtin.tasks import SYSTEMS
from helium_jax.builtin.workloads import ROWS_PER_CONTEXT, WORKLOADS, make_workload
from helium_jax.executor import prepare, run_plan
from helium_jax.plan import Chat, parse_plan
from helium_jax.testing import FakeGenerator, FakeText


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_bundled_plan_is_valid_and_its_rows_fit(name):
    workload = make_workload(name, num_rows=12, seed=3)
    plan, warnings = parse_plan(workload.plan_source, is_json=False)
    assert warnings == ()
    _, num_rows, _ = prepare(plan, workload.rows)
    assert num_rows == 12
    for answer in workload.answers:
        assert answer.keys() == {output.name for output in plan.outputs}
    systems = {op.messages[0].content for op in plan.ops if isinstance(op, Chat)}
    assert systems <= {(system,) for system in SYSTEMS}  # those that the model knows


@pytest.mark.parametrize("name", WORKLOADS)
def test_equal_seeds_give_equal_rows_and_others_different_ones(name):
    assert make_workload(name, seed=1) == make_workload(name, seed=1)
    assert make_workload(name, seed=1).rows != make_workload(name, seed=2).rows


def test_answers_are_what_the_contexts_say():
    workload = make_workload("map_reduce")
    for row, answer in zip(workload.rows, workload.answers, strict=True):
        for number in range(1, 7):
            key, value = row[f"key_{number}"], answer[f"expert_{number}"]
            assert f"\n{key}: {value}" in row["context"] + "\n"
        votes = [answer[f"expert_{n}"] for n in range(1, 7)]
        assert votes.count(answer["verdict"]) > 3


async def test_a_bundled_plan_shares_its_contexts_when_it_runs():
    workload = make_workload("map_reduce", num_rows=2 * ROWS_PER_CONTEXT)
    plan, _ = parse_plan(workload.plan_source, is_json=False)
    result = await run_plan(plan, workload.rows, generator=FakeGenerator(), codec=FakeText())
    assert result.errors == ()
    assert result.statistics.kv_cached > 0.5 * result.statistics.needed


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="there are map_reduce, debate"):
        make_workload("reduce_map")
