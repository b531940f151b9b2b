"""The specification of paged attention in plain jnp, slow on purpose."""

import jax
import jax.numpy as jnp

from helium_jax.kernels.attention.layout import AttentionBatch
from helium_jax.kernels.pages import KVPages, gather_keys, gather_values


def attend_reference(
    q: jax.Array,
    pages: KVPages,
    layer: int,
    batch: AttentionBatch,
    *,
    scale: float,
    window: int | None,
    soft_cap: float | None,
) -> tuple[jax.Array, jax.Array]:
    """Row by row, in float32.

    For a row t of sequence s at position p, query head n = (k, g), and keys j = 0 .. C * B - 1
    living at offset j mod B of page_tables[s, j div B]:

        visible(j) = j <= p  and  j > p - window
        score(j)   = cap(scale * sum_h q[t, n, h] key(j)[k, h]),   cap(x) = c tanh(x / c)
        lse        = log sum over visible j of exp(score(j))
        out        = sum over visible j of exp(score(j) - lse) value(j)[k]

    Without a visible key (padding) out is 0 and lse is -inf; keys and values that are not visible
    are never multiplied, so what they hold does not matter, NaN included.
    """
    layout = batch.layout
    num_keys = layout.pages_per_seq * layout.page_size
    kv_heads, head_size = pages.num_kv_heads, pages.head_size
    group = q.shape[1] // kv_heads

    def attend_row(row: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        query, seq, position = row  # [N, H], [], []
        table = batch.page_tables[jnp.maximum(seq, 0)]  # [C]
        keys = gather_keys(pages, layer, table).astype(jnp.float32)  # [C, K, H, B]
        keys = keys.transpose(1, 2, 0, 3).reshape(kv_heads, head_size, num_keys)
        values = gather_values(pages, layer, table).astype(jnp.float32)  # [C, K, B, H]
        values = values.transpose(1, 0, 2, 3).reshape(kv_heads, num_keys, head_size)

        key_positions = jnp.arange(num_keys, dtype=jnp.int32)
        visible = (seq >= 0) & (key_positions <= position)
        if window is not None:
            visible &= key_positions > position - window
        keys = jnp.where(visible[None, None, :], keys, 0.0)
        values = jnp.where(visible[None, :, None], values, 0.0)

        query = query.astype(jnp.float32).reshape(kv_heads, group, head_size)
        scores = scale * jnp.einsum("kgh,khj->kgj", query, keys, precision="highest")
        if soft_cap is not None:
            scores = soft_cap * jnp.tanh(scores / soft_cap)
        scores = jnp.where(visible[None, None, :], scores, -jnp.inf)
        lse = jax.nn.logsumexp(scores, axis=-1)  # [K, G]
        weights = jnp.where(visible[None, None, :], jnp.exp(scores - lse[..., None]), 0.0)
        out = jnp.einsum("kgj,kjh->kgh", weights, values, precision="highest")
        return out.reshape(query.shape[0] * group, head_size), lse.reshape(-1)

    out, lse = jax.lax.map(attend_row, (q, batch.token_seqs, batch.token_positions))
    return out.astype(q.dtype), lse
