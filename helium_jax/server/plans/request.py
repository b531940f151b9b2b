"""From the body of a plan's request to a plan, its rows and how they shall run."""

import asyncio
import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from helium_jax.errors import PlanError, Problem
from helium_jax.executor import RunOptions, prepare
from helium_jax.executor.options import AS_READY
from helium_jax.executor.rows import find_bad_values
from helium_jax.explain import placeholder_row
from helium_jax.optimizer import RULE_NAMES
from helium_jax.plan import Plan, RunLimits, Value, plan_from_document
from helium_jax.schedule.policies import POLICIES
from helium_jax.server.config import Limits
from helium_jax.server.errors import BodyError
from helium_jax.server.openai.jobs import check_salt, derive_salt
from helium_jax.server.plans.bodies import PlanFields, RunBody
from helium_jax.server.plans.job import PlanJob
from helium_jax.server.plans.shelf import KnownPlan
from helium_jax.server.reading import MAX_NAMED, Findings
from helium_jax.server.state import CONFIG, RUNS, TENANT

POLICY_NAMES = (*POLICIES, AS_READY)


def check_plan_fields(body: PlanFields, limits: Limits, found: Findings) -> None:
    """Checks what no single field's type can say, before any work."""
    check_one_plan(body.plan, body.plan_id, found)
    if body.inputs is not None and len(body.inputs) > limits.run_rows:
        message = f"has {len(body.inputs)} rows; a run may have {limits.run_rows}"
        found.add("inputs", message, "plan_too_large")
    if body.policy is not None and body.policy not in POLICY_NAMES:
        found.add("policy", f"{body.policy[:64]!r} is unknown; there is {', '.join(POLICY_NAMES)}")
    for index, name in enumerate(body.disable or ()):
        if name not in RULE_NAMES:
            message = f"{name[:64]!r} is no rule; rules are {', '.join(RULE_NAMES)}"
            found.add(f"disable[{index}]", message)
    check_salt(body.cache_salt, limits, found)


def check_one_plan(
    plan: dict[str, Any] | None, plan_id: str | None, found: Findings, *others: object
) -> None:
    """Checks that exactly one thing says what to work on."""
    given = [one for one in (plan, plan_id, *others) if one is not None]
    if len(given) != 1:
        what = "text, messages, plan or plan_id" if others else "plan or plan_id"
        found.add("plan", f"send one of {what}")


async def find_plan(
    request: web.Request, document: dict[str, Any] | None, plan_id: str | None
) -> KnownPlan:
    """The plan that a body gives or names; a given one is registered.

    Raises:
        PlanError: it is not valid; names every fault.
        NotFoundError: there is no such plan.
    """
    runs, tenant = request.app[RUNS], request[TENANT]
    if document is None:
        return runs.plans.get(tenant, plan_id or "")
    plan, warnings = await asyncio.to_thread(
        read_plan, document, request.app[CONFIG].limits.plan_bytes
    )
    return runs.plans.add(tenant, plan, warnings, now=runs.now())


def read_plan(document: dict[str, Any], max_bytes: int) -> tuple[Plan, tuple[Problem, ...]]:
    """The plan of a document, within the server's size, and its warnings; takes its time.

    Raises:
        PlanError: names every fault.
    """
    size = len(msgspec.json.encode(document))
    if size > max_bytes:
        message = f"has {size} bytes; this server takes plans of {max_bytes}"
        raise PlanError([Problem(path="plan", message=message, code="plan_too_large")])
    return plan_from_document(document)


async def make_job(
    request: web.Request, body: PlanFields, plan_limits: dict[str, Any], *, may_lack_rows: bool
) -> PlanJob:
    """Finds the plan and checks rows and parameters against it.

    Args:
        request: whose key counts.
        body: what it says.
        plan_limits: fields of `RunLimits` that take the place of the plan's own.
        may_lack_rows: a row of placeholders does if there are none.

    Raises:
        PlanError: the plan or a parameter is not valid, or the batch is too large for it.
        RequestError: a row is not what the plan's inputs say.
        NotFoundError: there is no such plan.
    """
    known = await find_plan(request, body.plan, body.plan_id)
    plan = known.plan
    if plan_limits:
        plan = dataclasses.replace(plan, limits=narrow_limits(plan, plan_limits))
    if body.inputs is not None:
        rows = tuple(body.inputs)
    elif not plan.inputs:
        rows = ()
    elif may_lack_rows:
        rows = (placeholder_row(plan),)
    else:
        names = ", ".join(node.name for node in plan.inputs[:8])
        message = f"is missing; the plan reads {names}: send one object of columns per row"
        raise PlanError([Problem(path="inputs", message=message, code="bad_row")])
    params = body.params or {}
    num_rows = await asyncio.to_thread(_check_rows, plan, rows, params)
    is_run = isinstance(body, RunBody)
    return PlanJob(
        known=known,
        plan=plan,
        rows=rows,
        num_rows=num_rows,
        params=params,
        options=RunOptions(
            policy=body.policy or RunOptions().policy,
            disabled_rules=frozenset(body.disable or ()),
            cache_salt=derive_salt(request[TENANT], body.cache_salt),
            priority=(body.priority or 0) if is_run else 0,
            weight=(body.weight or 1.0) if is_run else 1.0,
        ),
        tells_deltas=is_run and bool(body.stream_deltas),
    )


def _check_rows(
    plan: Plan, rows: tuple[Mapping[str, Any], ...], params: Mapping[str, Value]
) -> int:
    """The number of rows; takes its time.

    Raises:
        PlanError, RequestError: as `make_job`.
    """
    _, num_rows, _ = prepare(plan, rows, params)
    # A run would fail the row alone; whoever sends it had better know before.
    bad = find_bad_values(plan, rows)
    if bad:
        raise BodyError(
            [
                Problem(
                    path=f"inputs[{index}].{error.operator}",
                    message=f"rows[{index}]: {error.message}",
                    code="bad_row",
                )
                for index, error in itertools.islice(bad.items(), MAX_NAMED)
            ]
        )
    return num_rows


def narrow_limits(plan: Plan, wished: dict[str, Any]) -> RunLimits:
    """The plan's limits, each replaced by a wish that is narrower."""
    narrowed: dict[str, Any] = {}
    for name, value in wished.items():
        own = getattr(plan.limits, name)
        if isinstance(value, str):  # "fail" is narrower than "skip"
            narrowed[name] = "fail" if "fail" in (own, value) else value
        else:
            narrowed[name] = value if own is None else min(own, value)
    return dataclasses.replace(plan.limits, **narrowed)
