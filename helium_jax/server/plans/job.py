"""A plan over rows, checked and ready to be planned: what a run is asked to do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from helium_jax.executor import RunOptions
from helium_jax.plan import Plan, Value
from helium_jax.server.plans.shelf import KnownPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanJob:
    """A plan over rows, checked as far as it can be without planning it.

    Attributes:
        known: the registered plan.
        plan: the same, with this request's limits.
        rows: values of the inputs.
        num_rows: of the batch; a plan without inputs may have rows that were not given.
        params: values of the parameters.
        options: how it runs.
        tells_deltas: its events tell answers as they grow.
    """

    known: KnownPlan
    plan: Plan
    rows: tuple[Mapping[str, Any], ...]
    num_rows: int
    params: Mapping[str, Value]
    options: RunOptions
    tells_deltas: bool = False
