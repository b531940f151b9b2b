"""The generated workloads have the published shapes and lengths."""

import pytest

from helium_jax.executor import RunOptions, run_plan
from helium_jax.experiments.filler import Filler
from helium_jax.experiments.workload import Workload
from helium_jax.experiments.workloads import PROMPT_SHAPES, WORKLOADS, debate_mmlu, trading
from helium_jax.physical import lower
from helium_jax.runtime import load_text_of
from helium_jax.testing import FakeGenerator
from helium_jax.types import ModelInfo

TEXT = load_text_of("helium-tiny")
# Answers are made of these: each gives one token back when a later prompt holds it.
ALPHABET = tuple(TEXT.encode("3")) + tuple(TEXT.encode("7"))
CALLS = {
    "map-reduce-mmlu": 15,
    "map-reduce-tatqa": 48,
    "debate-mmlu": 6,
    "debate-tatqa": 36,
    "reflection": 24,
    "iterative": 6,
    "parallel-chains": 50,
    "trading": 88,
    "trading-day-two": 88,
}


def make(name: str, *, num_rows: int = 1, scale: float = 0.125, seed: int = 0) -> Workload:
    fill = Filler(TEXT, scale=scale, seed=seed)
    return (WORKLOADS | PROMPT_SHAPES)[name](fill, num_rows=num_rows)


async def run(workload: Workload) -> FakeGenerator:
    info = ModelInfo(name="fake", vocab_size=1280, max_model_len=40_000, max_num_seqs=64)
    generator = FakeGenerator(info=info, alphabet=ALPHABET, tokens_per_event=64)
    merging = frozenset({"merge_equal_subplans"})
    options = RunOptions(policy="random", single_flight=False, disabled_rules=merging)
    result = await run_plan(
        workload.plan, workload.rows, generator=generator, codec=TEXT, options=options
    )
    assert not result.errors
    return generator


@pytest.mark.parametrize("name", CALLS)
def test_each_workload_has_as_many_calls_a_row_as_the_papers(name):
    workload = make(name)
    assert len(lower(workload.plan, {}).calls) == CALLS[name] == workload.lengths.calls


@pytest.mark.parametrize("name", [*CALLS, *PROMPT_SHAPES])
async def test_lengths_are_the_published_ones_times_the_scale(name):
    scale = 0.25 if name not in ("trading", "trading-day-two") else 0.125
    workload = make(name, scale=scale)
    generator = await run(workload)
    lengths, calls = workload.lengths, workload.lengths.calls
    prompts = sum(len(request.token_ids) for request in generator.requests)
    outputs = sum(request.sampling.max_tokens or 0 for request in generator.requests)
    assert outputs == pytest.approx(lengths.output_tokens * scale, rel=0.02)
    # A text ends with a whole word, and the markers and name of a call do not shrink.
    assert prompts == pytest.approx(lengths.prompt_tokens * scale, rel=0.02, abs=20 * calls)


async def test_at_full_scale_lengths_are_within_two_percent():
    workload = make("debate-tatqa", scale=1.0)
    generator = await run(workload)
    prompts = sum(len(request.token_ids) for request in generator.requests)
    assert prompts == pytest.approx(workload.lengths.prompt_tokens, rel=0.02)


@pytest.mark.parametrize("name", [*CALLS, "P1"])
def test_rows_differ_and_equal_seeds_give_equal_workloads(name):
    workload = make(name, num_rows=8)
    assert len({tuple(row.values()) for row in workload.rows}) == 8
    assert workload == make(name, num_rows=8)
    assert workload.rows != make(name, num_rows=8, seed=1).rows


def test_the_second_day_repeats_fundamentals_and_social_inputs_only():
    workload = make("trading-day-two", num_rows=2)
    assert workload.earlier is not None
    for before, now in zip(workload.earlier, workload.rows, strict=True):
        same = {name.rstrip("0123456789") for name in now if now[name] == before[name]}
        different = {name.rstrip("0123456789") for name in now if now[name] != before[name]}
        assert (same, different) == ({"fundamentals", "social"}, {"market", "news"})


async def test_eight_traders_are_four_prompts_each_there_twice():
    generator = await run(make("trading"))
    assert len(generator.requests) == 88
    assert len({request.token_ids for request in generator.requests}) == 56


def test_branches_and_rounds_can_be_varied():
    fill = Filler(TEXT, scale=0.05)
    sizes = [len(lower(trading(fill, num_rows=1, branches=n).plan, {}).calls) for n in (4, 8, 16)]
    assert sizes == [24 + 8 * n for n in (4, 8, 16)]
    rounds = [len(lower(debate_mmlu(fill, num_rows=1, rounds=n).plan, {}).calls) for n in (2, 5)]
    assert rounds == [6, 15]


def test_a_scale_above_one_is_refused():
    with pytest.raises(ValueError, match=r"scale=2.0 must be above 0"):
        Filler(TEXT, scale=2.0)
