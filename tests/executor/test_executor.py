"""Whole runs against the slowest right executor, under every order of completion."""

import asyncio
import hashlib
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helium_jax.errors import CapacityError, PlanError, RequestError
from helium_jax.executor import NAIVE, RunOptions, run_plan
from helium_jax.executor.events import OpCompleted, OpRow, OpStarted, RunCompleted
from helium_jax.plan import PlanBuilder, encode_yaml, parse_plan
from helium_jax.schedule.policies import POLICIES
from helium_jax.testing import FakeGenerator, FakeText, ManualClock, settle
from tests.executor.oracle import expected_outputs
from tests.plan.strategies import plans
from tests.plan.strategies import rows as row_lists


class Engine(FakeGenerator):
    """A generator that completes in random order and refuses some prompts for good."""

    def __init__(self, *, seed=0, refused=0, **options):
        self._shuffle = random.Random(seed)
        self._refused = refused
        super().__init__(before_event=self._dawdle, fail=self._refuse, **options)

    async def _dawdle(self, request, num_sent):
        for _ in range(self._shuffle.randrange(6)):
            await asyncio.sleep(0)

    def _refuse(self, request, num_sent):
        if num_sent == 0 and self.is_refused(request):
            return RequestError("this prompt is refused", code="refused")
        return None

    def is_refused(self, request):
        digest = hashlib.blake2b(repr(request.token_ids).encode()).digest()
        return digest[0] < self._refused

    def outcome(self, request):
        """The ids of the answer, or None if there is none."""
        return None if self.is_refused(request) else self.answer(request)[0]


async def run(plan, rows, engine, **kwargs):
    before = asyncio.all_tasks()
    result = await run_plan(plan, rows, generator=engine, codec=FakeText(), **kwargs)
    assert asyncio.all_tasks() <= before
    assert engine.running == set()
    return result


OPTIONS = st.one_of(
    st.just(NAIVE),
    st.just(RunOptions()),
    st.builds(
        RunOptions,
        policy=st.sampled_from(["as_ready", "helium", *POLICIES]),
        max_in_flight=st.integers(1, 5),
        encode_ahead=st.integers(1, 5),
        single_flight=st.booleans(),
        share_kv=st.booleans(),
    ),
)


@settings(max_examples=60, deadline=None)
@given(
    plans(deterministic=True), row_lists(), OPTIONS, st.integers(0, 99), st.sampled_from([0, 80])
)
def test_every_order_and_every_option_gives_the_outputs_of_the_oracle(
    plan, rows, options, seed, refused
):
    engine = Engine(seed=seed, refused=refused)
    result = asyncio.run(run(plan, rows, engine, options=options))
    assert [row.outputs for row in result.rows] == expected_outputs(plan, rows, engine)
    assert result.status == "completed"
    for row in result.rows:
        assert bool(row.errors) >= (None in row.outputs.values())
        assert {error.code for error in row.errors} <= {"refused"}
    check_statistics(result, engine, rows)


def check_statistics(result, engine, rows):
    total = result.statistics
    saved = total.single_flight_saved + total.merged_saved
    assert total.needed == total.computed + total.kv_cached + saved
    assert (
        total.num_calls
        == len(engine.requests)
        == len(engine.finished + engine.failed) + len(engine.cancelled)
    )
    for op in total.operators:
        assert op.num_done + op.num_failed == op.num_rows == len(rows)
    if not engine.failed and not engine.cancelled:
        assert total.computed + total.precomputed == engine.statistics()[0].num_prefill_tokens
        assert total.completion_tokens == engine.statistics()[0].num_decode_tokens


@settings(max_examples=25, deadline=None)
@given(plans(deterministic=True), row_lists(min_size=1))
def test_a_run_without_any_reuse_needs_what_the_statistics_say(plan, rows):
    fast = asyncio.run(run(plan, rows, Engine()))
    naive = asyncio.run(run(plan, rows, Engine(), options=NAIVE))
    assert fast.statistics.needed == naive.statistics.needed == naive.statistics.computed
    assert fast.statistics.num_calls + fast.statistics.num_saved_calls == (
        naive.statistics.num_calls
    )


@settings(max_examples=60, deadline=None)
@given(plans(deterministic=True), row_lists(min_size=1), st.integers(0, 99), st.integers(1, 40))
def test_cancelling_anywhere_leaves_no_task_and_no_call_behind(plan, rows, seed, rounds):
    async def main():
        engine = Engine(seed=seed)
        cancel = asyncio.Event()
        task = asyncio.create_task(run(plan, rows, engine, cancel=cancel))
        await settle(rounds)
        cancel.set()
        result = await task
        assert result.status in ("cancelled", "completed")
        expected = expected_outputs(plan, rows, engine)
        for row, right in zip(result.rows, expected, strict=True):
            # What is there is right; what is not there has a reason.
            assert all(value in (None, right[name]) for name, value in row.outputs.items())
            assert row.errors or row.outputs == right
        assert {e.code for e in result.errors} <= {"cancelled"}

    asyncio.run(main())


@settings(max_examples=25, deadline=None)
@given(plans(deterministic=True), row_lists(min_size=1), st.integers(1, 40))
def test_cancelling_the_task_leaves_no_task_and_no_call_behind(plan, rows, rounds):
    async def main():
        engine = Engine()
        task = asyncio.create_task(run_plan(plan, rows, generator=engine, codec=FakeText()))
        await settle(rounds)
        was_done = task.done()
        task.cancel()
        if not was_done:
            with pytest.raises(asyncio.CancelledError):
                await task
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert engine.running == set()

    asyncio.run(main())


def map_reduce(num_experts=3, **settings):
    builder = PlanBuilder("map-reduce")
    q = builder.input("q")
    experts = [
        builder.chat(name=f"expert{i}", system=f"You are expert {i}.", user=q, **settings)
        for i in range(num_experts)
    ]
    text = "Summarise: " + q
    for expert in experts:
        text = text + "\n- " + expert
    builder.output("summary", builder.chat(name="summary", user=text, **settings))
    return builder.build()


def rows_of(count, num_distinct=None):
    return [{"q": f"question {i % (num_distinct or count)}"} for i in range(count)]


async def test_5_4_single_flight_makes_one_call_of_twenty_equal_rows():
    engine = Engine()
    result = await run(map_reduce(1), rows_of(20, 1), engine)
    assert len(engine.requests) == 2
    assert len({row.outputs["summary"] for row in result.rows}) == 1
    assert result.statistics.num_saved_calls == 38


async def test_5_4_single_flight_makes_every_call_of_sampled_rows():
    engine = Engine()
    result = await run(map_reduce(1, temperature=0.7), rows_of(20, 1), engine)
    assert len(engine.requests) == 40
    assert len({row.outputs["summary"] for row in result.rows}) > 10


async def test_calls_with_results_off_are_made_alone_and_with_kv_off_share_nothing():
    plain, alone, private = Engine(), Engine(), Engine()
    await run(map_reduce(1), rows_of(4, 1), plain)
    await run(map_reduce(1, cache={"results": "off"}), rows_of(4, 1), alone)
    off = {"results": "off", "kv": "off"}
    result = await run(map_reduce(1, cache=off), rows_of(4, 1), private)
    assert [len(e.requests) for e in (plain, alone, private)] == [2, 8, 8]
    assert alone.statistics()[0].cache.hit_tokens > 0
    assert result.statistics.kv_cached == private.statistics()[0].cache.hit_tokens == 0


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"max_tokens": 2}, {"max_tokens": 9}),
        ({}, {"stop": ["e"]}),
        ({}, {"repetition_penalty": 1.5}),
        ({}, {"temperature": 0.5, "seed": 3}),
        ({"temperature": 0.5, "seed": 4}, {"temperature": 0.5, "seed": 3}),
        ({}, {"logit_bias": {"5": 1.0}}),
        ({"min_tokens": 1}, {"min_tokens": 5}),
    ],
)
async def test_calls_that_differ_in_anything_that_matters_are_not_one(one, two):
    builder = PlanBuilder()
    q = builder.input("q")
    builder.output("a", builder.completion(q, **one))
    builder.output("b", builder.completion(q, **two))
    engine = Engine()
    await run(builder.build(), [{"q": "x"}], engine)
    assert len(engine.requests) == 2


async def test_equal_calls_of_two_operators_are_one_whatever_their_priority():
    builder = PlanBuilder()
    q = builder.input("q")
    builder.output("a", builder.completion(q))
    builder.output("b", builder.completion(q, priority=3))
    engine = Engine()
    result = await run(builder.build(), [{"q": "x"}], engine)
    assert len(engine.requests) == 1
    assert result.rows[0].outputs["a"] == result.rows[0].outputs["b"]


async def test_no_more_calls_are_in_flight_than_allowed():
    for most in (1, 3):
        engine = Engine()
        await run(map_reduce(), rows_of(10), engine, options=RunOptions(max_in_flight=most))
        assert engine.max_running == most


async def test_the_naive_mode_goes_row_by_row_and_reuses_nothing():
    engine = Engine()
    result = await run(map_reduce(2), rows_of(4, 2), engine, options=NAIVE)
    prompts = [bytes(i for i in r.token_ids if i < 256).decode() for r in engine.requests]
    order = [("expert 0" in p, "expert 1" in p, "question 0" in p) for p in prompts]
    row = [(True, False), (False, True), (False, False)]
    assert order == [(*who, r % 2 == 0) for r in range(4) for who in row]
    assert engine.max_running == 1
    assert result.statistics.computed == result.statistics.needed


async def test_5_9_a_row_is_in_its_third_stage_before_the_last_row_has_left_the_first():
    builder = PlanBuilder()
    first = builder.completion("1 " + builder.input("q"), name="first")
    second = builder.completion("2 " + first, name="second")
    builder.output("o", builder.completion("3 " + second, name="third"))
    events = []
    await run(
        builder.build(),
        rows_of(8),
        Engine(),
        options=RunOptions(policy="as_ready", max_in_flight=2),
        on_event=lambda event: events.append(event.progress),
    )
    started = next(
        i for i, p in enumerate(events) if isinstance(p, OpStarted) and p.operator == "third"
    )
    done = next(
        i
        for i, p in enumerate(events)
        if isinstance(p, OpCompleted) and p.statistics.operator == "first"
    )
    assert started < done


async def test_5_8_a_stalled_row_does_not_keep_the_others_from_finishing():
    clock = ManualClock()

    async def stall(request, num_sent):
        if b"question 0" in bytes(i for i in request.token_ids if i < 256):
            await clock.sleep(1)

    engine = FakeGenerator(before_event=stall)
    events = []
    task = asyncio.create_task(
        run(map_reduce(), rows_of(4), engine, on_event=lambda e: events.append(e.progress))
    )
    await settle(400)
    done = {p.row for p in events if isinstance(p, OpRow) and p.operator == "summary"}
    assert done == {1, 2, 3}
    await clock.advance(100)
    await settle(400)
    assert task.done()
    assert (await task).status == "completed"


async def test_5_15_a_failing_row_fails_only_what_needs_it():
    builder = PlanBuilder()
    q = builder.input("q")
    first = builder.completion("1 " + q, name="first")
    builder.output("second", builder.completion("2 " + first, name="second"))
    builder.output("other", builder.completion("3 " + q, name="other"))
    engine = FakeGenerator(
        fail=lambda request, _: (
            RequestError("refused", code="refused")
            if bytes(request.token_ids) == b"1 question 1"
            else None
        )
    )
    result = await run(builder.build(), rows_of(3), engine)
    assert [row.outputs["second"] is None for row in result.rows] == [False, True, False]
    assert all(row.outputs["other"] for row in result.rows)
    assert [str(error) for error in result.errors] == ["rows[1], operator first: refused"]
    assert result.status == "completed"
    assert result.is_partial


async def test_on_row_error_fail_ends_the_run_at_the_first_failure():
    plan, _ = parse_plan(
        encode_yaml(map_reduce()) + "limits: {on_row_error: fail}\n", is_json=False
    )
    engine = FakeGenerator(
        fail=lambda request, _: (
            RequestError("refused", code="refused") if b"question 1" in to_bytes(request) else None
        )
    )
    result = await run(plan, rows_of(4), engine)
    assert result.status == "failed"
    codes = Counter(error.code for error in result.errors)
    assert codes["refused"] == 1
    assert set(codes) == {"refused", "run_failed"}


def to_bytes(request):
    return bytes(i for i in request.token_ids if i < 256)


async def test_a_bug_in_one_call_fails_its_row_alone(caplog):
    class Broken(FakeText):
        def encode(self, text):
            if text == "question 1":
                raise ZeroDivisionError
            return super().encode(text)

    builder = PlanBuilder()
    builder.output("o", builder.completion(builder.input("q")))
    result = await run_plan(builder.build(), rows_of(3), generator=FakeGenerator(), codec=Broken())
    assert [error.code for error in result.errors] == ["internal_error"]
    assert "ZeroDivisionError" in caplog.text
    assert "ZeroDivision" not in result.errors[0].message


async def test_5_15_a_deadline_gives_what_there_is_and_a_reason_for_the_rest():
    clock = ManualClock()
    builder = PlanBuilder()
    builder.output("o", builder.completion(builder.input("q"), name="c"))
    builder.limit(timeout="10s")

    async def slow(request, num_sent):
        await clock.sleep(20 if b"question 1" in to_bytes(request) else 0)

    engine = FakeGenerator(before_event=slow)
    task = asyncio.create_task(
        run(builder.build(), rows_of(3), engine, clock=clock.time, sleep=clock.sleep)
    )
    await settle(100)
    await clock.advance(10)
    result = await task
    assert result.status == "expired"
    assert result.statistics.seconds == 10
    assert [row.outputs["o"] is None for row in result.rows] == [False, True, False]
    assert str(result.errors[0]) == "rows[1], operator c: the run's timeout of 10 s is over"
    assert len(engine.cancelled) == 1


async def test_a_full_engine_is_asked_again_later():
    clock = ManualClock()
    refusals = iter([CapacityError("full", retry_after_s=5)] * 3)
    engine = FakeGenerator(fail=lambda *_: next(refusals, None))
    builder = PlanBuilder()
    builder.output("o", builder.completion(builder.input("q")))
    task = asyncio.create_task(
        run(builder.build(), rows_of(1), engine, clock=clock.time, sleep=clock.sleep)
    )
    for _ in range(3):
        await settle()
        assert not task.done()
        await clock.advance(5)
    assert (await task).status == "completed"


async def test_an_engine_that_stays_full_or_shuts_down_fails_the_row():
    async def no_sleep(seconds):
        await asyncio.sleep(0)

    builder = PlanBuilder()
    builder.output("o", builder.completion(builder.input("q")))
    full = FakeGenerator(fail=lambda *_: CapacityError("full"))
    result = await run(builder.build(), rows_of(1), full, sleep=no_sleep)
    assert [error.code for error in result.errors] == ["server_overloaded"]
    assert len(full.requests) == 10
    closing = FakeGenerator(fail=lambda *_: CapacityError("bye", code="shutting_down"))
    result = await run(builder.build(), rows_of(1), closing, sleep=no_sleep)
    assert [error.code for error in result.errors] == ["shutting_down"]
    assert len(closing.requests) == 1


async def test_a_prompt_that_is_too_long_fails_its_row_alone():
    builder = PlanBuilder()
    builder.output("o", builder.completion(builder.input("q"), max_tokens=10))
    rows = [{"q": "x"}, {"q": "x" * 5000}]
    result = await run(builder.build(), rows, FakeGenerator())
    assert [error.code for error in result.errors] == ["context_length_exceeded"]
    assert result.rows[0].outputs["o"]


async def test_a_doubling_chain_of_templates_fails_instead_of_filling_the_memory():
    builder = PlanBuilder()
    value = builder.input("q")
    for _ in range(60):
        value = builder.template(value + value)
    builder.output("o", value)
    result = await run(builder.build(), rows_of(1), FakeGenerator())
    assert [error.code for error in result.errors] == ["value_too_large"]


async def test_events_are_numbered_and_tell_the_whole_run():
    events = []
    result = await run(map_reduce(2), rows_of(3, 2), Engine(), on_event=events.append, run_id="r1")
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert {event.run_id for event in events} == {"r1"} == {result.run_id}
    progress = [event.progress for event in events]
    rows = Counter((p.operator, p.row) for p in progress if isinstance(p, OpRow))
    assert set(rows.values()) == {1}
    assert len(rows) == 9
    sources = Counter(p.source for p in progress if isinstance(p, OpRow))
    assert sources["result"] == 3
    completed = {p.statistics for p in progress if isinstance(p, OpCompleted)}
    assert completed == set(result.statistics.operators)
    assert progress[-1] == RunCompleted(status="completed", num_failed_rows=0)


async def test_an_empty_batch_and_a_plan_without_calls_are_runs_too():
    result = await run(map_reduce(), [], Engine())
    assert (result.status, result.rows) == ("completed", ())
    builder = PlanBuilder()
    builder.output("o", "<" + builder.input("q") + ">")
    result = await run(builder.build(), [{"q": "{{q}}"}], Engine())
    assert result.rows[0].outputs == {"o": "<{{q}}>"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{}], "rows[0] lacks the column 'q'"),
        ([{"q": "x", "r": 1}], "rows[0] has the column 'r'; inputs are q"),
        (["x"], "rows[0] must be a mapping"),
        ([{}] * 30, "rows[19] lacks the column 'q'\n  ..."),
    ],
)
async def test_rows_of_the_wrong_shape_are_refused_before_any_work(rows, message):
    engine = Engine()
    with pytest.raises(RequestError) as caught:
        await run(map_reduce(), rows, engine)
    assert message in str(caught.value)
    assert engine.requests == []


@pytest.mark.parametrize(
    ("value", "what"), [(None, "null"), (3, "the number 3"), ({}, "a mapping")]
)
async def test_a_row_whose_value_has_the_wrong_type_fails_alone(value, what):
    engine = Engine()
    rows = [*rows_of(2), {"q": value}]
    result = await run(map_reduce(), rows, engine)
    assert [row.outputs["summary"] is None for row in result.rows] == [False, False, True]
    message = f"rows[2], operator q: column 'q' must be text, not {what}"
    assert [str(error) for error in result.errors] == [message]
    assert result.errors[0].code == "bad_value"
    assert len(engine.requests) == 8


async def test_a_row_with_a_lone_surrogate_fails_alone_and_is_never_encoded():
    engine = Engine()
    result = await run(map_reduce(), [*rows_of(2), {"q": "a\ud800"}], engine)
    assert [row.outputs["summary"] is None for row in result.rows] == [False, False, True]
    what = "has the lone surrogate U+D800 at character 1; send Unicode"
    assert [str(error) for error in result.errors] == [f"rows[2], operator q: column 'q' {what}"]
    assert result.errors[0].code == "bad_value"
    assert len(engine.requests) == 8


async def test_a_bad_value_ends_a_run_that_may_have_no_failure():
    builder = PlanBuilder()
    number = builder.input("n", type="int")
    builder.output("o", builder.completion(number))
    builder.output("n", number)
    builder.limit(on_row_error="fail")
    result = await run(builder.build(), [{"n": "x"}, {"n": 3}], Engine())
    assert result.status == "failed"
    assert [error.code for error in result.errors] == ["bad_value", "run_failed"]
    assert result.rows[0].outputs == {"o": None, "n": None}


async def test_a_call_may_name_its_model_if_that_is_the_one_that_is_served():
    def plan(model):
        builder = PlanBuilder()
        builder.output("o", builder.chat(user=builder.input("q"), model=model, name="ask"))
        return parse_plan(encode_yaml(builder.build()), is_json=False)[0]

    engine = Engine()
    result = await run(plan(engine.info.name), rows_of(1), engine)
    assert result.errors == ()
    with pytest.raises(PlanError) as error:
        await run(plan("another"), rows_of(1), engine)
    (problem,) = error.value.problems
    assert (problem.path, problem.code) == ("plan.ops.ask.model", "model_not_found")
    assert "'another' is not served here" in problem.message
    assert engine.info.name in problem.message


async def test_a_missing_parameter_is_refused_before_any_work():
    builder = PlanBuilder()
    builder.output("o", builder.completion(builder.param("p")))
    with pytest.raises(PlanError, match=r"params\.p: is missing"):
        await run(builder.build(), [], Engine())
    result = await run(builder.build(), [{}, {}], Engine(), params={"p": "x"})
    assert len(result.rows) == 2
