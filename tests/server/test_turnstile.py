"""Who comes in a burst passes, a few in each turn of the event loop, and nobody is lost."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from helium_jax.server.turnstile import Turnstile


async def turn():
    await asyncio.sleep(0)


@settings(max_examples=50, deadline=None)
@given(
    per_turn=st.integers(1, 5),
    arrivals=st.lists(st.integers(0, 9), max_size=6),
    left=st.sets(st.integers(0, 53)),
)
def test_each_turn_lets_few_in_and_everybody_who_stays_passes(per_turn, arrivals, left):
    """`arrivals`: how many come in each turn; `left`: which of them have left by the next."""

    async def run():
        turnstile, passed, now = Turnstile(per_turn), [], 0

        async def come(number):
            await turnstile.pass_through()
            passed.append((now, number))

        tasks = []
        for count in [*arrivals, *[0] * (2 * sum(arrivals) + 4)]:
            tasks += [asyncio.create_task(come(len(tasks) + i)) for i in range(count)]
            await turn()
            now += 1
            for number in left & set(range(len(tasks) - count, len(tasks))):
                tasks[number].cancel()
        assert all(task.done() for task in tasks)
        assert {number for _, number in passed} >= set(range(len(tasks))) - left
        for first in range(now):  # what is woken in one turn runs in the next
            for last in range(first, now):
                count = sum(first <= when <= last for when, _ in passed)
                assert count <= per_turn * (last - first + 2)
        assert turnstile._turn is None, "an idle turnstile costs nothing"

    asyncio.run(run())
