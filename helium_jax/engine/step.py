"""What the device runs: tokens in, next tokens out, pages updated in place.

`run_step` is a whole step for greedy sequences. When some row asks for more, `resample` chooses
again from the same logits. It is a second program because it is the dearest part to compile
(seconds) and depends on two small shapes only: compiled once per number of rows instead of into
every bucket of the step, and greedy batches do not carry it.
"""

from typing import Any

import jax
import jax.numpy as jnp

from helium_jax.engine.packing import FROM_DEVICE, StepLayout, unpack_step
from helium_jax.engine.sampling import Sampled, sample
from helium_jax.engine.sampling_rows import SamplingRows, Variant, unpack_sampling
from helium_jax.engine.sampling_state import SamplingState
from helium_jax.kernels.attention import AttentionBatch, paged_attention
from helium_jax.kernels.page_write import write_pages
from helium_jax.kernels.pages import KVPages
from helium_jax.models.config import ModelConfig
from helium_jax.models.params import Params
from helium_jax.models.transformer import Attend, compute_logits, forward


def run_step(
    params: Params,
    pages: KVPages,
    state: SamplingState,
    packed: jax.Array,
    *,
    config: ModelConfig,
    layout: StepLayout,
    attention: str | None = None,
) -> tuple[KVPages, SamplingState, Sampled, jax.Array]:
    """Runs one step; to be jitted with `pages` and `state` donated.

    Every known or sampled id is kept in `state.tokens[slot, position]`, so the id sampled by one
    step is the next step's input without a visit to the host.

    Args:
        params: the weights.
        pages: the KV pool; all writes of a layer precede all its reads, so a sequence may read
            what another writes in the same step.
        state: token buffer and logit biases by slot.
        packed: int32 [layout.num_ints], from `pack_step`.
        config: the model.
        layout: of this token bucket.
        attention: implementation of `paged_attention`; None takes the best.

    Returns:
        pages and state after the step, the greedy tokens in order of the sampling rows, and their
        logits [S, V], which stay on the device for `resample`.
    """
    step = unpack_step(layout, packed)
    batch = step.attention
    slots = _token_slots(step.seq_slots, batch, layout)  # [T]
    positions = batch.token_positions
    with jax.named_scope("token_ids"):
        ids = jnp.where(step.tokens == FROM_DEVICE, state.tokens[slots, positions], step.tokens)
        state = state.with_tokens(slots, positions, ids)
    hidden, pages = forward(
        params, config, ids, positions, _attend_to_pages(batch, attention), pages
    )
    logits = compute_logits(params, config, hidden[step.rows])  # [S, V]
    state, sampled = _sample(logits, logits, step.sampling, state, Variant.GREEDY)
    return pages, state, sampled, logits


def mask_logits(logits: jax.Array, masks: jax.Array) -> jax.Array:
    """Makes tokens impossible: [S, V] logits that are -inf where a row's mask has no bit.

    A program of its own, because few steps need it and it compiles in no time.

    Args:
        logits: [S, V], from `run_step`.
        masks: uint32 [S, ceil(V / 32)]; token i is bit i % 32 of word i // 32.
    """
    num_rows, vocab_size = logits.shape
    bits = masks[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)[None, None, :]  # [S, words, 32]
    is_allowed = (bits & 1).reshape(num_rows, -1)[:, :vocab_size] != 0
    return jnp.where(is_allowed, logits, -jnp.inf)


def resample(
    logits: jax.Array,
    unmasked: jax.Array,
    state: SamplingState,
    packed: jax.Array,
    *,
    variant: Variant,
) -> tuple[SamplingState, Sampled]:
    """Chooses a step's tokens again, as its rows ask; to be jitted with `state` donated.

    Args:
        logits: [S, V], from `run_step` or `mask_logits`.
        unmasked: [S, V], from `run_step`; the same array when nothing was masked.
        state: as `run_step` left it.
        packed: int32 [num_ints(S)], the sampling part of the packed step.
        variant: at least what every row needs.
    """
    rows = unpack_sampling(packed, logits.shape[0])
    return _sample(logits, unmasked, rows, state, variant)


def _sample(
    logits: jax.Array,
    unmasked: jax.Array,
    rows: SamplingRows,
    state: SamplingState,
    variant: Variant,
) -> tuple[SamplingState, Sampled]:
    with jax.named_scope("sample"):
        sampled = sample(logits, rows, state, variant=variant, unmasked=unmasked)
        return state.with_tokens(rows.slot, rows.position, sampled.token_ids), sampled


def _token_slots(seq_slots: jax.Array, batch: AttentionBatch, layout: StepLayout) -> jax.Array:
    """Row of the token buffer of every token; padding goes to the spare row."""
    return jnp.where(batch.token_seqs < 0, layout.num_slots, seq_slots[batch.token_seqs])


def _attend_to_pages(batch: AttentionBatch, implementation: str | None) -> Attend:
    """Writes a layer's new keys and values into the pages, then attends to all of them."""
    page_size = batch.layout.page_size
    columns = batch.token_positions // page_size
    pages_of_tokens = batch.page_tables[batch.token_seqs, columns]  # [T]
    write_slots = pages_of_tokens * page_size + batch.token_positions % page_size
    write_slots = jnp.where(batch.token_seqs < 0, -1, write_slots)  # padding is written nowhere

    def attend(
        cache: KVPages, layer: int, q: jax.Array, k: jax.Array, v: jax.Array, **options: Any
    ) -> tuple[KVPages, jax.Array]:
        pages = write_pages(cache, layer, k, v, write_slots)
        out, _ = paged_attention(q, pages, layer, batch, implementation=implementation, **options)
        return pages, out

    return attend
