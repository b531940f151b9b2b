"""The host's side of a step: lengths and page tables into one int32 array, in well under 1 ms."""

from collections.abc import Sequence

import numpy as np

from helium_jax.kernels.attention.layout import AttentionLayout

IntArray = np.ndarray


def pack_batch(
    layout: AttentionLayout,
    query_lens: Sequence[int] | IntArray,
    kv_lens: Sequence[int] | IntArray,
    page_tables: IntArray,
    *,
    cascade: bool,
    deterministic: bool,
    out: IntArray,
) -> None:
    """Fills `out` with the description of one step.

    Sequences come in order: sequence s owns the next `query_lens[s]` rows of the flat token axis,
    and row i of them has position `kv_lens[s] - query_lens[s] + i`. Attention is causal.

    Args:
        query_lens: [num_seqs], new tokens of each sequence, 0 allowed.
        kv_lens: [num_seqs], tokens of each sequence, the new ones included.
        page_tables: integers [num_seqs, any number of columns]; entries beyond a sequence's length
            are ignored, whatever they are.
        cascade: read prefixes that several sequences share (equal leading page ids) once.
        deterministic: choose work so that a row's result bits depend on its own sequence only.
        out: int32 [layout.num_ints], overwritten entirely.

    Raises:
        ValueError: lengths, tables or `out` do not fit the layout; the message names the sequence.
    """
    query_lens = np.asarray(query_lens, np.int32)
    kv_lens = np.asarray(kv_lens, np.int32)
    num_pages_of = -(-kv_lens // layout.page_size)
    page_tables = np.asarray(page_tables)
    _check(layout, query_lens, kv_lens, page_tables, num_pages_of, out)
    num_seqs = len(query_lens)
    arrays = {}
    start = 0
    for name, shape in layout.sections:
        end = start + int(np.prod(shape))
        arrays[name] = out[start:end].reshape(shape)
        start = end

    width = min(page_tables.shape[1], layout.pages_per_seq)
    used = np.arange(width, dtype=np.int32) < num_pages_of[:, None]  # [S, C]
    arrays["page_tables"][:] = 0
    np.copyto(arrays["page_tables"][:num_seqs, :width], page_tables[:, :width], where=used)

    num_tokens = int(query_lens.sum())
    seqs = np.repeat(np.arange(num_seqs, dtype=np.int32), query_lens)
    ends = np.cumsum(query_lens, dtype=np.int32)
    arrays["token_seqs"][:num_tokens] = seqs
    arrays["token_seqs"][num_tokens:] = -1
    arrays["token_positions"][:num_tokens] = np.arange(num_tokens, dtype=np.int32) + np.repeat(
        kv_lens - ends, query_lens
    )
    arrays["token_positions"][num_tokens:] = 0


def _check(
    layout: AttentionLayout,
    query_lens: IntArray,
    kv_lens: IntArray,
    page_tables: IntArray,
    num_pages_of: IntArray,
    out: IntArray,
) -> None:
    num_seqs = len(query_lens)
    if query_lens.shape != (num_seqs,) or kv_lens.shape != (num_seqs,):
        raise ValueError(f"{query_lens.shape=} and {kv_lens.shape=} must both be [num_seqs]")
    if page_tables.ndim != 2 or page_tables.shape[0] != num_seqs:
        raise ValueError(f"{page_tables.shape=} must be [{num_seqs=}, columns]")
    if out.shape != (layout.num_ints,) or out.dtype != np.int32:
        raise ValueError(f"out is {out.dtype}{out.shape}; expected int32[{layout.num_ints}]")
    if num_seqs > layout.num_seqs:
        raise ValueError(f"{num_seqs=} exceeds the layout's {layout.num_seqs=}")
    if query_lens.sum() > layout.num_tokens:
        raise ValueError(f"{query_lens.sum()=} exceeds the layout's {layout.num_tokens=}")
    if num_seqs == 0:
        return
    wrong = (query_lens < 0) | (kv_lens < query_lens)
    if wrong.any():
        s = int(wrong.argmax())
        raise ValueError(
            f"sequence {s}: query_len={query_lens[s]} must lie between 0 and kv_len={kv_lens[s]}"
        )
    room = min(page_tables.shape[1], layout.pages_per_seq)
    if num_pages_of.max() > room:
        s = int(num_pages_of.argmax())
        raise ValueError(
            f"sequence {s}: kv_len={kv_lens[s]} needs {num_pages_of[s]} pages; "
            f"its table has {page_tables.shape[1]}, the layout {layout.pages_per_seq}"
        )
    columns = np.arange(room) < num_pages_of[:, None]
    tables = page_tables[:, :room]
    wrong = columns & ((tables < 0) | (tables >= layout.num_pages))
    if wrong.any():
        s, c = np.unravel_index(wrong.argmax(), wrong.shape)
        raise ValueError(
            f"sequence {s}: page {tables[s, c]} in column {c} is not one of {layout.num_pages=}"
        )
