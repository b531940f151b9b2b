"""Chooses the next token of every row of a step, on the device."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

from helium_jax.engine.sampling_filters import find_thresholds, scale_weights
from helium_jax.engine.sampling_penalties import add_bias, apply_penalties, hold_back_stop_ids
from helium_jax.engine.sampling_rows import SamplingRows, Variant
from helium_jax.engine.sampling_state import SamplingState

# Most alternatives whose logprobs can be asked for.
MAX_TOP = 20
# Vocabularies are searched in blocks of at most this: one pass for the block maxima or sums, then
# all else on small arrays.
_BLOCK_WIDTH = 128


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """What sampling gives back.

    Attributes:
        token_ids: the chosen tokens; 0 where not `ok`.
        ok: False where the logits hold NaN or +inf, or where no token is possible: that sequence
            must fail.
        logprobs: natural log of the chosen token's probability under the unmodified logits;
            0 in rows that did not ask, when the whole batch did not.
        top_ids: the MAX_TOP most likely tokens, equals by id; likewise.
        top_logprobs: theirs; -inf where the vocabulary is smaller than MAX_TOP.
    """

    token_ids: Int32[Array, "S"]
    ok: Bool[Array, "S"]
    logprobs: Float32[Array, "S"]
    top_ids: Int32[Array, "S top"]
    top_logprobs: Float32[Array, "S top"]


def sample(
    logits: Float32[Array, "S V"],
    rows: SamplingRows,
    state: SamplingState,
    *,
    variant: Variant,
    unmasked: Float32[Array, "S V"] | None = None,
) -> Sampled:
    """Samples one token per row; see SamplingParams for what each parameter means.

    The order is: a grammar's mask, logit bias, penalties, held-back stop ids, greedy choice or
    temperature, top-k, top-p, min-p. A random row draws by the inverse of its distribution function
    at one uniform number made from its seed and position alone, so its token does not depend on its
    neighbours, its place in the batch, or the step.

    Args:
        logits: -inf where a grammar's mask makes a token impossible, else unmodified.
        rows: one per row of logits; rows of padding are greedy.
        state: token histories and biases; read by `Variant.FULL` alone.
        variant: at least what every row needs; static.
        unmasked: the unmodified logits, which log-probabilities are of; None: `logits` are.
    """
    choose = (_sample_greedy, _sample_random, _sample_full)[variant]
    return choose(logits, logits if unmasked is None else unmasked, rows, state)


def draw_uniform(rows: SamplingRows) -> Float32[Array, "S"]:
    """One number in [0, 1) per row, a function of its seed and position alone."""

    def draw(seed: Array, position: Array) -> Array:
        # Named, because the default generator can be configured; its words are used as they are,
        # because `jax.random.bits` depends on a flag.
        key = jax.random.wrap_key_data(seed, impl="threefry2x32")
        return jax.random.key_data(jax.random.fold_in(key, position))[0]

    words = jax.vmap(draw)(rows.seed, rows.position)  # [S]
    return (words >> 8).astype(jnp.float32) * jnp.float32(2.0**-24)


def _sample_greedy(
    logits: Float32[Array, "S V"],
    unmasked: Float32[Array, "S V"],
    rows: SamplingRows,
    state: SamplingState,
) -> Sampled:
    maximum, token_ids = _argmax(_to_blocks(logits))
    return _without_logprobs(token_ids, _is_usable(unmasked, maximum))


def _sample_random(
    logits: Float32[Array, "S V"],
    unmasked: Float32[Array, "S V"],
    rows: SamplingRows,
    state: SamplingState,
) -> Sampled:
    blocks = _to_blocks(logits)
    maximum, greedy_ids = _argmax(blocks)

    def weigh(values: Float32[Array, "S n w"]) -> Float32[Array, "S n w"]:
        return scale_weights(values, maximum[:, None, None], rows.temperature[:, None, None])

    random_ids = _draw(blocks, weigh, draw_uniform(rows))
    token_ids = jnp.where(rows.temperature > 0.0, random_ids, greedy_ids)
    return _without_logprobs(token_ids, _is_usable(unmasked, maximum))


def _sample_full(
    logits: Float32[Array, "S V"],
    unmasked: Float32[Array, "S V"],
    rows: SamplingRows,
    state: SamplingState,
) -> Sampled:
    has_bias, has_penalties = rows.num_bias > 0, _has_penalties(rows)
    is_short = rows.num_generated < rows.min_tokens

    def change() -> Float32[Array, "S V"]:
        changed = jax.lax.cond(
            jnp.any(has_bias),
            lambda: add_bias(logits, rows, state.bias_ids[rows.slot], state.bias_values[rows.slot]),
            lambda: logits,
        )
        changed = jax.lax.cond(
            jnp.any(has_penalties),
            lambda: apply_penalties(changed, rows, state.tokens[rows.slot]),
            lambda: changed,
        )
        return hold_back_stop_ids(changed, rows)

    # One branch around all three, because a branch that changes nothing still costs a copy.
    changed = jax.lax.cond(jnp.any(has_bias | has_penalties | is_short), change, lambda: logits)
    blocks = _to_blocks(changed)
    maximum, greedy_ids = _argmax(blocks)

    def draw_random() -> Int32[Array, "S"]:
        limits = find_thresholds(blocks, maximum, rows)

        def weigh(values: Float32[Array, "S n w"]) -> Float32[Array, "S n w"]:
            weights = scale_weights(values, maximum[:, None, None], rows.temperature[:, None, None])
            is_kept = (values >= limits.logit[:, None, None]) & (
                weights >= limits.weight[:, None, None]
            )
            return jnp.where(is_kept, weights, 0.0)

        return _draw(blocks, weigh, draw_uniform(rows))

    is_random = rows.temperature > 0.0
    random_ids = jax.lax.cond(jnp.any(is_random), draw_random, lambda: greedy_ids)
    ok = _is_usable(unmasked, maximum)
    token_ids = jnp.where(ok, jnp.where(is_random, random_ids, greedy_ids), 0)
    return jax.lax.cond(
        jnp.any(rows.wants_logprob),
        lambda: _with_logprobs(unmasked, rows, token_ids, ok),
        lambda: _without_logprobs(token_ids, ok),
    )


def _has_penalties(rows: SamplingRows) -> Bool[Array, "S"]:
    # Rows of padding have a repetition penalty of 0 and know no token.
    return (rows.position > 0) & (
        (rows.presence_penalty != 0.0)
        | (rows.frequency_penalty != 0.0)
        | (rows.repetition_penalty != 1.0)
    )


def _to_blocks(values: Float32[Array, "S V"]) -> Float32[Array, "S blocks width"]:
    """Cuts the vocabulary into blocks, padded by -inf only when no good width divides it."""
    num_rows, vocab_size = values.shape
    width = next((w for w in (_BLOCK_WIDTH, 64, 32) if vocab_size % w == 0), _BLOCK_WIDTH)
    padding = -vocab_size % width
    if padding:
        values = jnp.pad(values, ((0, 0), (0, padding)), constant_values=-jnp.inf)
    return values.reshape(num_rows, -1, width)


def _argmax(
    blocks: Float32[Array, "S blocks width"],
) -> tuple[Float32[Array, "S"], Int32[Array, "S"]]:
    """Greatest value and the lowest id that has it; about ten times faster than jnp.argmax."""
    block_maxima = jnp.max(blocks, axis=2)  # [S, blocks]
    block = jnp.argmax(block_maxima, axis=1).astype(jnp.int32)
    inside = jnp.argmax(_take_block(blocks, block), axis=1).astype(jnp.int32)
    return jnp.max(block_maxima, axis=1), block * blocks.shape[2] + inside


def _take_block(
    blocks: Float32[Array, "S blocks width"], block: Int32[Array, "S"]
) -> Float32[Array, "S width"]:
    return jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]


def _draw(
    blocks: Float32[Array, "S blocks width"],
    weigh: Callable[[Array], Array],
    uniform: Float32[Array, "S"],
) -> Int32[Array, "S"]:
    """Ids at which the running sum of weights passes `uniform` times their total.

    `weigh` is elementwise and is run twice, on everything and on the chosen block: cheaper than
    keeping the weights. Sums may round differently, so the choice is made safe: a token without
    weight is never drawn.
    """
    sums = jnp.sum(weigh(blocks), axis=2)  # [S, blocks]
    ends = jnp.cumsum(sums, axis=1)
    target = uniform * ends[:, -1]
    block = _first_past(ends, sums, target)
    start = jnp.take_along_axis(ends - sums, block[:, None], axis=1)[:, 0]
    weights = weigh(_take_block(blocks, block)[:, None, :])[:, 0]  # [S, width]
    inside = _first_past(jnp.cumsum(weights, axis=1), weights, target - start)
    return block * blocks.shape[2] + inside


def _first_past(
    ends: Float32[Array, "S n"], weights: Float32[Array, "S n"], target: Float32[Array, "S"]
) -> Int32[Array, "S"]:
    """First place with weight whose running sum passes the target, else the last with weight."""
    has_weight = weights > 0.0
    passes = has_weight & (ends > target[:, None])
    last = weights.shape[1] - 1 - jnp.argmax(has_weight[:, ::-1], axis=1)
    place = jnp.where(jnp.any(passes, axis=1), jnp.argmax(passes, axis=1), last)
    return place.astype(jnp.int32)


def _is_usable(logits: Float32[Array, "S V"], maximum: Float32[Array, "S"]) -> Bool[Array, "S"]:
    # XLA's vectorised maximum loses NaN on a CPU; a sum never does.
    return jnp.isfinite(maximum) & ~jnp.isnan(jnp.sum(logits, axis=1))


def _without_logprobs(token_ids: Int32[Array, "S"], ok: Bool[Array, "S"]) -> Sampled:
    num_rows = token_ids.shape[0]
    return Sampled(
        token_ids=jnp.where(ok, token_ids, 0),
        ok=ok,
        logprobs=jnp.zeros(num_rows, jnp.float32),
        top_ids=jnp.zeros((num_rows, MAX_TOP), jnp.int32),
        top_logprobs=jnp.zeros((num_rows, MAX_TOP), jnp.float32),
    )


def _with_logprobs(
    logits: Float32[Array, "S V"],
    rows: SamplingRows,
    token_ids: Int32[Array, "S"],
    ok: Bool[Array, "S"],
) -> Sampled:
    blocks = _to_blocks(logits)
    maximum = jnp.max(jnp.max(blocks, axis=2), axis=1)
    sums = jnp.sum(jnp.exp(blocks - maximum[:, None, None]), axis=2)  # [S, blocks]
    log_total = maximum + jnp.log(jnp.sum(sums, axis=1))  # [S]
    chosen = jnp.take_along_axis(logits, token_ids[:, None], axis=1)[:, 0]

    def find_top() -> tuple[Array, Array]:
        values, ids = _top(blocks)
        return ids, values - log_total[:, None]

    def no_top() -> tuple[Array, Array]:
        shape = (token_ids.shape[0], MAX_TOP)
        return jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32)

    top_ids, top_logprobs = jax.lax.cond(jnp.any(rows.num_top > 0), find_top, no_top)
    return Sampled(
        token_ids=token_ids,
        ok=ok,
        logprobs=chosen - log_total,
        top_ids=top_ids,
        top_logprobs=top_logprobs,
    )


def _top(
    blocks: Float32[Array, "S blocks width"],
) -> tuple[Float32[Array, "S top"], Int32[Array, "S top"]]:
    """The MAX_TOP greatest values and their ids, equals by id.

    They lie in the MAX_TOP blocks with the greatest maxima, which are put in the order of ids so
    that `top_k`, which prefers the first of equals, prefers the lowest id.
    """
    num_rows, num_blocks, width = blocks.shape
    _, chosen = jax.lax.top_k(jnp.max(blocks, axis=2), min(MAX_TOP, num_blocks))
    chosen = jnp.sort(chosen, axis=1)  # [S, M]
    values = jnp.take_along_axis(blocks, chosen[:, :, None], axis=1)  # [S, M, width]
    ids = chosen[:, :, None] * width + jnp.arange(width, dtype=jnp.int32)[None, None, :]
    values, ids = values.reshape(num_rows, -1), ids.reshape(num_rows, -1)
    missing = max(MAX_TOP - values.shape[1], 0)
    values = jnp.pad(values, ((0, 0), (0, missing)), constant_values=-jnp.inf)
    ids = jnp.pad(ids, ((0, 0), (0, missing)))
    best, places = jax.lax.top_k(values, MAX_TOP)
    return best, jnp.take_along_axis(ids, places, axis=1)
