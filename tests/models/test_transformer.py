"""The forward pass as training and serving use it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helium_jax.models.config import ModelConfig
from helium_jax.models.params import init_params
from helium_jax.models.quantize import quantize
from helium_jax.models.transformer import compute_logits, forward

TINY_QWEN3 = {
    "model_type": "qwen3",
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "vocab_size": 64,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}


def causal(cache, layer, q, k, v, *, scale, window, soft_cap):
    tokens, heads, size = q.shape
    grouped = q.reshape(tokens, k.shape[1], -1, size)
    scores = jnp.einsum("tkgh,skh->kgts", grouped, k) * scale
    scores = jnp.where(jnp.tril(jnp.ones((tokens, tokens), bool))[None, None], scores, -jnp.inf)
    out = jnp.einsum("kgts,skh->tkgh", jax.nn.softmax(scores, -1), v)
    return cache, out.reshape(tokens, heads, size)


@pytest.fixture(scope="module")
def model():
    config = ModelConfig.from_hf(TINY_QWEN3)
    return config, init_params(config, jax.random.key(0))


@partial(jax.jit, static_argnames="config")
def logits_of(params, config, ids):
    hidden, _ = forward(params, config, ids, jnp.arange(ids.shape[0]), causal, None)
    return compute_logits(params, config, hidden)


def test_gradients_flow_to_every_leaf_through_a_mapped_batch(model):
    config, params = model
    ids = jnp.arange(24).reshape(2, 12)

    def loss(params):
        logits = jax.vmap(lambda row: logits_of(params, config, row))(ids)
        chosen = jax.nn.log_softmax(logits[:, :-1])
        return -jnp.mean(jnp.take_along_axis(chosen, ids[:, 1:, None], axis=-1))

    gradients = jax.jit(jax.grad(loss))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_later_tokens_do_not_change_earlier_logits(model):
    config, params = model
    ids = jnp.arange(12)
    whole = logits_of(params, config, ids)
    np.testing.assert_allclose(logits_of(params, config, ids[:7]), whole[:7], atol=1e-5)


def test_logits_are_float32_for_bfloat16_weights(model):
    config, _ = model
    params = init_params(config, jax.random.key(0), jnp.bfloat16)
    assert logits_of(params, config, jnp.arange(4)).dtype == jnp.float32


@pytest.mark.parametrize("quantized", [False, True])
def test_the_compiled_step_does_not_copy_a_weight(quantized):
    """XLA:CPU once transposed gate_up in every step, at 20x the time of the product."""
    config = ModelConfig.from_hf(TINY_QWEN3 | {"intermediate_size": 4096, "hidden_size": 64})
    params = init_params(config, jax.random.key(0))
    params = quantize(params) if quantized else params
    compiled = logits_of.lower(params, config, jnp.zeros(2, jnp.int32)).compile()
    smallest_copy = 4096 * 64 * (1 if quantized else 4)  # of `down`
    assert compiled.memory_analysis().temp_size_in_bytes < smallest_copy
