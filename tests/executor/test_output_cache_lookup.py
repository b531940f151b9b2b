"""What the output cache knows of a plan before it runs, and what a second run makes of it."""

import asyncio
import dataclasses

import pytest

from helium_jax.executor import RunOptions, run_plan
from helium_jax.executor.output_cache import OutputCache
from helium_jax.executor.output_cache_lookup import find_known
from helium_jax.executor.preparing import prepare
from helium_jax.executor.session import Session
from helium_jax.optimizer import gather_facts, optimize
from helium_jax.plan import PlanBuilder, View
from helium_jax.testing import FAKE_MODEL, FakeGenerator, FakeText

ROWS = [{"q": f"question {i}"} for i in range(8)]


def debate(**fields):
    builder = PlanBuilder()
    question = builder.input("q")
    pro = builder.chat(system="FOR", user=question, name="pro", **fields)
    con = builder.chat(system="AGAINST", user=question, name="con", **fields)
    judge = builder.chat(user=pro + "\n" + con, name="judge", **fields)
    builder.output("verdict", judge)
    return builder.build()


async def run(plan, rows, cache, **options):
    generator = FakeGenerator()
    result = await run_plan(
        plan,
        rows,
        generator=generator,
        codec=FakeText(),
        output_cache=cache,
        options=RunOptions(**options),
    )
    assert result.status == "completed"
    return result, len(generator.requests)


async def known_of(plan, rows, cache, *, model=FAKE_MODEL, salt=""):
    physical, num_rows, columns = prepare(plan, rows)
    before = cache.statistics()
    known = await find_known(
        physical, num_rows, columns, cache=cache, model=model, codec=FakeText(), salt=salt
    )
    assert cache.statistics() == before
    return known


async def test_an_empty_cache_knows_nothing():
    assert await known_of(debate(), ROWS, OutputCache()) == {}


async def test_5_3_after_a_run_every_call_is_known_and_the_plan_is_a_column():
    cache = OutputCache()
    result, num_calls = await run(debate(), ROWS, cache)
    assert num_calls == 24
    known = await known_of(debate(), ROWS, cache)
    assert known.keys() == {(name, row) for name in ("pro", "con", "judge") for row in range(8)}
    texts = {place: output.text for place, output in known.items()}
    assert [texts["judge", row] for row in range(8)] == [
        row.outputs["verdict"] for row in result.rows
    ]
    _, num_rows, columns = prepare(debate(), ROWS)
    optimized = optimize(debate(), gather_facts(debate(), num_rows, columns, known=texts))
    assert optimized.fetched == ("judge",)
    assert [op.name for op in optimized.plan.ops] == ["judge"]
    assert "CacheFetch: 8 rows" in optimized.trace[0].notes[0].reason
    again, num_calls = await run(debate(), ROWS, cache)
    assert num_calls == 0
    first, second = result.statistics, again.statistics
    assert second.needed == first.needed == second.result_cached
    assert (second.num_cached_calls, second.computed) == (24, 0)
    assert [row.outputs for row in again.rows] == [row.outputs for row in result.rows]
    fetched, num_calls = await run(optimized.plan, ROWS, cache)
    assert num_calls == 0
    assert [row.outputs for row in fetched.rows] == [row.outputs for row in result.rows]


async def test_5_3_with_three_of_eight_rows_changed_those_and_their_dependants_run():
    cache = OutputCache()
    first, _ = await run(debate(), ROWS, cache)
    rows = [{"q": f"changed {i}"} if i in (1, 4, 6) else row for i, row in enumerate(ROWS)]
    known = await known_of(debate(), rows, cache)
    assert {row for _, row in known} == {0, 2, 3, 5, 7}
    assert len(known) == 15
    second, num_calls = await run(debate(), rows, cache)
    assert num_calls == 9
    for i, (old, new) in enumerate(zip(first.rows, second.rows, strict=True)):
        assert (old.outputs == new.outputs) == (i not in (1, 4, 6))


async def test_5_3_another_model_parameter_or_tenant_finds_nothing():
    cache = OutputCache()
    await run(debate(), ROWS, cache)
    assert await known_of(debate(max_tokens=3), ROWS, cache) == {}
    other = dataclasses.replace(FAKE_MODEL, version="fake-2")
    assert await known_of(debate(), ROWS, cache, model=other) == {}
    assert await known_of(debate(), ROWS, cache, salt="tenant") == {}
    assert await known_of(debate(temperature=0.7), ROWS, cache) == {}


async def test_5_3_text_history_and_echo_of_one_call_all_hit():
    plan = debate()
    plan = dataclasses.replace(
        plan,
        ops=(
            *plan.ops,
            *(
                View(name=f"v_{kind}", source="judge", kind=kind)
                for kind in ("text", "history", "echo", "last")
            ),
        ),
        outputs=(
            *plan.outputs,
            *(
                dataclasses.replace(plan.outputs[0], name=kind, source=f"v_{kind}")
                for kind in ("text", "history", "echo", "last")
            ),
        ),
    )
    cache = OutputCache()
    await run(debate(), ROWS, cache)  # without any view
    assert ("judge", 3) in await known_of(plan, ROWS, cache)
    result, num_calls = await run(plan, ROWS, cache)
    assert num_calls == 0
    outputs = result.rows[0].outputs
    assert outputs["text"] == outputs["verdict"]
    assert outputs["echo"].endswith(outputs["text"])
    assert outputs["last"] in outputs["history"]


async def test_conversations_are_found_turn_by_turn():
    builder = PlanBuilder()
    question = builder.input("q")
    first = builder.chat(user=question, name="first")
    second = builder.chat(user="Why?", history=first, name="second")
    builder.output("answer", second)
    cache = OutputCache()
    await run(builder.build(), ROWS[:2], cache)
    known = await known_of(builder.build(), ROWS[:2], cache)
    assert known.keys() == {(name, row) for name in ("first", "second") for row in (0, 1)}


async def test_an_operator_whose_answer_nobody_knows_ends_the_search():
    builder = PlanBuilder()
    question = builder.input("q")
    draw = builder.chat(user=question, name="draw", temperature=0.7)
    builder.output("answer", builder.chat(user="On " + draw, name="after"))
    builder.output("other", builder.chat(user="No " + question, name="other"))
    cache = OutputCache()
    await run(builder.build(), ROWS[:2], cache)
    assert (await known_of(builder.build(), ROWS[:2], cache)).keys() == {("other", 0), ("other", 1)}


async def test_5_3_the_cache_can_be_switched_off_for_a_run_and_for_an_operator():
    cache = OutputCache()
    await run(debate(), ROWS, cache)
    assert (await run(debate(), ROWS, cache, output_cache=False))[1] == 24
    plan = debate(cache={"results": "off", "kv": "auto"})
    await run(plan, ROWS, cache)
    assert await known_of(plan, ROWS, cache) == {}


async def test_equal_calls_of_two_plans_that_run_together_are_computed_once():
    builder = PlanBuilder("another author's")
    question = builder.input("q")
    renamed = builder.chat(system="FOR", user=question, name="renamed")
    builder.output("other", builder.chat(user="In short: " + renamed, name="short"))
    generator = FakeGenerator()
    session = Session(generator, FakeText())  # without an output cache
    one, two = await asyncio.gather(
        session.run(debate(), ROWS),
        session.run(builder.build(), ROWS, options=RunOptions(weight=2)),
    )
    assert len(generator.requests) == 24 + 8
    assert one.statistics.num_cached_calls + two.statistics.num_cached_calls == 8
    alone, _ = await run(builder.build(), ROWS, OutputCache())
    assert [row.outputs for row in two.rows] == [row.outputs for row in alone.rows]


@pytest.mark.parametrize("num_changed", [0, 1])
async def test_5_3_equal_calls_of_two_plans_are_computed_once(num_changed):
    """Plans of different shape and names that share a call."""
    builder = PlanBuilder()
    question = builder.input("q")
    builder.output("other", builder.chat(system="FOR", user=question, name="renamed"))
    cache = OutputCache()
    await run(debate(), ROWS, cache)
    rows = [{"q": "new"}] * num_changed + ROWS[num_changed:]
    assert (await run(builder.build(), rows, cache))[1] == num_changed
