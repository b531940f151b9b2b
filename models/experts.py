"""A mixture of experts, computed exactly: every token visits its experts and no others."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from helium_jax.models.config import ModelConfig
from helium_jax.models.layers import ACTIVATIONS, linear
from helium_jax.models.params import Experts


def mixture(x: Float[Array, "T D"], experts: Experts, config: ModelConfig) -> Float[Array, "T D"]:
    """Sum over a token's chosen experts of weight times expert(x).

    A (token, expert) pair is a row. Rows are sorted by expert and cut into blocks of one expert
    each; a loop runs over the blocks there are, so the work is about T * experts_per_token rows
    whatever the number of experts. jax.lax.ragged_dot would be the words for it, but XLA:CPU
    turns it into a product with all experts: 32x the operations at E = 32 (jax 0.10.2).

    There is no capacity and nothing is dropped, and each row is multiplied in a block of fixed
    size, so a row's result depends on no other row, padding included.
    """
    tokens, width = x.shape
    per_token = config.experts_per_token
    weights, chosen = route(x, experts.router, config)  # [T, per_token]
    order = jnp.argsort(chosen.reshape(-1), stable=True)  # [T * per_token]
    block = _block_rows(tokens * per_token, config.num_experts)
    rows = jnp.pad(x[order // per_token], ((0, block), (0, 0)))  # the last block may stick out
    out = _run_blocks(rows, experts, config, chosen.reshape(-1), block)[: tokens * per_token]
    unsorted = jnp.zeros_like(out).at[order].set(out, unique_indices=True)
    mixed = unsorted.reshape(tokens, per_token, width) * weights[..., None]
    return jnp.sum(mixed, axis=1).astype(x.dtype)


def _block_rows(num_rows: int, num_experts: int) -> int:
    """Rows of a block: about what an expert gets, a power of two from 8 to 64."""
    mean = max(num_rows // num_experts, 1)
    return min(max(1 << (mean - 1).bit_length(), 8), 64)


def _run_blocks(
    rows: Float[Array, "R D"],
    experts: Experts,
    config: ModelConfig,
    chosen: Int[Array, " n"],
    block: int,
) -> Float[Array, "R D"]:
    """Each sorted row through its expert, float32 [R, D].

    Blocks run in the order of their first rows. One may reach into the next expert's rows and
    writes nonsense there, which the next expert's own blocks, running later, overwrite.
    """
    sizes = jnp.zeros((config.num_experts,), jnp.int32).at[chosen].add(1)  # rows of each expert
    blocks = (sizes + (block - 1)) // block
    last_row, last_block = jnp.cumsum(sizes), jnp.cumsum(blocks)

    def run_block(index: Array, out: Float[Array, "R D"]) -> Float[Array, "R D"]:
        expert = jnp.searchsorted(last_block, index, side="right")
        first_row = last_row[expert] - sizes[expert]
        start = first_row + (index - (last_block[expert] - blocks[expert])) * block
        x = jax.lax.dynamic_slice_in_dim(rows, start, block)
        gate_up = linear(x, _take(experts.gate_up, expert))  # [block, F, 2]
        hidden = ACTIVATIONS[config.activation](gate_up[..., 0]) * gate_up[..., 1]
        done = linear(hidden, _take(experts.down, expert), out_dtype=jnp.float32)
        return jax.lax.dynamic_update_slice_in_dim(out, done, start, axis=0)

    return jax.lax.fori_loop(0, last_block[-1], run_block, jnp.zeros(rows.shape, jnp.float32))


def _take(weight: Any, expert: Array) -> Any:
    """One expert's matrix out of the stack, quantized or not."""
    return jax.tree.map(
        lambda leaf: jax.lax.dynamic_index_in_dim(leaf, expert, keepdims=False), weight
    )


def route(
    x: Float[Array, "T D"], router: Float[Array, "E D"], config: ModelConfig
) -> tuple[Float[Array, "T e"], Int[Array, "T e"]]:
    """Weights (float32) and indices of each token's experts: softmax over all, then the top."""
    logits = linear(x, router, out_dtype=jnp.float32)
    weights, chosen = jax.lax.top_k(jax.nn.softmax(logits, axis=-1), config.experts_per_token)
    if config.norm_topk_prob:
        weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    return weights, chosen
