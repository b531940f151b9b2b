"""Page writes on TPUs: tiles of pages are read, changed and written back, in place.

A token's row is less than a tile of memory (8 rows of float32, 16 of bfloat16, 32 of int8), so the
grid walks the tiles that have new tokens. The rows of a tile lie side by side on the token axis,
but at any offset, and are rotated to their places. XLA's own scatter takes the rows one after
another.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from helium_jax.kernels.pages import KVPages
from helium_jax.kernels.pallas import pl, tpu


def write_tiles(
    pages: KVPages, layer: int, k: jax.Array, v: jax.Array, slots: jax.Array
) -> KVPages:
    """See `write_pages`. The slots of one tile must be in ascending order on neighbouring rows, as
    those of a step are; anything else may lose rows.

    Raises:
        NotImplementedError: the pages are not those of the TPU kernels.
    """
    if pages.order != "joined" or pages.k.dtype != pages.dtype:
        raise NotImplementedError(f"pages in the order {pages.order!r} stored as {pages.k.dtype}")
    if pages.page_size % _tile_rows(pages):
        raise NotImplementedError(
            f"{pages.page_size=} is no multiple of a tile's {_tile_rows(pages)} rows"
        )
    return dataclasses.replace(pages, k=_write(pages, jnp.full(1, layer, jnp.int32), k, v, slots))


@jax.jit  # the layer is an operand: all layers trace, lower and compile one kernel
def _write(
    pages: KVPages, layer: jax.Array, k: jax.Array, v: jax.Array, slots: jax.Array
) -> jax.Array:
    """The pool after the write."""
    rows = _tile_rows(pages)
    num_tokens, kv_heads, head_size = k.shape
    new = jnp.concatenate([k, v], axis=-1).astype(pages.dtype).swapaxes(0, 1)  # [K, T, 2 H]
    padded = -(-num_tokens // rows) * rows + rows  # every tile's rows lie in two blocks
    new = jnp.pad(new, ((0, 0), (0, padded - num_tokens), (0, 0)))
    first, count, slot, num_tiles = _find_tiles(slots, rows, pages)

    tiles_per_page = pages.page_size // rows
    width = 2 * head_size

    def of_pool(i: Any, layer: Any, first: Any, count: Any, slot: Any) -> tuple[Any, ...]:
        tile = slot[i] // rows
        return layer[0], tile // tiles_per_page, 0, tile % tiles_per_page, 0

    def of_new(after: int) -> pl.BlockSpec:
        return pl.BlockSpec(
            (kv_heads, rows, width), lambda i, layer, first, *_: (0, first[i] // rows + after, 0)
        )

    pool_spec = pl.BlockSpec((None, None, kv_heads, rows, width), of_pool)
    return pl.pallas_call(
        _kernel,
        grid_spec=tpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=4,
            grid=(num_tiles,),
            in_specs=[of_new(0), of_new(1), pool_spec],
            out_specs=pool_spec,
        ),
        out_shape=jax.ShapeDtypeStruct(pages.k.shape, pages.k.dtype),
        input_output_aliases={6: 0},
        compiler_params=tpu.CompilerParams(dimension_semantics=("arbitrary",)),
        name="write_pages",
    )(layer, first, count, slot, new, new, pages.k)


def _tile_rows(pages: KVPages) -> int:
    """Rows of a tile of memory."""
    return 32 // pages.k.dtype.itemsize


def _find_tiles(
    slots: jax.Array, rows: int, pages: KVPages
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """For every tile with new tokens: its first row, its rows, and its first slot; int32 [T] each,
    and how many tiles there are (one without rows if there is none). Equal in all layers, so XLA
    computes it once.
    """
    num_tokens = slots.shape[0]
    real = (slots >= 0) & (slots < pages.num_pages * pages.page_size)
    follows = jnp.roll(slots, 1) + 1 == slots
    follows &= jnp.roll(real, 1) & (slots % rows != 0)
    follows = follows.at[0].set(False)
    begins = real & ~follows
    ends = real & jnp.append(begins[1:] | ~real[1:], True)
    (first,) = jnp.nonzero(begins, size=num_tokens, fill_value=0)
    (last,) = jnp.nonzero(ends, size=num_tokens, fill_value=-1)
    first, last = first.astype(jnp.int32), last.astype(jnp.int32)
    slot = jnp.where(real[first], slots[first], 0)
    num_tiles = jnp.maximum(jnp.sum(begins, dtype=jnp.int32), 1)
    return first, last - first + 1, slot, num_tiles


def _kernel(
    layer_ref: Any,  # [1] SMEM, read by the index maps
    first_ref: Any,  # [T] SMEM
    count_ref: Any,  # [T] SMEM
    slot_ref: Any,  # [T] SMEM
    here_ref: Any,  # [K, rows, 2 H] VMEM, block of new rows that holds the tile's first
    next_ref: Any,  # [K, rows, 2 H] VMEM, the block after
    old_ref: Any,  # [K, rows, 2 H] VMEM
    out_ref: Any,  # [K, rows, 2 H] VMEM
) -> None:
    """One tile."""
    del layer_ref
    kv_heads, rows, width = old_ref.shape
    i = pl.program_id(0)
    source = first_ref[i] % rows  # of the first new row, in the two blocks
    target = slot_ref[i] % rows  # in the tile
    count = count_ref[i]

    row = jax.lax.broadcasted_iota(jnp.int32, (rows, width), 0)
    is_new = (row >= target) & (row < target + count)
    shift = (target - source) % (2 * rows)
    for k in range(kv_heads):
        both = jnp.concatenate([here_ref[k], next_ref[k]], axis=0)  # [2 rows, 2 H]
        # Rotations by a number known at run time exist for 32 bits only.
        moved = tpu.roll(both.astype(jnp.float32), shift, 0)[:rows]
        out_ref[k] = jnp.where(is_new, moved.astype(old_ref.dtype), old_ref[k])
