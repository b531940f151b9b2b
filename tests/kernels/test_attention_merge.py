"""Merging parts equals attention over all keys at once; empty parts weigh nothing."""

import jax
import jax.numpy as jnp
import numpy as np

from helium_jax.kernels.attention.merge import (
    HIDDEN,
    Partial,
    empty_partial,
    finish_partial,
    merge_partials,
)


def part_of(scores, values):
    peak = scores.max(-1)
    weights = jnp.exp(scores - peak[:, None])
    return Partial(out=weights @ values, peak=peak, total=weights.sum(-1))


def test_parts_merge_to_the_whole_in_any_grouping():
    rng = np.random.default_rng(0)
    scores = jnp.asarray(rng.standard_normal((5, 12)) * 20, jnp.float32)
    values = jnp.asarray(rng.standard_normal((12, 3)), jnp.float32)
    a, b, c = (part_of(scores[:, i : i + 4], values[i : i + 4]) for i in (0, 4, 8))
    none = empty_partial((5,), 3)
    for merged in (
        merge_partials(merge_partials(a, b), c),
        merge_partials(none, merge_partials(c, merge_partials(merge_partials(a, none), b))),
    ):
        out, lse = finish_partial(merged)
        np.testing.assert_allclose(out, jax.nn.softmax(scores) @ values, atol=1e-6)
        np.testing.assert_allclose(lse, jax.nn.logsumexp(scores, axis=-1), atol=1e-5)


def test_nothing_merged_with_nothing_is_zero_and_minus_infinity():
    out, lse = finish_partial(merge_partials(empty_partial((2,), 3), empty_partial((2,), 3)))
    np.testing.assert_array_equal(out, np.zeros((2, 3)))
    np.testing.assert_array_equal(lse, [-np.inf, -np.inf])


def test_a_part_whose_keys_were_all_hidden_weighs_exactly_nothing():
    real = part_of(jnp.full((1, 2), -300.0), jnp.ones((2, 3)))
    hidden = Partial(
        out=jnp.full((1, 3), 7.0), peak=jnp.full((1,), HIDDEN), total=jnp.full((1,), 9.0)
    )
    for merged in (merge_partials(real, hidden), merge_partials(hidden, real)):
        np.testing.assert_array_equal(merged.out, real.out)
        np.testing.assert_array_equal(merged.total, real.total)
