"""Eviction order against a sorted list."""

from hypothesis import given
from hypothesis import strategies as st

from helium_jax.kvstore.eviction import HeapPolicy, least_recently_used_order, plan_aware_order
from helium_jax.kvstore.prefix_index import Block, BlockKey


def make_block(number, next_use, last_used):
    key = BlockKey(bytes([number % 256, number // 256]), b"")
    return Block(key=key, parent=None, page=number, next_use=next_use, last_used=last_used)


@given(
    st.sampled_from([plan_aware_order, least_recently_used_order]),
    st.lists(
        st.one_of(
            st.tuples(st.one_of(st.none(), st.integers(0, 5)), st.integers(0, 5)),
            st.integers(0, 30),
            st.just("pop"),
        ),
        max_size=300,
    ),
)
def test_pops_the_smallest_of_those_still_there(order, actions):
    policy = HeapPolicy(order)
    present: list[Block] = []
    for number, action in enumerate(actions):
        if action == "pop":
            if present:
                block = policy.pop()
                assert order(block) == min(map(order, present))
                present.remove(block)
        elif isinstance(action, tuple):
            block = make_block(number, *action)
            policy.add(block)
            present.append(block)
        elif action < len(present):
            block = present.pop(action)
            policy.remove(block)
            if action % 2:  # it comes back with another place in the order
                block.last_used += 3
                policy.add(block)
                present.append(block)
        assert len(policy) == len(present)
        assert all(block in policy for block in present)


def test_unknown_next_use_goes_first_then_the_furthest_then_the_oldest():
    policy = HeapPolicy()
    blocks = [make_block(i, *pair) for i, pair in enumerate([(1, 0), (7, 2), (7, 1), (None, 9)])]
    for block in blocks:
        policy.add(block)
    assert [policy.pop().page for _ in blocks] == [3, 2, 1, 0]


def test_blocks_used_again_and_again_do_not_pile_up():
    policy = HeapPolicy()
    block = make_block(0, None, 0)
    for time in range(1000):
        block.last_used = time
        policy.add(block)
        policy.remove(block)
    assert len(policy._heap) < 100
