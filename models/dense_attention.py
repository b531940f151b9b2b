"""Causal attention over one whole sequence, without a cache: for training, parity, embeddings."""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Cache = TypeVar("Cache")

BLOCK_ROWS = 128  # rows whose scores are in memory at once in `attend_dense_blocks`


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
    rows = jnp.arange(q.shape[0])
    return cache, _attend_rows(rows, q, k, v, scale=scale, window=window, soft_cap=soft_cap)


def attend_dense_blocks(
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
    """`attend_dense` with BLOCK_ROWS rows at a time, whose memory grows as T and not as T * T.

    T is at most BLOCK_ROWS, or a multiple of it.
    """
    tokens, heads, size = q.shape
    if tokens <= BLOCK_ROWS:
        return attend_dense(cache, layer, q, k, v, scale=scale, window=window, soft_cap=soft_cap)

    def attend(block: tuple[Int[Array, " R"], Float[Array, "R N H"]]) -> Float[Array, "R N H"]:
        rows, own = block
        return _attend_rows(rows, own, k, v, scale=scale, window=window, soft_cap=soft_cap)

    rows = jnp.arange(tokens).reshape(-1, BLOCK_ROWS)
    out = jax.lax.map(attend, (rows, q.reshape(-1, BLOCK_ROWS, heads, size)))
    return cache, out.reshape(tokens, heads, size)


def _attend_rows(
    rows: Int[Array, " R"],
    q: Float[Array, "R N H"],
    k: Float[Array, "T K H"],
    v: Float[Array, "T K H"],
    *,
    scale: float,
    window: int | None,
    soft_cap: float | None,
) -> Float[Array, "R N H"]:
    """Attention of the rows at these positions to all keys that they may see."""
    num_rows, heads, size = q.shape
    grouped = q.reshape(num_rows, k.shape[1], -1, size)  # [R, K, G, H]
    scores = jnp.einsum("tkgh,skh->kgts", grouped, k, preferred_element_type=jnp.float32) * scale
    if soft_cap is not None:
        scores = jnp.tanh(scores / soft_cap) * soft_cap
    distance = rows[:, None] - jnp.arange(k.shape[0])[None, :]  # [R, T]
    visible = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    weights = jax.nn.softmax(jnp.where(visible[None, None], scores, -jnp.inf), axis=-1)
    out = jnp.einsum("kgts,skh->tkgh", weights.astype(v.dtype), v)
    return out.reshape(num_rows, heads, size)
