"""The plans that were registered, by key; the same plan twice is one plan."""

from collections import OrderedDict
from dataclasses import dataclass, field

import msgspec

from helium_jax.errors import Problem
from helium_jax.executor import RunResult
from helium_jax.executor.profile import profile_of
from helium_jax.optimizer import Profile
from helium_jax.plan import Plan
from helium_jax.server.errors import NotFoundError
from helium_jax.server.plans.replies import PlanProblem, PlanReply, PlanTotals


@dataclass(slots=True, kw_only=True)
class KnownPlan:
    """A registered plan and what its runs here have shown.

    Attributes:
        plan: as it was read.
        warnings: of its reading.
        created: seconds since the epoch.
        totals: of its finished runs.
        profile: of its finished runs.
    """

    plan: Plan
    warnings: tuple[Problem, ...]
    created: float
    totals: PlanTotals = field(default_factory=PlanTotals)
    profile: Profile = field(default_factory=Profile)

    def add(self, result: RunResult) -> None:
        """Adds a finished run to the totals and the profile."""
        cost, before = result.statistics, self.totals
        self.profile = profile_of(cost, len(result.rows)) + self.profile
        self.totals = PlanTotals(
            runs=before.runs + 1,
            rows=before.rows + len(result.rows),
            calls=before.calls + cost.num_calls,
            needed_tokens=before.needed_tokens + cost.needed,
            computed_tokens=before.computed_tokens + cost.computed + cost.precomputed,
            seconds=before.seconds + cost.seconds,
            max_seconds=max(before.max_seconds, cost.seconds),
        )

    def describe(self, *, whole: bool) -> PlanReply:
        """The plan as clients see it; `whole` with its document and warnings."""
        plan = self.plan
        reply = PlanReply(
            id=plan.plan_id,
            name=plan.name,
            created=int(self.created),
            inputs=[node.name for node in plan.inputs],
            outputs=[output.name for output in plan.outputs],
            num_operators=len(plan.all_ops),
            totals=self.totals,
        )
        if not whole:
            return reply
        warnings = [
            PlanProblem(param=one.path, message=one.message, code=one.code) for one in self.warnings
        ]
        return msgspec.structs.replace(reply, plan=plan.document, warnings=warnings)


class PlanShelf:
    """Registered plans of every key; of each key the one that was not used for longest leaves."""

    def __init__(self, *, max_plans: int) -> None:
        self._max_plans = max_plans
        self._plans: dict[str, OrderedDict[str, KnownPlan]] = {}

    def add(
        self, tenant: str, plan: Plan, warnings: tuple[Problem, ...], *, now: float
    ) -> KnownPlan:
        """Registers a plan, or finds it as it was registered before."""
        plans = self._plans.setdefault(tenant, OrderedDict())
        known = plans.get(plan.plan_id)
        if known is None:
            known = plans[plan.plan_id] = KnownPlan(plan=plan, warnings=warnings, created=now)
        plans.move_to_end(plan.plan_id)
        while len(plans) > self._max_plans:
            plans.popitem(last=False)
        return known

    def get(self, tenant: str, plan_id: str) -> KnownPlan:
        """A key's plan.

        Raises:
            NotFoundError: this key has none of that id.
        """
        plans = self._plans.get(tenant, OrderedDict())
        known = plans.get(plan_id)
        if known is None:
            raise NotFoundError(
                f"there is no plan {plan_id[:80]!r}; POST it to /v1/plans",
                code="plan_not_found",
                param="plan_id",
            )
        plans.move_to_end(plan_id)
        return known

    def list(self, tenant: str) -> list[KnownPlan]:
        """A key's plans, the latest used first."""
        return [*reversed(self._plans.get(tenant, OrderedDict()).values())]
