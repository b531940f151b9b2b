"""Top-k, top-p and min-p as thresholds: exact, by bisection over ordered bits, without a sort.

Tokens equal to a threshold are kept, all of them, so what is kept never depends on an order among
equals. A row's thresholds never depend on the other rows: the paths below are chosen per row.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32, UInt32

from helium_jax.engine.sampling_rows import SamplingRows

# A top-k of at most this is searched among the tokens of as many blocks: the k greatest tokens lie
# in the k blocks with the greatest maxima.
SMALL_K = 64


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """What a token must reach to be kept; 0 everywhere keeps all.

    Attributes:
        logit_bits: least `order_bits` of the logit (top-k).
        weight_bits: least bits of the weight (top-p).
        weight: least weight (min-p).
    """

    logit_bits: UInt32[Array, "S"]
    weight_bits: UInt32[Array, "S"]
    weight: Float32[Array, "S"]


def order_bits(values: Float32[Array, "..."]) -> UInt32[Array, "..."]:
    """Unsigned integers in the same order as the values, equal for 0.0 and -0.0."""
    bits = jax.lax.bitcast_convert_type(jnp.where(values == 0.0, 0.0, values), jnp.uint32)
    is_negative = (bits >> 31) != 0
    return jnp.where(is_negative, ~bits, bits | jnp.uint32(0x8000_0000))


def scale_weights(
    logits: Float32[Array, "..."],
    maximum: Float32[Array, "..."],
    temperature: Float32[Array, "..."],
) -> Float32[Array, "..."]:
    """exp(logits / temperature) up to a factor that makes the greatest 1; never overflows."""
    # Below 1e-6 a gap of 1e-4 already weighs nothing: greedy up to near ties.
    return jnp.exp((logits - maximum) / jnp.maximum(temperature, 1e-6))


def find_thresholds(
    blocks: Float32[Array, "S blocks width"],
    maximum: Float32[Array, "S"],
    rows: SamplingRows,
) -> Thresholds:
    """The thresholds of each row's filters, applied in the order top-k, top-p, min-p.

    top-k keeps the tokens with at least the k-th greatest logit. top-p keeps those of the rest
    whose strictly heavier tokens together hold less than `top_p` of the weight left. min-p keeps
    those with at least `min_p` of the greatest weight.

    Args:
        blocks: the logits, cut into blocks and padded by -inf.
        maximum: of each row, finite.
        rows: their parameters; greedy rows keep everything.
    """
    num_rows, num_blocks, width = blocks.shape
    is_random = rows.temperature > 0.0
    has_top_k = is_random & (rows.top_k > 0) & (rows.top_k < num_blocks * width)
    has_top_p = is_random & (rows.top_p < 1.0)
    is_small = has_top_k & (rows.top_k <= SMALL_K) & (num_blocks > SMALL_K)
    logits = blocks.reshape(num_rows, -1)  # [S, V]

    def weigh(values: Float32[Array, "S M"]) -> Float32[Array, "S M"]:
        return scale_weights(values, maximum[:, None], rows.temperature[:, None])

    def small_top_k() -> tuple[Array, Array]:
        candidates = _greatest_blocks(blocks)  # [S, M]
        bits = _top_k_bits(candidates, rows.top_k, is_small)
        return candidates, bits

    nothing = jnp.zeros(num_rows, jnp.uint32)
    no_candidates = jnp.zeros((num_rows, min(SMALL_K, num_blocks) * width), jnp.float32)
    candidates, small_bits = jax.lax.cond(
        jnp.any(is_small), small_top_k, lambda: (no_candidates, nothing)
    )
    is_large = has_top_k & ~is_small
    large_bits = jax.lax.cond(
        jnp.any(is_large), lambda: _top_k_bits(logits, rows.top_k, is_large), lambda: nothing
    )
    logit_bits = jnp.where(is_small, small_bits, large_bits)

    def total_weight() -> Float32[Array, "S"]:
        kept = order_bits(logits) >= logit_bits[:, None]
        return jnp.sum(jnp.where(kept, weigh(logits), 0.0), axis=1)

    total = jax.lax.cond(jnp.any(has_top_p), total_weight, lambda: jnp.ones(num_rows))
    target = rows.top_p * total

    def top_p_bits(values: Float32[Array, "S M"], asks: Bool[Array, "S"]) -> UInt32[Array, "S"]:
        kept = order_bits(values) >= logit_bits[:, None]
        return _top_p_bits(jnp.where(kept, weigh(values), 0.0), target, asks)

    is_small_p, is_large_p = has_top_p & is_small, has_top_p & ~is_small
    weight_bits = jnp.where(
        is_small,
        jax.lax.cond(
            jnp.any(is_small_p), lambda: top_p_bits(candidates, is_small_p), lambda: nothing
        ),
        jax.lax.cond(jnp.any(is_large_p), lambda: top_p_bits(logits, is_large_p), lambda: nothing),
    )
    return Thresholds(
        logit_bits=logit_bits,
        weight_bits=weight_bits,
        weight=jnp.where(is_random, rows.min_p, 0.0),
    )


def keep_weights(
    logits: Float32[Array, "..."], weights: Float32[Array, "..."], thresholds: Thresholds
) -> Float32[Array, "..."]:
    """The weights, 0 below a threshold; thresholds must broadcast."""
    kept = (
        (order_bits(logits) >= thresholds.logit_bits)
        & (jax.lax.bitcast_convert_type(weights, jnp.uint32) >= thresholds.weight_bits)
        & (weights >= thresholds.weight)
    )
    return jnp.where(kept, weights, 0.0)


def _greatest_blocks(blocks: Float32[Array, "S blocks width"]) -> Float32[Array, "S M"]:
    """The tokens of the SMALL_K blocks with the greatest maxima."""
    count = min(SMALL_K, blocks.shape[1])
    _, chosen = jax.lax.top_k(jnp.max(blocks, axis=2), count)  # [S, count]
    return jnp.take_along_axis(blocks, chosen[:, :, None], axis=1).reshape(blocks.shape[0], -1)


def _top_k_bits(
    values: Float32[Array, "S M"], top_k: Int32[Array, "S"], asks: Bool[Array, "S"]
) -> UInt32[Array, "S"]:
    """Bits t that exactly the tokens with at least the k-th greatest value reach."""
    bits = order_bits(values)

    def count(threshold: UInt32[Array, "S"]) -> Int32[Array, "S"]:
        return jnp.sum(bits >= threshold[:, None], axis=1, dtype=jnp.int32)

    low = jnp.zeros(values.shape[0], jnp.uint32)
    high = jnp.where(asks, order_bits(jnp.max(values, axis=1)) + 1, 1)
    return _bisect(low, high, count, top_k)


def _top_p_bits(
    weights: Float32[Array, "S M"], target: Float32[Array, "S"], asks: Bool[Array, "S"]
) -> UInt32[Array, "S"]:
    """Bits of the greatest weight t such that tokens of at least t hold `target` or more.

    A rounded sum of fewer or smaller parts in the same order is never greater, so bisection is
    safe in floating point.
    """
    bits = jax.lax.bitcast_convert_type(weights, jnp.uint32)  # ordered: no weight is negative

    def mass(threshold: UInt32[Array, "S"]) -> Float32[Array, "S"]:
        return jnp.sum(jnp.where(bits >= threshold[:, None], weights, 0.0), axis=1)

    low = jnp.zeros(weights.shape[0], jnp.uint32)
    one = jax.lax.bitcast_convert_type(jnp.float32(1.0), jnp.uint32)
    high = jnp.where(asks, one + 1, 1)
    return _bisect(low, high, mass, target)


def _bisect(
    low: UInt32[Array, "S"],
    high: UInt32[Array, "S"],
    measure: Callable[[Array], Array],
    target: Array,
) -> UInt32[Array, "S"]:
    """Greatest t in [low, high) with measure(t) >= target; or any t with measure(t) == target.

    `measure` never grows with t and reaches the target at `low`, but not at `high`.
    """

    def is_open(state: tuple[Array, Array]) -> Array:
        low, high = state
        return jnp.any(high - low > 1)

    def halve(state: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = state
        middle = low + (high - low) // 2
        value = measure(middle)
        reaches = value >= target
        next_low = jnp.where(reaches, middle, low)
        next_high = jnp.where(reaches, jnp.where(value == target, middle + 1, high), middle)
        is_done = high - low <= 1
        return jnp.where(is_done, low, next_low), jnp.where(is_done, high, next_high)

    return jax.lax.while_loop(is_open, halve, (low, high))[0]
