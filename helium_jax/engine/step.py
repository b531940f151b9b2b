"""The one function the device runs: tokens in, next tokens out, pages updated in place."""

from typing import Any

import jax
import jax.numpy as jnp

from helium_jax.engine.packing import FROM_DEVICE, StepLayout, unpack_step
from helium_jax.engine.sampling import Sampled, sample
from helium_jax.engine.sampling_rows import Variant
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
    variant: Variant | None,
    attention: str | None = None,
) -> tuple[KVPages, SamplingState, Sampled]:
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
        variant: of the sampling, compiled in; None reads it from `packed` at run time.
        attention: implementation of `paged_attention`; None takes the best.

    Returns:
        pages and state after the step, and what was sampled, in order of the sampling rows.
    """
    step = unpack_step(layout, packed)
    batch = step.attention
    slots = _token_slots(step.seq_slots, batch, layout)  # [T]
    positions = batch.token_positions
    with jax.named_scope("token_ids"):
        ids = jnp.where(step.tokens == FROM_DEVICE, state.tokens[slots, positions], step.tokens)
        tokens = state.tokens.at[slots, positions].set(ids, mode="drop")
    hidden, pages = forward(
        params, config, ids, positions, _attend_to_pages(batch, attention), pages
    )
    logits = compute_logits(params, config, hidden[step.rows])  # [S, V]
    with jax.named_scope("sample"):
        state = SamplingState(tokens=tokens, bias_ids=state.bias_ids, bias_values=state.bias_values)
        sampled = sample(
            logits, step.sampling, state, variant=step.variant if variant is None else variant
        )
        tokens = tokens.at[step.sampling.slot, step.sampling.position].set(
            sampled.token_ids, mode="drop"
        )
    state = SamplingState(tokens=tokens, bias_ids=state.bias_ids, bias_values=state.bias_values)
    return pages, state, sampled


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
