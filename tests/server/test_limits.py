"""Limits of the queue and of connections: what is over them is told so, and soon let in again."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helium_jax.errors import CapacityError
from helium_jax.server import Limits
from helium_jax.server.waiting_room import Waiting, WaitingRoom
from helium_jax.testing import FakeGenerator
from tests.server.plans import bearer, until


def waiting_at(gate):
    """A generator whose requests gain no token before the gate is open."""

    async def wait(request, num_sent):
        await gate.wait()

    return FakeGenerator(before_event=wait)


@pytest.mark.parametrize(
    ("limits", "fields"),
    [
        (Limits(key_waiting_sequences=4), {"n": 4}),
        (Limits(key_waiting_tokens=50), {"prompt": "x" * 40}),
    ],
    ids=["sequences", "tokens"],
)
async def test_a_key_that_fills_its_share_of_the_queue_is_told_and_others_are_let_in(
    serve, limits, fields
):
    gate = asyncio.Event()
    generator = waiting_at(gate)
    async with serve(generator, limits=limits, api_keys=("a", "b")) as served:
        body = {"model": "fake", "prompt": "Hi", "max_tokens": 3, **fields}

        def ask(key, **change):
            return served.post("/v1/completions", {**body, **change}, headers=bearer(key))

        first = asyncio.create_task(ask("a"))
        await until(lambda: generator.running)
        for stream in (False, True):
            refused = await ask("a", stream=stream)
            assert (refused.status, refused.error["code"]) == (429, "too_many_waiting")
            assert refused.headers["Retry-After"]
        other = asyncio.create_task(ask("b"))
        await until(lambda: len(generator.requests) == 2 * fields.get("n", 1))
        gate.set()
        assert (await first).status == (await other).status == 200
        assert (await ask("a")).status == 200


async def test_what_has_its_first_token_waits_no_more(serve):
    gate = asyncio.Event()

    async def wait(request, num_sent):
        if num_sent:
            await gate.wait()

    generator = FakeGenerator(before_event=wait)
    async with serve(generator, limits=Limits(key_waiting_sequences=1)) as served:
        asked = []
        for count in range(1, 4):
            asked.append(asyncio.create_task(served.complete(min_tokens=3)))
            await until(lambda: len(generator.running) == count)  # noqa: B023 - awaited at once
        gate.set()
        assert [answer.status for answer in await asyncio.gather(*asked)] == [200] * 3


async def test_an_engine_whose_queue_is_full_is_a_429_before_the_stream_begins(serve):
    full = CapacityError("the queue is full", retry_after_s=7)
    async with serve(FakeGenerator(fail=lambda request, num_sent: full)) as served:
        for stream in (False, True):
            answer = await served.complete(stream=stream)
            assert (answer.status, answer.error["type"]) == (429, "rate_limit_error")
            assert answer.headers["Retry-After"] == "7"


@settings(max_examples=50, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from("ab"), st.lists(st.integers(1, 9), min_size=1, max_size=4)),
        max_size=12,
    ),
    data=st.data(),
)
def test_a_key_never_exceeds_its_limits_and_an_empty_room_counts_nothing(steps, data):
    room = WaitingRoom(Limits(key_waiting_sequences=4, key_waiting_tokens=16))
    inside = []
    for tenant, lengths in steps:
        was_idle = room.waiting(tenant) == Waiting()
        place = room.enter(tenant, lengths)
        try:
            begin = place.__enter__()
        except CapacityError:
            assert not was_idle
        else:
            inside.append(place)
            now = room.waiting(tenant)
            assert was_idle or (now.sequences <= 4 and now.tokens <= 16)
            for index in data.draw(st.lists(st.integers(0, 5), max_size=4)):
                begin(index)
        if inside and data.draw(st.booleans()):
            inside.pop(data.draw(st.integers(0, len(inside) - 1))).__exit__(None, None, None)
    for place in inside:
        place.__exit__(None, None, None)
    assert room.waiting("a") == room.waiting("b") == Waiting()
