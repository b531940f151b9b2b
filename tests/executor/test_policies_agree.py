"""Every policy gives the outputs of the naive run, on miniatures of the paper's workloads."""

import pytest

from helium_jax.executor import NAIVE, RunOptions, Session
from helium_jax.executor.output_cache import OutputCache
from helium_jax.experiments.filler import Filler
from helium_jax.experiments.workloads import WORKLOADS
from helium_jax.schedule.policies import POLICIES
from helium_jax.testing import FAKE_MODEL, FakeGenerator, FakeText
from helium_jax.types import ModelInfo

QUICK = ("debate-mmlu",)
SHAPES = [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in WORKLOADS]
OPTIONS = [
    *({"policy": policy} for policy in ("as_ready", *POLICIES)),
    {"policy": "helium", "precompute": False},
    {"policy": "helium", "disabled_rules": frozenset({"merge_equal_subplans"})},
    {"policy": "helium", "single_flight": False, "prefill_ahead": False},
    {"policy": "helium", "strict_order": True},
]


def engine(num_workers=1):
    info = ModelInfo(
        name="fake",
        vocab_size=FAKE_MODEL.vocab_size,
        max_model_len=200_000,
        max_num_seqs=8,
        eos_token_ids=FAKE_MODEL.eos_token_ids,
        num_workers=num_workers,
        deterministic=True,
        version="fake",
    )
    return FakeGenerator(info=info, max_answer_tokens=4, tokens_per_event=64)


def make(name):
    return WORKLOADS[name](Filler(FakeText(), scale=0.02, seed=0), num_rows=2)


async def outputs_of(workload, options, num_workers=1, cache=None):
    session = Session(engine(num_workers), FakeText(), output_cache=cache)
    result = await session.run(workload.plan, workload.rows, options=options)
    assert result.errors == ()
    return [row.outputs for row in result.rows]


@pytest.mark.parametrize("name", SHAPES)
async def test_5_1_every_policy_and_option_gives_the_outputs_of_the_naive_run(name):
    workload = make(name)
    right = await outputs_of(workload, NAIVE)
    assert right[0] != right[1]
    for fields in OPTIONS:
        assert await outputs_of(workload, RunOptions(**fields)) == right, fields
    cache = OutputCache()
    for num_workers in (1, 2, 3):
        assert await outputs_of(workload, RunOptions(), num_workers, cache) == right


async def test_5_1_trading_gives_the_outputs_of_the_naive_run():
    workload = make("trading")
    right = await outputs_of(workload, NAIVE)
    assert right[0] != right[1]
    assert await outputs_of(workload, RunOptions(policy="op_wise")) == right
    assert await outputs_of(workload, RunOptions(), num_workers=2) == right
