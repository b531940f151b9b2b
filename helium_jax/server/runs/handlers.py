"""POST /v1/runs, and everything about one run but its events."""

import asyncio
import hashlib
from typing import Any

import msgspec
from aiohttp import web

from helium_jax.errors import RequestError
from helium_jax.server.admission import working
from helium_jax.server.config import Limits
from helium_jax.server.errors import ConflictError
from helium_jax.server.plans.bodies import CancelBody, RunBody
from helium_jax.server.plans.replies import DeletedReply, RunList
from helium_jax.server.plans.request import check_plan_fields, make_job
from helium_jax.server.reading import Findings
from helium_jax.server.receive import finish_reading, parse_body, receive_object
from helium_jax.server.runs.record import RunRecord
from helium_jax.server.runs.stream import find_run, send_events
from helium_jax.server.state import CONFIG, RUNS, TENANT
from helium_jax.server.writing import json_response, send_parts

MAX_PROMISE_CHARS = 255


async def post_run(request: web.Request) -> web.StreamResponse:
    """Runs a plan: answers with its outputs, its events, or at once."""
    with working(request):
        config, runs, tenant = request.app[CONFIG], request.app[RUNS], request[TENANT]
        raw = await receive_object(request, unique_keys=True)
        body, found = parse_body(RunBody, raw)
        if body is not None:
            check_plan_fields(body, config.limits, found)
            _check_manner(body, found)
        warnings = finish_reading(found, strict=config.strict)
        assert body is not None, "a body that cannot be read has problems"
        promise_key = _promise_key(request)
        digest = hashlib.blake2b(await request.read()).digest()
        record = runs.shelf.promised(tenant, promise_key, digest)
        if record is None:
            wished = _wished_limits(body, config.limits, warnings)
            job = await make_job(request, body, wished, may_lack_rows=False)
            record = runs.submit(
                tenant,
                job,
                promise_key=promise_key,
                digest=digest,
                is_durable=bool(body.background),
            )
        if body.background:
            await record.kept.wait()
            return json_response(record.describe(warnings=warnings), status=202)
        try:
            if body.stream:
                return await send_events(request, record, None)
            await record.done.wait()
        except (asyncio.CancelledError, ConnectionResetError):
            if body.on_disconnect != "continue":
                runs.cancel(record)
            raise
        return json_response(record.describe(with_outputs=True, warnings=warnings))


async def get_runs(request: web.Request) -> web.Response:
    """The runs of the asking key."""
    records = request.app[RUNS].shelf.list_runs(request[TENANT])
    return json_response(RunList(data=[record.describe() for record in records]))


async def get_run(request: web.Request) -> web.Response:
    """One run."""
    return json_response(find_run(request).describe())


async def get_outputs(request: web.Request) -> web.StreamResponse:
    """The rows that are finished, one JSON object a line, in the order of the batch."""
    record = find_run(request)
    rows = [record.rows[row] for row in sorted(record.rows)]
    headers = {"Content-Type": "application/jsonl; charset=utf-8"}
    return await send_parts(request, (row + b"\n" for row in rows), headers)


async def post_cancel(request: web.Request) -> web.Response:
    """Cancels a run, or one row or operator of it; a second time nothing changes."""
    record = find_run(request)
    body, warnings = CancelBody(), []
    if request.can_read_body:
        raw = await receive_object(request)
        read, found = parse_body(CancelBody, raw)
        if read is not None:
            _check_cancel(read, record, found)
            body = read
        warnings = finish_reading(found, strict=request.app[CONFIG].strict)
    if record.is_final and record.state != "cancelled":
        raise ConflictError(f"the run is {record.state}", code="run_finished")
    if body.row is not None:
        record.control.cancel_row(body.row)
    elif body.operator is not None:
        record.control.cancel_operator(body.operator)
    else:
        request.app[RUNS].cancel(record)
    return json_response(record.describe(warnings=warnings))


async def post_resume(request: web.Request) -> web.Response:
    """Goes on with an interrupted run: rows that are finished stay as they are."""
    with working(request):
        record = find_run(request)
        request.app[RUNS].resume(record)
        return json_response(record.describe(), status=202)


async def delete_run(request: web.Request) -> web.Response:
    """Forgets a run that is over."""
    record = find_run(request)
    request.app[RUNS].delete(record)
    return json_response(DeletedReply(id=record.id, object="run"))


def _check_manner(body: RunBody, found: Findings) -> None:
    if body.stream and body.background:
        found.add("background", "cannot go with stream; read the events of the run instead")
    if body.background and body.on_disconnect == "cancel":
        found.add("on_disconnect", "nobody waits for a run in the background; leave it out")


def _check_cancel(body: CancelBody, record: RunRecord, found: Findings) -> None:
    if body.row is not None and body.operator is not None:
        found.add("row", "send one of row and operator")
    if body.row is not None and body.row >= record.job.num_rows:
        found.add("row", f"{body.row} is not below the run's {record.job.num_rows} rows")
    names = [op.name for op in record.job.plan.all_ops]
    if body.operator is not None and body.operator not in names:
        found.add("operator", f"{body.operator[:64]!r} is no operator of the plan")


def _wished_limits(body: RunBody, limits: Limits, warnings: list[str]) -> dict[str, Any]:
    """The limits of a body, within the server's."""
    wished = {} if body.limits is None else msgspec.structs.asdict(body.limits)
    if (wished.get("timeout_s") or 0.0) > limits.run_timeout_s:
        warnings.append(f"limits.timeout_s: cut to this server's {limits.run_timeout_s:g} s")
        wished["timeout_s"] = limits.run_timeout_s
    return {name: value for name, value in wished.items() if value is not None}


def _promise_key(request: web.Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not (0 < len(key) <= MAX_PROMISE_CHARS and key.isascii() and key.isprintable()):
        raise RequestError(
            f"Idempotency-Key must be 1 to {MAX_PROMISE_CHARS} printable ASCII characters",
            param="Idempotency-Key",
        )
    return key
