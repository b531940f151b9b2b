"""Calls go to the engine while their expected KV pages fit; nobody starves, nothing deadlocks."""

import asyncio
import dataclasses
from dataclasses import dataclass, field
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from helium_jax.engine import AsyncEngine, Loop, Runner
from helium_jax.executor.fair_gate import FairGate
from helium_jax.executor.head_room import HeadRoom, Need
from helium_jax.testing import FakeGenerator, settle
from helium_jax.types import CacheSnapshot, GenerateRequest, SamplingParams
from tests.engine.conftest import INFO, MODEL, resolved, tiny_params

PAGE = 4
(IDLE,) = FakeGenerator().statistics()


@dataclass
class Pool:
    """One engine's pages, as the calls that have begun to answer use them."""

    num_pages: int
    others: int = 0  # used by requests that are not ours
    used: dict[int, tuple[set[tuple[int, ...]], int]] = field(default_factory=dict)

    def statistics(self):
        shared = set().union(*(pages for pages, _ in self.used.values()))
        num_used = self.others + len(shared) + sum(private for _, private in self.used.values())
        free = max(self.num_pages - num_used, 0)
        cache = CacheSnapshot(
            page_size=PAGE,
            num_pages=self.num_pages,
            num_free=free // 2,
            num_cached=free - free // 2,
            num_used=num_used,
        )
        return dataclasses.replace(IDLE, cache=cache, num_running=len(self.used))

    def hold(self, number, token_ids, num_tokens):
        full = {token_ids[:end] for end in range(PAGE, len(token_ids) + 1, PAGE)}
        total = -(-(len(token_ids) + num_tokens) // PAGE)
        self.used[number] = full, total - len(full)


def room_of(*pools, capacity=99, **options):
    return HeadRoom(
        statistics=lambda: tuple(pool.statistics() for pool in pools), capacity=capacity, **options
    )


def seat_of(room, num_prompt, output=0.0, *, first=0, worker=None):
    """A look, and a seat for a prompt that shares nothing with one of another `first`."""
    room.look()
    ids = tuple(range(first, first + num_prompt))
    return room.take(Need(token_ids=ids, output_tokens=output, worker=worker))


def test_calls_get_seats_while_their_pages_and_those_of_their_answers_fit():
    pool = Pool(num_pages=10)
    room = room_of(pool)
    assert seat_of(room, 16, first=0)  # 4 pages
    assert seat_of(room, 8, output=30.0, first=100)  # 2, and 3 of the 8 that its answer may need
    assert seat_of(room, 8, first=200) is None
    assert seat_of(room, 4, first=300)


def test_a_page_that_several_calls_read_counts_once():
    room = room_of(Pool(num_pages=5))
    seats = [seat_of(room, 17) for _ in range(2)]  # 4 pages together, and one each
    assert seats[0] is not None
    assert seats[1] is None
    room = room_of(Pool(num_pages=6))
    assert all([seat_of(room, 17) for _ in range(2)])


def test_what_a_started_call_holds_is_counted_by_the_store_alone():
    pool = Pool(num_pages=8)
    room = room_of(pool)
    seat = seat_of(room, 16)
    assert seat is not None
    pool.hold(0, tuple(range(16)), 1)  # 5 pages
    room.grew(seat, 1)
    assert seat_of(room, 16) is not None  # the same prompt: nothing is new
    assert seat_of(room, 16, first=100) is None
    assert seat_of(room, 12, first=100) is not None


def test_a_call_larger_than_what_is_left_gets_a_seat_where_none_of_ours_is():
    room = room_of(Pool(num_pages=4, others=4))
    seat = seat_of(room, 400)
    assert seat is not None
    assert seat_of(room, 1) is None
    room.leave(seat)
    assert seat_of(room, 1) is not None


def test_pages_do_not_count_where_the_number_of_calls_was_given():
    room = room_of(Pool(num_pages=1), capacity=2, counts_pages=False)
    assert [seat_of(room, 40, first=100 * i) is not None for i in range(3)] == [True, True, False]


def test_a_call_for_any_engine_goes_to_the_least_loaded_that_has_room():
    pools = (Pool(num_pages=9), Pool(num_pages=4))
    room = room_of(*pools)
    workers = [seat_of(room, 16, first=100 * i) for i in range(4)]
    assert [seat and seat.worker for seat in workers] == [0, 1, 0, None]


def test_a_dead_engine_is_chosen_by_nobody_and_refuses_who_names_it():
    dead = dataclasses.replace(Pool(num_pages=1).statistics(), is_alive=False)
    alive = Pool(num_pages=4)
    room = HeadRoom(statistics=lambda: (dead, alive.statistics()), capacity=99)
    seats = [seat_of(room, 16, first=i) for i in (0, 100)]
    assert [seat and seat.worker for seat in seats] == [1, None]
    assert seat_of(room, 16, first=200, worker=0) is not None


async def enter(gate, run, num_prompt, *, until, first=0, worker=None, order=None, name=None):
    need = Need(token_ids=tuple(range(first, first + num_prompt)), worker=worker)
    async with gate.turn(run, need=need, cost=1.0, weight=1.0):
        if order is not None:
            order.append(name)
        await until.wait()


async def test_nothing_smaller_overtakes_a_call_at_its_engine_and_others_are_open():
    gate = FairGate(room_of(Pool(num_pages=8), Pool(num_pages=8)))
    order, first, rest = [], asyncio.Event(), asyncio.Event()
    calls = [
        ("small", "a", 16, 0, first),
        ("large", "a", 32, 0, rest),
        ("overtakes", "b", 4, 0, rest),
        ("elsewhere", "a", 16, 1, rest),
    ]
    tasks = []
    for place, (name, run, size, worker, until) in enumerate(calls):
        call = enter(
            gate, run, size, until=until, first=100 * place, worker=worker, order=order, name=name
        )
        tasks.append(asyncio.create_task(call))
        await settle()
    # Run b has had nothing yet, so its turn comes before the large call's, and both wait no more
    # than the small one lasts.
    assert order == ["small", "overtakes", "elsewhere"]
    first.set()
    await settle()
    assert order == ["small", "overtakes", "elsewhere"]  # 8 pages are wanted, 1 is held
    late = enter(gate, "a", 4, until=rest, first=900, worker=0, order=order, name="late")
    tasks.append(asyncio.create_task(late))
    await settle()
    assert "late" not in order
    rest.set()
    await asyncio.gather(*tasks)
    assert order[3:] == ["large", "late"]


async def test_an_answer_that_begins_lets_the_next_one_in():
    """Its prompt turns out to be shared with what others read already."""
    pool = Pool(num_pages=8)
    gate = FairGate(room_of(pool))
    until, order = asyncio.Event(), []
    need = Need(token_ids=tuple(range(28)))
    async with gate.turn("a", need=need, cost=1.0, weight=1.0) as seat:
        task = asyncio.create_task(enter(gate, "b", 8, until=until, first=500, order=order))
        await settle()
        assert order == []
        pool.used[0] = (set(), 5)  # two of its seven pages are others' too
        gate.grew(seat, 1)
        await settle()
        assert order == [None]
    until.set()
    await task


async def test_who_gives_up_waiting_opens_its_engine_for_those_behind():
    gate = FairGate(room_of(Pool(num_pages=8)))
    order, until = [], asyncio.Event()
    holder = asyncio.create_task(enter(gate, "a", 16, until=until))
    await settle()
    large = asyncio.create_task(enter(gate, "a", 32, until=until, first=100))
    small = asyncio.create_task(enter(gate, "a", 4, until=until, first=200, order=order))
    await settle()
    assert order == []
    large.cancel()
    await settle()
    assert order == [None]
    until.set()
    await asyncio.gather(holder, small)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.integers(1, 60),  # prompt; pools have less than the longest need
            st.integers(0, 24),  # answer
            st.sampled_from([None, 0, 1]),
            st.integers(0, 3),  # prompts with equal numbers begin alike
        ),
        min_size=1,
        max_size=24,
    ),
    st.integers(1, 12),
    st.integers(0, 12),
    st.sets(st.integers(0, 23), max_size=6),
    st.integers(0, 999),
)
def test_every_call_gets_its_turn_whatever_the_others_need(
    calls, num_pages, others, unwanted, seed
):
    """No starvation, no deadlock: with nothing but the ends of calls to go on, all come through;
    and whoever is let in beside others fits."""
    pools = (Pool(num_pages=num_pages, others=others), Pool(num_pages=num_pages))
    room = room_of(*pools, capacity=9)
    gate = FairGate(room)
    inside: dict[int, asyncio.Event] = {}
    done: list[int] = []
    random = Random(seed)

    async def one(number, run, num_prompt, num_output, worker, group):
        ids = tuple(100 * group + i for i in range(num_prompt))
        need = Need(token_ids=ids, output_tokens=num_output, worker=worker)
        async with gate.turn(run, need=need, cost=num_prompt, weight=1.0 + number % 2) as seat:
            assert worker in (None, seat.worker)
            inside[number] = asyncio.Event()
            pool = pools[seat.worker]
            try:
                for count in range(1, num_output + 1):
                    pool.hold(number, ids, count)
                    gate.grew(seat, 1)
                    if random.random() < 0.2:
                        await asyncio.sleep(0)
                await inside[number].wait()
                done.append(number)
            finally:
                pool.used.pop(number, None)
                del inside[number]

    async def main():
        tasks = {}
        for number, call in enumerate(calls):
            tasks[number] = asyncio.create_task(one(number, *call))
            if random.random() < 0.3:
                await settle()
        pending = [n for n in unwanted if n in tasks]
        while True:
            await settle()
            if all(task.done() for task in tasks.values()):
                break
            assert inside or pending, "some wait and none is inside"
            if pending and (not inside or random.random() < 0.5):
                tasks[pending.pop()].cancel()
            elif inside:
                inside[random.choice([*inside])].set()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        wanted = {n for n, task in tasks.items() if not task.cancelled()}
        assert set(done) >= wanted

    asyncio.run(main())
    room.look()
    for engine in room._engines:
        assert not engine.seats
        assert not engine.read
        assert not engine.wanted
        assert (engine.num_wanted, engine.left) == (0, 0)
    assert room._num_inside == 0


async def test_on_a_real_engine_under_pressure_the_gate_spares_preemptions_and_changes_no_token():
    config = resolved(num_pages=12, steps_in_flight=2)

    def build():
        return Loop(Runner(tiny_params(), MODEL, config), INFO, config)

    prompts = [tuple(1 + (7 * row + 3 * i) % 50 for i in range(20)) for row in range(10)]
    sampling = SamplingParams(max_tokens=60, min_tokens=60, ignore_eos=True)

    async def answer_all(engine, name, *, counts_pages):
        room = HeadRoom(statistics=engine.statistics, capacity=8, counts_pages=counts_pages)
        gate = FairGate(room)

        async def ask(number, prompt):
            tokens = []
            need = Need(token_ids=prompt, output_tokens=60.0)
            async with gate.turn("run", need=need, cost=1.0, weight=1.0) as seat:
                request = GenerateRequest(
                    request_id=f"{name}-{number}", token_ids=prompt, sampling=sampling
                )
                async for event in engine.generate(request):
                    gate.grew(seat, len(event.token_ids))
                    tokens += event.token_ids
            return tokens

        await engine.reset_cache()
        (before,) = engine.statistics()
        answers = await asyncio.gather(*(ask(*each) for each in enumerate(prompts)))
        (after,) = engine.statistics()
        return answers, after.num_preemptions - before.num_preemptions

    async with AsyncEngine(build) as engine:
        flooded, num_flooded = await answer_all(engine, "flooded", counts_pages=False)
        measured, num_measured = await answer_all(engine, "measured", counts_pages=True)
    assert measured == flooded
    assert num_measured < num_flooded
