"""What sampling knows of each sequence slot on the device: its tokens so far and its logit bias."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32

from helium_jax.engine.sampling_rows import NO_ID
from helium_jax.types import SamplingParams

# Logit biases per request, as the OpenAI API allows.
BIAS_CAPACITY = 300


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingState:
    """Per slot; the last row belongs to the padding of a step.

    Attributes:
        tokens: ids by position; the engine writes every scheduled and every sampled one. Places
            that no step wrote since the slot's owner came hold another owner's tokens, unless
            `set_slot` filled the row.
        bias_ids: NO_ID where there is none.
        bias_values: one per id.
    """

    tokens: Int32[Array, "slots max_len"]
    bias_ids: Int32[Array, "slots bias"]
    bias_values: Float32[Array, "slots bias"]

    def with_tokens(
        self, slots: Int32[Array, "n"], positions: Int32[Array, "n"], ids: Int32[Array, "n"]
    ) -> "SamplingState":
        """The state after `tokens[slots, positions] = ids`; places outside are dropped."""
        return replace(self, tokens=self.tokens.at[slots, positions].set(ids, mode="drop"))


def allocate_sampling_state(num_slots: int, max_model_len: int) -> SamplingState:
    """State for `num_slots` sequences and one spare row for padding."""
    bias_shape = (num_slots + 1, BIAS_CAPACITY)
    return SamplingState(
        tokens=jnp.zeros((num_slots + 1, max_model_len), jnp.int32),
        bias_ids=jnp.full(bias_shape, NO_ID, jnp.int32),
        bias_values=jnp.zeros(bias_shape, jnp.float32),
    )


def needs_slot(params: SamplingParams) -> bool:
    """Whether `set_slot` must be called when such a request is admitted, and again after each
    preemption: its penalties read tokens that no step may write (a cached prefix), or it has
    biases."""
    return params.has_penalties or bool(params.logit_bias)


def make_slot_arrays(
    params: SamplingParams, token_ids: Sequence[int], max_model_len: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The host arrays that `set_slot` takes, for a sequence whose known tokens are `token_ids`."""
    token_row = np.zeros(max_model_len, np.int32)
    token_row[: len(token_ids)] = token_ids
    bias_ids = np.full(BIAS_CAPACITY, NO_ID, np.int32)
    bias_values = np.zeros(BIAS_CAPACITY, np.float32)
    for index, (token_id, value) in enumerate(params.logit_bias):
        bias_ids[index] = token_id
        bias_values[index] = value
    return token_row, bias_ids, bias_values


@partial(jax.jit, donate_argnums=0)
def set_slot(
    state: SamplingState,
    slot: Int32[Array, ""],
    token_row: Int32[Array, "max_len"],
    bias_ids: Int32[Array, "bias"],
    bias_values: Float32[Array, "bias"],
) -> SamplingState:
    """Fills a slot at admission; `state` is donated and must not be used again."""
    return SamplingState(
        tokens=state.tokens.at[slot].set(token_row),
        bias_ids=state.bias_ids.at[slot].set(bias_ids),
        bias_values=state.bias_values.at[slot].set(bias_values),
    )
