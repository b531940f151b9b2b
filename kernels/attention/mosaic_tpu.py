"""Paged attention on TPUs: one Pallas kernel over a list of items, run for units and for blocks.

An item is some query rows and a range of page columns. The grid walks the items that have work;
within one, runs of pages come by DMA into one of two buffers while the other is computed, and the
first run of the next item is fetched during the last of this one, so the memory never waits. Units
are items of one row, own blocks of R consecutive rows (causal at their end), prefix blocks of R
rows of any members (all see all). The parts of a row are merged after the kernel.

Pages are "joined": one DMA brings a page's keys and values of all heads. Where a key's H lanes are
not whole vector registers (128 lanes), queries are padded with zeros to 2 H lanes instead of
cutting the page: zeros times values add nothing to a score, and the output's second half is the
answer.

Pages in int8 are read as they are; a key's scale multiplies its column of scores, a value's its
column of weights.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from helium_jax.kernels.attention.layout import AttentionBatch
from helium_jax.kernels.attention.merge import HIDDEN, merge_parts
from helium_jax.kernels.pages import KVPages, pad_head
from helium_jax.kernels.pallas import pl, tpu

LANES = 128
# Scalar memory is 1 MiB; half of it is left to the compiler and the other lists.
_MAX_TABLE_INTS = 128 * 1024
_VMEM_BYTES = 64 * 2**20
_TILE_BYTES = 32  # of a lane in a tile

# Rows of the list of items: number of the item, its sequence, first column, column after the last,
# position of its first row, and keys that any of its rows may see.
_NUMBER, _SEQ, _START, _END, _FIRST, _KEYS = range(6)


def why_not(*, dtype: str, kv_dtype: str, head_size: int, page_size: int) -> str | None:
    """The reason for which pages of this shape are not for this kernel; None if they are."""
    if dtype not in ("bfloat16", "float32"):
        return f"{dtype} is no dtype of a TPU's matrix unit"
    if kv_dtype not in (dtype, "int8"):
        return f"pages in {kv_dtype} for queries in {dtype}; the same and int8 are read"
    if head_size > 256:
        return f"{head_size=} is more than 256"
    least = _TILE_BYTES // jnp.dtype(kv_dtype).itemsize
    if page_size % least:
        return f"{page_size=} is no multiple of a tile's {least} rows of {kv_dtype}"
    return None


def attend_tpu(
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
    _refuse(q, pages, batch)
    assert batch.row_parts is not None
    layout = batch.layout
    num_tokens, num_heads, head_size = q.shape
    kv_heads = pages.num_kv_heads
    group = num_heads // kv_heads
    run = partial(
        _run_items, pages=pages, layer=jnp.int32(layer), tables=batch.page_tables, scale=scale,
        window=window, soft_cap=soft_cap,
    )  # fmt: skip
    by_head = pad_head(q.reshape(num_tokens, kv_heads, group, head_size), pages)

    positions = batch.token_positions[batch.unit_rows]
    seqs = jnp.arange(layout.num_seqs, dtype=jnp.int32)
    starts, ends = batch.unit_starts, batch.unit_ends
    if window is not None:
        starts = jnp.maximum(positions - window + 1, 0) // layout.page_size
    work = jnp.stack([seqs, seqs, starts, ends, positions, positions + 1])
    with jax.named_scope("attend_units"):
        units = run(by_head[batch.unit_rows], work, num_rows=1, run_pages=layout.unit_pages)

    work = _block_work(batch, window)
    tiles = by_head.at[batch.block_rows].get(mode="fill", fill_value=0)  # [blocks, R, K, G, H]
    tiles = tiles.transpose(0, 2, 3, 1, 4).reshape(
        layout.max_blocks, kv_heads, group * layout.block_rows, -1
    )
    with jax.named_scope("attend_blocks"):
        blocks = run(tiles, work, num_rows=layout.block_rows, run_pages=layout.run_pages)
    split = (layout.max_blocks, kv_heads, group, layout.block_rows)
    out, lse = merge_parts(
        batch.row_parts,
        units,
        (blocks[0].reshape(*split, -1), blocks[1].reshape(split)),
        batch.block_counts[1 if window is None else 0],
    )
    out = out[..., :head_size].reshape(q.shape)
    return out.astype(q.dtype), lse.reshape(num_tokens, num_heads)


def _refuse(q: jax.Array, pages: KVPages, batch: AttentionBatch) -> None:
    """Raises NotImplementedError with the reason."""
    layout = batch.layout
    if pages.order != "joined":
        raise NotImplementedError(f"pages are in the order {pages.order!r}, not 'joined'")
    if pages.k.dtype != pages.dtype:
        raise NotImplementedError(f"{pages.dtype} stored as {pages.k.dtype}")
    if batch.row_parts is None or layout.num_workers:
        raise NotImplementedError("the step was packed for another implementation")
    if layout.block_rows & (layout.block_rows - 1):
        raise NotImplementedError(f"{layout.block_rows=} is no power of two")
    reason = why_not(
        dtype=str(q.dtype), kv_dtype=pages.dtype, head_size=pages.head_size,
        page_size=pages.page_size,
    )  # fmt: skip
    if reason is not None:
        raise NotImplementedError(reason)
    ints = layout.num_seqs * layout.pages_per_seq
    if ints > _MAX_TABLE_INTS:
        raise NotImplementedError(
            f"page tables of {ints} ints do not fit into scalar memory; take larger pages"
        )


def _block_work(batch: AttentionBatch, window: int | None) -> jax.Array:
    """The list of block items, int32 [6, blocks]; windowed layers have no prefix blocks."""
    layout = batch.layout
    numbers = jnp.arange(layout.max_blocks, dtype=jnp.int32)
    is_own = numbers < batch.block_counts[0]
    rows = batch.block_rows
    first_positions = batch.token_positions[jnp.minimum(rows[:, 0], layout.num_tokens - 1)]
    last_positions = first_positions + jnp.sum(rows < layout.num_tokens, axis=1) - 1
    in_range = batch.block_ends * layout.page_size
    keys = jnp.where(is_own, jnp.minimum(in_range, last_positions + 1), in_range)
    # Rows of a prefix block lie behind all its keys: any position from there on says so.
    first_positions = jnp.where(is_own, first_positions, in_range)
    starts, ends = batch.block_starts, batch.block_ends
    if window is not None:
        starts = jnp.maximum(first_positions - window + 1, 0) // layout.page_size
        starts = starts // layout.run_pages * layout.run_pages  # runs as without a window
        ends = jnp.where(is_own, ends, 0)
    work = jnp.stack([numbers, batch.block_seqs, starts, ends, first_positions, keys])
    return work.astype(jnp.int32)


# The layer is an operand: all layers of a model trace, lower and compile one kernel.
@partial(jax.jit, static_argnames=("num_rows", "run_pages", "scale", "window", "soft_cap"))
def _run_items(
    tiles: jax.Array,
    work: jax.Array,
    *,
    pages: KVPages,
    layer: jax.Array,
    tables: jax.Array,
    num_rows: int,
    run_pages: int,
    scale: float,
    window: int | None,
    soft_cap: float | None,
) -> tuple[jax.Array, jax.Array]:
    """Attention of tiles [items, K, G * R, H] over their items' pages.

    Returns:
        out [items, K, G * R, H] in the queries' dtype and float32 log-sum-exp [items, K, G * R];
        items without work are left as they were in memory.
    """
    num_items, kv_heads, tile_rows, head_size = tiles.shape
    page_size = pages.page_size
    has_work = work[_END] > work[_START]
    order = jnp.argsort(~has_work, stable=True)
    count = jnp.maximum(jnp.sum(has_work, dtype=jnp.int32), 1)
    is_cut = head_size % LANES == 0  # keys and values are whole registers: cut, do not pad
    if not is_cut:
        tiles = jnp.pad(tiles, ((0, 0),) * 3 + ((0, head_size),))
    width = tiles.shape[3]

    def block(*shape: int) -> pl.BlockSpec:
        index: Callable[..., Any] = lambda i, work, *_: (work[_NUMBER, i], 0, 0, 0)  # noqa: E731
        return pl.BlockSpec((1, *shape), index)

    kernel = partial(
        _kernel if pages.scales is None else _scaled_kernel,
        num_rows=num_rows,
        scale=scale,
        window=window,
        soft_cap=soft_cap,
        precision="highest" if tiles.dtype == "float32" else None,
    )
    is_scaled = pages.scales is not None
    scale_memory = pages.scales is not None and [
        tpu.VMEM((2, run_pages, *pages.scales.shape[2:]), jnp.float32),
        tpu.VMEM((2 * kv_heads, run_pages * page_size), jnp.float32),
    ]
    out, lse = pl.pallas_call(
        kernel,
        grid_spec=tpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(count,),
            in_specs=[
                block(kv_heads, tile_rows, width),
                *[pl.BlockSpec(memory_space=pl.ANY)] * (1 + is_scaled),
            ],
            out_specs=[block(kv_heads, tile_rows, width), block(kv_heads, tile_rows, 1)],
            scratch_shapes=[
                tpu.VMEM((2, run_pages, kv_heads, page_size, 2 * head_size), pages.k.dtype),
                tpu.SemaphoreType.DMA((2,)),
                tpu.SMEM((1,), jnp.int32),
                tpu.VMEM((kv_heads, tile_rows, width), jnp.float32),
                tpu.VMEM((kv_heads, tile_rows, LANES), jnp.float32),
                tpu.VMEM((kv_heads, tile_rows, LANES), jnp.float32),
                *(scale_memory or ()),
            ],
        ),
        out_shape=[
            jax.ShapeDtypeStruct((num_items, kv_heads, tile_rows, width), tiles.dtype),
            jax.ShapeDtypeStruct((num_items, kv_heads, tile_rows, 1), jnp.float32),
        ],
        compiler_params=tpu.CompilerParams(
            dimension_semantics=("arbitrary",), vmem_limit_bytes=_VMEM_BYTES
        ),
        name=f"paged_attention_{num_rows}",
    )(work[:, order], jnp.stack([count, layer]), tables, tiles, *jax.tree.leaves(pages))
    return out if is_cut else out[..., head_size:], lse[..., 0]


def _scaled_kernel(*refs: Any, **options: Any) -> None:
    """`_kernel` with the scales' memory where a Pallas call puts it: among inputs and scratch."""
    inputs, pool_scales, outputs_memory, scale_memory = refs[:5], refs[5], refs[6:-2], refs[-2:]
    ordered = (*inputs, *outputs_memory, pool_scales, *scale_memory)
    _kernel(*ordered, **options)


def _kernel(
    work_ref: Any,  # [6, items] SMEM
    count_ref: Any,  # [2] SMEM, items with work, and the layer
    tables_ref: Any,  # [S, C] SMEM
    q_ref: Any,  # [1, K, G * R, width] VMEM
    pool_ref: Any,  # [L, P, K, B, 2 H] HBM
    out_ref: Any,  # [1, K, G * R, width] VMEM
    lse_ref: Any,  # [1, K, G * R, 1] VMEM
    kv_ref: Any,  # [2, W, K, B, 2 H] VMEM
    semaphores: Any,  # [2]
    slot_ref: Any,  # [1] SMEM, buffer of the run that is computed next
    acc_ref: Any,  # [K, G * R, width] VMEM
    peak_ref: Any,  # [K, G * R, 128] VMEM
    total_ref: Any,  # [K, G * R, 128] VMEM
    pool_scales_ref: Any = None,  # [L, P, 2 K, lanes] HBM
    scales_ref: Any = None,  # [2, W, 2 K, lanes] VMEM
    rows_ref: Any = None,  # [2 K, W * B] VMEM, scales of a run in order of its keys
    *,
    num_rows: int,
    scale: float,
    window: int | None,
    soft_cap: float | None,
    precision: str | None,
) -> None:
    """One item: fetch its runs in turn, fold each into the accumulators, write the result."""
    _, run_pages, kv_heads, page_size, _ = kv_ref.shape
    tile_rows, width = acc_ref.shape[1:]
    run_keys = run_pages * page_size
    item, count, layer = pl.program_id(0), count_ref[0], count_ref[1]
    start, end = work_ref[_START, item], work_ref[_END, item]
    num_runs = (end - start + run_pages - 1) // run_pages

    def transfer(of_item: Any, column: Any, slot: Any, act: Callable[[Any], None]) -> None:
        """Starts or awaits the copies of a run's pages, each as far as the item goes."""
        seq, last = work_ref[_SEQ, of_item], work_ref[_END, of_item]
        for i in range(run_pages):

            @pl.when(column + i < last)
            def _(i: int = i) -> None:
                page = tables_ref[seq, column + i]
                act(
                    tpu.make_async_copy(
                        pool_ref.at[layer, page], kv_ref.at[slot, i], semaphores.at[slot]
                    )
                )
                if scales_ref is not None:
                    act(
                        tpu.make_async_copy(
                            pool_scales_ref.at[layer, page],
                            scales_ref.at[slot, i],
                            semaphores.at[slot],
                        )
                    )

    def fetch(of_item: Any, column: Any, slot: Any) -> None:
        transfer(of_item, column, slot, lambda copy: copy.start())

    @pl.when(item == 0)
    def _() -> None:
        slot_ref[0] = 0
        fetch(item, start, 0)

    acc_ref[...] = jnp.zeros_like(acc_ref)
    peak_ref[...] = jnp.full_like(peak_ref, HIDDEN)
    total_ref[...] = jnp.zeros_like(total_ref)
    num_keys, first_position = work_ref[_KEYS, item], work_ref[_FIRST, item]

    def attend_run(i: Any, _: None) -> None:
        column = start + i * run_pages
        slot = slot_ref[0]

        @pl.when(i + 1 < num_runs)
        def _() -> None:
            fetch(item, column + run_pages, 1 - slot)

        @pl.when((i + 1 == num_runs) & (item + 1 < count))
        def _() -> None:
            fetch(item + 1, work_ref[_START, item + 1], 1 - slot)

        transfer(item, column, slot, lambda copy: copy.wait())
        slot_ref[0] = 1 - slot
        first_key = column * page_size

        shape = (tile_rows, run_keys)
        key_positions = first_key + jax.lax.broadcasted_iota(jnp.int32, shape, 1)
        # Row g * R + r of a tile is row r of the item: R is a power of two.
        rows = jax.lax.broadcasted_iota(jnp.int32, shape, 0) & (num_rows - 1)
        positions = first_position + rows
        visible = (key_positions <= positions) & (key_positions < num_keys)
        if window is not None:
            visible &= key_positions > positions - window
        of_key = first_key + jax.lax.broadcasted_iota(jnp.int32, (run_keys, kv_ref.shape[4]), 0)

        if scales_ref is not None:
            for i in range(run_pages):
                rows_ref[:, i * page_size : (i + 1) * page_size] = scales_ref[
                    slot, i, :, :page_size
                ]
            # Behind the last key is anything, as in the pages.
            key = first_key + jax.lax.broadcasted_iota(jnp.int32, rows_ref.shape, 1)
            rows_ref[...] = jnp.where(key < num_keys, rows_ref[...], 0.0)

        for k in range(kv_heads):
            both = kv_ref[slot, :, k].reshape(run_keys, kv_ref.shape[4])
            if scales_ref is not None:
                both = both.astype(jnp.float32).astype(q_ref.dtype)
            # What lies behind the last key may be anything, and 0 * NaN is NaN.
            both = jnp.where(of_key < num_keys, both, jnp.zeros_like(both))
            keys, values = (both, both) if width == both.shape[1] else jnp.split(both, 2, axis=1)
            scores = scale * jax.lax.dot_general(
                q_ref[0, k], keys, (((1,), (1,)), ((), ())),
                precision=precision, preferred_element_type=jnp.float32,
            )  # fmt: skip
            if rows_ref is not None:
                scores = scores * rows_ref[k : k + 1]
            if soft_cap is not None:
                scores = soft_cap * jnp.tanh(scores * (1.0 / soft_cap))
            scores = jnp.where(visible, scores, HIDDEN)
            old = peak_ref[k, :, :1]
            peak = jnp.maximum(old, jnp.max(scores, axis=1, keepdims=True))
            weights = jnp.exp(scores - peak)
            keep = jnp.exp(old - peak)
            total = keep * total_ref[k, :, :1] + jnp.sum(weights, axis=1, keepdims=True)
            peak_ref[k] = jnp.broadcast_to(peak, (tile_rows, LANES))
            total_ref[k] = jnp.broadcast_to(total, (tile_rows, LANES))
            if rows_ref is not None:
                weights = weights * rows_ref[kv_heads + k : kv_heads + k + 1]
            acc_ref[k] = keep * acc_ref[k] + jax.lax.dot_general(
                weights.astype(values.dtype), values, (((1,), (0,)), ((), ())),
                precision=precision, preferred_element_type=jnp.float32,
            )  # fmt: skip

    jax.lax.fori_loop(0, num_runs, attend_run, None)
    peak, total = peak_ref[:, :, :1], total_ref[:, :, :1]
    empty = peak <= HIDDEN
    total = jnp.where(empty, 1.0, total)
    out_ref[0] = jnp.where(empty, 0.0, acc_ref[...] / total).astype(out_ref.dtype)
    lse_ref[0] = jnp.where(empty, -jnp.inf, peak + jnp.log(total))
