"""Top-k, top-p and min-p by bisection keep what a plain sort keeps, ties included."""

from functools import partial

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given, settings

from helium_jax.engine.sampling import _to_blocks
from helium_jax.engine.sampling_filters import find_thresholds, scale_weights
from helium_jax.engine.sampling_rows import num_ints, pack_row, pack_sampling, unpack_sampling
from helium_jax.types import SamplingParams

NUM_ROWS = 3


@partial(jax.jit, static_argnames="num_rows")
def kept_by_bisection(logits, ints, num_rows):
    rows = unpack_sampling(ints, num_rows)
    maximum = logits.max(axis=1)
    limits = find_thresholds(_to_blocks(logits), maximum, rows)
    weights = scale_weights(logits, maximum[:, None], rows.temperature[:, None])
    return (weights > 0) & (logits >= limits.logit[:, None]) & (weights >= limits.weight[:, None])


def keep(logits, params):
    """[S, V] bool of the code under test for float32 logits and one SamplingParams per row."""
    out = np.empty(num_ints(len(params)), np.int32)
    rows = [pack_row(p, seed=0, prompt_len=1, slot=0) for p in params]
    pack_sampling(rows, [1] * len(rows), num_slots=1, out=out)
    return np.asarray(kept_by_bisection(logits, out, num_rows=len(params)))


def keep_by_sort(logits, params, nudge=0.0):
    """[V] bool by sorting, in float64; `nudge` moves the limits to bracket rounding."""
    weights = np.exp((logits.astype(np.float64) - logits.max()) / max(params.temperature, 1e-6))
    is_kept = np.ones(len(logits), bool)
    if params.top_k:
        kth = np.sort(logits)[::-1][min(params.top_k, len(logits)) - 1]
        is_kept &= logits >= kth
    if params.top_p < 1.0:
        left = np.where(is_kept, weights, 0.0)
        ascending = np.sort(left)
        below = np.concatenate([[0.0], np.cumsum(ascending)])
        # The weight of all strictly heavier tokens; weights closer than `nudge` may round to
        # equals, which are heavier for the strict bracket and not for the wide one.
        edge = left * (1 + nudge)
        heavier = below[-1] - below[np.searchsorted(ascending, edge, side="right")]
        if nudge < 0:
            equal = np.searchsorted(ascending, left, side="right") - np.searchsorted(
                ascending, left, side="left"
            )
            heavier -= left * equal
        is_kept &= heavier < (np.float32(params.top_p) + nudge) * left.sum()
    return is_kept & (weights >= np.float32(params.min_p) * (1 - nudge)) & (weights > 1e-37)


def check_against_sort(logits, params):
    kept = keep(logits, params)
    for row, p in enumerate(params):
        fewest = keep_by_sort(logits[row], p, nudge=-1e-5)
        most = keep_by_sort(logits[row], p, nudge=1e-5)
        assert np.all(fewest <= kept[row]), (p, np.flatnonzero(fewest & ~kept[row]))
        assert np.all(kept[row] <= most), (p, np.flatnonzero(kept[row] & ~most))
        assert kept[row][np.argmax(logits[row])]


filters = st.builds(
    SamplingParams,
    temperature=st.sampled_from([1e-7, 0.3, 1.0, 5.0, 100.0]),
    top_k=st.sampled_from([0, 1, 2, 5, 20, 64, 65, 300, 8448, 100_000]),
    top_p=st.sampled_from([1e-6, 0.1, 0.5, 0.9, 0.999999, 1.0]) | st.floats(0.001, 1.0),
    min_p=st.sampled_from([0.0, 1e-6, 0.05, 0.5, 1.0]),
)


@st.composite
def logit_rows(draw, vocab_size):
    """Rows with many ties or none, close together or far apart, some impossible tokens."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([1, 2, 7, 60, 10**6]))
    spread = draw(st.sampled_from([0.0, 1e-6, 1.0, 10.0, 300.0]))
    shift = draw(st.sampled_from([0.0, -1000.0, 12.5]))
    logits = rng.integers(0, levels, (NUM_ROWS, vocab_size)) * (spread / levels) + shift
    logits[rng.random(logits.shape) < draw(st.sampled_from([0.0, 0.3, 0.99]))] = -np.inf
    logits[:, rng.integers(vocab_size)] = shift + spread  # something is always possible
    return logits.astype(np.float32)


@settings(max_examples=120, deadline=None)
@given(logits=logit_rows(40), params=st.lists(filters, min_size=NUM_ROWS, max_size=NUM_ROWS))
def test_keeps_what_a_sort_keeps_in_a_small_vocabulary(logits, params):
    check_against_sort(logits, params)


@settings(max_examples=60, deadline=None)
@given(logits=logit_rows(8448), params=st.lists(filters, min_size=NUM_ROWS, max_size=NUM_ROWS))
def test_keeps_what_a_sort_keeps_when_small_k_is_searched_among_candidates(logits, params):
    check_against_sort(logits, params)


@settings(max_examples=40, deadline=None)
@given(logits=logit_rows(8448), params=st.lists(filters, min_size=NUM_ROWS, max_size=NUM_ROWS))
def test_a_rows_filter_does_not_depend_on_the_other_rows(logits, params):
    together = keep(logits, params)
    for row, p in enumerate(params):
        alone = keep(logits[[row] * NUM_ROWS], [p] * NUM_ROWS)
        np.testing.assert_array_equal(together[row], alone[0])


@pytest.mark.parametrize("vocab_size", [40, 8448])
def test_all_tokens_equal_to_the_kth_are_kept(vocab_size):
    logits = np.full((1, vocab_size), -1.0, np.float32)
    logits[0, [3, 7, 11, 30]] = [2.0, 1.0, 1.0, 1.0]
    kept = keep(logits, [SamplingParams(temperature=1.0, top_k=2)])
    assert np.flatnonzero(kept[0]).tolist() == [3, 7, 11, 30]


def test_negative_zero_ties_with_zero():
    logits = np.array([[0.0, -0.0, -1.0, -0.0]], np.float32)
    kept = keep(logits, [SamplingParams(temperature=1.0, top_k=1)])
    assert kept[0].tolist() == [True, True, False, True]


def test_top_p_counts_only_what_top_k_left():
    logits = np.log(np.array([[0.4, 0.3, 0.2, 0.1]], np.float32))
    # Of the two left the first holds 4/7 = 0.571.
    params = [SamplingParams(temperature=1.0, top_k=2, top_p=p) for p in (0.56, 0.58)]
    kept = keep(np.repeat(logits, 2, axis=0), params)
    assert kept.tolist() == [[True, False, False, False], [True, True, False, False]]


def test_temperature_comes_before_top_p():
    logits = np.log(np.array([[0.4, 0.3, 0.2, 0.1]], np.float32))
    params = [SamplingParams(temperature=t, top_p=0.5) for t in (0.1, 1.0, 100.0)]
    kept = keep(np.repeat(logits, 3, axis=0), params)
    assert kept.sum(axis=1).tolist() == [1, 2, 2]


def test_greedy_rows_keep_everything():
    logits = np.array([[0.0, 1.0, 2.0]], np.float32)
    kept = keep(np.repeat(logits, 2, axis=0), [SamplingParams(top_k=1, top_p=0.1, min_p=1.0)] * 2)
    assert kept[:, 2].all()
