"""Several runs over one engine: shared answers, shared room, nobody blocked."""

import asyncio
from collections import Counter

import pytest

from helium_jax.errors import InternalError
from helium_jax.executor import NAIVE, RunOptions, Session
from helium_jax.executor.driver import MAX_AT_ONCE
from helium_jax.executor.events import OpRow
from helium_jax.executor.fair_gate import FairGate
from helium_jax.executor.head_room import HeadRoom, Need
from helium_jax.executor.output_cache import OutputCache
from helium_jax.plan import PlanBuilder
from helium_jax.testing import FakeGenerator, FakeText, settle
from tests.executor.test_executor import Engine, map_reduce, rows_of, to_bytes


def chain(length=2, text="{{q}}", **fields):
    builder = PlanBuilder()
    value = builder.input("q")
    for step in range(length):
        value = builder.completion(f"{step} " + value, name=f"c{step}", **fields)
    builder.output("o", value)
    return builder.build()


def gate_of(capacity):
    return FairGate(HeadRoom(statistics=FakeGenerator().statistics, capacity=capacity))


def session_of(engine, **options):
    return Session(engine, FakeText(), **options)


async def test_equal_calls_of_runs_that_overlap_are_computed_once():
    alone = Engine()
    right = await session_of(alone).run(map_reduce(2), rows_of(4))
    engine = Engine()
    # An answer that one run has while another one has not asked for it yet is in the cache.
    session = session_of(engine, output_cache=OutputCache())
    results = await asyncio.gather(*(session.run(map_reduce(2), rows_of(4)) for _ in range(3)))
    assert len(engine.requests) == len(alone.requests)
    for result in results:
        assert [row.outputs for row in result.rows] == [row.outputs for row in right.rows]
    saved = sum(result.statistics.num_cached_calls for result in results)
    assert saved == 2 * len(alone.requests)
    for result in results:
        cost = result.statistics
        assert cost.needed == (
            cost.computed + cost.kv_cached + cost.single_flight_saved + cost.result_cached
        )


async def test_runs_with_other_salts_or_without_single_flight_share_no_answers():
    engine = Engine()
    session = session_of(engine)
    await asyncio.gather(
        session.run(chain(1), rows_of(1), options=RunOptions(cache_salt="a")),
        session.run(chain(1), rows_of(1), options=RunOptions(cache_salt="b")),
        session.run(chain(1), rows_of(1), options=NAIVE),
    )
    assert len(engine.requests) == 3


async def test_sampled_calls_are_never_shared():
    engine = Engine()
    session = session_of(engine)
    plan = chain(1, temperature=0.7)
    await asyncio.gather(*(session.run(plan, rows_of(2)) for _ in range(2)))
    assert len(engine.requests) == 4


async def test_when_the_run_that_computes_is_cancelled_the_other_computes_itself():
    gate = asyncio.Event()

    async def wait(request, num_sent):
        await gate.wait()

    engine = FakeGenerator(before_event=wait)
    session = session_of(engine)
    cancel = asyncio.Event()
    first = asyncio.create_task(session.run(chain(1), rows_of(1), cancel=cancel))
    await settle(40)
    second = asyncio.create_task(session.run(chain(1), rows_of(1)))
    await settle(40)
    assert len(engine.requests) == 1
    cancel.set()
    await settle(40)
    assert len(engine.requests) == 2
    gate.set()
    assert (await first).status == "cancelled"
    assert (await second).errors == ()


async def test_when_the_run_that_computes_fails_the_other_tries_itself():
    errors = iter([InternalError("broken")])
    engine = FakeGenerator(fail=lambda *_: next(errors, None))
    session = session_of(engine)
    results = await asyncio.gather(*(session.run(chain(1), rows_of(1)) for _ in range(2)))
    assert sorted(len(result.errors) for result in results) == [0, 1]


async def test_5_15_a_short_run_is_not_blocked_by_a_long_one():
    engine = Engine(max_answer_tokens=6)
    session = session_of(engine, max_in_flight=4)
    long = asyncio.create_task(session.run(chain(2), rows_of(200), run_id="long"))
    await settle(60)
    short = asyncio.create_task(session.run(chain(2, temperature=0.5), rows_of(3), run_id="short"))
    await short
    assert not long.done()
    assert engine.max_running == 4
    done = [name for name in engine.finished if name.startswith("long")]
    assert len(done) < 60
    assert (await long).errors == ()


async def test_others_on_the_loop_have_their_turn_while_many_answers_come_at_once():
    gate, beats = asyncio.Event(), 0
    rows_per_beat = Counter()

    async def wait(request, num_sent):
        await gate.wait()

    def note(event):
        if isinstance(event.progress, OpRow):
            rows_per_beat[beats] += 1

    engine = FakeGenerator(before_event=wait, max_answer_tokens=1)
    session = session_of(engine, max_in_flight=64)
    options = RunOptions(policy="as_ready", max_in_flight=64)
    run = asyncio.create_task(session.run(chain(1), rows_of(64), options=options, on_event=note))
    await settle(400)
    assert len(engine.running) == 64
    gate.set()
    while not run.done():
        await asyncio.sleep(0)
        beats += 1
    assert (await run).errors == ()
    assert sum(rows_per_beat.values()) == 64
    assert max(rows_per_beat.values()) <= MAX_AT_ONCE


async def test_5_3_a_second_run_makes_no_call_and_changed_rows_make_theirs():
    engine = Engine()
    session = session_of(engine, output_cache=OutputCache())
    plan = chain(3)
    first = await session.run(plan, rows_of(8))
    assert len(engine.requests) == 24
    again = await session.run(plan, rows_of(8))
    assert len(engine.requests) == 24
    assert [row.outputs for row in again.rows] == [row.outputs for row in first.rows]
    rows = rows_of(8)
    for row in (1, 4, 6):
        rows[row] = {"q": f"changed {row}"}
    changed = await session.run(plan, rows)
    assert len(engine.requests) == 24 + 9
    for row in range(8):
        is_equal = changed.rows[row].outputs == first.rows[row].outputs
        assert is_equal == (row not in (1, 4, 6))


async def test_the_output_cache_can_be_left_alone():
    engine = Engine()
    session = session_of(engine, output_cache=OutputCache())
    options = RunOptions(output_cache=False)
    await session.run(chain(1), rows_of(2))
    await session.run(chain(1), rows_of(2), options=options)
    await session.run(chain(1, cache={"results": "off"}), rows_of(2))
    assert len(engine.requests) == 6


async def test_5_15_runs_submitted_together_share_the_engine():
    engine = Engine(max_answer_tokens=20)
    session = session_of(engine)
    plans = [chain(1, temperature=0.5), chain(1, temperature=0.6)]
    await asyncio.gather(*(session.run(plan, rows_of(6)) for plan in plans))
    assert engine.max_running > 6


@pytest.mark.parametrize("weights", [(1.0, 1.0), (3.0, 1.0)])
async def test_room_is_shared_by_weight(weights):
    gate = gate_of(1)
    order = []

    async def call(run, weight):
        async with gate.turn(run, need=Need(token_ids=(1,)), cost=1.0, weight=weight):
            order.append(run)
            await asyncio.sleep(0)

    tasks = []
    for run, weight in zip("ab", weights, strict=True):
        tasks += [asyncio.create_task(call(run, weight)) for _ in range(40)]
    await asyncio.gather(*tasks)
    early = order[:24]
    share = early.count("a") / early.count("b")
    assert abs(share - weights[0] / weights[1]) < 0.5


async def test_a_run_that_comes_late_does_not_make_up_for_the_time_before():
    gate = gate_of(1)
    order = []

    async def call(run):
        async with gate.turn(run, need=Need(token_ids=(1,)), cost=1.0, weight=1.0):
            order.append(run)
            await asyncio.sleep(0)

    early = [asyncio.create_task(call("a")) for _ in range(60)]
    await settle(80)
    count = len(order)
    late = [asyncio.create_task(call("b")) for _ in range(20)]
    await asyncio.gather(*early, *late)
    first = order[count : count + 10]
    assert 4 <= first.count("b") <= 6


async def test_who_gives_up_waiting_leaves_no_place_taken():
    gate = gate_of(1)
    inside = asyncio.Event()
    leave = asyncio.Event()

    async def hold():
        async with gate.turn("a", need=Need(token_ids=(1,)), cost=1.0, weight=1.0):
            inside.set()
            await leave.wait()

    async def enter():
        async with gate.turn("b", need=Need(token_ids=(1,)), cost=1.0, weight=1.0):
            pass

    holder = asyncio.create_task(hold())
    await inside.wait()
    waiting = [asyncio.create_task(enter()) for _ in range(3)]
    await settle()
    waiting[0].cancel()
    await settle()
    leave.set()
    await asyncio.sleep(0)
    waiting[1].cancel()  # perhaps in the moment in which it was given its place
    await asyncio.gather(*waiting, holder, return_exceptions=True)
    await asyncio.wait_for(enter(), 1)


async def test_prompts_of_two_runs_keep_to_their_rows():
    engine = Engine()
    session = session_of(engine, max_in_flight=2)
    one, two = await asyncio.gather(
        session.run(chain(2), [{"q": "one"}]), session.run(chain(2), [{"q": "two"}])
    )
    prompts = {to_bytes(request) for request in engine.requests}
    assert {b"0 one", b"0 two"} <= prompts
    assert one.rows[0].outputs != two.rows[0].outputs
