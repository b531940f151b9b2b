"""The host's side of a step: lengths and page tables into one int32 array, in well under 1 ms."""

import math
from collections.abc import Sequence

import numpy as np

from helium_jax.kernels.attention.cascade import CascadeCosts, PrefixGroup, find_prefix_groups
from helium_jax.kernels.attention.items import fill_items
from helium_jax.kernels.attention.layout import AttentionLayout

# Fitted to groups of 2 to 32 rows over 64 to 1,024 shared tokens, 2-core CPU (README.md).
CASCADE_COSTS = CascadeCosts(block=8.0, page=1.8, row=0.13)
# For kernels, computed and not yet measured: memory bounds them, so a block reads a page at the
# price of one row reading it alone, whatever its rows; its result costs about four pages to merge.
KERNEL_COSTS = CascadeCosts(block=4.0, page=1.0, row=0.0)


def pack_batch(
    layout: AttentionLayout,
    query_lens: Sequence[int] | np.ndarray,
    kv_lens: Sequence[int] | np.ndarray,
    page_tables: np.ndarray,
    *,
    cascade: bool,
    out: np.ndarray,
    costs: CascadeCosts | None = None,
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
        out: int32 [layout.num_ints], overwritten entirely.
        costs: decides which shared prefixes are worth a block of their own; None takes those of
            what the layout is for.

    Raises:
        ValueError: cascade with a deterministic layout, whose rows never share a piece of work; or
            lengths, tables or `out` do not fit the layout; the message names the sequence.
    """
    if cascade and layout.deterministic:
        raise ValueError("cascade=True is impossible with a deterministic layout; turn one off")
    if costs is None:
        costs = KERNEL_COSTS if layout.max_parts else CASCADE_COSTS
    query_lens = _integers("query_lens", query_lens).astype(np.int32)
    kv_lens = _integers("kv_lens", kv_lens).astype(np.int32)
    num_pages_of = -(-kv_lens // layout.page_size)
    page_tables = _integers("page_tables", page_tables)
    _check(layout, query_lens, kv_lens, page_tables, num_pages_of, out)
    num_seqs = len(query_lens)
    arrays = {}
    start = 0
    for name, shape in layout.sections:
        end = start + math.prod(shape)
        arrays[name] = out[start:end].reshape(shape)
        start = end

    width = min(page_tables.shape[1], layout.pages_per_seq)
    used = np.arange(width, dtype=np.int32) < num_pages_of[:, None]  # [S, C]
    arrays["page_tables"][:] = 0
    np.copyto(arrays["page_tables"][:num_seqs, :width], page_tables[:, :width], where=used)

    num_tokens = int(query_lens.sum())
    row_ends = np.cumsum(query_lens, dtype=np.int32)
    row_starts = row_ends - query_lens
    arrays["token_seqs"][:num_tokens] = np.repeat(np.arange(num_seqs, dtype=np.int32), query_lens)
    arrays["token_seqs"][num_tokens:] = -1
    arrays["token_positions"][:num_tokens] = np.arange(num_tokens, dtype=np.int32) + np.repeat(
        kv_lens - row_ends, query_lens
    )
    arrays["token_positions"][num_tokens:] = 0

    in_units = np.zeros(num_seqs, bool) if layout.deterministic else query_lens == 1
    in_blocks = ~in_units & (query_lens > 0)
    own_blocks = np.where(in_blocks, -(-query_lens // layout.block_rows), 0)
    groups: list[PrefixGroup] = []
    if cascade:
        groups = _choose_groups(
            layout, page_tables[:, :width], query_lens, kv_lens, own_blocks, costs
        )
    starts = np.zeros(num_seqs, np.int32)  # columns before are read by groups
    for group in groups:
        starts[list(group.members)] = group.end

    for name in ("unit_rows", "unit_starts", "unit_ends"):
        arrays[name][num_seqs:] = 0
    arrays["unit_rows"][:num_seqs] = row_starts
    arrays["unit_starts"][:num_seqs] = np.where(in_units, starts, 0)
    arrays["unit_ends"][:num_seqs] = np.where(in_units, num_pages_of, 0)

    _fill_blocks(layout, arrays, row_starts, query_lens, kv_lens, own_blocks, starts, groups)
    fill_items(layout, arrays)


def _choose_groups(
    layout: AttentionLayout,
    page_tables: np.ndarray,
    query_lens: np.ndarray,
    kv_lens: np.ndarray,
    own_blocks: np.ndarray,
    costs: CascadeCosts,
) -> list[PrefixGroup]:
    """Groups that cost less than what their members would read alone, as many as there is room."""
    block_page = costs.block_page(layout.block_rows)
    alone = np.where(own_blocks > 0, own_blocks * block_page, 1.0)  # per page of each sequence
    room = layout.max_blocks - int(own_blocks.sum())

    depths = np.zeros(len(query_lens), np.int32)
    most_depth = layout.max_parts // layout.max_splits - 1 if layout.max_parts else None

    def pays(group: PrefixGroup) -> bool:
        nonlocal room
        members = list(group.members)
        if most_depth is not None and depths[members].max() >= most_depth:
            return False
        num_blocks = -(-int(query_lens[members].sum()) // layout.block_rows)
        num_pages = group.end - group.start
        pages_read = -(-num_pages // layout.run_pages) * layout.run_pages
        together = num_blocks * (costs.block + pages_read * block_page)
        if num_blocks > room or together >= float(alone[members].sum()) * num_pages:
            return False
        room -= num_blocks
        depths[members] += 1
        return True

    shareable = np.where(query_lens > 0, (kv_lens - query_lens) // layout.page_size, 0)
    return find_prefix_groups(page_tables, shareable, pays)


def _fill_blocks(
    layout: AttentionLayout,
    arrays: dict[str, np.ndarray],
    row_starts: np.ndarray,
    query_lens: np.ndarray,
    kv_lens: np.ndarray,
    own_blocks: np.ndarray,
    starts: np.ndarray,
    groups: list[PrefixGroup],
) -> None:
    """Own blocks of every sequence in order, then the groups' blocks; the rest is padding."""
    size = layout.block_rows
    rows, seqs = arrays["block_rows"], arrays["block_seqs"]
    first, last = arrays["block_starts"], arrays["block_ends"]
    for array, padding in ((rows, layout.num_tokens), (seqs, 0), (first, 0), (last, 0)):
        array[:] = padding

    count = int(own_blocks.sum())
    owner = np.repeat(np.arange(len(own_blocks), dtype=np.int32), own_blocks)
    within = np.arange(count) - np.repeat(np.cumsum(own_blocks) - own_blocks, own_blocks)
    offsets = within[:, None] * size + np.arange(size)  # [blocks, R], rows within the sequence
    real = offsets < query_lens[owner, None]
    np.copyto(rows[:count], offsets + row_starts[owner, None], where=real, casting="unsafe")
    seqs[:count] = owner
    first[:count] = starts[owner]
    block_len = np.minimum((within + 1) * size, query_lens[owner])
    keys = kv_lens[owner] - query_lens[owner] + block_len  # the last row of a block sees so many
    last[:count] = -(-keys // layout.page_size)
    arrays["block_counts"][0] = count

    for group in groups:
        members = [np.arange(row_starts[s], row_starts[s] + query_lens[s]) for s in group.members]
        group_rows = np.concatenate(members)
        for begin in range(0, len(group_rows), size):
            part = group_rows[begin : begin + size]
            rows[count, : len(part)] = part
            seqs[count] = group.members[0]
            first[count] = group.start
            last[count] = group.end
            count += 1
    arrays["block_counts"][1] = count


def _integers(name: str, values: Sequence[int] | np.ndarray) -> np.ndarray:
    """An array of integers; an empty one may be of any dtype."""
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"{name} is in {array.dtype}; expected integers")
    return array


def _check(
    layout: AttentionLayout,
    query_lens: np.ndarray,
    kv_lens: np.ndarray,
    page_tables: np.ndarray,
    num_pages_of: np.ndarray,
    out: np.ndarray,
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
