"""How well the cost models predict a run: both on its recorded order, and which is the better."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from helium_jax.schedule.call_graph import CallGraph
from helium_jax.schedule.dispatch import DispatchSetting
from helium_jax.schedule.order_cost import ModelName
from helium_jax.schedule.roofline import Roofline
from helium_jax.schedule.roofline_orders import RooflineOrders
from helium_jax.schedule.token_step import TokenSteps


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelComparison:
    """Both models beside a run.

    Attributes:
        actual_s: makespan of the run.
        roofline_s: predicted makespan.
        roofline_error: mean error of the calls' ends, as a fraction of the makespan, after the
            best common factor.
        seconds_per_token_step: factor that fits the token-step model to the run best.
        token_step_error: as `roofline_error`.
        better: the model with the smaller error; it should plan the next run.
    """

    actual_s: float
    roofline_s: float
    roofline_error: float
    seconds_per_token_step: float
    token_step_error: float
    better: ModelName

    def __str__(self) -> str:
        return (
            f"roofline: {self.roofline_s:.3g} s predicted, {self.actual_s:.3g} s actual, ends off "
            f"by {self.roofline_error:.1%}; token steps: ends off by {self.token_step_error:.1%} "
            f"at {self.seconds_per_token_step:.3g} s a step; better: {self.better}"
        )


def prediction_error(predicted: Sequence[float], actual: Sequence[float]) -> tuple[float, float]:
    """(factor, error): the factor that brings predictions closest to what happened, and the mean
    absolute difference that is left, as a fraction of the greatest actual value.

    Raises:
        ValueError: there is nothing to compare, or not one prediction for each actual value.
    """
    if len(predicted) != len(actual) or not actual or max(actual) <= 0.0:
        raise ValueError(f"{len(predicted)} predictions cannot be compared with {len(actual)}")
    square = sum(value * value for value in predicted)
    products = sum(p * a for p, a in zip(predicted, actual, strict=True))
    factor = products / square if square else 0.0
    differences = (abs(factor * p - a) for p, a in zip(predicted, actual, strict=True))
    return factor, sum(differences) / len(actual) / max(actual)


class TimedCall(NamedTuple):
    """A call of a run: whose, where, and when; seconds since some moment."""

    operator: str
    row: int
    worker: int
    start_s: float
    end_s: float


def compare_models(
    graph: CallGraph, setting: DispatchSetting, roofline: Roofline, calls: Iterable[TimedCall]
) -> ModelComparison:
    """What both models would have said of a run, given the order in which its calls began.

    Several calls of an operator for a row (a loop, a map) count as one from the first to the last;
    what was not called (an answer that was known, a failure, a branch that was not taken) is over
    from the start.

    Args:
        graph: what was known beforehand.
        setting: the engines.
        roofline: of these engines.
        calls: of the run; those that the graph does not have are left out.

    Raises:
        ValueError: there is nothing to compare, or no model can follow the order.
    """
    spans: dict[int, tuple[float, float, int]] = {}  # start, end, worker
    for one in calls:
        if one.operator in graph.place and one.row < graph.num_rows:
            call = graph.place[one.operator] * graph.num_rows + one.row
            start, end, worker = spans.get(call, (one.start_s, one.end_s, one.worker))
            spans[call] = min(start, one.start_s), max(end, one.end_s), worker
    began = sorted(spans, key=lambda call: spans[call])
    if not began:
        raise ValueError("a run without calls has no times to compare")
    orders: list[list[int]] = [[] for _ in range(setting.num_workers)]
    for call in began:
        orders[spans[call][2]].append(call)
    first = spans[began[0]][0]
    actual = [spans[call][1] - first for call in began]
    done = frozenset(range(len(graph.nodes) * graph.num_rows)) - spans.keys()
    capacities = (float(setting.kv_tokens),) * setting.num_workers
    steps = TokenSteps(graph=graph, capacities=capacities, done=done).evaluate(orders)
    roof = RooflineOrders(
        graph=graph, setting=setting, roofline=roofline, done=done, strict=True
    ).evaluate(orders)
    factor, step_error = prediction_error([steps.ends[call] for call in began], actual)
    _, roof_error = prediction_error([roof.ends[call] for call in began], actual)
    return ModelComparison(
        actual_s=max(actual),
        roofline_s=roof.makespan,
        roofline_error=roof_error,
        seconds_per_token_step=factor,
        token_step_error=step_error,
        better="roofline" if roof_error < step_error else "token_step",
    )
