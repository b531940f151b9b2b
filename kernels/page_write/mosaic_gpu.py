"""Page writes on Hopper GPUs: one TMA store per token and pool, into the pool itself.

The pools are handed to the kernel as mutable references, so XLA neither copies nor scatters them.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from helium_jax.kernels.pages import KVPages
from helium_jax.kernels.pallas import gpu, gpu_missing, pl

_TOKENS = 4  # of a thread block: their loads and stores overlap
_COPY_BYTES = 128  # where a copy by TMA may begin in shared memory; no interpreter minds


def write_rows(pages: KVPages, layer: int, k: jax.Array, v: jax.Array, slots: jax.Array) -> KVPages:
    """See `write_pages`.

    Raises:
        NotImplementedError: the pages are not those of the GPU kernels.
    """
    if gpu is None:
        raise NotImplementedError(gpu_missing)
    if pages.order != "rows" or pages.k.dtype != pages.dtype:
        raise NotImplementedError(f"pages in the order {pages.order!r} stored as {pages.k.dtype}")
    if pages.head_size > 256:
        raise NotImplementedError(f"{pages.head_size=} exceeds the 256 columns of a copy")
    row_bytes = math.prod(k.shape[1:]) * pages.k.dtype.itemsize
    if row_bytes % _COPY_BYTES:
        raise NotImplementedError(f"rows of {row_bytes} bytes are no multiple of {_COPY_BYTES}")
    if pages.num_kv_heads > 256:
        raise NotImplementedError(f"{pages.num_kv_heads=} exceeds the 256 rows of a copy")
    return _write(pages, jnp.full(1, layer, jnp.int32), k, v, slots)


@jax.jit  # the layer is an operand: all layers trace, lower and compile one kernel
def _write(
    pages: KVPages, layer: jax.Array, k: jax.Array, v: jax.Array, slots: jax.Array
) -> KVPages:
    """See `write_rows`."""
    assert pages.v is not None
    num_tokens, kv_heads, head_size = k.shape
    missing = -num_tokens % _TOKENS
    slots = jnp.pad(slots, (0, missing), constant_values=-1)
    k, v = (jnp.pad(x.astype(pages.dtype), ((0, missing), (0, 0), (0, 0))) for x in (k, v))

    kernel = gpu.kernel(
        _make_kernel(pages.num_pages, pages.page_size),
        out_type=(),
        scratch_types=dict(
            rows_smem=gpu.SMEM((_TOKENS, 2, kv_heads, 1, head_size), pages.k.dtype),
            here=gpu.Barrier(num_arrivals=2, num_barriers=_TOKENS),
        ),
        grid=(slots.shape[0] // _TOKENS,),
        grid_names=("tokens",),
    )
    pool_shape = (pages.num_layers * pages.num_pages, kv_heads, pages.page_size, head_size)
    k_pool, v_pool = (jax.new_ref(pool.reshape(pool_shape)) for pool in (pages.k, pages.v))
    kernel(layer, slots, k[:, :, None], v[:, :, None], k_pool, v_pool)
    return dataclasses.replace(
        pages,
        k=jax.freeze(k_pool).reshape(pages.k.shape),
        v=jax.freeze(v_pool).reshape(pages.v.shape),
    )


def _make_kernel(num_pages: int, page_size: int) -> Any:
    def kernel(
        layer_ref: Any,  # [1] GMEM
        slots_ref: Any,  # [T] GMEM
        k_ref: Any,  # [T, K, 1, H] GMEM
        v_ref: Any,  # [T, K, 1, H] GMEM
        k_pool: Any,  # [L * P, K, B, H] GMEM
        v_pool: Any,  # [L * P, K, B, H] GMEM
        *,
        rows_smem: Any,  # [tokens, 2, K, 1, H] SMEM
        here: Any,
    ) -> None:
        first = jax.lax.axis_index("tokens") * _TOKENS
        for i in range(_TOKENS):
            gpu.copy_gmem_to_smem(k_ref.at[first + i], rows_smem.at[i, 0], here.at[i])
            gpu.copy_gmem_to_smem(v_ref.at[first + i], rows_smem.at[i, 1], here.at[i])
        for i in range(_TOKENS):
            slot = slots_ref[first + i]
            gpu.barrier_wait(here.at[i])

            @pl.when((slot >= 0) & (slot < num_pages * page_size))
            def _(i: int = i, slot: Any = slot) -> None:
                at = (
                    layer_ref[0] * num_pages + slot // page_size,
                    slice(None),
                    pl.ds(jax.lax.rem(slot, page_size), 1),
                )
                gpu.copy_smem_to_gmem(rows_smem.at[i, 0], k_pool.at[at])
                gpu.copy_smem_to_gmem(rows_smem.at[i, 1], v_pool.at[at])

        gpu.wait_smem_to_gmem(0)

    return kernel
