"""The static prefix is what the prompts of all rows share, never more."""

from hypothesis import given
from hypothesis import strategies as st

from helium_jax.executor import count_static_prefix
from helium_jax.physical import lower
from helium_jax.plan import PlanBuilder
from helium_jax.testing import FakeText


def call_of(add):
    builder = PlanBuilder()
    builder.output("o", add(builder, builder.input("q")))
    return lower(builder.build()).calls[0]


def test_a_prefix_ends_where_the_rows_begin_to_differ():
    call = call_of(lambda b, q: b.chat(system="abc", user="de" + q + "f"))
    assert count_static_prefix(FakeText(), call) == 1 + 3 + 1 + 1 + 2
    bare = call_of(lambda b, q: b.completion("abc" + q))
    assert count_static_prefix(FakeText(), bare) == 3


def test_a_prompt_without_slots_is_all_prefix():
    call = call_of(lambda b, q: b.completion("abc"))
    assert count_static_prefix(FakeText(), call) == 3


@given(st.text(max_size=5), st.lists(st.text(max_size=5), min_size=2, max_size=5))
def test_no_row_has_a_shorter_common_prefix(literal, values):
    call = call_of(lambda b, q: b.chat(system="s", user=literal + q))
    length = count_static_prefix(FakeText(), call)
    prompts = [
        FakeText().encode_chat(
            [{"role": "system", "content": "s"}, {"role": "user", "content": literal + value}]
        )
        for value in values
    ]
    assert len({tuple(ids[:length]) for ids in prompts}) == 1
