"""What chooses among orders: a cost model for the calls of a graph, whichever it is."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from helium_jax.schedule.call_graph import CallGraph
from helium_jax.schedule.token_step import Timeline

ModelName = Literal["token_step", "roofline"]


class OrderCost(Protocol):
    """A cost model; `TokenSteps` and `RooflineOrders` are ones.

    Attributes:
        effort: what working out a call's times costs, beside the same in token steps.
    """

    @property
    def effort(self) -> int: ...

    def evaluate(self, orders: Sequence[Sequence[int]]) -> Timeline:
        """Times of all calls when every worker goes by its order; see `TokenSteps.evaluate`."""
        ...


# Of a graph, the calls of it that are over, and the rows that each of its rows stands for.
MakeCost = Callable[[CallGraph, frozenset[int], float], OrderCost]
