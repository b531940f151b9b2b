"""One step as one int32 array: the layout both sides agree on, and the host's side of it.

    tokens     [T]      token ids; FROM_DEVICE where the host does not know the id yet
    seq_slots  [S]      row of the device token buffer that belongs to each sequence
    rows       [S]      for each sampling row, its sequence's last row on the token axis
    sampling   [S, *]   see sampling_rows.py
    attention  [*]      see kernels/attention

One upload a step, because twelve small ones cost five times as much (engine notes, README).
"""

from collections.abc import Sequence as Series
from dataclasses import dataclass
from functools import cached_property

import jax
import numpy as np

from helium_jax.engine import sampling_rows
from helium_jax.engine.sampling_rows import SamplingRows, Variant
from helium_jax.kernels.attention import (
    AttentionBatch,
    AttentionLayout,
    Target,
    make_layout,
    pack_batch,
    unpack_batch,
)

FROM_DEVICE = -1


@dataclass(frozen=True, slots=False, kw_only=True)
class StepLayout:
    """Where everything lies in the packed array of one token bucket; hashable and static.

    Attributes:
        num_tokens: T, rows of the token axis.
        num_seqs: S, most sequences of a step, and most rows that sample.
        num_slots: rows of the device token buffer; row `num_slots` is spare, for padding.
        attention: the attention part.
    """

    num_tokens: int
    num_seqs: int
    num_slots: int
    attention: AttentionLayout

    @cached_property
    def offsets(self) -> tuple[int, int, int, int, int, int]:
        """Start of each part, in the order of the module docstring, and the end."""
        sizes = (
            self.num_tokens,
            self.num_seqs,
            self.num_seqs,
            sampling_rows.num_ints(self.num_seqs),
            self.attention.num_ints,
        )
        starts = [0]
        for size in sizes:
            starts.append(starts[-1] + size)
        return tuple(starts)  # type: ignore[return-value]

    @property
    def num_ints(self) -> int:
        return self.offsets[-1]

    @property
    def sampling_part(self) -> slice:
        """Where the sampling rows lie."""
        return slice(self.offsets[3], self.offsets[4])


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpackedStep:
    """The packed array taken apart on the device; shapes as in the module docstring."""

    tokens: jax.Array
    seq_slots: jax.Array
    rows: jax.Array
    sampling: SamplingRows
    attention: AttentionBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedSequence:
    """What packing needs of one sequence's share of a step.

    Attributes:
        slot: its row of the token buffer.
        token_ids: the ids of its new tokens, FROM_DEVICE where only the device knows.
        kv_len: its tokens after this step.
        pages: its pages, at least ceil(kv_len / page_size).
        sampling_row: its `pack_row` if the step samples its next token, else None.
        mask: uint32 [ceil(V / 32)], the tokens it may sample by bits; None for all. No part of the
            packed array: `Runner` uploads masks only when a step has some.
    """

    slot: int
    token_ids: Series[int]
    kv_len: int
    pages: Series[int]
    sampling_row: np.ndarray | None
    mask: np.ndarray | None = None


def step_layout(
    *,
    num_tokens: int,
    max_num_seqs: int,
    max_model_len: int,
    page_size: int,
    num_pages: int,
    deterministic: bool,
    target: Target | None = None,
) -> StepLayout:
    """The layout of one token bucket: at most one sequence per row of its token axis.

    `target` is what will read the attention part, XLA when left out.
    """
    num_seqs = min(num_tokens, max_num_seqs)
    return StepLayout(
        num_tokens=num_tokens,
        num_seqs=num_seqs,
        num_slots=max_num_seqs,
        attention=make_layout(
            num_tokens=num_tokens,
            num_seqs=num_seqs,
            pages_per_seq=-(-max_model_len // page_size),
            page_size=page_size,
            num_pages=num_pages,
            deterministic=deterministic,
            target=target,
        ),
    )


def pack_step(
    layout: StepLayout,
    sequences: Series[PackedSequence],
    *,
    cascade: bool,
) -> tuple[np.ndarray, Variant]:
    """Packs a step; no sequences at all make the empty step that warm-up runs.

    Returns:
        int32 [layout.num_ints], and what its sampling needs.
    """
    out = np.zeros(layout.num_ints, np.int32)
    tokens, seq_slots, rows, sampling, attention, end = layout.offsets
    seq_slots_out = out[seq_slots:rows]
    seq_slots_out[:] = layout.num_slots

    counts = [len(sequence.token_ids) for sequence in sequences]
    kv_lens = [sequence.kv_len for sequence in sequences]
    width = max((len(sequence.pages) for sequence in sequences), default=0)
    tables = np.zeros((len(sequences), width), np.int32)
    sampling_rows_in, positions = [], []
    start = 0
    for index, sequence in enumerate(sequences):
        stop = start + counts[index]
        out[tokens + start : tokens + stop] = sequence.token_ids
        seq_slots_out[index] = sequence.slot
        tables[index, : len(sequence.pages)] = sequence.pages
        if sequence.sampling_row is not None:
            out[rows + len(positions)] = stop - 1
            sampling_rows_in.append(sequence.sampling_row)
            positions.append(sequence.kv_len)
        start = stop
    needed = sampling_rows.pack_sampling(
        sampling_rows_in, positions, num_slots=layout.num_slots, out=out[sampling:attention]
    )
    pack_batch(
        layout.attention,
        counts,
        kv_lens,
        tables,
        cascade=cascade,
        out=out[attention:end],
    )
    return out, needed


def unpack_step(layout: StepLayout, packed: jax.Array) -> UnpackedStep:
    """The inverse of `pack_step`, inside the step: packed is int32 [layout.num_ints]."""
    tokens, seq_slots, rows, sampling, attention, end = layout.offsets
    return UnpackedStep(
        tokens=packed[tokens:seq_slots],
        seq_slots=packed[seq_slots:rows],
        rows=packed[rows:sampling],
        sampling=sampling_rows.unpack_sampling(packed[sampling:attention], layout.num_seqs),
        attention=unpack_batch(layout.attention, packed[attention:end]),
    )
