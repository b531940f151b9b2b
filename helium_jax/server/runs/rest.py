"""The part of a batch that an interrupted run has not finished, as a batch of its own."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from helium_jax.executor.events import OpAnswer, OpDelta, OpRow, Progress, RowCompleted
from helium_jax.plan import Const, Op, Plan
from helium_jax.server.plans.job import PlanJob


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """Some rows of a job.

    Attributes:
        plan: whose constant columns have these rows alone.
        rows: values of the inputs.
        places: of each row, its place in the whole batch.
    """

    plan: Plan
    rows: tuple[Mapping[str, Any], ...]
    places: tuple[int, ...]

    def locate(self, progress: Progress) -> Progress:
        """The same progress with the row's place in the whole batch."""
        if isinstance(progress, OpRow | OpDelta | OpAnswer):
            return replace(progress, row=self.places[progress.row])
        if isinstance(progress, RowCompleted):
            result = replace(progress.result, row=self.places[progress.result.row])
            return replace(progress, result=result)
        return progress


def find_rest(job: PlanJob, finished: Collection[int]) -> Rest:
    """What is left of a job."""
    places = tuple(row for row in range(job.num_rows) if row not in finished)
    if len(places) == job.num_rows:
        return Rest(plan=job.plan, rows=job.rows, places=places)

    def cut(op: Op) -> Op:
        if isinstance(op, Const) and isinstance(op.value, tuple):
            return replace(op, value=tuple(op.value[place] for place in places))
        return op

    rows = tuple(job.rows[place] for place in places) if job.rows else ()
    return Rest(plan=job.plan.replace(cut), rows=rows, places=places)
