"""Causal attention over one whole sequence, without a cache: for training and for parity."""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Cache = TypeVar("Cache")


def attend_dense(
    cache: Cache,
    layer: int,
    q: Float[Array, "T N H"],
    k: Float[Array, "T K H"],
    v: Float[Array, "T K H"],
    *,
    scale: float,
    window: int | None,
    soft_cap: float | None,
) -> tuple[Cache, Float[Array, "T N H"]]:
    """An `Attend` for rows 0..T-1 of one sequence; returns the cache as it came.

    A row sees keys at most window - 1 positions back. Scores and softmax in float32.
    """
    tokens, heads, size = q.shape
    grouped = q.reshape(tokens, k.shape[1], -1, size)  # [T, K, G, H]
    scores = jnp.einsum("tkgh,skh->kgts", grouped, k, preferred_element_type=jnp.float32) * scale
    if soft_cap is not None:
        scores = jnp.tanh(scores / soft_cap) * soft_cap
    distance = jnp.arange(tokens)[:, None] - jnp.arange(tokens)[None, :]  # [T, T]
    visible = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    weights = jax.nn.softmax(jnp.where(visible[None, None], scores, -jnp.inf), axis=-1)
    out = jnp.einsum("kgts,skh->tkgh", weights.astype(v.dtype), v)
    return cache, out.reshape(tokens, heads, size)
