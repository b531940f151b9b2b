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
    """What a token must reach to be kept; -inf and 0 keep all.

    Attributes:
        logit: least logit (top-k).
        weight: least weight (top-p, min-p).
    """

    logit: Float32[Array, "S"]
    weight: Float32[Array, "S"]


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
    logits = blocks.reshape(num_rows, -1)  # [S, V]
    is_random = rows.temperature > 0.0
    has_top_k = is_random & (rows.top_k > 0) & (rows.top_k < logits.shape[1])
    has_top_p = is_random & (rows.top_p < 1.0)
    is_small = has_top_k & (rows.top_k <= SMALL_K)
    candidates = None  # [S, M], where they are not everything
    if num_blocks > SMALL_K:
        nothing = jnp.zeros((num_rows, SMALL_K * width), jnp.float32)
        candidates = _if_any(is_small, lambda: _greatest_blocks(blocks), nothing)

    def search(
        asks: Bool[Array, "S"],
        find: Callable[[Array, Bool[Array, "S"]], Float32[Array, "S"]],
        otherwise: float,
    ) -> Float32[Array, "S"]:
        """`find` among the candidates in rows with a small k, among all in the others."""
        default = jnp.full(num_rows, otherwise, jnp.float32)
        narrowed = candidates
        if narrowed is None:
            return _if_any(asks, lambda: find(logits, asks), default)
        few, many = asks & is_small, asks & ~is_small
        return jnp.where(
            is_small,
            _if_any(few, lambda: find(narrowed, few), default),
            _if_any(many, lambda: find(logits, many), default),
        )

    def weigh(values: Float32[Array, "S M"]) -> Float32[Array, "S M"]:
        weights = scale_weights(values, maximum[:, None], rows.temperature[:, None])
        return jnp.where(values >= logit[:, None], weights, 0.0)

    logit = search(has_top_k, lambda x, asks: _find_top_k(x, rows.top_k, asks), -jnp.inf)
    total = _if_any(has_top_p, lambda: jnp.sum(weigh(logits), axis=1), jnp.ones(num_rows))
    target = rows.top_p * total
    weight = search(has_top_p, lambda x, asks: _find_top_p(weigh(x), target, asks), 0.0)
    return Thresholds(
        logit=logit, weight=jnp.maximum(weight, jnp.where(is_random, rows.min_p, 0.0))
    )


def _if_any(asks: Bool[Array, "S"], compute: Callable[[], Array], otherwise: Array) -> Array:
    return jax.lax.cond(jnp.any(asks), compute, lambda: otherwise)


def _greatest_blocks(blocks: Float32[Array, "S blocks width"]) -> Float32[Array, "S M"]:
    """The tokens of the SMALL_K blocks with the greatest maxima."""
    _, chosen = jax.lax.top_k(jnp.max(blocks, axis=2), SMALL_K)  # [S, SMALL_K]
    return jnp.take_along_axis(blocks, chosen[:, :, None], axis=1).reshape(blocks.shape[0], -1)


def _find_top_k(
    values: Float32[Array, "S M"], top_k: Int32[Array, "S"], asks: Bool[Array, "S"]
) -> Float32[Array, "S"]:
    """A value that exactly the tokens with at least the k-th greatest value reach."""

    def count(threshold: Float32[Array, "S"]) -> Int32[Array, "S"]:
        return jnp.sum(values >= threshold[:, None], axis=1, dtype=jnp.int32)

    return _bisect(asks, jnp.max(values, axis=1), jnp.float32(-jnp.inf), count, top_k)


def _find_top_p(
    weights: Float32[Array, "S M"], target: Float32[Array, "S"], asks: Bool[Array, "S"]
) -> Float32[Array, "S"]:
    """The greatest weight t such that the tokens of at least t together hold `target` or more.

    Bisection is safe in floating point: a rounded sum of fewer parts in the same order is never
    greater.
    """

    def mass(threshold: Float32[Array, "S"]) -> Float32[Array, "S"]:
        return jnp.sum(jnp.where(weights >= threshold[:, None], weights, 0.0), axis=1)

    return _bisect(asks, jnp.ones_like(target), jnp.float32(0.0), mass, target)


def _bisect(
    asks: Bool[Array, "S"],
    maximum: Float32[Array, "S"],
    minimum: Float32[Array, ""],
    measure: Callable[[Array], Array],
    target: Array,
) -> Float32[Array, "S"]:
    """Greatest t in [minimum, maximum] with measure(t) >= target, or any where they are equal.

    Halves the distance in ordered bits, so it ends at an exact value after at most 32 rounds.
    `measure` never grows with t and reaches the target at `minimum`, which is also the answer of
    rows that do not ask.
    """
    low = jnp.broadcast_to(_to_bits(minimum), asks.shape)
    high = jnp.where(asks, _to_bits(maximum) + 1, low + 1)  # past the answer

    def is_open(bounds: tuple[Array, Array]) -> Array:
        low, high = bounds
        return jnp.any(high - low > 1)

    def halve(bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = low + (high - low) // 2  # is `low` in rows that have ended
        value = measure(_to_float(middle))
        is_open, reaches = high - low > 1, value >= target
        next_low = jnp.where(is_open & reaches, middle, low)
        next_high = jnp.where(reaches, jnp.where(value == target, middle + 1, high), middle)
        return next_low, jnp.where(is_open, next_high, high)

    return _to_float(jax.lax.while_loop(is_open, halve, (low, high))[0])


def _to_bits(values: Float32[Array, "..."]) -> UInt32[Array, "..."]:
    """Unsigned integers in the same order as the values, which must not be NaN."""
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    is_negative = bits >> 31 != 0
    return jnp.where(is_negative, ~bits, bits | jnp.uint32(0x8000_0000))


def _to_float(bits: UInt32[Array, "..."]) -> Float32[Array, "..."]:
    """The inverse of `_to_bits`."""
    was_negative = bits >> 31 == 0
    bits = jnp.where(was_negative, ~bits, bits & jnp.uint32(0x7FFF_FFFF))
    return jax.lax.bitcast_convert_type(bits, jnp.float32)
