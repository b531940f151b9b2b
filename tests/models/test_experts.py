"""The mixture of experts is exact, and no row depends on another."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from helium_jax.models.experts import mixture, route
from helium_jax.models.params import Experts
from helium_jax.models.shapes import SHAPES

WIDTH, WIDE = 12, 20


@functools.cache
def experts_of(num_experts):
    keys = jax.random.split(jax.random.key(num_experts), 3)
    return Experts(
        router=jax.random.normal(keys[0], (num_experts, WIDTH)),
        gate_up=jax.random.normal(keys[1], (num_experts, WIDE, 2, WIDTH)) * 0.3,
        down=jax.random.normal(keys[2], (num_experts, WIDTH, WIDE)) * 0.3,
    )


@functools.cache
def config_of(num_experts, per_token, normalise):
    from dataclasses import replace

    return replace(
        SHAPES["qwen3-30b-a3b"],
        num_experts=num_experts,
        experts_per_token=per_token,
        norm_topk_prob=normalise,
    )


run = jax.jit(mixture, static_argnames="config")


def every_expert_on_every_token(x, experts, config):
    """The definition, in numpy float64."""
    x, router = np.asarray(x, np.float64), np.asarray(experts.router, np.float64)
    logits = x @ router.T
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out = np.zeros_like(x)
    for row in range(len(x)):
        chosen = np.argsort(-weights[row], kind="stable")[: config.experts_per_token]
        scale = weights[row, chosen].sum() if config.norm_topk_prob else 1.0
        for e in chosen:
            gate, up = (np.asarray(experts.gate_up[e], np.float64) @ x[row]).T
            hidden = gate / (1 + np.exp(-gate)) * up
            done = np.asarray(experts.down[e], np.float64) @ hidden
            out[row] += weights[row, e] / scale * done
    return out


@hypothesis.given(
    st.sampled_from([2, 16, 40]),  # each with each below is a program
    st.sampled_from([(4, 1), (4, 4), (16, 3)]),
    st.booleans(),
    st.integers(0, 2**31),
    st.booleans(),
)
@hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
def test_matches_the_definition(tokens, experts_and_chosen, normalise, seed, all_alike):
    num_experts, per_token = experts_and_chosen
    x = jax.random.normal(jax.random.key(seed), (tokens, WIDTH))
    if all_alike:  # every row goes to the same experts
        x = jnp.tile(x[:1], (tokens, 1))
    config, experts = config_of(num_experts, per_token, normalise), experts_of(num_experts)
    expected = every_expert_on_every_token(x, experts, config)
    np.testing.assert_allclose(run(x, experts, config), expected, atol=2e-5)


def test_a_row_has_the_same_bits_in_any_company():
    config, experts = config_of(16, 3, True), experts_of(16)
    x = jax.random.normal(jax.random.key(0), (40, WIDTH))
    others = x.at[1:].multiply(-3.0)
    alone = np.asarray(run(x, experts, config)[0])
    np.testing.assert_array_equal(alone, run(others, experts, config)[0])
    np.testing.assert_array_equal(alone, run(x[::-1], experts, config)[-1])


def test_padding_of_any_content_changes_no_bit_of_the_others():
    config, experts = config_of(16, 3, False), experts_of(16)
    x = jax.random.normal(jax.random.key(0), (16, WIDTH))
    bad = x.at[9:].set(jnp.nan)
    np.testing.assert_array_equal(run(x, experts, config)[:9], run(bad, experts, config)[:9])


def test_weights_sum_to_one_only_when_normalised():
    x = jax.random.normal(jax.random.key(0), (6, WIDTH))
    router = experts_of(16).router
    normalised, _ = route(x, router, config_of(16, 3, True))
    raw, _ = route(x, router, config_of(16, 3, False))
    np.testing.assert_allclose(normalised.sum(-1), 1.0, rtol=1e-6)
    assert (np.asarray(raw.sum(-1)) < 1.0).all()
