"""Plans that are submitted together: one run, and for each the results it has by itself."""

import asyncio
import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helium_jax.errors import PlanError, RequestError
from helium_jax.executor import RunOptions, Session, Submission
from helium_jax.executor.output_cache import OutputCache
from helium_jax.executor.profile_store import ProfileStore
from helium_jax.executor.together import join
from helium_jax.plan import Function, Lambda, Output, Plan, PlanBuilder, RunLimits
from helium_jax.plan.nodes import Input
from helium_jax.testing import FakeGenerator, FakeText
from tests.executor.nested_plans import nested_plans
from tests.executor.test_executor import Engine
from tests.plan.strategies import plans
from tests.plan.strategies import rows as row_lists


def chain(*instructions, column="q", name="step", **fields):
    """Calls one after the other, each with the answer before it."""
    builder = PlanBuilder()
    value = builder.input(column)
    for number, instruction in enumerate(instructions):
        value = builder.completion(f"{instruction}: " + value, name=f"{name}{number}", **fields)
    builder.output("o", value)
    return builder.build()


def rows_of(num_rows, column="q", first=0):
    return [{column: f"question {first + row}"} for row in range(num_rows)]


def submit(*plans_and_rows):
    return [Submission(plan=plan, rows=rows) for plan, rows in plans_and_rows]


async def run_together(submissions, engine=None, options=RunOptions(), **kwargs):
    engine = engine or Engine()
    before = asyncio.all_tasks()
    session = Session(engine, FakeText(), **kwargs)
    results = await session.run_together(submissions, options=options)
    assert asyncio.all_tasks() <= before
    assert engine.running == set()
    return results, engine


async def run_apart(submissions, engine, options=RunOptions()):
    results = []
    for one in submissions:
        session = Session(engine, FakeText())
        results.append(await session.run(one.plan, one.rows, params=one.params, options=options))
    return results


def essence(results):
    """What must not depend on what else was submitted."""
    return [
        (result.plan_id, result.status, [(row.row, row.outputs) for row in result.rows])
        for result in results
    ]


def failures(results):
    return [
        {(error.row, error.operator, error.code, error.message) for error in result.errors}
        for result in results
    ]


OPTIONS = st.builds(
    RunOptions,
    policy=st.sampled_from(["helium", "as_ready", "op_wise", "lspf"]),
    single_flight=st.booleans(),
    max_in_flight=st.integers(1, 5) | st.none(),
)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(plans(deterministic=True), min_size=1, max_size=4),
    st.lists(row_lists(min_size=1), min_size=4, max_size=4),
    st.integers(0, 3),
    OPTIONS,
    st.sampled_from([0, 80]),
)
def test_plans_together_have_the_outputs_and_errors_that_they_have_apart(
    given_plans, batches, num_shared, options, refused
):
    # Some plans run over the same rows, so that they are joined; the others have their own.
    batches = [batches[0] if i < num_shared else batches[i] for i in range(len(given_plans))]
    submissions = submit(*zip(given_plans, batches, strict=True))
    right = asyncio.run(run_apart(submissions, Engine(refused=refused), options))
    engine = Engine(refused=refused)
    results, _ = asyncio.run(run_together(submissions, engine, options))
    assert essence(results) == essence(right)
    for ours, theirs in zip(failures(results), failures(right), strict=True):
        # Where several calls of a row fail, which of them are made before it is given up differs.
        assert {(row, code) for row, _, code, _ in ours} == {
            (row, code) for row, _, code, _ in theirs
        }
    for result, one in zip(results, submissions, strict=True):
        names = {op.name for op in one.plan.all_ops}
        assert {error.operator for error in result.errors} <= names
        assert {op.operator for op in result.statistics.operators} <= names
    needed = [result.statistics.needed for result in results]
    if not refused and options.single_flight:
        assert needed == [result.statistics.needed for result in right]
    assert sum(result.statistics.num_calls for result in results) == len(engine.requests)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(nested_plans(), min_size=2, max_size=3),
    st.lists(st.text(alphabet="ab ", max_size=6), min_size=1, max_size=3),
    st.sampled_from([0, 60]),
)
def test_plans_with_control_flow_together_have_the_outputs_that_they_have_apart(
    given_plans, texts, refused
):
    rows = [{"q": text} for text in texts]
    submissions = submit(*((plan, rows) for plan in given_plans))
    right = asyncio.run(run_apart(submissions, Engine(refused=refused)))
    results, _ = asyncio.run(run_together(submissions, Engine(refused=refused)))
    assert essence(results) == essence(right)
    for ours, theirs, plan in zip(results, right, given_plans, strict=True):
        names = {op.name for op in plan.all_ops}
        assert {error.operator for error in ours.errors} <= names
        assert {e.row for e in ours.errors} == {e.row for e in theirs.errors}


async def test_equal_calls_of_plans_over_equal_columns_are_one_operator_whatever_their_names():
    first = chain("Translate", "Shorten", name="a")
    second = chain("Translate", "Shorten", "Judge", column="text", name="b")
    rows = rows_of(4)
    submissions = submit((first, rows), (second, rows_of(4, "text")))
    # Without single flight, so that only the rewriting can have made them one.
    options = RunOptions(single_flight=False)
    results, engine = await run_together(submissions, options=options)
    assert len(engine.requests) == 3 * 4
    assert essence(results) == essence(await run_apart(submissions, Engine()))
    costs = [result.statistics for result in results]
    assert [cost.num_calls for cost in costs] == [8, 4]
    assert costs[1].merged_saved == costs[0].needed > 0
    assert [op.operator for op in costs[1].operators] == ["b2"]
    assert {span.operator for span in costs[1].spans} == {"b2"}


async def test_one_schedule_puts_calls_of_two_plans_that_begin_alike_next_to_each_other():
    text = "A long rule that the experts of both plans have in common. " * 8
    other = "Something else entirely, which the critics have in common. " * 8
    rows = rows_of(6)

    def plan(task):
        builder = PlanBuilder()
        q = builder.input("q")
        builder.output("a", builder.completion(f"{text} {task} " + q, name="expert"))
        builder.output("b", builder.completion(f"{other} {task} " + q, name="critic"))
        return builder.build()

    submissions = submit((plan("One"), rows), (plan("Two"), rows))
    engine, options = FakeGenerator(), RunOptions(max_in_flight=1)
    results, _ = await run_together(submissions, engine, options)
    assert essence(results) == essence(await run_apart(submissions, FakeGenerator()))
    codec = FakeText()
    is_rule = [
        tuple(request.token_ids[:20]) == tuple(codec.encode(text)[:20])
        for request in engine.requests
    ]
    turns = sum(a != b for a, b in itertools.pairwise(is_rule))
    # The first call goes as soon as it is ready; then all of one prefix, and all of the other.
    assert turns <= 2


async def test_plans_with_other_numbers_of_rows_run_beside_the_joint_one():
    submissions = submit(
        (chain("A"), rows_of(3)),
        (chain("B"), rows_of(5)),
        (chain("C"), rows_of(3, first=10)),
        (chain("D"), []),
    )
    (joint,) = join(submissions)
    assert joint.members == (0, 2)
    results, _ = await run_together(submissions)
    assert essence(results) == essence(await run_apart(submissions, Engine()))
    assert [len(result.rows) for result in results] == [3, 5, 3, 0]


async def test_a_plan_with_limits_of_its_own_keeps_them():
    limited = dataclasses.replace(chain("A", "B"), limits=RunLimits(max_llm_calls=3))
    submissions = submit((limited, rows_of(4)), (chain("C", "D"), rows_of(4)))
    assert join(submissions) == []
    results, _ = await run_together(submissions)
    assert results[0].statistics.num_calls == 3
    assert {error.code for error in results[0].errors} == {"limit_exceeded"}
    assert results[1].errors == ()


async def test_a_row_with_a_bad_value_fails_in_its_plan_alone():
    rows = [{"q": "fine"}, {"q": 7}, {"q": "fine too"}]
    submissions = submit((chain("A"), rows), (chain("B"), rows_of(3)), (chain("C"), rows_of(3)))
    assert [joint.members for joint in join(submissions)] == [(1, 2)]
    results, _ = await run_together(submissions)
    assert [error.row for error in results[0].errors] == [1]
    assert results[1].errors == results[2].errors == ()


def refusing(word):
    """An engine that has no answers for prompts with a word in them."""
    unwanted = tuple(FakeText().encode(word))

    def fail(request, num_sent):
        ids = request.token_ids
        has_it = any(ids[i : i + len(unwanted)] == unwanted for i in range(len(ids)))
        return RequestError("this prompt is refused", code="refused") if has_it else None

    return FakeGenerator(fail=fail)


async def test_a_failing_call_fails_its_row_in_every_plan_that_needs_it_under_that_plans_name():
    first = chain("Refuse", "Go on", name="a")
    second = chain("Refuse", "Go back", name="b")
    third = chain("Accept", name="c")
    rows = rows_of(2)
    rows[1] = {"q": "bad"}
    submissions = submit((first, rows), (second, rows), (third, rows))
    results, engine = await run_together(submissions, refusing("Refuse: bad"))
    right = await run_apart(submissions, refusing("Refuse: bad"))
    assert essence(results) == essence(right)
    assert failures(results) == failures(right)
    assert [[e.operator for e in r.errors] for r in results] == [["a0"], ["b0"], []]
    assert len(engine.requests) < sum(result.statistics.num_calls for result in right)


async def test_a_failure_inside_of_a_loop_that_plans_share_names_an_operator_of_each():
    def plan(prefix):
        builder = PlanBuilder()
        value = builder.loop(
            count=2,
            carry={"text": builder.input("q")},
            body=lambda b, text: b.completion("Refuse " + text, name=f"{prefix}-call"),
            name=f"{prefix}-loop",
        )
        builder.output("o", value)
        return builder.build()

    rows = [{"q": "bad"}, {"q": "good"}]
    submissions = submit((plan("a"), rows), (plan("b"), rows))
    results, _ = await run_together(submissions, refusing("Refuse bad"))
    assert [[e.operator for e in r.errors] for r in results] == [["a-call"], ["b-loop"]]
    assert [[row.outputs["o"] is None for row in r.rows] for r in results] == [[True, False]] * 2


async def test_parameters_are_bound_before_plans_are_joined():
    def plan(rounds):
        builder = PlanBuilder()
        tone = builder.param("tone")
        count = builder.param("rounds", type="int", default=rounds, max=4)
        value = builder.loop(
            count=count,
            carry={"text": builder.input("q")},
            body=lambda b, text: b.completion(tone + ": " + text, name="say"),
            name="talk",
        )
        builder.output("o", value)
        return builder.build()

    submissions = [
        Submission(plan=plan(2), rows=rows_of(2), params={"tone": "kind"}),
        Submission(plan=plan(1), rows=rows_of(2), params={"tone": "stern", "rounds": 3}),
        Submission(plan=plan(2), rows=rows_of(2), params={"tone": "kind"}),
    ]
    assert len(join(submissions)) == 1
    results, engine = await run_together(submissions)
    assert essence(results) == essence(await run_apart(submissions, Engine()))
    assert len(engine.requests) == 2 * (2 + 3)


async def test_functions_of_one_name_in_two_plans_stay_two():
    def plan(call):
        function = Function(name="f", call=call, is_pure=True)
        return Plan(
            inputs=(Input(name="q"),),
            ops=(Lambda(name="x", function=function, args=("q",)),),
            outputs=(Output(name="o", source="x"),),
        )

    rows = [{"q": "a"}]
    submissions = submit((plan(str.upper), rows), (plan(lambda text: text * 2), rows))
    results, _ = await run_together(submissions)
    assert [result.rows[0].outputs["o"] for result in results] == ["A", "aa"]


async def test_columns_are_one_only_if_types_and_values_are_equal():
    def plan(type_):
        builder = PlanBuilder()
        builder.output("o", builder.completion("Say " + builder.input("q", type=type_), name="say"))
        return builder.build()

    submissions = submit(
        (plan("float"), [{"q": 1}]), (plan("float"), [{"q": 1.0}]), (plan("int"), [{"q": 1}])
    )
    (joint,) = join(submissions)
    assert len(joint.combined.plan.inputs) == 3
    results, _ = await run_together(submissions)
    assert essence(results) == essence(await run_apart(submissions, Engine()))


async def test_every_fault_of_every_plan_is_told_with_the_plans_place():
    broken = Plan(inputs=(Input(name="q"),), ops=(), outputs=(Output(name="o", source="x"),))
    with pytest.raises(PlanError) as caught:
        await run_together(submit((chain("A"), rows_of(1)), (broken, []), (broken, [])))
    assert [problem.path for problem in caught.value.problems] == [
        "plans[1].plan.outputs.o",
        "plans[2].plan.outputs.o",
    ]
    with pytest.raises(RequestError, match=r"plans\[1\]: the input has bad rows") as refused:
        await run_together(submit((chain("A"), rows_of(1)), (chain("A"), [{"p": "?"}])))
    assert refused.value.param == "plans[1].inputs[0].q"
    assert await Session(Engine(), FakeText()).run_together([]) == []


async def test_results_together_fill_the_output_cache_and_the_profiles_of_every_plan(tmp_path):
    plans_ = [chain("A", "B"), chain("A", "C")]
    submissions = submit(*((plan, rows_of(3)) for plan in plans_))
    cache, profiles = OutputCache(), ProfileStore(tmp_path)
    first, engine = await run_together(submissions, output_cache=cache, profiles=profiles)
    assert profiles.load(plans_[0].plan_id).has_seen("step1")
    assert profiles.load(plans_[1].plan_id).has_seen("step1")
    assert len(list(tmp_path.iterdir())) == 2
    again, engine = await run_together(submissions, output_cache=cache, profiles=profiles)
    assert engine.requests == []
    assert essence(again) == essence(first)
    for before, after in zip(first, again, strict=True):
        assert after.statistics.needed == before.statistics.needed
        assert after.statistics.num_calls == 0
