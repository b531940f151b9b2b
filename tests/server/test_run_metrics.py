"""What finished runs add to the metrics."""

from helium_jax.executor.result import RunResult, summarize
from helium_jax.plan import plan_from_document
from helium_jax.schedule.prediction import ModelComparison
from helium_jax.server.runs.metrics import count_result
from helium_jax.telemetry.metrics import Metrics
from tests.server.plans import DEBATE


def test_how_wrong_both_cost_models_were_is_observed_where_it_is_known():
    metrics = Metrics(model_name="fake")
    plan, _ = plan_from_document(DEBATE)
    result = RunResult(
        run_id="run_1",
        plan_id=plan.plan_id,
        status="completed",
        rows=(),
        statistics=summarize((), 1.0),
        models=ModelComparison(
            actual_s=1.0,
            roofline_s=0.9,
            roofline_error=0.04,
            seconds_per_token_step=0.01,
            token_step_error=0.15,
            better="roofline",
        ),
    )
    count_result(metrics, plan, result)
    text = metrics.expose().decode()
    assert 'helium:estimate_error_ratio_bucket{le="0.05",model="roofline"} 1.0' in text
    assert 'helium:estimate_error_ratio_bucket{le="0.1",model="token_step"} 0.0' in text
    assert 'helium:estimate_error_ratio_sum{model="token_step"} 0.15' in text
