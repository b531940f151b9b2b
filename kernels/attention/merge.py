"""Attention over parts of the keys, and the log-sum-exp rule that puts the parts together."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

# Score of a key that may not be seen, and peak of a part that saw none. Finite, so that the
# difference of two of them is 0 and not NaN; exp(HIDDEN - any real score) is exactly 0.
HIDDEN = np.float32(-1e30)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """Softmax attention of some rows over a part of their keys, not yet normalised.

    `...` are any row axes. A part that saw nothing has weight 0 in every merge.

    Attributes:
        out: float32 [..., H], sum of exp(score - peak) times value.
        peak: float32 [...], largest score; HIDDEN if there was none.
        total: float32 [...], sum of exp(score - peak).
    """

    out: jax.Array
    peak: jax.Array
    total: jax.Array


def empty_partial(rows: tuple[int, ...], head_size: int) -> Partial:
    """The part without keys."""
    return Partial(
        out=jnp.zeros((*rows, head_size), jnp.float32),
        peak=jnp.full(rows, HIDDEN),
        total=jnp.zeros(rows, jnp.float32),
    )


def merge_partials(one: Partial, other: Partial) -> Partial:
    """The same rows over both parts' keys: sums weighted by exp(peak - common peak).

    A part whose keys were all hidden may carry any finite out and total (each exp(0) instead of
    0): its peak is HIDDEN, so beside a part with a real score its weight is exactly 0.
    """
    peak = jnp.maximum(one.peak, other.peak)
    keep_one, keep_other = jnp.exp(one.peak - peak), jnp.exp(other.peak - peak)
    return Partial(
        out=one.out * keep_one[..., None] + other.out * keep_other[..., None],
        peak=peak,
        total=one.total * keep_one + other.total * keep_other,
    )


def finish_partial(partial: Partial) -> tuple[jax.Array, jax.Array]:
    """Normalised out [..., H] and log-sum-exp [...], float32; zeros and -inf where nothing was."""
    empty = partial.peak <= HIDDEN
    total = jnp.where(empty, 1.0, partial.total)
    out = jnp.where(empty[..., None], 0.0, partial.out / total[..., None])
    return out, jnp.where(empty, -jnp.inf, partial.peak + jnp.log(total))


def merge_parts(
    row_parts: jax.Array,
    units: tuple[jax.Array, jax.Array],
    blocks: tuple[jax.Array, jax.Array],
    num_visible_blocks: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Puts together what a kernel's items saw of each row.

    Args:
        row_parts: int32 [T, M], see `AttentionBatch`; items it does not name may hold anything.
        units: out [U, K, G, H] in any float dtype and float32 log-sum-exp [U, K, G], normalised.
        blocks: out [J, K, G, R, H] and log-sum-exp [J, K, G, R], likewise.
        num_visible_blocks: int32 [], block items from this one on do not count.

    Returns:
        out float32 [T, K, G, H] and log-sum-exp [T, K, G]; zeros and -inf for rows without parts.
    """
    num_units, num_rows = units[0].shape[0], blocks[0].shape[3]
    is_unit = (row_parts >= 0) & (row_parts < num_units)
    within = row_parts - num_units
    is_block = (within >= 0) & (within < num_visible_blocks * num_rows)
    unit = jnp.where(is_unit, row_parts, 0)
    block = jnp.where(is_block, within // num_rows, 0)
    row = jnp.where(is_block, within % num_rows, 0)

    of_unit = jnp.where(is_unit[..., None, None], units[1][unit], -jnp.inf)  # [T, M, K, G]
    lse = jnp.where(is_block[..., None, None], blocks[1][block, :, :, row], of_unit)
    peak = jnp.maximum(jnp.max(lse, axis=1), HIDDEN)  # [T, K, G]
    weights = jnp.exp(lse - peak[:, None])
    total = jnp.sum(weights, axis=1)
    empty = total == 0
    weights = weights / jnp.where(empty, 1.0, total)[:, None]

    of_unit = jnp.where(is_unit[..., None, None, None], units[0][unit], 0.0)  # [T, M, K, G, H]
    out = jnp.where(is_block[..., None, None, None], blocks[0][block, :, :, row], of_unit)
    out = jnp.where(weights[..., None] > 0, out.astype(jnp.float32) * weights[..., None], 0.0)
    return jnp.sum(out, axis=1), jnp.where(empty, -jnp.inf, peak + jnp.log(total))
