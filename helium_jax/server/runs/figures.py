"""What a run is drawn and explained from: its graph, its calls, and both for after its process."""

import zlib

import msgspec

from helium_jax.executor.result import CallSpan, OperatorStatistics
from helium_jax.explain import Report
from helium_jax.explain.graph import GraphNode, plan_graph
from helium_jax.server.plans.report_forms import FORMATS, write_report
from helium_jax.server.runs.record import RunRecord
from helium_jax.server.view_replies import (
    GraphEdgeReply,
    GraphNodeReply,
    PlanGraphReply,
    SpanReply,
    TimelineReply,
)

MAX_SPANS = 10_000  # of one answer; the latest
MAX_KEPT_SPANS = 5_000  # of one run in the journal; the latest
MAX_KEPT_BYTES = 64 * 1024 * 1024  # unpacked: what a damaged journal may ask for


class RunFigures(msgspec.Struct, kw_only=True, frozen=True):
    """What can be shown of a run whose process is gone.

    Attributes:
        analyses: EXPLAIN ANALYZE by form.
        graph: its plan, with what the operators did.
        timeline: its calls, with rows as the batch counts them.
    """

    analyses: dict[str, str]
    graph: PlanGraphReply
    timeline: TimelineReply


def make_figures(record: RunRecord, report: Report) -> RunFigures:
    """The figures of a run that is over; takes its time.

    `report`: of EXPLAIN ANALYZE.
    """
    return RunFigures(
        analyses={form: write_report(report, form) for form in FORMATS},
        graph=describe_graph(record, report),
        timeline=describe_calls(record, MAX_KEPT_SPANS),
    )


def pack_figures(figures: RunFigures) -> bytes:
    """Figures as the journal keeps them."""
    return zlib.compress(msgspec.json.encode(figures))


def unpack_figures(data: bytes) -> RunFigures:
    """Figures that the journal has kept.

    Raises:
        ValueError: they cannot be read.
    """
    try:
        unpacked = zlib.decompressobj().decompress(data, MAX_KEPT_BYTES)
    except zlib.error as error:
        raise ValueError(f"the figures are damaged: {error}") from None
    return msgspec.json.decode(unpacked, type=RunFigures)


def spans_of(record: RunRecord) -> tuple[CallSpan, ...]:
    """The calls of a run's last attempt, with rows as that attempt counts them; none of a run
    that an earlier process has made."""
    if record.result is not None:
        return record.result.statistics.spans
    return () if record.watch is None else record.watch.spans()


def describe_calls(record: RunRecord, limit: int) -> TimelineReply:
    """The latest `limit` calls."""
    spans = sorted(spans_of(record), key=lambda span: span.ready)
    shown = spans[len(spans) - min(limit, len(spans)) :]
    return TimelineReply(
        run_id=record.id,
        spans=[_describe_span(record, span) for span in shown],
        left_out=len(spans) - len(shown),
    )


def restore_span(span: SpanReply) -> CallSpan:
    """A call as it was before it was described, but for its row."""
    fields = msgspec.structs.asdict(span)
    return CallSpan(**{**fields, "index": tuple(span.index)})


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


def describe_graph(record: RunRecord, report: Report) -> PlanGraphReply:
    """The plan of a run, with what its operators did; takes its time."""
    graph = plan_graph(report)
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
