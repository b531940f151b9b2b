"""Pieces of a step cut into items: equal shares of pages for every worker, on the host."""

import numpy as np

from helium_jax.kernels.attention.layout import AttentionLayout


def fill_items(layout: AttentionLayout, arrays: dict[str, np.ndarray]) -> None:
    """Fills the sections that follow from the units and blocks already in `arrays`."""
    if not layout.max_parts:
        return
    counts = np.maximum(arrays["unit_ends"] - arrays["unit_starts"], 0)
    units = np.flatnonzero(counts)
    unit_items, unit_workers = cut_pieces(
        units, arrays["unit_starts"][units], arrays["unit_ends"][units], layout
    )
    blocks = np.arange(arrays["block_counts"][1], dtype=np.int32)
    block_items, block_workers = cut_pieces(
        blocks, arrays["block_starts"][blocks], arrays["block_ends"][blocks], layout
    )
    if layout.num_workers:
        for name, items, workers in (
            ("unit", unit_items, unit_workers),
            ("block", block_items, block_workers),
        ):
            arrays[f"{name}_items"][:] = 0
            arrays[f"{name}_items"][:, : items.shape[1]] = items
            arrays[f"{name}_workers"][:] = workers
        unit_numbers = np.arange(unit_items.shape[1])
    else:
        unit_numbers = unit_items[0]
    _fill_parts(layout, arrays, unit_items[0], unit_numbers, block_items[0])


def cut_pieces(
    pieces: np.ndarray, starts: np.ndarray, ends: np.ndarray, layout: AttentionLayout
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the pages of all pieces, laid end to end, at equal distances.

    Args:
        pieces: int32 [n], their numbers; each has a page at least.
        starts: int32 [n], first page column.
        ends: int32 [n], column after the last.
        layout: without workers no piece is cut. In deterministic layouts none is either, for a cut
            depends on what else is in the step; whole pieces are dealt out instead.

    Returns:
        items int32 [3, i] (piece, first column, column after the last), in order of pieces, and
        int32 [num_workers + 1], where each worker's items begin.
    """
    lengths = ends - starts
    bounds = np.cumsum(lengths, dtype=np.int64)
    total = int(bounds[-1]) if len(bounds) else 0
    share = -(-total // max(layout.num_workers, 1))
    if layout.max_splits > 1 and total:
        # A piece of n pages lies in at most n / share + 1 shares, rounded up.
        share = max(share, -(-int(lengths.max()) // (layout.max_splits - 1)))
        cuts = np.arange(share, total, share, dtype=np.int64)
        edges = np.union1d(np.append(bounds, 0), cuts)
    else:
        edges = np.append(0, bounds)
    left, right = edges[:-1], edges[1:]
    owner = np.searchsorted(bounds, left, side="right")
    offset = starts[owner] - (bounds - lengths)[owner]
    items = np.stack([pieces[owner], left + offset, right + offset]).astype(np.int32)
    workers = np.searchsorted(left // max(share, 1), np.arange(layout.num_workers + 1))
    return items, workers.astype(np.int32)


def _fill_parts(
    layout: AttentionLayout,
    arrays: dict[str, np.ndarray],
    unit_pieces: np.ndarray,
    unit_numbers: np.ndarray,
    block_pieces: np.ndarray,
) -> None:
    """The items of every row, in ascending order of their numbers."""
    rows_of_blocks = arrays["block_rows"][block_pieces]  # [items, R]
    base = layout.max_unit_items
    block_numbers = base + np.arange(rows_of_blocks.size)
    rows = np.concatenate([arrays["unit_rows"][unit_pieces], rows_of_blocks.ravel()])
    numbers = np.concatenate([unit_numbers, block_numbers])
    real = rows < layout.num_tokens
    rows, numbers = rows[real], numbers[real]
    order = np.argsort(rows, kind="stable")
    rows, numbers = rows[order], numbers[order]
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    arrays["row_parts"][:] = -1
    arrays["row_parts"][rows, rank] = numbers
