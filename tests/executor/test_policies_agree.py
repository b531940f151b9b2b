"""Every policy gives the outputs of the naive run, on miniatures of the paper's workloads."""

import itertools

import pytest

from helium_jax.config import EngineConfig
from helium_jax.executor import NAIVE, RunOptions, Session
from helium_jax.executor.output_cache import OutputCache
from helium_jax.experiments.filler import Filler
from helium_jax.experiments.workloads import WORKLOADS
from helium_jax.runtime import open_runtime
from helium_jax.schedule.policies import POLICIES
from helium_jax.testing import FAKE_MODEL, FakeGenerator, FakeText
from helium_jax.types import ModelInfo
from tests.executor.oracle import expected_outputs

ORDERS = ("as_ready", *POLICIES)
HOW = [
    {"precompute": True},
    {"precompute": False},
    {"disabled_rules": frozenset({"merge_equal_subplans"})},
    {"single_flight": False, "prefill_ahead": False},
    {"strict_order": True},
    {"output_cache": False},
]
WORKERS = (1, 2, 3)


class Engine(FakeGenerator):
    """What it answers depends on the whole prompt."""

    def __init__(self, num_workers=1):
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
        super().__init__(info=info, max_answer_tokens=4, tokens_per_event=64)

    def outcome(self, request):
        return self.answer(request)[0]


def make(name):
    return WORKLOADS[name](Filler(FakeText(), scale=0.02, seed=0), num_rows=2)


async def outputs_of(workload, options, num_workers=1, cache=None, num_rows=2):
    session = Session(Engine(num_workers), FakeText(), output_cache=cache)
    result = await session.run(workload.plan, workload.rows[:num_rows], options=options)
    assert result.errors == ()
    return [row.outputs for row in result.rows]


async def agree(name, combinations):
    workload = make(name)
    right = await outputs_of(workload, NAIVE)
    assert right[0] != right[1]
    for policy, how, num_workers, num_known in combinations:
        options, cache = RunOptions(policy=policy, **how), OutputCache()
        if num_known:
            known = await outputs_of(workload, options, num_workers, cache, num_known)
            assert known == right[:num_known]
        assert await outputs_of(workload, options, num_workers, cache) == right, options


def in_turn(first):
    """Every policy with one way, number of workers and of rows in the cache; Helium with all."""
    for number, policy in enumerate(ORDERS, first):
        num_known = int(number % 4 == 0)
        yield policy, HOW[number % len(HOW)], WORKERS[number % len(WORKERS)], num_known
    for number, how in enumerate(HOW, first):
        yield "helium", how, WORKERS[number % len(WORKERS)], 0
    for num_known in (1, 2):
        yield "helium", {}, WORKERS[first % len(WORKERS)], num_known


@pytest.mark.parametrize("name", [name for name in WORKLOADS if name != "trading-day-two"])
async def test_5_1_every_policy_gives_the_outputs_of_the_naive_run(name):
    await agree(name, in_turn(list(WORKLOADS).index(name)))


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKLOADS)
async def test_5_1_every_policy_gives_them_in_every_way(name):
    await agree(name, itertools.product(ORDERS, HOW, WORKERS, (0, 1)))


# The oracle computes a value again wherever it is used, which trading does too often.
@pytest.mark.parametrize("name", [name for name in WORKLOADS if not name.startswith("trading")])
async def test_5_1_the_naive_run_gives_the_outputs_of_the_oracle(name):
    workload = make(name)
    rows = list(workload.rows)
    assert await outputs_of(workload, NAIVE) == expected_outputs(workload.plan, rows, Engine())


async def test_5_1_policies_agree_on_the_real_engine():
    # Of another test, so that its programs are compiled once.
    config = EngineConfig(
        max_num_seqs=2, max_num_batched_tokens=8, num_pages=16, max_model_len=128, page_size=16
    )
    async with open_runtime("helium-tiny", config) as runtime:
        filler = Filler(runtime.text, scale=0.01, seed=0)
        workload = WORKLOADS["debate-mmlu"](filler, num_rows=2)
        session = Session(runtime.generator, runtime.text, output_cache=OutputCache())

        async def outputs(options):
            result = await session.run(workload.plan, workload.rows, options=options)
            assert result.errors == ()
            return [row.outputs for row in result.rows]

        right = await outputs(NAIVE)
        assert right[0] != right[1]
        for policy in ("op_wise", "lspf", "kvflow", "helium"):
            assert await outputs(RunOptions(policy=policy, output_cache=False)) == right, policy
        assert await outputs(RunOptions()) == right  # fills the cache
        assert await outputs(RunOptions()) == right  # served from it
