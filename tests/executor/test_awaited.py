"""A call is closed for a row as soon as nothing can lead to it any more, and only then."""

import asyncio

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helium_jax.executor import RunOptions
from helium_jax.executor.as_ready import AsReady
from helium_jax.executor.events import (
    CallFailed,
    CallFinished,
    CancelRow,
    EncodeCall,
    RunStarted,
    SubmitCall,
)
from helium_jax.executor.state import RunState
from helium_jax.physical import lower
from helium_jax.plan import PlanBuilder
from helium_jax.testing import FakeGenerator
from helium_jax.types import Usage
from tests.executor.nested_plans import nested_plans
from tests.executor.test_executor import Engine, rows_of, run
from tests.executor.test_leftovers import Shell
from tests.executor.test_state import encoded


class Listener(AsReady):
    """Remembers which calls came and were closed, in order."""

    def __init__(self):
        super().__init__()
        self.log = []
        self.rows = {}

    def ready(self, call):
        self.log.append(("call", call.operator, call.row))
        super().ready(call)

    def closed(self, operator, row):
        self.log.append(("closed", operator, row))

    def closed_now(self):
        return [operator for what, operator, _ in self.log if what == "closed"]


class Run:
    """A run of one row whose answers the test gives."""

    def __init__(self, plan, q="yes", max_in_flight=9):
        self.listener = Listener()
        self.state = RunState(
            lower(plan),
            1,
            {"q": [q]},
            max_in_flight=max_in_flight,
            dispatcher=self.listener,
            single_flight=False,
        )
        self.open = {}  # operator -> ids of its calls, oldest first
        self.take(self.state.handle(RunStarted()))

    def take(self, instructions):
        for instruction in instructions:
            if isinstance(instruction, EncodeCall):
                self.take(self.state.handle(encoded(instruction.call.call_id)))
            elif isinstance(instruction, SubmitCall):
                call = instruction.call
                self.open.setdefault(call.operator, []).append(call.call_id)

    def answer(self, operator, text):
        """Answers the operator's oldest call; returns what was closed by that."""
        before = len(self.listener.log)
        usage = Usage(prompt_tokens=5, completion_tokens=1, kv_cached=0)
        call_id = self.open[operator].pop(0)
        self.take(self.state.handle(CallFinished(call_id=call_id, text=text, usage=usage)))
        log = self.listener.log[before:]
        return [operator for what, operator, _ in log if what == "closed"]

    def fail(self, operator):
        before = len(self.listener.log)
        call_id = self.open[operator].pop(0)
        failed = CallFailed(call_id=call_id, code="refused", message="no", may_retry=False)
        self.take(self.state.handle(failed))
        return [operator for what, operator, _ in self.listener.log[before:] if what == "closed"]


def test_the_arm_that_is_not_taken_is_closed_when_that_is_decided():
    builder = PlanBuilder()
    q = builder.input("q")
    first = builder.completion("f " + q, name="first")
    value = builder.branch(
        'contains(first, "yes")',
        then=lambda b: b.completion("then " + first, name="then"),
        otherwise=lambda b: b.branch(
            'contains(first, "perhaps")',
            then=lambda b: b.completion("perhaps " + first, name="perhaps"),
            otherwise=lambda b: b.completion("no " + first, name="no"),
            name="inner",
        ),
        name="outer",
    )
    builder.output("o", value)
    plan = builder.build()
    run = Run(plan)
    assert sorted(run.answer("first", "yes")) == ["first", "no", "perhaps"]
    assert run.answer("then", "x") == ["then"]
    run = Run(plan)
    assert sorted(run.answer("first", "perhaps")) == ["first", "no", "then"]
    assert run.answer("perhaps", "x") == ["perhaps"]


def test_an_arm_in_a_loop_is_closed_in_the_last_iteration_that_does_not_take_it():
    builder = PlanBuilder()
    q = builder.input("q")
    value = builder.loop(
        count=3,
        carry={"text": q},
        body=lambda b, text: b.branch(
            'contains(text, "yes")',
            then=lambda b: b.completion("a " + text, name="then"),
            otherwise=lambda b: b.completion("b " + text, name="other"),
            name="if",
        ),
        name="rounds",
    )
    builder.output("o", value)
    run = Run(builder.build())
    assert run.listener.closed_now() == []
    assert run.answer("then", "no") == []
    assert run.answer("other", "yes") == ["other"]  # the last iteration takes the first arm
    assert run.answer("then", "x") == ["then"]


def test_what_the_last_iteration_does_not_compute_is_closed_before_it():
    builder = PlanBuilder()
    q = builder.input("q")
    value = builder.loop(
        count=2,
        carry={"text": q, "why": q},
        body=lambda b, text, why: {
            "text": b.completion(text + why, name="improve"),
            "why": b.completion("Why " + why, name="explain"),
        },
        name="rounds",
    )
    builder.output("o", value)
    run = Run(builder.build())
    assert run.answer("explain", "because") == ["explain"]
    assert run.answer("improve", "better") == []
    assert run.answer("improve", "best") == ["improve"]


def test_a_while_loop_closes_its_calls_when_it_ends():
    builder = PlanBuilder()
    q = builder.input("q")
    value = builder.loop(
        condition='contains(text, "yes")',
        max_iterations=5,
        carry={"text": q},
        body=lambda b, text: b.completion("again " + text, name="again"),
        name="rounds",
    )
    builder.output("o", value)
    run = Run(builder.build())
    assert run.answer("again", "yes") == []
    assert run.answer("again", "no") == ["again"]
    assert Run(builder.build(), q="no").listener.closed_now() == ["again"]


def test_a_call_in_a_map_is_closed_when_the_last_item_has_decided():
    builder = PlanBuilder()
    builder.input("q")
    builder.output(
        "o",
        builder.map(
            "lines(q)",
            lambda b, item: b.branch(
                'contains(item, "x")',
                then=lambda b: b.completion("c " + item, name="each"),
                otherwise=lambda b: b.completion("d " + item, name="other"),
                name="if",
            ),
            max_items=4,
            name="all",
        ),
    )
    plan = builder.build()
    run = Run(plan, q="x 1\nx 2")
    assert run.listener.closed_now() == ["other"]
    assert run.answer("each", "a") == []
    assert run.answer("each", "b") == ["each"]
    assert sorted(Run(plan, q="").listener.closed_now()) == ["each", "other"]


def test_the_losers_of_a_race_are_closed_with_it():
    builder = PlanBuilder()
    q = builder.input("q")
    value = builder.race(
        [
            lambda b: b.completion("second " + b.completion("a " + q, name="a"), name="after_a"),
            lambda b: b.completion("b " + q, name="b"),
        ],
        k=1,
        name="race",
    )
    builder.output("o", value)
    run = Run(builder.build())
    assert sorted(run.answer("b", "x")) == ["a", "after_a", "b"]


def test_a_call_that_turns_out_not_to_be_needed_is_cancelled_and_closed():
    builder = PlanBuilder()
    q = builder.input("q")

    def body(b, text):
        draft = b.completion("d " + text, name="draft")
        return b.loop(
            condition='contains(inner, "yes")',
            max_iterations=2,
            carry={"inner": q, "found": text},
            body=lambda b, inner, found: {"inner": inner, "found": draft},
            result="found",
            name="again",
        )

    builder.output("o", builder.loop(count=1, carry={"text": q}, body=body, name="once"))
    run = Run(builder.build(), q="no")
    assert run.listener.closed_now() == ["draft"]
    assert (run.state.status, run.open) == ("completed", {})


def test_what_a_failure_makes_impossible_is_closed_with_it():
    builder = PlanBuilder()
    q = builder.input("q")
    first = builder.completion("f " + q, name="first")
    builder.output(
        "o",
        builder.branch(
            'contains(first, "yes")',
            then=lambda b: b.completion("t " + first, name="then"),
            otherwise=lambda b: b.completion("e " + first, name="other"),
            name="if",
        ),
    )
    run = Run(builder.build())
    assert sorted(run.fail("first")) == ["first", "other", "then"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    nested_plans(),
    st.lists(st.sampled_from(["a", "b c", "a b\nc", ""]), min_size=1, max_size=3),
    st.sampled_from([0, 60]),
    st.sets(st.integers(0, 2), max_size=1),
    st.randoms(use_true_random=False),
)
def test_every_call_is_closed_once_for_every_row_and_none_comes_afterwards(
    plan, column, refused, unwanted_rows, random
):
    physical = lower(plan)
    listener = Listener()
    state = RunState(
        physical,
        len(column),
        {"q": column},
        max_in_flight=random.randint(1, 4),
        dispatcher=listener,
        single_flight=False,  # a cancelled row's call may go on for another row
    )
    shell = Shell(Engine(refused=refused, alphabet=tuple(b"abc \n")))
    cancels = [CancelRow(row=row) for row in unwanted_rows]
    shell.carry_out(state.handle(RunStarted()))
    while shell.pending or cancels:
        if cancels and (not shell.pending or random.random() < 0.3):
            shell.carry_out(state.handle(cancels.pop()))
        else:
            event = shell.pending.pop(random.choice([*shell.pending]))
            shell.carry_out(state.handle(event))
    assert state.status == "completed"
    closed = set()
    for what, operator, row in listener.log:
        assert (operator, row) not in closed, listener.log
        if what == "closed":
            closed.add((operator, row))
    assert closed == {(call.name, row) for call in physical.calls for row in range(len(column))}
    assert state._flow._awaited.is_empty


async def test_hints_and_pins_go_when_the_arm_that_needed_them_is_not_taken():
    """Both arms begin with a long text that all rows share; no row takes the second one."""
    engine = FakeGenerator(page_size=16, max_answer_tokens=3)
    text = "a long rule that the second arm goes by, and that is worth computing before. " * 3
    builder = PlanBuilder()
    q = builder.input("q")
    first = builder.chat(system="Be brief.", user=q, name="first")
    builder.output(
        "o",
        builder.branch(
            "len(first) > 0",
            then=lambda b: b.chat(user="Go on.", history=first, name="then"),
            otherwise=lambda b: b.chat(system=text, user=first, name="other"),
            name="if",
        ),
    )
    result = await run(builder.build(), rows_of(6), engine, options=RunOptions())
    assert result.errors == ()
    assert engine.warmed, "the shared text was computed ahead"
    assert engine._pins == {}
    assert told_at_the_end(engine) <= {None}


def told_at_the_end(engine):
    """What is known of the next use of every page that the plan spoke of."""
    last = {}
    for worker, use in engine.foreseen:
        for end in range(16, len(use.token_ids) + 1, 16):
            last[worker, use.token_ids[:end]] = use.next_use
    return set(last.values())


async def test_a_cancelled_run_takes_its_hints_back():
    gate, cancel = asyncio.Event(), asyncio.Event()

    async def wait(request, num_sent):
        if num_sent:  # the first token is there: the policy has said when its pages are needed
            cancel.set()
            await gate.wait()

    engine = FakeGenerator(before_event=wait)
    builder = PlanBuilder()
    q = builder.input("q")
    first = builder.chat(system="All rows begin like this one.", user=q, name="first", min_tokens=4)
    builder.output("o", builder.chat(user="Go on.", history=first, name="second"))
    result = await run(builder.build(), rows_of(4), engine, cancel=cancel)
    assert result.status == "cancelled"
    assert [use for _, use in engine.foreseen if use.next_use is not None]
    assert told_at_the_end(engine) <= {None}
