"""A run as an SVG Gantt chart: operators over time, per worker."""

from collections.abc import Sequence
from xml.sax.saxutils import escape

from helium_jax.executor.result import CallSpan

WIDTH = 1000.0
LABEL = 160.0
LANE = 14.0
MAX_LANES = 24  # of one operator; more calls at once are drawn over each other
PREFILL, DECODE, WAIT, RESULT = "#1f4e79", "#8ec1ea", "url(#wait)", "#59a14f"


def draw_timeline(spans: Sequence[CallSpan], *, title: str = "") -> str:
    """The calls of a run: waiting hatched, prefill dark, decode light, served answers green.

    One row per operator and worker, calls that overlap in lanes below each other.
    """
    groups: dict[tuple[int, str], list[CallSpan]] = {}
    for span in sorted(spans, key=lambda span: (span.ready, span.row)):
        groups.setdefault((span.worker or 0, span.operator), []).append(span)
    end = max((span.finished for span in spans), default=0.0) or 1.0
    scale = (WIDTH - LABEL - 10) / end
    body: list[str] = []
    y = 30.0
    worker_above: int | None = None
    for (worker, operator), calls in sorted(groups.items(), key=lambda item: _place(item)):
        if worker != worker_above:
            body.append(_text(4, y + 10, f"worker {worker}", "bold"))
            y += LANE + 4
            worker_above = worker
        lanes = _lanes(calls)
        body.append(_text(12, y + 10, operator))
        for span, lane in zip(calls, lanes, strict=True):
            body += _bars(span, y + lane * LANE, scale)
        y += (max(lanes) + 1) * LANE + 4
    axis = [
        _text(LABEL + second * scale, 22, f"{second:.3g} s")
        for second in (end * part / 4 for part in range(5))
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH:.0f}" height="{y + 10:.0f}" '
        f'viewBox="0 0 {WIDTH:.0f} {y + 10:.0f}" font-family="sans-serif" font-size="10">'
        f"<title>{escape(title or 'calls over time')}</title>"
        '<defs><pattern id="wait" width="4" height="4" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><line x1="0" y1="0" x2="0" y2="4" stroke="#999"/></pattern>'
        "</defs>"
    )
    return head + "".join([*axis, *body]) + "</svg>"


def _place(item: tuple[tuple[int, str], list[CallSpan]]) -> tuple[int, float, str]:
    (worker, operator), calls = item
    return worker, calls[0].ready, operator


def _lanes(calls: Sequence[CallSpan]) -> list[int]:
    """For each call the first lane that is free when it becomes ready."""
    free_from: list[float] = []
    lanes = []
    for span in calls:
        lane = next((i for i, free in enumerate(free_from) if free <= span.ready), None)
        if lane is None:
            lane = len(free_from) if len(free_from) < MAX_LANES else MAX_LANES - 1
            if lane == len(free_from):
                free_from.append(0.0)
        free_from[lane] = max(free_from[lane], span.finished)
        lanes.append(lane)
    return lanes


def _bars(span: CallSpan, y: float, scale: float) -> list[str]:
    if span.source == "result":
        return [_bar(span, span.ready, span.finished, y, scale, RESULT, "served")]
    submitted = span.finished if span.submitted is None else span.submitted
    first = span.finished if span.first_token is None else span.first_token
    return [
        _bar(span, span.ready, submitted, y, scale, WAIT, "waiting"),
        _bar(span, submitted, first, y, scale, PREFILL, "queue and prefill"),
        _bar(span, first, span.finished, y, scale, DECODE, "decode"),
    ]


def _bar(
    span: CallSpan, start: float, end: float, y: float, scale: float, fill: str, what: str
) -> str:
    if end <= start:
        return ""
    name = escape(f"{span.operator}, rows[{span.row}]: {what} {end - start:.3f} s")
    return (
        f'<rect x="{LABEL + start * scale:.1f}" y="{y:.1f}" '
        f'width="{max((end - start) * scale, 0.5):.1f}" height="{LANE - 3:.0f}" fill="{fill}">'
        f"<title>{name}</title></rect>"
    )


def _text(x: float, y: float, text: str, weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-weight="{weight}">{escape(text)}</text>'
