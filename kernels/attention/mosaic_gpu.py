"""Paged attention on Hopper GPUs: a persistent Pallas kernel over lists of items.

An item is some query rows and a range of page columns; the host cuts the step into items so that
every worker reads about as many pages (`items.py`): long contexts are split over workers, short
ones share one. A thread block is one producer warpgroup, which walks the worker's items and copies
pages into a ring of stages by TMA, one copy a page, and one or two consumer warpgroups. For units
(one row a sequence) the consumers take one KV head each; for blocks they take 64 stacked rows each
of one head and share its pages. What each item saw is merged after the kernel.

Pages in int8 or float8 are copied as they are. Consumers widen a step's keys, and then its values,
into one buffer of their own; a key's scale multiplies its column of scores, a value's its column of
weights. Heads of 256 have two consumers each, for registers: both score, each weighs one half.

Interpreters exist for a part of Mosaic GPU only, and this kernel stays in it: products accumulate
in scoped accumulators, and the weights pass through shared memory as left operand.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from helium_jax.kernels.attention.layout import AttentionBatch
from helium_jax.kernels.attention.merge import HIDDEN, merge_parts
from helium_jax.kernels.pages import QUANTIZED, KVPages, pad_head
from helium_jax.kernels.pallas import gpu, gpu_missing, pl

TILE = 64  # rows of a warpgroup's matrix instruction
COPY_BYTES = 128  # where a copy by TMA may begin in shared memory; no interpreter minds
_SHARED_BYTES = 224 * 1024  # of the 227 KiB a thread block may have; barriers need the rest
_MAX_WIDTH = 128  # of an accumulator
_LOG2E = math.log2(math.e)

# Columns of the list of items: number of the piece, its sequence, first column, column after the
# last, position of its first row, and keys that any of its rows may see.
_PIECE, _SEQ, _START, _END, _FIRST, _KEYS = range(6)


def why_not(
    *,
    dtype: str,
    kv_dtype: str,
    head_size: int,
    page_size: int,
    queries_per_kv_head: int,
    compute_capability: str | None,
) -> str | None:
    """The reason for which this kernel cannot read such pages; None if it can."""
    if gpu is None:
        return gpu_missing
    if compute_capability is not None and not compute_capability.startswith("9."):
        return f"compute capability {compute_capability} has no warpgroup products; 9.0 has"
    if dtype not in ("bfloat16", "float16"):
        return f"{dtype} is no dtype of the tensor cores used; bfloat16 and float16 are"
    if kv_dtype not in (dtype, *QUANTIZED):
        return f"pages in {kv_dtype} for queries in {dtype}; the same, int8 and float8 are read"
    if head_size > 256:
        return f"{head_size=} is more than 256"
    if page_size not in (16, 32, 64, 128):
        return f"{page_size=} is none of 16, 32, 64, 128"
    if kv_dtype in QUANTIZED and page_size * 4 % COPY_BYTES:
        return f"{page_size=} with pages in {kv_dtype}: scales of a page begin at 64 bytes, not 128"
    if queries_per_kv_head > TILE:
        return f"{queries_per_kv_head} query heads a KV head are more than a tile of {TILE} rows"
    return None


def attend_gpu(
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
    assert batch.unit_items is not None
    assert batch.unit_workers is not None
    assert batch.block_items is not None
    assert batch.block_workers is not None
    layout = batch.layout
    num_tokens, num_heads, head_size = q.shape
    kv_heads = pages.num_kv_heads
    group = num_heads // kv_heads
    size = layout.page_size
    run = partial(
        _run_items,
        pages=pages,
        layer=jnp.full(1, layer, jnp.int32),
        tables=batch.page_tables,
        scale=scale,
        window=window,
        soft_cap=soft_cap,
    )
    by_head = pad_head(q.reshape(num_tokens, kv_heads, group, head_size), pages)

    seqs, starts, ends = batch.unit_items
    positions = batch.token_positions[batch.unit_rows][seqs]
    if window is not None:
        starts = _window_starts(starts, batch.unit_starts[seqs], positions, window, size)
    work = jnp.stack([seqs, seqs, starts, ends, positions, positions + 1], axis=1)
    tiles = _pad_rows(by_head[batch.unit_rows], 8)  # [S, K, G, H]
    with jax.named_scope("attend_units"):
        # Two heads a thread block, where that leaves room for two stages.
        halves = -(-by_head.shape[-1] // _MAX_WIDTH)
        is_small = max(size, TILE) * by_head.shape[-1] <= 64 * 128
        heads = 2 if kv_heads % 2 == 0 and is_small else 1
        shape = _Shape(num_rows=1, heads=heads, tiles=1, halves=halves)
        units = run(tiles, work, batch.unit_workers, shape=shape)

    blocks, starts, ends = batch.block_items
    is_own = blocks < batch.block_counts[0]
    rows = batch.block_rows[blocks]  # [items, R]
    first = batch.token_positions[jnp.minimum(rows[:, 0], num_tokens - 1)]
    last = first + jnp.sum(rows < num_tokens, axis=1, dtype=jnp.int32) - 1
    in_range = batch.block_ends[blocks] * size
    keys = jnp.where(is_own, jnp.minimum(in_range, last + 1), in_range)
    # Rows of a prefix block lie behind all its keys: any position from there on says so.
    first = jnp.where(is_own, first, in_range)
    if window is not None:
        starts = _window_starts(starts, batch.block_starts[blocks], first, window, size)
        ends = jnp.where(is_own, ends, 0)  # windowed layers have no prefix blocks
    work = jnp.stack([blocks, batch.block_seqs[blocks], starts, ends, first, keys], axis=1)
    tiles = by_head.at[batch.block_rows].get(mode="fill", fill_value=0)  # [blocks, R, K, G, H]
    num_rows = layout.block_rows
    tiles = tiles.transpose(0, 2, 3, 1, 4).reshape(
        layout.max_blocks, kv_heads, group * num_rows, -1
    )
    tiles = _pad_rows(tiles, TILE)
    with jax.named_scope("attend_blocks"):
        shape = _Shape(num_rows=num_rows, heads=1, tiles=tiles.shape[2] // TILE, halves=halves)
        out, lse = run(tiles, work, batch.block_workers, shape=shape)
    split = (layout.max_block_items, kv_heads, group, num_rows)
    out = out[:, :, : group * num_rows].reshape(*split, -1)
    lse = lse[:, :, : group * num_rows].reshape(split)

    visible = jnp.sum(is_own, dtype=jnp.int32) if window is not None else layout.max_block_items
    out, lse = merge_parts(
        batch.row_parts,
        (units[0][:, :, :group], units[1][:, :, :group]),
        (out, lse),
        jnp.asarray(visible, jnp.int32),
    )
    out = out[..., :head_size].reshape(q.shape)
    return out.astype(q.dtype), lse.reshape(num_tokens, num_heads)


def _refuse(q: jax.Array, pages: KVPages, batch: AttentionBatch) -> None:
    """Raises NotImplementedError with the reason."""
    layout = batch.layout
    if pages.order != "rows":
        raise NotImplementedError(f"pages are in the order {pages.order!r}, not 'rows'")
    if pages.k.dtype != pages.dtype:
        raise NotImplementedError(f"{pages.dtype} stored as {pages.k.dtype}")
    if batch.row_parts is None or not layout.num_workers:
        raise NotImplementedError("the step was packed for another implementation")
    if layout.block_rows & (layout.block_rows - 1):
        raise NotImplementedError(f"{layout.block_rows=} is no power of two")
    group = q.shape[1] // pages.num_kv_heads
    reason = why_not(
        dtype=str(q.dtype),
        kv_dtype=pages.dtype,
        head_size=pages.head_size,
        page_size=pages.page_size,
        queries_per_kv_head=group,
        compute_capability=None,
    )
    if reason is not None:
        raise NotImplementedError(reason)
    most = TILE if pages.head_size > _MAX_WIDTH else 2 * TILE
    if group * layout.block_rows > most:
        raise NotImplementedError(
            f"blocks of {layout.block_rows} rows of {group} heads exceed {most} rows"
        )


def _window_starts(
    starts: jax.Array, piece_starts: jax.Array, positions: jax.Array, window: int, page_size: int
) -> jax.Array:
    """First columns where a window begins; a piece's first item also reads what groups would."""
    starts = jnp.where(starts == piece_starts, 0, starts)
    step_keys = max(page_size, TILE)  # steps as without a window
    first_keys = jnp.maximum(positions - window + 1, 0) // step_keys * step_keys
    return jnp.maximum(starts, first_keys // page_size)


def _pad_rows(tiles: jax.Array, multiple: int) -> jax.Array:
    """Zero rows after [items, K, rows, H] up to a multiple."""
    missing = -tiles.shape[2] % multiple
    return jnp.pad(tiles, ((0, 0), (0, 0), (0, missing), (0, 0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """What a thread block's consumers do.

    Attributes:
        num_rows: query rows of an item; a power of two. Row g * num_rows + r of a tile is row r.
        heads: KV heads of a thread block.
        tiles: warpgroups that share a head's pages, each with its own 64 rows.
        halves: warpgroups that share a tile, each with its own columns of the output.
    """

    num_rows: int
    heads: int
    tiles: int
    halves: int

    @property
    def consumers(self) -> int:
        return self.heads * self.tiles * self.halves


# The layer is an operand: all layers of a model trace, lower and compile one kernel.
@partial(jax.jit, static_argnames=("scale", "window", "soft_cap", "shape"))
def _run_items(
    tiles: jax.Array,
    work: jax.Array,
    workers: jax.Array,
    *,
    pages: KVPages,
    layer: jax.Array,
    tables: jax.Array,
    scale: float,
    window: int | None,
    soft_cap: float | None,
    shape: _Shape,
) -> tuple[jax.Array, jax.Array]:
    """Attention of tiles [pieces, K, rows, H] over the pages of their items.

    Returns:
        out [items, K, rows, H] in the pages' dtype and float32 log-sum-exp [items, K, rows];
        what no worker has is left as it was in memory.
    """
    assert pages.v is not None
    _, kv_heads, rows, head_size = tiles.shape
    page_size = pages.page_size
    step_pages = max(1, TILE // page_size)
    step_keys = step_pages * page_size
    num_items, num_workers = work.shape[0], workers.shape[0] - 1
    consumers = shape.consumers
    element_bytes = pages.k.dtype.itemsize
    is_scaled = pages.scales is not None
    stage_bytes = 2 * shape.heads * step_keys * (head_size * element_bytes + 4 * is_scaled)
    fixed_bytes = consumers * TILE * (head_size + step_keys) * 2
    if is_scaled:
        fixed_bytes += consumers * step_keys * head_size * 2
    stages = min(4, (_SHARED_BYTES - fixed_bytes) // stage_bytes)

    def swizzled(*dims: int, dtype: Any = tiles.dtype) -> Any:
        swizzle = min(128, dims[-1] * jnp.dtype(dtype).itemsize)
        tiling = gpu.TilingTransform((8, swizzle // jnp.dtype(dtype).itemsize))
        return gpu.SMEM(dims, dtype, transforms=(tiling, gpu.SwizzleTransform(swizzle)))

    scale_memory = {}
    if is_scaled:
        scale_memory = dict(
            wide_ref=swizzled(consumers, step_keys, head_size),
            scales_ref=gpu.SMEM((stages, 2, shape.heads, step_keys), jnp.float32),
        )
    num_copies = shape.heads * step_pages * (2 if is_scaled else 1)

    kernel = gpu.kernel(
        partial(
            _scaled_kernel if is_scaled else _kernel, scale=scale, window=window,
            soft_cap=soft_cap, shape=shape, num_pages=pages.num_pages,
        ),
        out_type=(
            jax.ShapeDtypeStruct((num_items, kv_heads, rows, head_size), tiles.dtype),
            jax.ShapeDtypeStruct((num_items, kv_heads, rows), jnp.float32),
        ),
        scratch_types=dict(
            qo_ref=swizzled(consumers, shape.halves, TILE, head_size // shape.halves),
            weights_ref=swizzled(consumers, TILE, step_keys),
            keys_ref=swizzled(stages, shape.heads, step_keys, head_size, dtype=pages.k.dtype),
            values_ref=swizzled(stages, shape.heads, step_keys, head_size, dtype=pages.k.dtype),
            lse_smem=gpu.SMEM((consumers, TILE), jnp.float32),
            q_here=gpu.Barrier(num_arrivals=shape.halves, num_barriers=consumers),
            keys_here=gpu.Barrier(num_arrivals=num_copies, num_barriers=stages),
            values_here=gpu.Barrier(num_arrivals=num_copies, num_barriers=stages),
            stage_free=gpu.Barrier(num_arrivals=consumers, num_barriers=stages),
            cleaned=gpu.Barrier(num_arrivals=consumers),
            **scale_memory,
        ),
        grid=(kv_heads // shape.heads, num_workers),
        grid_names=("heads", "worker"),
        num_threads=consumers + 1,
        thread_name="warpgroup",
        compiler_params=gpu.CompilerParams(approx_math=True),
    )  # fmt: skip
    pool_shape = (-1, page_size, head_size)
    scales = () if pages.scales is None else (pages.scales.reshape(-1, page_size),)
    return kernel(
        layer,
        work,
        workers,
        tables,
        tiles,
        pages.k.reshape(pool_shape),
        pages.v.reshape(pool_shape),
        *scales,
    )


def _scaled_kernel(*refs: Any, **memory: Any) -> None:
    """`_kernel` with the pool's scales among its inputs."""
    _kernel(*refs[:7], *refs[8:], pool_scales_ref=refs[7], **memory)


def _kernel(
    layer_ref: Any,  # [1] GMEM
    work_ref: Any,  # [items, 6] GMEM
    workers_ref: Any,  # [W + 1] GMEM
    tables_ref: Any,  # [S, C] GMEM
    q_ref: Any,  # [pieces, K, rows, H] GMEM
    k_ref: Any,  # [L * P * K, B, H] GMEM
    v_ref: Any,  # [L * P * K, B, H] GMEM
    out_ref: Any,  # [items, K, rows, H] GMEM
    lse_ref: Any,  # [items, K, rows] GMEM
    *,
    qo_ref: Any,  # [consumers, halves, 64, width] SMEM, queries, then output
    weights_ref: Any,  # [consumers, 64, keys] SMEM
    keys_ref: Any,  # [stages, heads, keys, H] SMEM
    values_ref: Any,  # [stages, heads, keys, H] SMEM
    lse_smem: Any,  # [consumers, 64] SMEM
    q_here: Any,
    keys_here: Any,
    values_here: Any,
    stage_free: Any,
    cleaned: Any,
    pool_scales_ref: Any = None,  # [L * P * 2 K, B] GMEM
    wide_ref: Any = None,  # [consumers, keys, H] SMEM, keys, then values, as wide as the queries
    scales_ref: Any = None,  # [stages, 2, heads, keys] SMEM, of keys and of values
    num_pages: int,
    scale: float,
    window: int | None,
    soft_cap: float | None,
    shape: _Shape,
) -> None:
    """One worker of one head, or of two."""
    stages, _, step_keys, head_size = keys_ref.shape
    page_size = k_ref.shape[1]
    kv_heads, rows = q_ref.shape[1:3]
    step_pages = step_keys // page_size
    copied_rows = min(rows, TILE)  # units fill a few rows of their tile
    warpgroup = jax.lax.axis_index("warpgroup")
    first_head = jax.lax.axis_index("heads") * shape.heads
    worker = jax.lax.axis_index("worker")
    first_item, last_item = workers_ref[worker], workers_ref[worker + 1]

    def steps_of(item: Any) -> Any:
        columns = work_ref[item, _END] - work_ref[item, _START]
        return jnp.maximum(columns + step_pages - 1, 0) // step_pages

    @pl.when(warpgroup == shape.consumers)
    def _produce() -> None:
        gpu.set_max_registers(40, action="decrease")

        first_page = layer_ref[0] * num_pages

        def fetch_item(item: Any, done: Any) -> Any:
            seq, start, end = work_ref[item, _SEQ], work_ref[item, _START], work_ref[item, _END]

            def fetch(i: Any, _: None) -> None:
                step = done + i
                stage = jax.lax.rem(step, stages)

                @pl.when(step >= stages)
                def _() -> None:
                    gpu.barrier_wait(stage_free.at[stage])

                for p in range(step_pages):
                    # Beyond the end the last page comes again: barriers count copies.
                    page = tables_ref[seq, jnp.minimum(start + i * step_pages + p, end - 1)]
                    rows_of_page = pl.ds(p * page_size, page_size)
                    for head in range(shape.heads):
                        at = (first_page + page) * kv_heads + first_head + head
                        gpu.copy_gmem_to_smem(
                            k_ref.at[at], keys_ref.at[stage, head, rows_of_page],
                            keys_here.at[stage],
                        )  # fmt: skip
                        gpu.copy_gmem_to_smem(
                            v_ref.at[at], values_ref.at[stage, head, rows_of_page],
                            values_here.at[stage],
                        )  # fmt: skip
                        if scales_ref is None:
                            continue
                        of_page = (first_page + page) * 2 * kv_heads + first_head + head
                        for part, here in enumerate((keys_here, values_here)):
                            gpu.copy_gmem_to_smem(
                                pool_scales_ref.at[of_page + part * kv_heads],
                                scales_ref.at[stage, part, head, rows_of_page],
                                here.at[stage],
                            )

            steps = steps_of(item)
            jax.lax.fori_loop(0, steps, fetch, None)
            return done + steps

        done = jax.lax.fori_loop(first_item, last_item, fetch_item, jnp.int32(0))
        for stage in range(stages):  # every completion of a barrier is awaited

            @pl.when(stage < done)
            def _(stage: int = stage) -> None:
                gpu.barrier_wait(stage_free.at[stage])

    @pl.when(warpgroup < shape.consumers)
    def _consume() -> None:
        if shape.consumers == 2:
            gpu.set_max_registers(232, action="increase")
        half = jax.lax.rem(warpgroup, shape.halves)
        tile = jax.lax.rem(warpgroup // shape.halves, shape.tiles)
        local_head = warpgroup // (shape.tiles * shape.halves)
        head = first_head + local_head
        qo, weights_smem = qo_ref.at[warpgroup], weights_ref.at[warpgroup]
        some_rows = pl.ds(tile * TILE, copied_rows)
        width = head_size // shape.halves

        def columns_of(ref: Any, part: Any) -> Any:
            """One half of [keys, H], where there are two."""
            if shape.halves == 1:
                return ref
            start = part * width
            if not isinstance(part, int):
                start = pl.multiple_of(start, width)
            return ref.at[:, pl.ds(start, width)]

        def copy_columns(source: Any, target: Any, num_real: Any = None) -> None:
            """Copies [keys, width] within shared memory, zeros for keys from `num_real` on: what
            lies behind the last key may be anything, and 0 * NaN is NaN.
            """
            loaded = gpu.load(source, layout=gpu.Layout.WGMMA)
            if source.dtype != target.dtype:  # no chip converts float8 to bfloat16 itself
                loaded = loaded.astype(jnp.float32).astype(target.dtype)
            if num_real is not None:
                of_key = gpu.broadcasted_iota(
                    jnp.int32, (step_keys, width), 0, layout=gpu.Layout.WGMMA
                )
                loaded = jnp.where(of_key < num_real, loaded, jnp.zeros_like(loaded))
            target[...] = loaded

        def scales_of(stage: Any, part: int) -> Any:
            """[64, keys], of every key or value in its column."""
            loaded = gpu.load(
                scales_ref.at[stage, part, local_head], layout=gpu.Layout.WGMMA.reduce(0)
            )
            return jax.lax.broadcast_in_dim(loaded, (TILE, step_keys), [1])

        if rows < TILE:
            for part in range(shape.halves):
                qo[part] = gpu.layout_cast(jnp.zeros((TILE, width), qo.dtype), gpu.Layout.WGMMA)
            gpu.commit_smem()

        def attend_item(item: Any, done: Any) -> Any:
            for part in range(shape.halves):
                gpu.copy_gmem_to_smem(
                    columns_of(q_ref.at[work_ref[item, _PIECE], head], part).at[some_rows],
                    qo.at[part, pl.ds(0, copied_rows)], q_here.at[warpgroup],
                )  # fmt: skip
            start = work_ref[item, _START]
            first_position = work_ref[item, _FIRST]
            num_keys = jnp.minimum(work_ref[item, _KEYS], work_ref[item, _END] * page_size)
            gpu.barrier_wait(q_here.at[warpgroup])

            def attend(i: Any, carry: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
                acc, peak, total = carry
                stage = jax.lax.rem(done + i, stages)
                first_key = (start + i * step_pages) * page_size
                gpu.barrier_wait(keys_here.at[stage])
                keys = keys_ref.at[stage, local_head]
                if wide_ref is not None:
                    wide = wide_ref.at[warpgroup]
                    for part in range(shape.halves):
                        copy_columns(columns_of(keys, part), columns_of(wide, part))
                    gpu.commit_smem()
                    keys = wide

                def score(acc_ref: Any) -> Any:
                    for part in range(shape.halves):
                        gpu.wgmma(acc_ref, qo.at[part], columns_of(keys, part).transpose((1, 0)))
                    return acc_ref[...]

                scores = pl.run_scoped(score, gpu.ACC((TILE, step_keys), jnp.float32)) * scale
                if scales_ref is not None:
                    scores = scores * scales_of(stage, 0)
                if soft_cap is not None:
                    scores = soft_cap * jnp.tanh(scores * (1.0 / soft_cap))
                row, key = (
                    gpu.broadcasted_iota(jnp.int32, (TILE, step_keys), d, layout=gpu.Layout.WGMMA)
                    for d in (0, 1)
                )
                # Row g * R + r of a tile is row r of the item: R is a power of two.
                position = first_position + ((row + tile * TILE) & (shape.num_rows - 1))
                key = key + first_key
                visible = (key <= position) & (key < num_keys)
                if window is not None:
                    visible &= key > position - window
                scores = jnp.where(visible, scores * _LOG2E, HIDDEN)

                new_peak = jnp.maximum(peak, jnp.max(scores, axis=1))
                keep = jnp.exp2(peak - new_peak)
                weights = jnp.exp2(scores - jax.lax.broadcast_in_dim(new_peak, scores.shape, [0]))
                total = total * keep + jnp.sum(weights, axis=1)
                if scales_ref is not None:
                    gpu.barrier_wait(values_here.at[stage])
                    # Behind the last key scales may be anything, and 0 * NaN is NaN.
                    weights = jnp.where(visible, weights * scales_of(stage, 1), 0.0)
                weights_smem[...] = weights.astype(weights_smem.dtype)
                gpu.commit_smem()
                if scales_ref is None:
                    gpu.barrier_wait(values_here.at[stage])

                values = columns_of(values_ref.at[stage, local_head], half)
                if wide_ref is not None:
                    wide = columns_of(wide_ref.at[warpgroup], half)
                    copy_columns(values, wide, num_keys - first_key)
                    gpu.commit_smem()
                    values = wide
                else:

                    @pl.when(first_key + step_keys > num_keys)
                    def _clean() -> None:
                        @pl.when(tile == 0)
                        def _() -> None:
                            copy_columns(values, values, num_keys - first_key)
                            gpu.commit_smem()

                        if shape.tiles > 1:
                            gpu.barrier_arrive(cleaned)
                            gpu.barrier_wait(cleaned)

                def weigh(acc_ref: Any) -> Any:
                    gpu.wgmma(acc_ref, weights_smem, values)
                    return acc_ref[...]

                new = pl.run_scoped(weigh, gpu.ACC((TILE, width), jnp.float32))
                gpu.barrier_arrive(stage_free.at[stage])
                acc = acc * jax.lax.broadcast_in_dim(keep, acc.shape, [0]) + new
                return acc, new_peak, total

            def filled(dims: tuple[int, ...], value: float, layout: Any) -> Any:
                return gpu.layout_cast(jnp.full(dims, value, jnp.float32), layout)

            per_row = gpu.Layout.WGMMA.reduce(1)
            steps = steps_of(item)
            acc, peak, total = jax.lax.fori_loop(
                0, steps, attend,
                (
                    filled((TILE, width), 0.0, gpu.Layout.WGMMA),
                    filled((TILE,), float(HIDDEN), per_row),
                    filled((TILE,), 0.0, per_row),
                ),
            )  # fmt: skip
            empty = peak <= float(HIDDEN)
            total = jnp.where(empty, 1.0, total)
            inverse = jnp.where(empty, 0.0, 1.0 / total)
            acc = acc * jax.lax.broadcast_in_dim(inverse, acc.shape, [0])
            qo[0] = acc.astype(qo.dtype)
            lse = jnp.where(empty, -jnp.inf, peak * (1.0 / _LOG2E) + jnp.log(total))
            lse_smem[warpgroup] = lse
            gpu.commit_smem()
            gpu.copy_smem_to_gmem(
                qo.at[0, pl.ds(0, copied_rows)],
                columns_of(out_ref.at[item, head], half).at[some_rows],
            )

            @pl.when(half == 0)
            def _() -> None:
                gpu.copy_smem_to_gmem(
                    lse_smem.at[warpgroup, pl.ds(0, copied_rows)], lse_ref.at[item, head, some_rows]
                )

            gpu.wait_smem_to_gmem(0)
            return done + steps

        jax.lax.fori_loop(first_item, last_item, attend_item, jnp.int32(0))
