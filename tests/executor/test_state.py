"""The state machine of a run: whole lists of instructions, limits, and events that come late."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helium_jax.executor.events import (
    Call,
    CallEncoded,
    CallFailed,
    CallFinished,
    CallProgressed,
    CancelCall,
    CancelRequested,
    DeadlinePassed,
    EncodeCall,
    OpCompleted,
    OpProgress,
    OpRow,
    OpStarted,
    Report,
    RunCompleted,
    RunStarted,
    SubmitCall,
)
from helium_jax.executor.result import OperatorStatistics, RowError
from helium_jax.executor.state import RunState
from helium_jax.physical import lower
from helium_jax.plan import CallSettings, PlanBuilder
from helium_jax.schedule.dispatch import Release
from helium_jax.types import SamplingParams, Usage


def state_of(
    num_rows=1, *, max_in_flight=8, encode_ahead=99, max_tokens=None, distinct=True, **limits
):
    """A run of one operator `c` over rows `r0`, `r1`, ... (or equal rows)."""
    builder = PlanBuilder()
    fields = {} if max_tokens is None else {"max_tokens": max_tokens}
    builder.output("o", builder.completion(builder.input("q"), name="c", **fields))
    builder.limit(**limits)
    physical = lower(builder.build())
    column = [f"r{row if distinct else 0}" for row in range(num_rows)]
    return RunState(
        physical, num_rows, {"q": column}, max_in_flight=max_in_flight, encode_ahead=encode_ahead
    )


def call(call_id, row, text, max_tokens=None):
    sampling = SamplingParams(max_tokens=max_tokens)
    return Call(
        call_id=call_id,
        operator="c",
        row=row,
        turns=((None, text),),
        settings=CallSettings(sampling=sampling),
    )


def finished(call_id, text="answer", prompt=5, completion=3, cached=0):
    usage = Usage(prompt_tokens=prompt, completion_tokens=completion, kv_cached=cached)
    return CallFinished(call_id=call_id, text=text, usage=usage)


def encoded(call_id, num_tokens=5):
    return CallEncoded(call_id=call_id, token_ids=tuple(range(num_tokens)))


def ids(instructions, kind):
    if kind in (EncodeCall, SubmitCall):
        return [i.call.call_id for i in instructions if isinstance(i, kind)]
    return [i.call_id for i in instructions if isinstance(i, kind)]


def test_one_call_from_start_to_end():
    state = state_of()
    assert state.handle(RunStarted()) == [EncodeCall(call=call(0, 0, "r0"))]
    assert state.handle(encoded(0, 5)) == [
        Report(progress=OpStarted(operator="c", num_rows=1)),
        SubmitCall(call=call(0, 0, "r0"), token_ids=tuple(range(5)), release=Release(call_id=0)),
    ]
    running = OperatorStatistics(operator="c", num_rows=1, num_calls=1, completion_tokens=2)
    assert state.handle(CallProgressed(call_id=0, num_tokens=2)) == [
        Report(progress=OpProgress(statistics=running))
    ]
    done = OperatorStatistics(
        operator="c",
        num_rows=1,
        num_done=1,
        num_calls=1,
        prompt_tokens=5,
        kv_cached=4,
        completion_tokens=3,
    )
    assert state.handle(finished(0, cached=4)) == [
        Report(progress=OpRow(operator="c", row=0, source="kv")),
        Report(progress=OpCompleted(statistics=done)),
        Report(progress=RunCompleted(status="completed", num_failed_rows=0)),
    ]
    assert state.status == "completed"
    assert [row.outputs for row in state.results()] == [{"o": "answer"}]


def test_a_failure_tells_its_operator_and_reason():
    state = state_of()
    state.handle(RunStarted())
    error = RowError(row=0, operator="c", code="refused", message="no")
    failed = OperatorStatistics(operator="c", num_rows=1, num_failed=1)
    assert state.handle(CallFailed(call_id=0, code="refused", message="no")) == [
        Report(progress=OpRow(operator="c", row=0, source=None, error=error)),
        Report(progress=OpCompleted(statistics=failed)),
        Report(progress=RunCompleted(status="completed", num_failed_rows=1)),
    ]


def start(state, num_tokens=5):
    """Starts a run and encodes all its first calls; returns what came of the last one."""
    out = state.handle(RunStarted())
    for call_id in ids(out, EncodeCall):
        out = state.handle(encoded(call_id, num_tokens))
    return out


def test_calls_go_out_while_there_is_room_and_one_more_when_one_ends():
    state = state_of(4, max_in_flight=2)
    assert ids(state.handle(RunStarted()), EncodeCall) == [0, 1, 2, 3]
    submitted = [ids(state.handle(encoded(i)), SubmitCall) for i in range(4)]
    assert submitted == [[0], [1], [], []]
    assert ids(state.handle(finished(1)), SubmitCall) == [2]
    assert ids(state.handle(CallFailed(call_id=0, code="x", message="x")), SubmitCall) == [3]


def test_only_so_many_calls_are_prepared_ahead():
    state = state_of(9, max_in_flight=2, encode_ahead=3)
    assert ids(state.handle(RunStarted()), EncodeCall) == [0, 1, 2]
    assert ids(state.handle(encoded(0)), EncodeCall) == [3]
    assert ids(state.handle(encoded(1)), EncodeCall) == [4]
    assert ids(state.handle(encoded(2)), EncodeCall) == []
    assert ids(state.handle(finished(0)), EncodeCall) == [5]


def test_the_lower_priority_number_goes_first_then_the_lower_row():
    builder = PlanBuilder()
    q = builder.input("q")
    builder.output("late", builder.completion("late " + q, name="late", priority=1))
    builder.output("soon", builder.completion("soon " + q, name="soon", priority=-1))
    state = RunState(lower(builder.build()), 2, {"q": ["0", "1"]}, max_in_flight=9)
    calls = [i.call for i in state.handle(RunStarted()) if isinstance(i, EncodeCall)]
    assert [(c.operator, c.row) for c in calls] == [
        ("soon", 0),
        ("soon", 1),
        ("late", 0),
        ("late", 1),
    ]


def test_followers_get_the_answer_or_the_error_of_the_one_call():
    state = state_of(3, distinct=False)
    assert ids(state.handle(RunStarted()), EncodeCall) == [0]
    state.handle(encoded(0, 5))
    state.handle(finished(0, text="A"))
    assert [row.outputs["o"] for row in state.results()] == ["A"] * 3
    (tally,) = state.statistics()
    assert (tally.num_saved_calls, tally.saved_prompt_tokens) == (2, 10)

    state = state_of(3, distinct=False)
    state.handle(RunStarted())
    state.handle(CallFailed(call_id=0, code="refused", message="no"))
    assert [error.row for row in state.results() for error in row.errors] == [0, 1, 2]


def test_an_answer_serves_equal_calls_that_become_ready_later():
    builder = PlanBuilder()
    first = builder.completion(builder.input("q"), name="first")
    builder.output("o", builder.completion(first, name="second"))
    state = RunState(lower(builder.build()), 1, {"q": ["same"]}, max_in_flight=9)
    state.handle(RunStarted())
    state.handle(encoded(0, 4))
    out = state.handle(finished(0, text="same"))
    assert Report(progress=OpRow(operator="second", row=0, source="result")) in out
    assert state.status == "completed"


def test_a_cancelled_run_cancels_its_calls_and_hears_no_late_events():
    state = state_of(3, max_in_flight=2)
    state.handle(RunStarted())
    state.handle(encoded(0, 5))
    state.handle(finished(0))
    out = state.handle(CancelRequested())
    assert out == [
        CancelCall(call_id=1),
        CancelCall(call_id=2),
        Report(progress=RunCompleted(status="cancelled", num_failed_rows=2)),
    ]
    assert [row.outputs["o"] for row in state.results()] == ["answer", None, None]
    for event in (finished(1), encoded(2, 1), DeadlinePassed()):
        assert state.handle(event) == []
    assert state.status == "cancelled"


def test_the_limit_of_calls_fails_the_rows_beyond_it():
    state = state_of(4, max_llm_calls=2)
    start(state)
    errors = [error for row in state.results() for error in row.errors]
    assert [(e.row, e.code) for e in errors] == [(2, "limit_exceeded"), (3, "limit_exceeded")]
    assert "max_llm_calls=2" in errors[0].message


def test_rows_served_by_an_equal_call_do_not_count_as_calls():
    state = state_of(4, distinct=False, max_llm_calls=1)
    state.handle(RunStarted())
    state.handle(encoded(0, 5))
    state.handle(finished(0))
    assert [row.errors for row in state.results()] == [()] * 4


def test_a_call_waits_for_tokens_that_others_may_give_back():
    state = state_of(2, max_tokens=10, max_total_tokens=25)
    state.handle(RunStarted())
    assert ids(state.handle(encoded(0, 5)), SubmitCall) == [0]
    assert state.handle(encoded(1, 5)) == []  # 15 + 15 > 25
    assert ids(state.handle(finished(0, completion=3)), SubmitCall) == [1]  # 8 + 15 <= 25
    state.handle(finished(1))
    assert [row.errors for row in state.results()] == [(), ()]


def test_a_call_fails_when_its_tokens_can_never_be_there():
    state = state_of(2, max_tokens=10, max_total_tokens=25)
    state.handle(RunStarted())
    state.handle(encoded(0, 5))
    state.handle(encoded(1, 5))
    state.handle(finished(0, completion=10))  # 15 + 15 > 25
    (error,) = [error for row in state.results() for error in row.errors]
    assert (error.row, error.code) == (1, "limit_exceeded")
    assert "may need 15 tokens but only 10 are left" in error.message
    assert state.status == "completed"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.integers(1, 40),
    st.integers(1, 3),
    st.data(),
)
def test_a_run_never_spends_more_tokens_than_its_limit(prompts, limit, in_flight, data):
    state = state_of(len(prompts), max_in_flight=in_flight, max_tokens=5, max_total_tokens=limit)
    pending = []
    spent = 0

    def take(instructions):
        for instruction in instructions:
            if isinstance(instruction, EncodeCall):
                call_ = instruction.call
                pending.append(encoded(call_.call_id, prompts[call_.row]))
                sizes[call_.call_id] = prompts[call_.row]
            elif isinstance(instruction, SubmitCall):
                tokens = data.draw(st.integers(1, 5))
                size = sizes[instruction.call.call_id]
                pending.append(finished(instruction.call.call_id, prompt=size, completion=tokens))

    sizes = {}
    take(state.handle(RunStarted()))
    while pending:
        event = pending.pop(data.draw(st.integers(0, len(pending) - 1)))
        if isinstance(event, CallFinished):
            spent += event.usage.prompt_tokens + event.usage.completion_tokens
        take(state.handle(event))
    assert state.status == "completed"
    assert spent <= limit
    for row in state.results():
        assert (row.outputs["o"] is None) == bool(row.errors)


@pytest.mark.parametrize("event", [CancelRequested(), DeadlinePassed()])
def test_a_run_may_end_before_it_starts(event):
    state = state_of(2, timeout=5)
    state.handle(event)
    assert [len(row.errors) for row in state.results()] == [1, 1]
    assert state.handle(RunStarted()) == []
