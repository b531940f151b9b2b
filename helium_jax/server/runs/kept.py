"""What the journal keeps of a run's request, to and from bytes; and the run made of it again."""

import dataclasses
from typing import Any, cast

import msgspec

from helium_jax.executor import RunOptions
from helium_jax.executor.journal import JournaledRun
from helium_jax.plan import RunLimits, plan_from_document
from helium_jax.server.plans.job import PlanJob
from helium_jax.server.plans.replies import RowReply, RunFailure, RunUsage
from helium_jax.server.plans.shelf import PlanShelf
from helium_jax.server.runs.events import EventLog
from helium_jax.server.runs.record import FINAL, RunRecord, State

RUN_PREFIX = "run_"  # of ids
# Notes of a run:
SPENT = "spent"  # what it has cost
END = "end"  # when it ran and why it failed
FIGURES = "figures"  # what it is drawn and explained from


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
        stream_deltas: its events tell answers as they grow.
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
    stream_deltas: bool = False
    promise_key: str | None = None
    digest: bytes = b""


class RunEnd(msgspec.Struct, kw_only=True, frozen=True):
    """When a run began and ended, in seconds since the epoch, and why it came to nothing."""

    started: float | None
    finished: float | None
    error: RunFailure | None


def pack_end(record: RunRecord) -> bytes:
    """The bytes of a run's end."""
    end = RunEnd(started=record.started, finished=record.finished, error=record.error)
    return msgspec.json.encode(end)


def pack_run(record: RunRecord, promise_key: str | None, digest: bytes) -> bytes:
    """The bytes of a run's request, with the Idempotency-Key and digest of the body it came in."""
    job = record.job
    options = job.options
    return msgspec.json.encode(
        KeptRun(
            tenant=record.tenant,
            created=record.created,
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
            stream_deltas=job.tells_deltas,
            model_version=record.model_version,
            promise_key=promise_key,
            digest=digest,
        )
    )


def restore_run(
    found: JournaledRun, plans: PlanShelf, *, max_events: int
) -> tuple[KeptRun, RunRecord]:
    """The run of an earlier process; one that had not ended is interrupted.

    Its plan is registered in `plans`.

    Raises:
        ValueError: the entry cannot be read.
    """
    kept, job = _unpack_run(found.request, plans)
    rows = [msgspec.json.decode(data, type=RowReply) for data in found.rows.values()]
    record = RunRecord(
        id=found.run_id,
        tenant=kept.tenant,
        job=job,
        created=kept.created,
        # Parts 1, 3, ... are those of attempts, parts between them of restored runs.
        events=EventLog(found.run_id, max_events=max_events, first_part=2 * found.attempt),
        is_durable=True,
        state="interrupted",
        attempt=found.attempt,
        model_version=kept.model_version,
        spent=_decode_usage(found.notes.get(SPENT)),
        figures=found.notes.get(FIGURES),
    )
    if END in found.notes and found.state in FINAL:
        end = msgspec.json.decode(found.notes[END], type=RunEnd)
        record.started, record.finished, record.error = end.started, end.finished, end.error
    record.kept.set()
    record.tell_created()
    for row in sorted(rows, key=lambda row: row.row):
        record.put_row(row)
        record.events.append("row.completed", 0.0, msgspec.to_builtins(row))
    record.end(cast(State, found.state) if found.state in FINAL else "interrupted", t_ms=0.0)
    return kept, record


def _decode_usage(data: bytes | None) -> RunUsage | None:
    return None if data is None else msgspec.json.decode(data, type=RunUsage)


def _unpack_run(data: bytes, plans: PlanShelf) -> tuple[KeptRun, PlanJob]:
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
        tells_deltas=kept.stream_deltas,
    )
    return kept, job
