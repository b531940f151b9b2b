"""What is known of an engine's speed: measured once, kept, and held against runs."""

import asyncio
from dataclasses import replace

import pytest

from helium_jax.errors import RequestError
from helium_jax.executor import RunOptions, Session
from helium_jax.executor.policy import dispatch_setting
from helium_jax.executor.rates import MIN_CALLS, EngineRates, RateKeeper, RateStore
from helium_jax.plan import PlanBuilder
from helium_jax.schedule.prediction import ModelComparison
from helium_jax.schedule.roofline import Roofline
from helium_jax.testing import FAKE_MODEL, FakeGenerator, FakeText

ROOF = Roofline(step_s=0.001, token_s=1e-5)
RUN = ModelComparison(
    actual_s=2.0,
    roofline_s=1.0,
    roofline_error=0.1,
    seconds_per_token_step=0.01,
    token_step_error=0.3,
    better="roofline",
)


def chain():
    builder = PlanBuilder()
    first = builder.completion("Say something about " + builder.input("q"), name="first")
    builder.output("o", builder.completion("And of: " + first, name="second"))
    return builder.build()


def rows(count):
    return [{"q": f"question {row}"} for row in range(count)]


def session_of(engine, **arguments):
    return Session(engine, FakeText(), rates=RateKeeper(engine, **arguments))


async def outputs_of(session, **options):
    result = await session.run(chain(), rows(4), options=RunOptions(**options))
    return result.rows, result.models


def test_the_better_model_is_the_one_that_predicted_runs_better_so_far():
    rates = EngineRates(roofline=ROOF)
    assert rates.better == "token_step"  # nothing speaks against the paper's
    rates = rates.after(RUN)
    assert rates.better == "roofline"
    assert (rates.token_step_error, rates.roofline_error) == (0.3, 0.1)
    assert rates.roofline.scale > 1.0  # the run took longer than was predicted
    for _ in range(40):
        rates = rates.after(replace(RUN, roofline_error=0.4, token_step_error=0.2))
    assert rates.better == "token_step"
    assert rates.roofline_error == pytest.approx(0.4, abs=0.01)


def test_rates_outlive_the_process_and_damaged_ones_cost_a_warning(tmp_path, caplog):
    store = RateStore(tmp_path / "rates")
    assert store.load("engine") is None
    rates = EngineRates(roofline=replace(ROOF, buckets=(16, 64))).after(RUN)
    store.save("engine", rates)
    assert RateStore(tmp_path / "rates").load("engine") == rates
    assert store.load("another") is None
    (path,) = (tmp_path / "rates").iterdir()
    path.write_text(path.read_text().replace('"step_s": 0.001', '"step_s": -1'))
    assert store.load("engine") is None
    path.write_text("{")
    assert store.load("engine") is None
    assert caplog.text.count("are not read") == 2


async def test_an_engine_is_measured_before_its_first_large_run_and_never_again(tmp_path):
    engine = FakeGenerator()
    store = RateStore(tmp_path)
    keeper = RateKeeper(engine, store=store, measures=True)
    assert await keeper.before(MIN_CALLS - 1) is None
    with keeper.running():
        assert await keeper.before(MIN_CALLS) is None  # the engine is not free
    assert not engine.requests
    assert await RateKeeper(engine).before(MIN_CALLS) is None
    assert not engine.requests
    rates = await keeper.before(MIN_CALLS)
    assert rates is not None
    num_measured = len(engine.requests)
    assert num_measured > 0
    assert await keeper.before(MIN_CALLS) == rates
    assert await RateKeeper(engine, store=store).known() == rates  # as another process would
    assert len(engine.requests) == num_measured


async def test_runs_that_overlap_are_not_held_against_the_models():
    engine = FakeGenerator()
    session = session_of(engine)
    await session.rates.measured()
    (_, first), (_, second) = await asyncio.gather(outputs_of(session), outputs_of(session))
    assert first is None
    assert second is None
    _, alone = await outputs_of(session, output_cache=False)
    assert alone is not None
    rates = await session.rates.known()
    assert rates is not None
    assert rates.num_runs == 1
    assert (rates.token_step_error, rates.roofline_error) == (
        alone.token_step_error,
        alone.roofline_error,
    )


async def test_outputs_are_the_same_whatever_model_plans():
    found = []
    for model in ("token_step", "roofline", "best"):
        session = session_of(FakeGenerator(info=replace(FAKE_MODEL, num_workers=2)))
        await session.rates.measured()
        rows_, _ = await outputs_of(session, cost_model=model)
        found.append(rows_)
    assert found[0] == found[1] == found[2]


def test_a_run_plans_by_the_model_it_names_or_by_the_better_one():
    engine = FakeGenerator()
    unknown, better = EngineRates(roofline=ROOF), EngineRates(roofline=ROOF).after(RUN)

    def plans_by(rates, **options):
        return dispatch_setting(engine, RunOptions(**options), rates).roofline

    assert plans_by(None, cost_model="roofline") is None
    assert plans_by(unknown) is None
    assert plans_by(unknown, cost_model="roofline") == ROOF
    assert plans_by(better) == better.roofline
    assert plans_by(better, cost_model="token_step") is None
    with pytest.raises(RequestError, match="cost_model='dice' is none of best, token_step"):
        RunOptions(cost_model="dice")  # pyright: ignore[reportArgumentType]
