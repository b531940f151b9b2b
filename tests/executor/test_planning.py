"""Planning is counted in every run's record, bounded in work, and done again where it was wrong."""

import importlib
import itertools
from dataclasses import replace

import pytest

from helium_jax.executor import RunOptions, Session
from helium_jax.experiments.filler import Filler
from helium_jax.experiments.workloads import WORKLOADS
from helium_jax.plan import PlanBuilder
from helium_jax.schedule import plan_schedule
from helium_jax.schedule.policies import POLICIES
from helium_jax.schedule.soft_schedule import PlanningEffort, reschedule
from helium_jax.testing import FAKE_MODEL, FakeGenerator, FakeText
from helium_jax.types import ModelInfo

MODEL = ModelInfo(
    name="fake",
    vocab_size=FAKE_MODEL.vocab_size,
    max_model_len=200_000,
    max_num_seqs=4,
    eos_token_ids=FAKE_MODEL.eos_token_ids,
    deterministic=True,
    version="fake",
)


@pytest.mark.parametrize("policy", ["as_ready", *POLICIES])
async def test_5_16_the_record_of_every_run_shows_how_long_it_was_planned(policy):
    workload = WORKLOADS["debate-mmlu"](Filler(FakeText(), scale=0.02, seed=0), num_rows=2)
    ticks = itertools.count()
    session = Session(FakeGenerator(info=MODEL), FakeText(), clock=lambda: float(next(ticks)))
    prepared = []
    result = await session.run(
        workload.plan,
        workload.rows,
        options=RunOptions(policy=policy),
        on_prepared=prepared.append,
    )
    seconds = prepared[0].seconds
    assert set(seconds) == {"rewrite", "lower", "schedule"}
    assert min(seconds.values()) > 0.0
    assert result.statistics.planning_seconds == sum(seconds.values())
    assert result.statistics.planning_seconds < result.statistics.seconds


async def test_5_16_planning_trading_looks_at_as_many_calls_whatever_the_rows():
    workload = WORKLOADS["trading"](Filler(FakeText(), scale=0.02, seed=0), num_rows=2)
    prepared = []
    session = Session(FakeGenerator(info=MODEL, tokens_per_event=512), FakeText())
    await session.run(workload.plan, workload.rows, on_prepared=prepared.append)
    graph = prepared[0].planned.calls.graph
    effort = PlanningEffort()
    for num_rows in (2, 80):
        schedule = plan_schedule(replace(graph, num_rows=num_rows, values={}), [65_536.0])
        assert len(list(schedule.order(0))) == 56 * num_rows
        assert schedule.num_evaluated <= effort.evaluated_calls + 56 * effort.sampled_rows


async def test_5_13_what_is_left_of_a_run_is_planned_again_by_what_answers_turned_out_to_be(
    monkeypatch,
):
    # What is watched is the real thing: a plan made while a run goes on is not seen from outside.
    module = importlib.import_module("helium_jax.schedule.policies.helium")
    replanned = []

    def watched(graph, capacities, **given):
        schedule = reschedule(graph, capacities, **given)
        replanned.append((given, schedule))
        return schedule

    monkeypatch.setattr(module, "reschedule", watched)
    builder = PlanBuilder()
    first = builder.completion("First: " + builder.input("q"), max_tokens=4_000, name="first")
    builder.output("o", builder.completion("Then: " + first, max_tokens=2, name="then"))
    rows = [{"q": str(row)} for row in range(100)]
    engine = FakeGenerator(info=MODEL, reply=lambda request: tuple(b"ab"))
    result = await Session(engine, FakeText()).run(builder.build(), rows)
    assert result.errors == ()
    (given, schedule), *others = replanned
    assert others == []  # what was learnt holds
    assert given["observed"]["first"] == pytest.approx(3.0)  # with the end of the sequence
    assert 0 < len(given["done"]) < 200
    assert schedule.graph.by_name["first"].output_tokens == pytest.approx(3.0)


async def test_5_13_a_run_that_goes_as_was_thought_is_planned_once(monkeypatch):
    module = importlib.import_module("helium_jax.schedule.policies.helium")
    monkeypatch.delattr(module, "reschedule")
    builder = PlanBuilder()
    builder.output("o", builder.completion("Say: " + builder.input("q"), max_tokens=3))
    engine = FakeGenerator(info=MODEL, reply=lambda request: tuple(b"ab"))
    result = await Session(engine, FakeText()).run(
        builder.build(), [{"q": str(row)} for row in range(100)]
    )
    assert result.errors == ()
