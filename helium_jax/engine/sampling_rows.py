"""How each row of a step is sampled: packed once per request on the host, unpacked on the device.

A packed row is `ROW_INTS` int32 words, floats by their bits. Everything but the position is fixed
while a sequence keeps its slot, so a step costs one copy per row and one column of positions.
"""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32, UInt32

from helium_jax.errors import RequestError
from helium_jax.types import SamplingParams

# Stop and end-of-sequence ids that min_tokens can hold back, per row.
STOP_CAPACITY = 24
# Never a token id: scatters drop it.
NO_ID = np.iinfo(np.int32).max


class Variant(enum.IntEnum):
    """What a batch of rows needs at most; each contains the ones before it."""

    GREEDY = 0  # argmax only
    RANDOM = 1  # temperature too
    FULL = 2  # everything


class _Column(enum.IntEnum):
    """Places in a packed row; the stop ids follow."""

    POSITION = 0
    SLOT = 1
    PROMPT_LEN = 2
    VARIANT = 3
    SEED_HIGH = 4
    SEED_LOW = 5
    TEMPERATURE = 6
    TOP_K = 7
    TOP_P = 8
    MIN_P = 9
    PRESENCE = 10
    FREQUENCY = 11
    REPETITION = 12
    MIN_TOKENS = 13
    NUM_BIAS = 14
    WANTS_LOGPROB = 15
    NUM_TOP = 16


_NUM_COLUMNS = len(_Column)
ROW_INTS = _NUM_COLUMNS + STOP_CAPACITY


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingRows:
    """The rows of a step on the device; fields as in SamplingParams unless said here.

    Attributes:
        position: of the token to sample, counted from the start of the prompt; so also the
            number of tokens known before it.
        slot: row of SamplingState that belongs to the sequence.
        prompt_len: tokens of the prompt as the request brought it.
        seed: resolved, high and low word.
        num_bias: entries of the slot's bias list that count.
        wants_logprob: the chosen token's logprob is asked for.
        num_top: most likely alternatives asked for.
        stop_ids: ids held back before min_tokens; NO_ID where there is none.
    """

    position: Int32[Array, "S"]
    slot: Int32[Array, "S"]
    prompt_len: Int32[Array, "S"]
    seed: UInt32[Array, "S 2"]
    temperature: Float32[Array, "S"]
    top_k: Int32[Array, "S"]
    top_p: Float32[Array, "S"]
    min_p: Float32[Array, "S"]
    presence_penalty: Float32[Array, "S"]
    frequency_penalty: Float32[Array, "S"]
    repetition_penalty: Float32[Array, "S"]
    min_tokens: Int32[Array, "S"]
    num_bias: Int32[Array, "S"]
    wants_logprob: Bool[Array, "S"]
    num_top: Int32[Array, "S"]
    stop_ids: Int32[Array, "S stop"]

    @property
    def num_generated(self) -> Int32[Array, "S"]:
        return self.position - self.prompt_len


def variant_of(params: SamplingParams) -> Variant:
    """The least variant that samples such a request as it asks."""
    asks_full = (
        params.has_penalties
        or bool(params.logit_bias)
        or params.min_tokens > 0
        or params.logprobs is not None
        or (not params.is_greedy and _filters(params))
    )
    if asks_full:
        return Variant.FULL
    return Variant.GREEDY if params.is_greedy else Variant.RANDOM


def _filters(params: SamplingParams) -> bool:
    return params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0


def num_ints(num_rows: int) -> int:
    """Length of the packed form of `num_rows` rows, in int32 words."""
    return num_rows * ROW_INTS


def pack_row(
    params: SamplingParams,
    *,
    seed: int,
    prompt_len: int,
    slot: int,
    eos_token_ids: Iterable[int] = (),
) -> np.ndarray:
    """One sequence's row, to be kept as long as it keeps its slot.

    Args:
        params: validated already.
        seed: resolved, in [0, 2**64).
        prompt_len: of the request's own prompt, whatever was generated before a preemption.
        slot: the sequence's row of SamplingState.
        eos_token_ids: of the model, held back before min_tokens unless `ignore_eos`.

    Returns:
        int32[ROW_INTS]; position is 0 until `pack_sampling` sets it.

    Raises:
        RequestError: more than STOP_CAPACITY ids would have to be held back.
    """
    row = np.zeros(ROW_INTS, np.int32)
    floats = row.view(np.float32)
    words = row.view(np.uint32)
    row[_Column.SLOT] = slot
    row[_Column.PROMPT_LEN] = prompt_len
    row[_Column.VARIANT] = variant_of(params)
    words[_Column.SEED_HIGH] = seed >> 32
    words[_Column.SEED_LOW] = seed & 0xFFFF_FFFF
    floats[_Column.TEMPERATURE] = params.temperature
    row[_Column.TOP_K] = params.top_k
    floats[_Column.TOP_P] = params.top_p
    floats[_Column.MIN_P] = params.min_p
    floats[_Column.PRESENCE] = params.presence_penalty
    floats[_Column.FREQUENCY] = params.frequency_penalty
    floats[_Column.REPETITION] = params.repetition_penalty
    row[_Column.MIN_TOKENS] = params.min_tokens
    row[_Column.NUM_BIAS] = len(params.logit_bias)
    row[_Column.WANTS_LOGPROB] = params.logprobs is not None
    row[_Column.NUM_TOP] = params.logprobs or 0
    row[_NUM_COLUMNS:] = NO_ID
    if params.min_tokens > 0:
        stop_ids = dict.fromkeys(params.stop_token_ids)
        if not params.ignore_eos:
            stop_ids |= dict.fromkeys(eos_token_ids)
        if len(stop_ids) > STOP_CAPACITY:
            raise RequestError(
                f"min_tokens={params.min_tokens} would hold back {len(stop_ids)} stop and "
                f"end-of-sequence ids; at most {STOP_CAPACITY} are possible: name fewer stop "
                "token ids",
                param="stop_token_ids",
            )
        row[_NUM_COLUMNS : _NUM_COLUMNS + len(stop_ids)] = list(stop_ids)
    return row


def pack_sampling(
    rows: Sequence[np.ndarray], positions: Sequence[int], *, num_slots: int, out: np.ndarray
) -> Variant:
    """Writes a step's rows, padded by greedy rows of the spare slot.

    Args:
        rows: of `pack_row`, one per sequence that samples.
        positions: of the token each will sample; see SamplingRows.
        num_slots: the spare slot's index, one past the last real slot.
        out: int32[num_ints(S)], S >= len(rows); all of it is written.

    Returns:
        The variant the step needs.
    """
    table = out.reshape(-1, ROW_INTS)
    count = len(rows)
    for index, row in enumerate(rows):
        table[index] = row
    table[:count, _Column.POSITION] = positions
    table[count:] = 0
    table[count:, _Column.SLOT] = num_slots
    return Variant(int(table[:, _Column.VARIANT].max(initial=0)))


def unpack_sampling(ints: Int32[Array, "packed"], num_rows: int) -> SamplingRows:
    """The inverse of `pack_sampling` for S = `num_rows`, on the device."""
    table = ints.reshape(num_rows, ROW_INTS)  # [S, ROW_INTS]

    def as_float(column: _Column) -> Float32[Array, "S"]:
        return jax.lax.bitcast_convert_type(table[:, column], jnp.float32)

    seed = table[:, _Column.SEED_HIGH : _Column.SEED_LOW + 1]
    return SamplingRows(
        position=table[:, _Column.POSITION],
        slot=table[:, _Column.SLOT],
        prompt_len=table[:, _Column.PROMPT_LEN],
        seed=jax.lax.bitcast_convert_type(seed, jnp.uint32),
        temperature=as_float(_Column.TEMPERATURE),
        top_k=table[:, _Column.TOP_K],
        top_p=as_float(_Column.TOP_P),
        min_p=as_float(_Column.MIN_P),
        presence_penalty=as_float(_Column.PRESENCE),
        frequency_penalty=as_float(_Column.FREQUENCY),
        repetition_penalty=as_float(_Column.REPETITION),
        min_tokens=table[:, _Column.MIN_TOKENS],
        num_bias=table[:, _Column.NUM_BIAS],
        wants_logprob=table[:, _Column.WANTS_LOGPROB] != 0,
        num_top=table[:, _Column.NUM_TOP],
        stop_ids=table[:, _NUM_COLUMNS:],
    )
