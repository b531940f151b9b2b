"""Attempts at a call: what one that was given up still has to say does not count for the next."""

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from helium_jax.executor.calls import MAX_RERUNS
from helium_jax.executor.events import (
    CallFailed,
    CallFinished,
    CallProgressed,
    CallTimedOut,
    CancelCall,
    EncodeCall,
    RunStarted,
    StartTimer,
    StopTimer,
    SubmitCall,
)
from helium_jax.executor.spans import SpanBook
from helium_jax.executor.state import RunState
from helium_jax.physical import lower
from helium_jax.plan import PlanBuilder
from helium_jax.types import Usage
from tests.executor.test_leftovers import is_clean
from tests.executor.test_state import encoded

RETRIES = 2
TEXTS = ("late", "later", "right")


@dataclass
class Attempt:
    """One attempt as the shell sees it: it may still speak after it was cancelled."""

    call_id: int
    number: int
    is_current: bool = True


class AttemptsMachine(RuleBasedStateMachine):
    """Two rows; every attempt progresses, fails, is lost with its worker, times out or answers, in
    any order, and those that were given up go on speaking for a while."""

    def __init__(self):
        super().__init__()
        self.attempts: list[Attempt] = []
        self.timers: dict[int, int] = {}  # call -> attempt
        self.retries: dict[int, int] = {}
        self.reruns: dict[int, int] = {}
        self.answers: dict[int, str] = {}
        self.failures: dict[int, str] = {}
        self.rows: dict[int, int] = {}

    @initialize()
    def begin(self):
        builder = PlanBuilder()
        q = builder.input("q")
        builder.output("o", builder.completion(q, name="c", retries=RETRIES, timeout=5))
        self.state = RunState(lower(builder.build()), 2, {"q": ["a", "b"]}, max_in_flight=2)
        self.take(self.state.handle(RunStarted()))

    def take(self, instructions):
        for instruction in instructions:
            match instruction:
                case EncodeCall(call=call):
                    self.rows[call.call_id] = call.row
                    self.retries[call.call_id] = 0
                    self.take(self.state.handle(encoded(call.call_id)))
                case SubmitCall(call=call, attempt=number):
                    assert not [a for a in self.current() if a.call_id == call.call_id]
                    self.attempts.append(Attempt(call.call_id, number))
                case CancelCall(call_id=call_id):
                    self.give_up(call_id)
                case StartTimer(call_id=call_id, attempt=number):
                    self.timers[call_id] = number
                case StopTimer(call_id=call_id):
                    self.timers.pop(call_id, None)

    def current(self):
        return [attempt for attempt in self.attempts if attempt.is_current]

    def give_up(self, call_id):
        for attempt in self.current():
            if attempt.call_id == call_id:
                attempt.is_current = False

    def choose(self, data):
        return data.draw(st.sampled_from(self.attempts))

    def is_over(self, call_id):
        return call_id in self.answers or call_id in self.failures

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), num_tokens=st.integers(1, 3))
    def progresses(self, data, num_tokens):
        attempt = self.choose(data)
        self.take(
            self.state.handle(
                CallProgressed(
                    call_id=attempt.call_id, num_tokens=num_tokens, attempt=attempt.number
                )
            )
        )

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), may_retry=st.booleans(), worker_failed=st.booleans())
    def fails(self, data, may_retry, worker_failed):
        attempt = self.choose(data)
        counts = attempt.is_current
        attempt.is_current = False
        if counts and worker_failed and self.reruns.get(attempt.call_id, 0) < MAX_RERUNS:
            self.reruns[attempt.call_id] = self.reruns.get(attempt.call_id, 0) + 1
        elif counts:
            if may_retry and self.retries[attempt.call_id] < RETRIES:
                self.retries[attempt.call_id] += 1
            else:
                self.failures[attempt.call_id] = "broken"
        self.take(
            self.state.handle(
                CallFailed(
                    call_id=attempt.call_id,
                    code="broken",
                    message="it broke",
                    may_retry=may_retry,
                    worker_failed=worker_failed,
                    attempt=attempt.number,
                )
            )
        )

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), text=st.sampled_from(TEXTS))
    def ends(self, data, text):
        attempt = self.choose(data)
        if attempt.is_current:
            self.answers[attempt.call_id] = text
        attempt.is_current = False
        usage = Usage(prompt_tokens=5, completion_tokens=4, kv_cached=0)
        self.take(
            self.state.handle(
                CallFinished(
                    call_id=attempt.call_id, text=text, usage=usage, attempt=attempt.number
                )
            )
        )

    @precondition(lambda self: self.timers)
    @rule(data=st.data())
    def times_out(self, data):
        call_id = data.draw(st.sampled_from(sorted(self.timers)))
        number = self.timers.pop(call_id)
        if self.retries[call_id] < RETRIES:
            self.retries[call_id] += 1
        else:
            self.failures[call_id] = "timeout"
        self.take(self.state.handle(CallTimedOut(call_id=call_id, attempt=number)))

    @invariant()
    def calls_end_by_the_attempts_that_count(self):
        results = {result.row: result for result in self.state.results()}
        for call_id, row in self.rows.items():
            result = results[row]
            assert result.outputs["o"] == self.answers.get(call_id)
            codes = [error.code for error in result.errors]
            assert codes == ([self.failures[call_id]] if call_id in self.failures else [])
            assert (call_id in self.timers) == (not self.is_over(call_id))
        (tally,) = self.state.statistics()
        assert tally.num_retries == sum(self.retries.values())
        assert (self.state.status == "completed") == all(map(self.is_over, self.rows))
        if self.state.status is not None:
            assert is_clean(self.state)


AttemptsMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=24, deadline=None)
TestAttempts = AttemptsMachine.TestCase


def test_a_span_ends_with_the_attempt_that_counts():
    builder = PlanBuilder()
    builder.output("o", builder.completion(builder.input("q"), name="c"))
    state = RunState(lower(builder.build()), 1, {"q": ["a"]}, max_in_flight=1)
    (encode,) = state.handle(RunStarted())
    assert isinstance(encode, EncodeCall)
    usage = Usage(prompt_tokens=5, completion_tokens=4, kv_cached=0)
    spans = SpanBook()
    spans.ready(encode.call, 0.0)
    spans.submitted(0, None, 0, 1.0)
    spans.given_up(0)
    spans.progressed(0, 0, 2.0)
    spans.finished(0, 0, usage, 2.0)
    spans.submitted(0, None, 1, 3.0)
    spans.progressed(0, 0, 4.0)
    spans.progressed(0, 1, 5.0)
    spans.finished(0, 1, usage, 6.0)
    (span,) = spans.ended(7.0)
    assert (span.submitted, span.first_token, span.finished) == (3.0, 5.0, 6.0)
    assert span.source == "computed"
