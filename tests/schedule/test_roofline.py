"""The roofline finds what made its samples, and says which model predicts a run better."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helium_jax.schedule.dispatch import DispatchSetting
from helium_jax.schedule.policies import POLICIES
from helium_jax.schedule.prediction import TimedCall, compare_models, prediction_error
from helium_jax.schedule.roofline import CostSample, Roofline, calibrate, from_hardware
from helium_jax.schedule.simulate import CallSpan, simulate
from helium_jax.schedule.step_work import StepWork
from helium_jax.schedule.token_step import TokenSteps
from helium_jax.schedule.warming import worth_warming
from tests.schedule.test_simulate import debate

TRUE = Roofline(step_s=0.004, token_s=2e-4, knee_tokens=64.0, kv_token_s=3e-7, pair_s=1e-8)
SETTING = DispatchSetting(page_size=8, kv_tokens=2000, max_num_seqs=8, max_num_batched_tokens=128)


def work(
    *, steps: int = 1, prefill: float = 0, decode: float = 0, kv: float = 0, pairs: float = 0
) -> StepWork:
    return StepWork(
        num_steps=steps,
        prefill_tokens=prefill,
        decode_tokens=decode,
        kv_tokens=kv,
        pair_tokens=pairs,
    )


def measured(roof: Roofline) -> list[CostSample]:
    """A short calibration: prefills of a few sizes, decodes of few and many sequences."""
    works = [work(prefill=n, pairs=n * n / 2) for n in (16, 64, 128, 512)]
    works += [work(prefill=n, pairs=n * 4000) for n in (64, 512)]
    works += [
        work(steps=10, decode=10 * n, kv=10 * n * context)
        for n, context in itertools.product((1, 8, 64, 256), (100, 4000))
    ]
    return [CostSample(work=w, seconds=roof.seconds(w)) for w in works]


def timed(span: CallSpan) -> TimedCall:
    return TimedCall(span.operator, span.row, span.worker, span.start_s, span.end_s)


def test_calibration_predicts_what_it_was_not_shown():
    roof = calibrate(measured(TRUE))
    unseen = [
        work(prefill=300, pairs=9e4),
        work(steps=5, decode=5 * 32, kv=5 * 32 * 1000),
        work(prefill=200, decode=40, kv=40_000, pairs=2e5),
    ]
    for w in unseen:
        assert roof.seconds(w) == pytest.approx(TRUE.seconds(w), rel=1e-3)
    assert roof.knee_tokens == 64.0


@settings(max_examples=40, deadline=None)
@given(
    step=st.floats(0, 0.1),
    token=st.floats(1e-6, 1e-2),
    kv=st.floats(0, 1e-5),
    noise=st.integers(0, 99),
)
def test_no_calibrated_time_is_negative_whatever_the_noise(step, token, kv, noise):
    roof = Roofline(step_s=step, token_s=token, kv_token_s=kv)
    samples = [
        CostSample(work=s.work, seconds=s.seconds * (1 + 0.3 * ((noise * 7 + i * 31) % 11 / 5 - 1)))
        for i, s in enumerate(measured(roof))
    ]
    found = calibrate(samples)
    assert min(found.step_s, found.token_s, found.kv_token_s, found.pair_s) >= 0.0
    assert all(found.seconds(s.work) > 0.0 for s in samples)


def test_calibration_knows_that_padding_is_paid():
    buckets = (32, 64, 128, 256, 512)
    padded = Roofline(step_s=0.001, token_s=1e-3, buckets=buckets)
    found = calibrate(measured(padded), buckets=buckets)
    w = work(prefill=70)
    assert found.seconds(w) == pytest.approx(padded.seconds(w), rel=1e-3)
    assert padded.seconds(work(prefill=65)) == padded.seconds(work(prefill=128))


def test_calibration_without_samples_says_so():
    with pytest.raises(ValueError, match="none of 1 samples has steps and took time"):
        calibrate([CostSample(work=work(), seconds=0.0)])


def test_datasheet_roof_of_8b_on_an_h200_reads_weights_in_its_known_floor():
    roof = from_hardware(
        num_params=8_000_000_000,
        weight_bytes=15_100_000_000,
        kv_bytes_per_token=144 * 1024,
        operations_per_s=780e12,
        bytes_per_s=4.3e12,
    )
    assert roof.seconds(work(decode=1)) == pytest.approx(3.5e-3, rel=0.01)
    assert roof.seconds(work(decode=1)) == roof.seconds(work(decode=100))
    assert 1.0 / roof.token_s == pytest.approx(49_000, rel=0.01)  # prefill tokens/s


def test_runs_correct_the_roof_until_it_predicts_them():
    roof = Roofline(step_s=0.001, token_s=1e-4)
    w = work(prefill=100)
    actual = 3 * roof.seconds(w)
    for _ in range(30):
        roof = roof.observe(predicted_s=roof.seconds(w), actual_s=actual)
    assert roof.seconds(w) == pytest.approx(actual, rel=0.01)
    assert roof.observe(predicted_s=0.0, actual_s=1.0) == roof


# --- predictions ----------------------------------------------------------------------------


def test_prediction_error_ignores_the_unit():
    factor, error = prediction_error([1.0, 2.0, 3.0], [10.0, 20.0, 30.0])
    assert factor == pytest.approx(10.0)
    assert error == pytest.approx(0.0)
    _, error = prediction_error([1.0, 1.0], [1.0, 3.0])
    assert error == pytest.approx(1.0 / 3.0)  # off by one each, of three
    with pytest.raises(ValueError, match="0 predictions cannot be compared with 1"):
        prediction_error([], [1.0])


def test_the_roofline_predicts_the_simulated_engine_better_than_token_steps():
    graph = debate(12)
    run = simulate(graph, POLICIES["langgraph"], SETTING, TRUE.seconds)
    found = compare_models(graph, SETTING, calibrate(measured(TRUE)), map(timed, run.spans))
    assert found.better == "roofline"
    assert found.roofline_error < 0.05 < found.token_step_error
    assert found.roofline_s == pytest.approx(found.actual_s, rel=0.1)
    assert "better: roofline" in str(found)


def test_token_steps_win_where_they_are_right():
    graph = debate(6)
    order = [operator * 6 + row for row in range(6) for operator in range(4)]
    world = TokenSteps(graph=graph, capacities=(2000.0,)).evaluate([order])
    spans = [
        TimedCall(graph.nodes[call // 6].name, call % 6, 0, world.starts[call], world.ends[call])
        for call in order
    ]
    found = compare_models(graph, SETTING, TRUE, spans)
    assert found.better == "token_step"
    assert found.token_step_error == pytest.approx(0.0, abs=1e-9)
    assert found.seconds_per_token_step == pytest.approx(1.0)


def test_calls_that_were_not_made_or_made_again_do_not_stop_the_comparison():
    graph = debate(6)
    run = simulate(graph, POLICIES["langgraph"], SETTING, TRUE.seconds)
    calls = [timed(span) for span in run.spans if (span.operator, span.row) != ("a", 3)]
    calls += [calls[-1]._replace(start_s=calls[-1].end_s, end_s=calls[-1].end_s + 0.01)]
    calls += [TimedCall("unknown", 0, 0, 0.0, 1.0)]
    found = compare_models(graph, SETTING, TRUE, calls)
    assert found.actual_s == pytest.approx(run.makespan_s + 0.01)
    assert found.better == "roofline"
    with pytest.raises(ValueError, match="without calls"):
        compare_models(graph, SETTING, TRUE, [])


# --- warming --------------------------------------------------------------------------------


def test_5_10_a_prefix_is_worth_warming_from_so_many_uses_on():
    verdicts = {uses: worth_warming(uses, 64, TRUE, page_size=16) for uses in (1, 3, 4, 64)}
    assert [verdict.is_worth for verdict in verdicts.values()] == [False, False, True, True]
    assert verdicts[64].reason == "64 uses save 808 ms, threshold 36 ms"


def test_5_10_a_prefix_without_a_full_page_is_not_warmed():
    short = worth_warming(64, 15, TRUE, page_size=16)
    assert not short.is_worth
    assert short.reason == "its 15 tokens fill no page of 16"
