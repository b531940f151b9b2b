"""A mixture of experts, computed exactly: every token visits its experts and no others."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from helium_jax.models.config import ModelConfig
from helium_jax.models.layers import ACTIVATIONS
from helium_jax.models.params import Experts, QuantizedMatrix


def mixture(x: Float[Array, "T D"], experts: Experts, config: ModelConfig) -> Float[Array, "T D"]:
    """Sum over a token's chosen experts of weight times expert(x).

    Rows are sorted by expert and multiplied in one ragged product, so the work is
    T * experts_per_token rows whatever the number of experts; there is no capacity and nothing
    is dropped, so a row depends on no other (padding included).
    """
    tokens, width = x.shape
    per_token = config.experts_per_token
    weights, chosen = route(x, experts.router, config)  # [T, per_token]
    order = jnp.argsort(chosen.reshape(-1), stable=True)  # [T * per_token]
    rows = x[order // per_token]
    sizes = jnp.zeros((config.num_experts,), jnp.int32).at[chosen.reshape(-1)].add(1)
    num, _, wide, _ = _matrix(experts.gate_up).shape
    gate_up = _ragged(rows, _matrix(experts.gate_up).reshape(num, 2 * wide, width), sizes)
    gate_up = gate_up.reshape(-1, 2, wide).astype(x.dtype)
    hidden = ACTIVATIONS[config.activation](gate_up[:, 0]) * gate_up[:, 1]
    out = _ragged(hidden, _matrix(experts.down), sizes)  # [T * per_token, D] float32
    unsorted = jnp.zeros_like(out).at[order].set(out, unique_indices=True)
    mixed = unsorted.reshape(tokens, per_token, width) * weights[..., None]
    return jnp.sum(mixed, axis=1).astype(x.dtype)


def route(
    x: Float[Array, "T D"], router: Float[Array, "E D"], config: ModelConfig
) -> tuple[Float[Array, "T e"], Array]:
    """Weights (float32) and indices of each token's experts; softmax over all, then the top ones."""
    logits = jax.lax.dot_general(
        x, router, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
    )
    weights, chosen = jax.lax.top_k(jax.nn.softmax(logits, axis=-1), config.experts_per_token)
    if config.norm_topk_prob:
        weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    return weights, chosen


def _matrix(weight: Array | QuantizedMatrix) -> Array:
    if isinstance(weight, QuantizedMatrix):
        raise NotImplementedError(
            "expert matrices in int8 are not supported; leave them as they are"
        )
    return weight


def _ragged(
    rows: Float[Array, "R I"], weights: Float[Array, "E O I"], sizes: Array
) -> Float[Array, "R O"]:
    return jax.lax.ragged_dot(
        rows, jnp.swapaxes(weights, 1, 2), sizes, preferred_element_type=jnp.float32
    )
