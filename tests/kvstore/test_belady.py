"""The offline optimum against exhaustive search, and the store against the optimum."""

import functools
import importlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helium_jax.kvstore.belady import least_regret
from helium_jax.kvstore.eviction import HeapPolicy, least_recently_used_order, plan_aware_order
from helium_jax.kvstore.store import Store
from helium_jax.kvstore.trace import Ends, Holds, Needs, Recorder, Shares


def one_after_the_other(uses):
    """The trace of sequences of one block each."""
    return [
        event
        for table, block in enumerate(uses)
        for event in (Needs(table, (block,)), Holds(table, 1), Shares(table, (block,)), Ends(table))
    ]


def least_by_search(uses, num_pages):
    """Tries every victim."""

    @functools.cache
    def search(i, resident, seen):
        if i == len(uses):
            return 0
        block = uses[i]
        if block in resident:
            return search(i + 1, resident, seen)
        cost = block in seen
        seen |= {block}
        if len(resident) < num_pages:
            return cost + search(i + 1, resident | {block}, seen)
        return cost + min(search(i + 1, resident - {victim} | {block}, seen) for victim in resident)

    return search(0, frozenset(), frozenset())


@given(st.lists(st.integers(0, 4), max_size=12), st.integers(1, 3))
def test_no_choice_of_victims_regrets_less(uses, num_pages):
    found = least_regret(one_after_the_other(uses), num_pages=num_pages)
    assert found == least_by_search(tuple(uses), num_pages)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(1, 2), min_size=1, max_size=10), st.integers(0, 9)),
        max_size=25,
    ),
    st.sampled_from([plan_aware_order, least_recently_used_order]),
)
def test_no_eviction_order_of_the_store_regrets_less(calls, order):
    recorder = Recorder(max_events=10_000)
    store = Store(
        page_size=2,
        num_pages=6,
        secret=bytes(32),
        policy=HeapPolicy(order),
        num_remembered=10_000,
        recorder=recorder,
    )
    for tokens, next_use in calls:
        table = store.open_table(next_use=next_use)
        store.extend_keys(table, tokens)
        store.attach(table, (len(tokens) - 1) // 2)
        store.append(table, -(-len(tokens) // 2) - len(table.pages))
        store.commit(table, len(tokens))
        store.release(table)
    regret = store.snapshot().evicted_then_needed_tokens
    assert least_regret(recorder.events, num_pages=6) * 2 <= regret


def test_a_recorder_ends_at_its_bound():
    recorder = Recorder(max_events=5)
    store = Store(page_size=2, num_pages=8, secret=bytes(32), recorder=recorder)
    for token in range(4):
        table = store.open_table()
        store.extend_keys(table, [token] * 4)
        store.append(table, 2)
        store.commit(table, 4)
        store.release(table)
    assert recorder.events == [
        *(Needs(0, (0, 1)), Holds(0, 2), Shares(0, (0, 1)), Ends(0)),
        Needs(1, (2, 3)),
    ]
    assert recorder.is_full


@pytest.mark.parametrize("pool_fraction", [0.25, 0.35])
def test_a_plan_that_tells_its_prefixes_regrets_at_most_a_tenth_more_than_the_optimum(
    monkeypatch, pool_fraction
):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))  # bench/ is never installed
    bench = importlib.import_module("bench.bench_eviction")
    shape = bench.Shape(pool_fraction=pool_fraction)
    calls = bench.make_debate(shape, 0)
    told = bench.run_debate(calls, shape, "prefixes")
    untold = bench.run_debate(calls, shape, "nothing")
    assert 0 < told.belady_tokens <= told.tokens <= 1.1 * told.belady_tokens
    assert untold.tokens > 2 * told.tokens
