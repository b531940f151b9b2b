"""Paged attention as two XLA loops over the work list: rows read alone, and blocks of rows.

Both loops fold their pieces into one `Partial` of T + 1 rows, so a row may be in any number of
pieces; row T collects what padding computes. Trip counts come from the data: padding costs nothing.

- *Units* (one row, one page) serve sequences with a single new token. One iteration takes
  `unit_pages` of them, of any mixture of sequences: ragged contexts waste at most one iteration.
  Which units these are is found on the device from the S page counts, so no list of units exists.
- *Blocks* (up to R rows, a range of pages) serve longer chunks and shared prefixes. The query heads
  of one KV head are stacked as rows; pages are read in runs, gathered into one matrix per head.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from helium_jax.kernels.attention.layout import AttentionBatch
from helium_jax.kernels.attention.merge import (
    HIDDEN,
    Partial,
    empty_partial,
    finish_partial,
    merge_partials,
)
from helium_jax.kernels.pages import KVPages, gather_keys, gather_values


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """What both loops read; never carried, only closed over.

    Attributes:
        q: float32 [T + 1, K, G, H], already scaled; row T is zero.
        positions: int32 [T + 1], -1 for padding and row T.
        tables: int32 [S, C + run_pages], so that a run may begin in any column.
    """

    q: jax.Array
    positions: jax.Array
    tables: jax.Array
    pages: KVPages
    layer: int
    batch: AttentionBatch
    window: int | None
    soft_cap: float | None

    def gather_keys(self, page_ids: jax.Array) -> jax.Array:
        """int32 [W] -> float32 [W, K, H, B]."""
        return gather_keys(self.pages, self.layer, page_ids).astype(jnp.float32)

    def gather_values(self, page_ids: jax.Array) -> jax.Array:
        """int32 [W] -> float32 [W, K, B, H]."""
        return gather_values(self.pages, self.layer, page_ids).astype(jnp.float32)

    def finish_scores(self, scores: jax.Array, visible: jax.Array) -> jax.Array:
        """Soft cap and mask."""
        if self.soft_cap is not None:
            scores = self.soft_cap * jnp.tanh(scores / self.soft_cap)
        return jnp.where(visible, scores, HIDDEN)

    def in_window(self, key_positions: jax.Array, positions: jax.Array) -> jax.Array:
        """Whether a key is neither in a row's future nor behind its window; broadcasts."""
        visible = key_positions <= positions
        if self.window is not None:
            visible &= key_positions > positions - self.window
        return visible


def attend_worklist(
    q: jax.Array,
    pages: KVPages,
    layer: int,
    batch: AttentionBatch,
    *,
    scale: float,
    window: int | None,
    soft_cap: float | None,
) -> tuple[jax.Array, jax.Array]:
    """See `paged_attention`."""
    layout = batch.layout
    num_tokens, num_heads, head_size = q.shape
    kv_heads = pages.num_kv_heads
    shape = (num_tokens, kv_heads, num_heads // kv_heads)
    scaled = (q.astype(jnp.float32) * scale).reshape(*shape, head_size)
    real = batch.token_seqs >= 0
    step = _Step(
        q=jnp.pad(scaled, ((0, 1), (0, 0), (0, 0), (0, 0))),
        positions=jnp.pad(jnp.where(real, batch.token_positions, -1), (0, 1), constant_values=-1),
        tables=jnp.pad(batch.page_tables, ((0, 0), (0, layout.run_pages))),
        pages=pages,
        layer=layer,
        batch=batch,
        window=window,
        soft_cap=soft_cap,
    )
    rows = empty_partial(step.q.shape[:-1], head_size)
    with jax.named_scope("attend_blocks"):
        rows = _attend_blocks(step, rows)
    if not layout.deterministic:  # such layouts have no units
        with jax.named_scope("attend_units"):
            rows = _attend_units(step, rows)

    out, lse = finish_partial(jax.tree.map(lambda x: x[:num_tokens], rows))
    return out.reshape(q.shape).astype(q.dtype), lse.reshape(num_tokens, num_heads)


def _attend_units(step: _Step, rows: Partial) -> Partial:
    """Every single-row sequence, `unit_pages` pages at a time in order of sequences."""
    layout, batch = step.batch.layout, step.batch
    width, page_size = layout.unit_pages, layout.page_size
    starts = batch.unit_starts
    if step.window is not None:
        first_keys = step.positions[batch.unit_rows] - step.window + 1
        starts = jnp.maximum(first_keys, 0) // page_size
    counts = jnp.maximum(batch.unit_ends - starts, 0)  # [S]
    ends = jnp.cumsum(counts)
    bases = ends - counts - starts  # unit number minus base is the page column
    num_units = ends[-1]

    def attend(i: jax.Array, rows: Partial) -> Partial:
        units = i * width + jnp.arange(width, dtype=jnp.int32)  # [W]
        seqs = jnp.sum(units[:, None] >= ends[None, :], axis=1, dtype=jnp.int32)
        real = units < num_units
        seqs = jnp.where(real, seqs, 0)
        columns = jnp.where(real, units - bases[seqs], 0)
        page_ids = batch.page_tables[seqs, columns]
        targets = jnp.where(real, batch.unit_rows[seqs], layout.num_tokens)

        offsets = jnp.arange(page_size, dtype=jnp.int32)
        key_positions = columns[:, None] * page_size + offsets[None, :]
        visible = step.in_window(key_positions, step.positions[targets][:, None])  # [W, B]
        keys = step.gather_keys(page_ids)  # [W, K, H, B]
        values = jnp.where(visible[:, None, :, None], step.gather_values(page_ids), 0.0)
        scores = jnp.einsum("wkgh,wkhb->wkgb", step.q[targets], keys)
        scores = step.finish_scores(scores, visible[:, None, None, :])

        peak = rows.peak.at[targets].max(jnp.max(scores, axis=-1))  # [T + 1, K, G]
        weights = jnp.exp(scores - peak[targets][..., None])
        keep = jnp.exp(rows.peak - peak)
        out = jnp.einsum("wkgb,wkbh->wkgh", weights, values)
        return Partial(
            out=(rows.out * keep[..., None]).at[targets].add(out),
            peak=peak,
            total=(rows.total * keep).at[targets].add(jnp.sum(weights, axis=-1)),
        )

    return jax.lax.fori_loop(0, (num_units + width - 1) // width, attend, rows)


def _attend_blocks(step: _Step, rows: Partial) -> Partial:
    """Every block, one after another; own blocks only in windowed layers."""
    layout, batch = step.batch.layout, step.batch
    num_rows, width, page_size = layout.block_rows, layout.run_pages, layout.page_size
    _, kv_heads, group, head_size = step.q.shape
    stacked = (kv_heads, group * num_rows)

    def attend(b: jax.Array, rows: Partial) -> Partial:
        targets = batch.block_rows[b]  # [R]
        positions = step.positions[targets]
        queries = step.q[targets].transpose(1, 2, 0, 3).reshape(*stacked, head_size)
        table = step.tables[batch.block_seqs[b]]  # [C + run_pages]
        num_keys = jnp.minimum(batch.block_ends[b] * page_size, jnp.max(positions) + 1)
        # In windowed layers these are the positions themselves: own blocks end at their last row.
        newest = jnp.tile(jnp.minimum(positions, num_keys - 1), group)[:, None]  # [G * R, 1]
        start = batch.block_starts[b]
        if step.window is not None:
            oldest = jnp.min(jnp.where(positions < 0, jnp.max(positions), positions))
            first = jnp.maximum(oldest - step.window + 1, 0) // page_size
            start = first // width * width

        def attend_run(i: jax.Array, part: Partial) -> Partial:
            column = start + i * width
            page_ids = jax.lax.dynamic_slice(table, (column,), (width,))
            offsets = jnp.arange(width * page_size, dtype=jnp.int32)
            key_positions = column * page_size + offsets
            visible = step.in_window(key_positions[None, :], newest)[None]  # [1, G * R, J]
            keys = step.gather_keys(page_ids).transpose(1, 2, 0, 3)  # [K, H, W, B]
            values = jnp.where(
                (key_positions < num_keys).reshape(width, 1, page_size, 1),
                step.gather_values(page_ids),
                0.0,
            ).transpose(1, 0, 2, 3)  # [K, W, B, H]
            scores = jnp.einsum(
                "krh,khj->krj", queries, keys.reshape(kv_heads, head_size, width * page_size)
            )
            scores = step.finish_scores(scores, visible)
            peak = jnp.maximum(part.peak, jnp.max(scores, axis=-1))
            weights = jnp.exp(scores - peak[..., None])
            keep = jnp.exp(part.peak - peak)
            new = jnp.einsum(
                "krj,kjh->krh", weights, values.reshape(kv_heads, width * page_size, head_size)
            )
            return Partial(
                out=part.out * keep[..., None] + new,
                peak=peak,
                total=part.total * keep + jnp.sum(weights, axis=-1),
            )

        num_runs = (num_keys - start * page_size + width * page_size - 1) // (width * page_size)
        part = jax.lax.fori_loop(0, num_runs, attend_run, empty_partial(stacked, head_size))

        split = (kv_heads, group, num_rows)
        by_row = Partial(
            out=part.out.reshape(*split, head_size).transpose(2, 0, 1, 3),  # [R, K, G, H]
            peak=part.peak.reshape(split).transpose(2, 0, 1),
            total=part.total.reshape(split).transpose(2, 0, 1),
        )
        merged = merge_partials(jax.tree.map(lambda x: x[targets], rows), by_row)
        return jax.tree.map(lambda x, new: x.at[targets].set(new), rows, merged)

    num_blocks = batch.block_counts[1 if step.window is None else 0]
    return jax.lax.fori_loop(0, num_blocks, attend, rows)
