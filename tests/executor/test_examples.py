"""The example plan file of every control operator runs as its author means it."""

import asyncio
from pathlib import Path

import pytest

from helium_jax.executor import RunOptions
from helium_jax.plan import Race, is_deterministic, load_plan
from tests.executor.oracle import expected_outputs
from tests.executor.test_executor import Engine, run

EXAMPLES = sorted((Path(__file__).parents[1] / "plan" / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
@pytest.mark.parametrize("policy", ["as_ready", "helium"])
def test_5_14_every_example_gives_the_outputs_of_the_oracle(path, policy):
    plan, _ = load_plan(path)
    rows = [{plan.inputs[0].name: text} for text in ("one", "two\nthree", "{{x}}")]
    engine = Engine(alphabet=tuple(b"abc \n"))
    result = asyncio.run(run(plan, rows, engine, options=RunOptions(policy=policy)))
    assert result.status == "completed"
    if any(isinstance(op, Race) and not is_deterministic(op) for op in plan.all_ops):
        assert all(row.outputs.keys() == {o.name for o in plan.outputs} for row in result.rows)
    else:
        assert [row.outputs for row in result.rows] == expected_outputs(plan, rows, engine)
