"""A run explained and drawn: EXPLAIN, its plan as a graph, its calls over time."""

import asyncio

from aiohttp import web

from helium_jax.errors import RequestError
from helium_jax.executor.result import CallSpan, OperatorStatistics
from helium_jax.explain import Report, draw_timeline, explain_plan, report_on
from helium_jax.explain.graph import GraphNode, PlanGraph, plan_graph
from helium_jax.server.errors import ConflictError
from helium_jax.server.plans import FORMATS, json_response, report_response
from helium_jax.server.run_record import RunRecord
from helium_jax.server.run_stream import find_run
from helium_jax.server.state import RUNS
from helium_jax.server.view_replies import (
    GraphEdgeReply,
    GraphNodeReply,
    PlanGraphReply,
    SpanReply,
    TimelineReply,
)

MAX_SPANS = 10_000  # of one answer; the latest


async def get_explain(request: web.Request) -> web.Response:
    """EXPLAIN of a run's plan; with `analyze=true` what happened beside what was expected."""
    record = find_run(request)
    form = _choice(request, "format", FORMATS, "text")
    is_analysis = _choice(request, "analyze", ("false", "true"), "false") == "true"
    return report_response(await _explain(request, record, is_analysis), form)


async def get_timeline(request: web.Request) -> web.Response:
    """The calls of a run over time, as a picture."""
    record = find_run(request)
    result = record.result
    if result is None:
        raise _nothing_to_show(record)
    picture = await asyncio.to_thread(draw_timeline, result.statistics.spans, title=record.id)
    return web.Response(text=picture, content_type="image/svg+xml")


async def get_graph(request: web.Request) -> web.Response:
    """The plan of a run as nodes and edges, with what its operators did."""
    record = find_run(request)
    is_over = record.prepared is not None and record.result is not None
    report = await _explain(request, record, is_over)
    graph = await asyncio.to_thread(plan_graph, report)
    return json_response(_describe_graph(record, graph))


async def get_calls(request: web.Request) -> web.Response:
    """The calls of a run over time, also of one that goes on; the latest `limit`."""
    record = find_run(request)
    limit = min(read_number(request.query.get("limit", str(MAX_SPANS)), "limit"), MAX_SPANS)
    return json_response(await asyncio.to_thread(_describe_calls, record, limit))


def read_number(value: str, param: str) -> int:
    """The number of a query's parameter.

    Raises:
        RequestError: it is none.
    """
    if not (value.isascii() and value.isdecimal() and len(value) <= 9):
        raise RequestError(f"{param} must be a number from 0 on", param=param)
    return int(value)


def spans_of(record: RunRecord) -> tuple[CallSpan, ...]:
    """The calls of a run's last attempt, with rows as that attempt counts them; none of a run
    that an earlier process has made."""
    if record.result is not None:
        return record.result.statistics.spans
    return () if record.watch is None else record.watch.spans()


def _describe_calls(record: RunRecord, limit: int) -> TimelineReply:
    spans = sorted(spans_of(record), key=lambda span: span.ready)
    shown = spans[len(spans) - min(limit, len(spans)) :]
    return TimelineReply(
        run_id=record.id,
        spans=[_describe_span(record, span) for span in shown],
        left_out=len(spans) - len(shown),
    )


def _describe_span(record: RunRecord, span: CallSpan) -> SpanReply:
    return SpanReply(
        operator=span.operator,
        row=record.places[span.row],
        index=list(span.index),
        worker=span.worker,
        ready=span.ready,
        encoded=span.encoded,
        submitted=span.submitted,
        admitted=span.admitted,
        first_token=span.first_token,
        finished=span.finished,
        source=span.source,
        prompt_tokens=span.prompt_tokens,
        kv_cached=span.kv_cached,
        completion_tokens=span.completion_tokens,
    )


def _describe_graph(record: RunRecord, graph: PlanGraph) -> PlanGraphReply:
    did = () if record.result is None else record.result.statistics.operators
    by_name = {operator.operator: operator for operator in did}
    return PlanGraphReply(
        run_id=record.id,
        nodes=[_describe_node(node, by_name.get(node.name)) for node in graph.nodes],
        edges=[
            GraphEdgeReply(source=edge.source, target=edge.target, gone=edge.is_gone)
            for edge in graph.edges
        ],
    )


def _describe_node(node: GraphNode, did: OperatorStatistics | None) -> GraphNodeReply:
    did = did or OperatorStatistics(operator=node.name, num_rows=0)
    return GraphNodeReply(
        name=node.name,
        type=node.type,
        state=node.state,
        into=node.into,
        inside=node.inside,
        lines=list(node.lines),
        done=did.num_done,
        failed=did.num_failed,
        calls=did.num_calls,
        saved=did.num_saved_calls,
        cached=did.num_cached_calls,
        prompt_tokens=did.prompt_tokens,
        kv_cached=did.kv_cached,
    )


def _choice(request: web.Request, name: str, choices: tuple[str, ...], default: str) -> str:
    value = request.query.get(name, default)
    if value not in choices:
        message = f"{name} must be one of {', '.join(choices)}"
        raise RequestError(message, param=name)
    return value


async def _explain(request: web.Request, record: RunRecord, is_analysis: bool) -> Report:
    session, job, prepared = request.app[RUNS].session, record.job, record.prepared
    if is_analysis and (prepared is None or record.result is None):
        raise _nothing_to_show(record)
    if prepared is None:
        return await explain_plan(
            session,
            job.plan,
            job.rows,
            params=job.params,
            options=job.options,
            profile=await request.app[RUNS].profile_of(record.tenant, job.known),
        )
    return await report_on(prepared, session.codec, result=record.result if is_analysis else None)


def _nothing_to_show(record: RunRecord) -> ConflictError:
    if record.is_final:
        message = f"the run is {record.state} and its calls are not known any more"
    else:
        message = f"the run is {record.state}; there is something to show once it is over"
    return ConflictError(message, code="no_result")
