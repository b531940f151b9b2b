"""What changes logits before a token is chosen: logit bias, penalties, held-back stop ids."""

import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32

from helium_jax.engine.sampling_rows import SamplingRows


def add_bias(
    logits: Float32[Array, "S V"],
    rows: SamplingRows,
    bias_ids: Int32[Array, "S bias"],
    bias_values: Float32[Array, "S bias"],
) -> Float32[Array, "S V"]:
    """Adds each row's first `num_bias` biases; an id named twice gets both."""
    counts = jnp.arange(bias_ids.shape[1], dtype=jnp.int32)[None, :] < rows.num_bias[:, None]
    ids = jnp.where(counts, bias_ids, logits.shape[1])
    return logits.at[_row_index(logits), ids].add(bias_values, mode="drop")


def apply_penalties(
    logits: Float32[Array, "S V"], rows: SamplingRows, tokens: Int32[Array, "S history"]
) -> Float32[Array, "S V"]:
    """Repetition over prompt and output, then frequency and presence over the output alone.

    Args:
        logits: to change.
        rows: their parameters; tokens at and past `position` are unknown.
        tokens: by position.
    """
    places = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :]
    is_known = places < rows.position[:, None]  # [S, history]
    is_output = is_known & (places >= rows.prompt_len[:, None])
    index, no_id = _row_index(logits), logits.shape[1]
    seen = jnp.zeros(logits.shape, jnp.bool_)
    seen = seen.at[index, jnp.where(is_known, tokens, no_id)].set(True, mode="drop")
    counts = jnp.zeros(logits.shape, jnp.int32)
    counts = counts.at[index, jnp.where(is_output, tokens, no_id)].add(1, mode="drop")

    repetition = rows.repetition_penalty[:, None]
    repeated = jnp.where(logits > 0.0, logits / repetition, logits * repetition)
    logits = jnp.where(seen, repeated, logits)
    logits = logits - rows.frequency_penalty[:, None] * counts.astype(jnp.float32)
    return logits - rows.presence_penalty[:, None] * (counts > 0).astype(jnp.float32)


def hold_back_stop_ids(logits: Float32[Array, "S V"], rows: SamplingRows) -> Float32[Array, "S V"]:
    """Makes stop and end-of-sequence ids impossible in rows short of min_tokens."""
    is_short = (rows.num_generated < rows.min_tokens)[:, None]
    ids = jnp.where(is_short, rows.stop_ids, logits.shape[1])
    return logits.at[_row_index(logits), ids].set(-jnp.inf, mode="drop")


def _row_index(logits: Float32[Array, "S V"]) -> Int32[Array, "S 1"]:
    return jnp.arange(logits.shape[0], dtype=jnp.int32)[:, None]
