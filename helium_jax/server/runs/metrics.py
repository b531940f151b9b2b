"""What a run that is over adds to the metrics; labels are types and phases, never users' names."""

from helium_jax.executor import RunResult
from helium_jax.plan import Plan
from helium_jax.plan.describing import type_word
from helium_jax.telemetry.metrics import Metrics


def count_result(metrics: Metrics, plan: Plan, result: RunResult) -> None:
    """Counts rows, tokens and calls, observes how long calls and phases took, and the estimates."""
    cost = result.statistics
    types = {op.name: type_word(op) for op in plan.all_ops}
    for span in cost.spans:
        if span.submitted is not None and span.operator in types:
            seconds = span.finished - span.submitted
            metrics.observe("op_seconds", seconds, op_type=types[span.operator])
    metrics.observe("plan_seconds", cost.planning_seconds, phase="planning")
    metrics.observe("plan_seconds", cost.precompute_seconds, phase="precompute")
    metrics.observe("plan_seconds", cost.seconds, phase="run")
    if result.models is not None:
        models = result.models
        metrics.observe("estimate_error_ratio", models.roofline_error, model="roofline")
        metrics.observe("estimate_error_ratio", models.token_step_error, model="token_step")
    num_failed = sum(bool(row.errors) for row in result.rows)
    metrics.count("run_rows_total", len(result.rows) - num_failed, outcome="whole")
    metrics.count("run_rows_total", num_failed, outcome="failed")
    metrics.count("run_calls_total", cost.num_calls)
    metrics.count("result_cache_hits_total", cost.num_cached_calls)
    metrics.count("tokens_precomputed_total", cost.precomputed)
    for source in ("computed", "kv_cached", "single_flight_saved", "result_cached", "merged_saved"):
        metrics.count("run_prompt_tokens_total", getattr(cost, source), source=source)
