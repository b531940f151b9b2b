"""Random plans under random orders of events, with cancels in between: nothing is left over."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helium_jax.executor.events import (
    CallEncoded,
    CallFailed,
    CallFinished,
    CallFunction,
    CancelCall,
    CancelFunction,
    CancelOperator,
    CancelRow,
    EncodeCall,
    FunctionFailed,
    FunctionReturned,
    RunStarted,
    SubmitCall,
)
from helium_jax.executor.state import RunState
from helium_jax.physical import lower
from helium_jax.testing import FakeText
from helium_jax.types import GenerateRequest, Usage
from tests.executor.nested_plans import nested_plans
from tests.executor.oracle import expected_outputs
from tests.executor.test_executor import Engine

TEXTS = ["a", "b c", "a b\nc", ""]


class Shell:
    """Carries out instructions at once, and keeps the events for later."""

    def __init__(self, engine):
        self.engine = engine
        self.codec = FakeText()
        self.pending = {}

    def carry_out(self, instructions):
        for instruction in instructions:
            match instruction:
                case EncodeCall(call=call):
                    ids = tuple(self.encode(call))
                    self.pending["call", call.call_id] = CallEncoded(
                        call_id=call.call_id, token_ids=ids
                    )
                case SubmitCall(call=call, token_ids=ids):
                    assert ("call", call.call_id) not in self.pending
                    self.pending["call", call.call_id] = self.answer(call, ids)
                case CancelCall(call_id=call_id):
                    # One that is encoded and waits for its release has no event to come.
                    self.pending.pop(("call", call_id), None)
                case CallFunction(invocation_id=number, function=function, args=args):
                    self.pending["function", number] = self.invoke(number, function, args)
                case CancelFunction(invocation_id=number):
                    del self.pending["function", number]
                case _:
                    pass

    def encode(self, call):
        turns = call.turns if call.history is None else (*call.history.conversation, *call.turns)
        if turns[0][0] is None:
            return self.codec.encode(turns[0][1])
        return self.codec.encode_chat([{"role": role, "content": text} for role, text in turns])

    def answer(self, call, ids):
        request = GenerateRequest(request_id="", token_ids=ids, sampling=call.settings.sampling)
        answer = self.engine.outcome(request)
        if answer is None:
            return CallFailed(call_id=call.call_id, code="refused", message="no", may_retry=False)
        usage = Usage(prompt_tokens=len(ids), completion_tokens=len(answer), kv_cached=0)
        text = bytes(i for i in answer if i < 256).decode()
        return CallFinished(call_id=call.call_id, text=text, usage=usage, token_ids=answer)

    def invoke(self, number, function, args):
        try:
            return FunctionReturned(invocation_id=number, text=function.call(*args))
        except Exception as error:
            return FunctionFailed(invocation_id=number, code="raised", message=str(error))


def is_clean(state):
    calls = state._calls
    counters = (calls._num_encoding, calls._num_ready, calls._num_submitted)
    return (
        not state._roots
        and state._flow.is_idle
        and counters == (0, 0, 0)
        and not (calls._flights or calls._queued or calls._leaders)
        and calls._budget.is_idle
        and not (state._invocations._running or state._invocations._leaders)
    )


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    nested_plans(),
    st.lists(st.sampled_from(TEXTS), min_size=1, max_size=3),
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from([0, 60]),
    st.sets(st.integers(0, 2), max_size=1),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_5_15_any_order_of_events_and_cancels_ends_right_and_leaves_nothing_over(
    plan, column, in_flight, single_flight, refused, unwanted_rows, drops_operator, random
):
    engine = Engine(refused=refused, alphabet=tuple(b"abc \n"))
    physical = lower(plan)
    shell = Shell(engine)
    state = RunState(
        physical,
        len(column),
        {"q": column},
        max_in_flight=in_flight,
        encode_ahead=random.randint(1, 4),
        single_flight=single_flight,
    )
    cancels = [CancelRow(row=row) for row in unwanted_rows]
    if drops_operator:
        cancels.append(CancelOperator(operator=random.choice(physical.all_operators).name))
    shell.carry_out(state.handle(RunStarted()))
    while shell.pending or cancels:
        if cancels and (not shell.pending or random.random() < 0.3):
            shell.carry_out(state.handle(cancels.pop()))
        else:
            event = shell.pending.pop(random.choice([*shell.pending]))
            shell.carry_out(state.handle(event))
    assert state.status == "completed"
    assert is_clean(state)
    expected = expected_outputs(plan, [{"q": text} for text in column], engine)
    for result, right in zip(state.results(), expected, strict=True):
        if drops_operator:
            continue  # a race goes on without the arm, and has another value then
        if result.row in unwanted_rows:
            assert all(value in (None, right[name]) for name, value in result.outputs.items())
        else:
            assert result.outputs == right
        assert result.errors or None not in result.outputs.values()
