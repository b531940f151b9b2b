"""Calls that fail: retries, timeouts, stand-ins, dead workers, functions that raise."""

import asyncio

import pytest

from helium_jax.errors import CapacityError, InternalError, RequestError
from helium_jax.executor import RunControl, RunOptions, run_plan
from helium_jax.plan import PlanBuilder
from helium_jax.testing import FakeGenerator, FakeText, ManualClock, settle
from tests.executor.test_executor import Engine, rows_of, run, to_bytes


def one_call(**fields):
    builder = PlanBuilder()
    builder.output("o", builder.completion(builder.input("q"), name="c", **fields))
    return builder.build()


def failing(times, error):
    """A generator that fails its first requests."""
    errors = iter([error] * times)
    return FakeGenerator(fail=lambda *_: next(errors, None))


@pytest.mark.parametrize(("retries", "times"), [(2, 2), (1, 1), (5, 2)])
async def test_a_call_that_failed_is_made_again_with_the_same_answer(retries, times):
    engine = failing(times, InternalError("broken"))
    result = await run(one_call(retries=retries), rows_of(1), engine)
    (right,) = [row.outputs for row in (await run(one_call(), rows_of(1), FakeGenerator())).rows]
    assert result.rows[0].outputs == right
    assert result.errors == ()
    (op,) = result.statistics.operators
    assert (op.num_calls, op.num_retries) == (times + 1, times)


async def test_a_seeded_call_keeps_its_seed_when_it_is_made_again():
    engine = failing(1, InternalError("broken"))
    await run(one_call(retries=1, temperature=0.7, seed=3), rows_of(1), engine)
    assert [request.sampling.seed for request in engine.requests] == [3, 3]
    assert len({request.request_id for request in engine.requests}) == 2


async def test_retries_come_to_an_end_and_a_wrong_request_is_not_made_again():
    engine = failing(9, InternalError("broken", code="broken"))
    result = await run(one_call(retries=2), rows_of(1), engine)
    assert [error.code for error in result.errors] == ["broken"]
    assert len(engine.requests) == 3
    engine = failing(9, RequestError("refused", code="refused"))
    result = await run(one_call(retries=2), rows_of(1), engine)
    assert [error.code for error in result.errors] == ["refused"]
    assert len(engine.requests) == 1


async def test_calls_of_a_dead_worker_run_again_without_being_a_retry():
    engine = failing(2, InternalError("gone", code="worker_failed"))
    result = await run(one_call(), rows_of(1), engine)
    assert result.errors == ()
    assert result.statistics.operators[0].num_retries == 0
    assert len(engine.requests) == 3


@pytest.mark.parametrize(("on_error", "text"), [("empty", ""), ({"default": "none"}, "none")])
async def test_a_failed_call_can_have_a_value_of_its_own(on_error, text):
    builder = PlanBuilder()
    first = builder.completion("1 " + builder.input("q"), name="first", on_error=on_error)
    builder.output("o", builder.template("[" + first + "]"))
    engine = FakeGenerator(
        fail=lambda request, _: (
            RequestError("no", code="no") if to_bytes(request) == b"1 question 1" else None
        )
    )
    result = await run(builder.build(), rows_of(3), engine)
    assert result.rows[1].outputs == {"o": f"[{text}]"}
    assert result.errors == ()
    (op,) = result.statistics.operators
    assert (op.num_done, op.num_failed, op.num_replaced) == (3, 0, 1)


async def test_an_attempt_that_takes_too_long_is_cancelled_and_made_again():
    clock = ManualClock()
    slow = iter([True, False])

    async def wait(request, num_sent):
        if num_sent == 0 and next(slow, False):
            await clock.sleep(100)

    engine = FakeGenerator(before_event=wait)
    plan = one_call(timeout="5s", retries=1)
    task = asyncio.create_task(run(plan, rows_of(1), engine, clock=clock.time, sleep=clock.sleep))
    await settle()
    assert len(engine.running) == 1
    await clock.advance(5)
    result = await task
    assert result.errors == ()
    assert (len(engine.cancelled), len(engine.finished)) == (1, 1)


async def test_every_attempt_has_the_same_time_not_only_the_first():
    clock = ManualClock()
    engine = FakeGenerator(before_event=lambda *_: clock.sleep(100))
    plan = one_call(timeout="5s", retries=2)
    task = asyncio.create_task(run(plan, rows_of(1), engine, clock=clock.time, sleep=clock.sleep))
    for _ in range(3):
        await settle()
        assert len(engine.running) == 1
        await clock.advance(5)
    result = await task
    assert [error.code for error in result.errors] == ["timeout"]
    assert (len(engine.cancelled), len(engine.finished)) == (3, 0)


async def test_a_call_without_retries_fails_its_row_when_its_time_is_over():
    clock = ManualClock()

    async def wait(request, num_sent):
        if b"question 1" in to_bytes(request):
            await clock.sleep(100)

    engine = FakeGenerator(before_event=wait)
    task = asyncio.create_task(
        run(one_call(timeout="5s"), rows_of(3), engine, clock=clock.time, sleep=clock.sleep)
    )
    await settle(60)
    await clock.advance(5)
    result = await task
    message = "rows[1], operator c: it took longer than its timeout of 5 s"
    assert [str(error) for error in result.errors] == [message]
    assert len(engine.cancelled) == 1


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), StopIteration(), asyncio.CancelledError()]
)
async def test_a_function_that_would_end_the_loop_fails_its_row_alone(error):
    def leave(text):
        if text == "question 1":
            raise error
        return text

    builder = PlanBuilder()
    builder.output("o", builder.apply(leave, builder.input("q")))
    result = await asyncio.wait_for(run(builder.build(), rows_of(3), FakeGenerator()), 10)
    assert [(one.row, one.code) for one in result.errors] == [(1, "function_failed")]
    assert type(error).__name__ in result.errors[0].message


async def test_a_function_runs_off_the_loop_and_its_exception_fails_its_row():
    def careful(text):
        if text == "question 1":
            raise ValueError("not this one")
        return text.upper()

    builder = PlanBuilder()
    builder.output("o", builder.apply(careful, builder.input("q"), is_pure=True, name="f"))
    result = await run(builder.build(), rows_of(3), FakeGenerator())
    assert [row.outputs["o"] for row in result.rows] == ["QUESTION 0", None, "QUESTION 2"]
    message = "rows[1], operator f: function careful raised ValueError: not this one"
    assert [str(error) for error in result.errors] == [message]


async def test_a_function_that_returns_no_text_fails_its_row():
    builder = PlanBuilder()
    builder.output("o", builder.apply(len, builder.input("q"), is_pure=True, name="f"))
    result = await run(builder.build(), rows_of(1), FakeGenerator())
    assert [error.code for error in result.errors] == ["wrong_type"]


@pytest.mark.parametrize(("pure", "times"), [(True, 1), (False, 5)])
async def test_pure_functions_run_once_for_equal_texts_and_others_every_time(pure, times):
    calls = []

    def shout(text):
        calls.append(text)
        return text + "!"

    builder = PlanBuilder()
    builder.output("o", builder.apply(shout, builder.input("q"), is_pure=pure))
    result = await run(builder.build(), rows_of(5, 1), FakeGenerator())
    assert [row.outputs["o"] for row in result.rows] == ["question 0!"] * 5
    assert len(calls) == times


async def test_no_function_runs_on_a_branch_that_was_not_taken():
    calls = []

    def note(text):
        calls.append(text)
        return text

    builder = PlanBuilder()
    q = builder.input("q")
    taken = builder.branch(
        "contains(q, '1')", then=lambda b: b.apply(note, q, is_pure=False, name="f")
    )
    builder.output("o", taken)
    result = await run(builder.build(), rows_of(3), FakeGenerator())
    assert [row.outputs["o"] for row in result.rows] == ["", "question 1", ""]
    assert calls == ["question 1"]


async def test_the_losers_of_a_race_are_cancelled_inside_the_engine():
    clock = ManualClock()

    async def wait(request, num_sent):
        if b"slow" in to_bytes(request):
            await clock.sleep(100)

    builder = PlanBuilder()
    q = builder.input("q")
    arms = [
        lambda b, kind=kind: b.completion(kind + " " + q) for kind in ("slow", "fast", "slower")
    ]
    builder.output("o", builder.race(arms, name="r"))
    engine = FakeGenerator(before_event=wait)
    result = await run(builder.build(), rows_of(2), engine)
    assert result.status == "completed"
    assert all(row.outputs["o"] for row in result.rows)
    assert (len(engine.finished), len(engine.cancelled)) == (2, 4)


async def test_a_race_goes_on_without_arms_that_fail_until_none_is_left():
    builder = PlanBuilder()
    q = builder.input("q")
    arms = [lambda b, kind=kind: b.completion(kind + " " + q) for kind in ("bad", "good")]
    builder.output("one", builder.race(arms, k=2, name="one"))
    bad = [lambda b, kind=kind: b.completion(kind + " " + q) for kind in ("bad", "bad 2")]
    builder.output("none", builder.race(bad, name="none"))
    engine = FakeGenerator(
        fail=lambda request, _: (
            RequestError("no", code="no") if b"bad" in to_bytes(request) else None
        )
    )
    result = await run(builder.build(), rows_of(1), engine)
    assert result.rows[0].outputs["one"]
    assert result.rows[0].outputs["none"] is None
    assert [error.code for error in result.errors] == ["no"]


async def test_5_15_a_row_is_cancelled_within_one_step_and_the_others_go_on():
    clock = ManualClock()
    control = RunControl()

    async def wait(request, num_sent):
        await clock.sleep(1)

    engine = FakeGenerator(before_event=wait, max_answer_tokens=5)
    task = asyncio.create_task(run(one_call(), rows_of(3), engine, control=control))
    await settle(40)
    assert len(engine.running) == 3
    control.cancel_row(1)
    await settle()
    assert len(engine.cancelled) == 1  # before the clock moved: no token came in between
    await clock.advance(20)
    result = await task
    assert [row.outputs["o"] is None for row in result.rows] == [False, True, False]
    assert [str(e) for e in result.errors] == ["rows[1], operator c: the row was cancelled"]
    assert result.status == "completed"


async def test_a_cancelled_row_leaves_its_call_to_others_that_wait_for_it():
    clock = ManualClock()
    control = RunControl()

    async def wait(request, num_sent):
        await clock.sleep(1)

    engine = FakeGenerator(before_event=wait)
    task = asyncio.create_task(run(one_call(), rows_of(3, 1), engine, control=control))
    await settle(40)
    control.cancel_row(0)
    await clock.advance(40)
    result = await task
    assert [row.outputs["o"] is None for row in result.rows] == [True, False, False]
    assert engine.cancelled == []


async def test_5_15_a_cancelled_operator_fails_what_needs_it_in_every_row():
    builder = PlanBuilder()
    q = builder.input("q")
    first = builder.completion("1 " + q, name="first")
    builder.output("second", builder.completion("2 " + first, name="second"))
    builder.output("other", builder.completion("3 " + q, name="other"))
    control = RunControl()
    control.cancel_operator("first")
    engine = Engine()
    result = await run(builder.build(), rows_of(3), engine, control=control)
    assert [row.outputs["second"] for row in result.rows] == [None] * 3
    assert all(row.outputs["other"] for row in result.rows)
    assert len(engine.requests) == 3
    assert {(e.operator, e.code) for e in result.errors} == {("first", "cancelled")}


async def test_a_value_of_the_wrong_kind_fails_its_row_alone():
    builder = PlanBuilder()
    score = builder.input("score")
    builder.output("o", builder.branch("number(score) > 5", then=lambda b: b.template("high")))
    assert score is not None
    rows = [{"score": "7"}, {"score": "many"}, {"score": "3"}]
    result = await run(builder.build(), rows, FakeGenerator())
    assert [row.outputs["o"] for row in result.rows] == ["high", None, ""]
    assert [error.code for error in result.errors] == ["bad_value"]


async def test_limits_of_concurrency_hold_whatever_the_options_say():
    builder = PlanBuilder()
    builder.output("o", builder.completion(builder.input("q")))
    builder.limit(max_concurrency=2)
    engine = Engine()
    await run(builder.build(), rows_of(8), engine, options=RunOptions(max_in_flight=6))
    assert engine.max_running == 2


async def test_a_full_engine_is_not_a_failure_of_the_call():
    async def no_sleep(seconds):
        await asyncio.sleep(0)

    errors = iter([CapacityError("full")] * 3)
    engine = FakeGenerator(fail=lambda *_: next(errors, None))
    result = await run_plan(
        one_call(), rows_of(1), generator=engine, codec=FakeText(), sleep=no_sleep
    )
    assert result.errors == ()
    assert result.statistics.operators[0].num_retries == 0
