"""What the journal keeps of a run's request, to and from bytes."""

import dataclasses
from typing import Any

import msgspec

from helium_jax.executor import RunOptions
from helium_jax.plan import RunLimits, plan_from_document
from helium_jax.server.plan_job import PlanJob
from helium_jax.server.plan_shelf import PlanShelf


class KeptRun(msgspec.Struct, kw_only=True, frozen=True):
    """A run's request.

    Attributes:
        tenant: whose key asked.
        created: seconds since the epoch.
        plan: the document.
        limits: of this run, as fields of `RunLimits`.
        rows: values of the inputs.
        num_rows: of the batch.
        params: values of the parameters.
        policy: who orders the calls.
        disabled: rules that do not rewrite.
        cache_salt: with whom answers are shared.
        priority: lower is sooner.
        weight: of its share of the engine.
        model_version: of the model that answered.
        promise_key: the Idempotency-Key, if it had one.
        digest: of the body that came with it.
    """

    tenant: str
    created: float
    plan: dict[str, Any]
    limits: dict[str, Any]
    rows: list[dict[str, Any]]
    num_rows: int
    params: dict[str, Any]
    policy: str
    disabled: list[str]
    cache_salt: str
    priority: int
    weight: float
    model_version: str
    promise_key: str | None = None
    digest: bytes = b""


def pack_run(
    tenant: str,
    created: float,
    job: PlanJob,
    model_version: str,
    promise_key: str | None,
    digest: bytes,
) -> bytes:
    """The bytes of a request."""
    options = job.options
    return msgspec.json.encode(
        KeptRun(
            tenant=tenant,
            created=created,
            plan=job.known.plan.document,
            limits=dataclasses.asdict(job.plan.limits),
            rows=[dict(row) for row in job.rows],
            num_rows=job.num_rows,
            params=dict(job.params),
            policy=options.policy,
            disabled=sorted(options.disabled_rules),
            cache_salt=options.cache_salt,
            priority=options.priority,
            weight=options.weight,
            model_version=model_version,
            promise_key=promise_key,
            digest=digest,
        )
    )


def unpack_run(data: bytes, plans: PlanShelf) -> tuple[KeptRun, PlanJob]:
    """The request in `data`; its plan is registered.

    Raises:
        ValueError: it is no request, or of a version that reads plans in another way.
    """
    kept = msgspec.json.decode(data, type=KeptRun)
    plan, warnings = plan_from_document(kept.plan)
    known = plans.add(kept.tenant, plan, warnings, now=kept.created)
    try:
        limits = RunLimits(**kept.limits)
    except TypeError as error:
        raise ValueError(str(error)) from error
    job = PlanJob(
        known=known,
        plan=known.plan if limits == plan.limits else dataclasses.replace(plan, limits=limits),
        rows=tuple(kept.rows),
        num_rows=kept.num_rows,
        params=kept.params,
        options=RunOptions(
            policy=kept.policy,
            disabled_rules=frozenset(kept.disabled),
            cache_salt=kept.cache_salt,
            priority=kept.priority,
            weight=kept.weight,
        ),
    )
    return kept, job
