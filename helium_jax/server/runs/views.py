"""A run explained and drawn: EXPLAIN, its plan as a graph, its calls over time."""

import asyncio
import logging

import msgspec
from aiohttp import web

from helium_jax.errors import RequestError
from helium_jax.executor import RunResult
from helium_jax.explain import Report, draw_timeline, explain_plan, report_on
from helium_jax.server.errors import ConflictError
from helium_jax.server.parameters import choose
from helium_jax.server.plans.report_forms import asked_form, form_response, write_report
from helium_jax.server.runs.figures import (
    MAX_SPANS,
    RunFigures,
    describe_calls,
    describe_graph,
    restore_span,
    unpack_figures,
)
from helium_jax.server.runs.record import RunRecord
from helium_jax.server.runs.stream import find_run
from helium_jax.server.state import RUNS
from helium_jax.server.writing import json_response

log = logging.getLogger(__name__)


async def get_explain(request: web.Request) -> web.Response:
    """EXPLAIN of a run's plan; with `analyze=true` what happened beside what was expected."""
    record = find_run(request)
    form = asked_form(request)
    result = None
    if choose(request, "analyze", ("false", "true"), "false") == "true":
        figures = await _figures(record)
        if figures is not None:
            return form_response(figures.analyses[form], form)
        result = record.result
        if record.prepared is None or result is None:
            raise _nothing_to_show(record)
    report = await _explain(request, record, result)
    return form_response(await asyncio.to_thread(write_report, report, form), form)


async def get_timeline(request: web.Request) -> web.Response:
    """The calls of a run over time, as a picture."""
    record = find_run(request)
    figures = await _figures(record)
    if figures is not None:
        spans = tuple(map(restore_span, figures.timeline.spans))
    elif record.result is not None:
        spans = record.result.statistics.spans
    else:
        raise _nothing_to_show(record)
    picture = await asyncio.to_thread(draw_timeline, spans, title=record.id)
    return web.Response(text=picture, content_type="image/svg+xml")


async def get_graph(request: web.Request) -> web.Response:
    """The plan of a run as nodes and edges, with what its operators did."""
    record = find_run(request)
    figures = await _figures(record)
    if figures is not None:
        return json_response(figures.graph)
    report = await _explain(request, record, record.result)
    return json_response(await asyncio.to_thread(describe_graph, record, report))


async def get_calls(request: web.Request) -> web.Response:
    """The calls of a run over time, also of one that goes on; the latest `limit`."""
    record = find_run(request)
    limit = min(read_number(request.query.get("limit", str(MAX_SPANS)), "limit"), MAX_SPANS)
    figures = await _figures(record)
    if figures is not None:
        kept = figures.timeline
        num_out = max(len(kept.spans) - limit, 0)
        reply = msgspec.structs.replace(
            kept, spans=kept.spans[num_out:], left_out=kept.left_out + num_out
        )
        return json_response(reply)
    return json_response(await asyncio.to_thread(describe_calls, record, limit))


def read_number(value: str, param: str) -> int:
    """The number of a query's parameter.

    Raises:
        RequestError: it is none.
    """
    if not (value.isascii() and value.isdecimal() and len(value) <= 9):
        raise RequestError(f"{param} must be a number from 0 on", param=param)
    return int(value)


async def _explain(request: web.Request, record: RunRecord, result: RunResult | None) -> Report:
    runs, job = request.app[RUNS], record.job
    if record.prepared is not None:
        return await report_on(record.prepared, runs.session.codec, result=result)
    return await explain_plan(
        runs.session,
        job.plan,
        job.rows,
        params=job.params,
        options=job.options,
        profile=await runs.profile_of(record.tenant, job.known),
    )


async def _figures(record: RunRecord) -> RunFigures | None:
    """What an earlier process has left of a run that is over."""
    if record.result is not None or record.figures is None:
        return None
    try:
        return await asyncio.to_thread(unpack_figures, record.figures)
    except ValueError as error:
        log.error("%s: %s", record.id, error)
        return None


def _nothing_to_show(record: RunRecord) -> ConflictError:
    if record.is_final:
        message = f"the run is {record.state} and its calls are not known any more"
    else:
        message = f"the run is {record.state}; there is something to show once it is over"
    return ConflictError(message, code="no_result")
