"""How well both cost models would have predicted a run that was analysed."""

from helium_jax.executor import Prepared, RunResult
from helium_jax.schedule.dispatch import DispatchSetting
from helium_jax.schedule.prediction import ModelComparison, compare_models
from helium_jax.schedule.roofline import Roofline
from helium_jax.schedule.simulate import CallSpan

MAX_COMPARED_CALLS = 2_000  # simulating a run takes time, too


def compare_cost_models(
    prepared: Prepared, result: RunResult, setting: DispatchSetting, roofline: Roofline
) -> ModelComparison | None:
    """The errors of the token-step and the roofline model on a run.

    None where they cannot be compared: a call was made more than once or not at all (a loop, an
    answer that was known, a failure), or the run is too large.
    """
    calls = prepared.planned.calls
    if calls is None or not calls.graph.nodes or not prepared.num_rows:
        return None
    wanted = {(node.name, row) for node in calls.graph.nodes for row in range(prepared.num_rows)}
    spans = [
        CallSpan(
            operator=span.operator,
            row=span.row,
            worker=span.worker or 0,
            start_s=span.submitted,
            end_s=span.finished,
            prompt_tokens=span.prompt_tokens,
            cached_tokens=span.kv_cached,
            output_tokens=span.completion_tokens,
        )
        for span in result.statistics.spans
        if span.submitted is not None and span.source in ("computed", "kv")
    ]
    made = [(span.operator, span.row) for span in spans]
    if len(made) != len(wanted) or set(made) != wanted or len(made) > MAX_COMPARED_CALLS:
        return None
    try:
        return compare_models(calls.graph, setting, roofline, spans)
    except ValueError:  # an order that no model can follow: longer than the store, say
        return None
