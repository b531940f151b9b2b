"""When each call of a run was where: what a timeline and EXPLAIN ANALYZE are drawn from."""

from dataclasses import dataclass

from helium_jax.executor.events import Call
from helium_jax.executor.result import CallSpan, SpanSource
from helium_jax.types import Usage

MAX_SPANS = 100_000  # of one run; what comes later is only in the sums


@dataclass(slots=True)
class _Open:
    call: Call
    ready: float
    encoded: float | None = None
    submitted: float | None = None
    admitted: float | None = None
    first_token: float | None = None
    worker: int | None = None
    num_prompt_tokens: int = 0
    attempt: int | None = 0  # None: the last one was given up


class SpanBook:
    """Collects the spans of one run; times are seconds since its start."""

    def __init__(self) -> None:
        self._open: dict[int, _Open] = {}
        self._closed: list[CallSpan] = []

    def ready(self, call: Call, now: float) -> None:
        """A call's inputs are there."""
        self._open[call.call_id] = _Open(call=call, ready=now)

    def encoded(self, call_id: int, num_prompt_tokens: int, now: float) -> None:
        """Its prompt is token ids."""
        span = self._open.get(call_id)
        if span is not None:
            span.encoded = now
            span.num_prompt_tokens = num_prompt_tokens

    def submitted(self, call_id: int, worker: int | None, attempt: int, now: float) -> None:
        """It goes to the engine, perhaps once more."""
        span = self._open.get(call_id)
        if span is not None:
            span.submitted, span.worker, span.attempt = now, worker, attempt
            span.admitted = span.first_token = None

    def admitted(self, call_id: int, worker: int | None, now: float) -> None:
        """There is room for it at the engine."""
        span = self._open.get(call_id)
        if span is not None:
            span.admitted = now
            span.worker = span.worker if worker is None else worker

    def given_up(self, call_id: int) -> None:
        """Its attempt is cancelled: what that still has to say does not count."""
        span = self._open.get(call_id)
        if span is not None:
            span.attempt = None

    def progressed(self, call_id: int, attempt: int, now: float) -> None:
        """Tokens came."""
        span = self._open.get(call_id)
        if span is not None and span.attempt == attempt and span.first_token is None:
            span.first_token = now

    def served(self, call_id: int, attempt: int, num_prompt_tokens: int, now: float) -> None:
        """Its answer was already there."""
        span = self._take(call_id, attempt)
        if span is not None:
            usage = Usage(prompt_tokens=num_prompt_tokens, completion_tokens=0, kv_cached=0)
            self._close(span, "result", usage, now)

    def finished(self, call_id: int, attempt: int, usage: Usage, now: float) -> None:
        """The engine gave an answer."""
        span = self._take(call_id, attempt)
        if span is not None:
            self._close(span, "kv" if usage.kv_cached else "computed", usage, now)

    def so_far(self, now: float) -> tuple[CallSpan, ...]:
        """All spans as they are, those that go on as if they ended now."""
        running = (_freeze(span, "running", _usage(span), now) for span in self._open.values())
        return (*self._closed, *running)

    def ended(self, now: float) -> tuple[CallSpan, ...]:
        """All spans, those of calls that came to nothing included, by the time of their end."""
        for span in self._open.values():
            self._close(span, "failed", _usage(span), now)
        self._open.clear()
        return tuple(self._closed)

    def failed(self, call_id: int, now: float) -> None:
        """It has no answer and will not get one."""
        span = self._open.pop(call_id, None)
        if span is not None:
            self._close(span, "failed", _usage(span), now)

    def _take(self, call_id: int, attempt: int) -> _Open | None:
        span = self._open.get(call_id)
        return self._open.pop(call_id) if span is not None and span.attempt == attempt else None

    def _close(self, span: _Open, source: SpanSource, usage: Usage, now: float) -> None:
        if len(self._closed) < MAX_SPANS:
            self._closed.append(_freeze(span, source, usage, now))


def _usage(span: _Open) -> Usage:
    """Of a call without an answer."""
    return Usage(prompt_tokens=span.num_prompt_tokens, completion_tokens=0, kv_cached=0)


def _freeze(span: _Open, source: SpanSource, usage: Usage, now: float) -> CallSpan:
    return CallSpan(
        operator=span.call.operator,
        row=span.call.row,
        index=span.call.index,
        worker=span.worker,
        ready=span.ready,
        encoded=span.encoded,
        submitted=span.submitted,
        admitted=span.admitted,
        first_token=span.first_token,
        finished=now,
        source=source,
        prompt_tokens=usage.prompt_tokens,
        kv_cached=usage.kv_cached,
        completion_tokens=usage.completion_tokens,
    )
