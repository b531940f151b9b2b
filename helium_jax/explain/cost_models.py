"""How well both cost models would have predicted a run that was analysed."""

from helium_jax.executor import Prepared, RunResult
from helium_jax.schedule.dispatch import DispatchSetting
from helium_jax.schedule.prediction import ModelComparison, TimedCall, compare_models
from helium_jax.schedule.roofline import Roofline

MAX_COMPARED_CALLS = 2_000  # following a run takes time, too


def compare_cost_models(
    prepared: Prepared, result: RunResult, setting: DispatchSetting, roofline: Roofline
) -> ModelComparison | None:
    """The errors of the token-step and the roofline model on a run.

    None where they cannot be compared: no call was made, or too many.
    """
    calls = prepared.planned.calls
    if calls is None or not calls.graph.nodes or not prepared.num_rows:
        return None
    made = [
        TimedCall(span.operator, span.row, span.worker or 0, span.submitted, span.finished)
        for span in result.statistics.spans
        if span.submitted is not None and span.source in ("computed", "kv")
    ]
    if len(made) > MAX_COMPARED_CALLS:
        return None
    try:
        return compare_models(calls.graph, setting, roofline, made)
    except ValueError:  # an order that no model can follow: longer than the store, say
        return None
