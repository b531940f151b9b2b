"""How well the cost models predict a run: both on its recorded order, and which is the better."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from helium_jax.schedule.call_graph import CallGraph
from helium_jax.schedule.dispatch import DispatchSetting
from helium_jax.schedule.given_order import given_order
from helium_jax.schedule.roofline import Roofline
from helium_jax.schedule.simulate import CallSpan, simulate
from helium_jax.schedule.token_step import Timeline, TokenSteps

ModelName = Literal["token_step", "roofline"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RooflineSteps:
    """The roofline as a model of orders: what `TokenSteps` says in token steps, in seconds.

    Attributes:
        graph: the calls.
        setting: the engines.
        roofline: seconds of their steps.
    """

    graph: CallGraph
    setting: DispatchSetting
    roofline: Roofline

    def evaluate(self, orders: Sequence[Sequence[int]]) -> Timeline:
        """Times of all calls when every worker begins its calls in its order.

        Args:
            orders: for each worker its calls, as `operator * num_rows + row`.

        Raises:
            ValueError: the orders wait for each other, or a call has no room in a worker's KV.
        """
        rows = self.graph.num_rows
        named = [
            [(self.graph.nodes[call // rows].name, call % rows) for call in order]
            for order in orders
        ]
        run = simulate(self.graph, given_order(named), self.setting, self.roofline.seconds)
        count = len(self.graph.nodes) * rows
        starts, ends = [0.0] * count, [0.0] * count
        for span in run.spans:
            call = self.graph.place[span.operator] * rows + span.row
            starts[call], ends[call] = span.start_s, span.end_s
        return Timeline(
            starts=tuple(starts),
            ends=tuple(ends),
            makespan=run.makespan_s,
            prefill_tokens=run.work.prefill_tokens,
        )


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


def compare_models(
    graph: CallGraph, setting: DispatchSetting, roofline: Roofline, spans: Sequence[CallSpan]
) -> ModelComparison:
    """What both models would have said of a run, given the order in which its calls began.

    Args:
        graph: what was known beforehand.
        setting: the engines.
        roofline: of these engines.
        spans: of every call of the run, each operator once per row.

    Raises:
        ValueError: a call is missing, or there more than once.
    """
    rows = graph.num_rows
    orders: list[list[int]] = [[] for _ in range(setting.num_workers)]
    actual = [0.0] * (len(graph.nodes) * rows)
    for span in sorted(spans, key=lambda span: (span.start_s, span.end_s)):
        call = graph.place[span.operator] * rows + span.row
        orders[span.worker].append(call)
        actual[call] = span.end_s
    capacities = (float(setting.kv_tokens),) * setting.num_workers
    steps = TokenSteps(graph=graph, capacities=capacities).evaluate(orders)
    roof = RooflineSteps(graph=graph, setting=setting, roofline=roofline).evaluate(orders)
    factor, step_error = prediction_error(steps.ends, actual)
    _, roof_error = prediction_error(roof.ends, actual)
    return ModelComparison(
        actual_s=max(actual),
        roofline_s=roof.makespan,
        roofline_error=roof_error,
        seconds_per_token_step=factor,
        token_step_error=step_error,
        better="roofline" if roof_error <= step_error else "token_step",
    )
