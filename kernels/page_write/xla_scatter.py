"""Page writes as one XLA scatter per pool."""

import dataclasses

import jax
import jax.numpy as jnp

from helium_jax.kernels.pages import KVPages, to_storage


def scatter_pages(
    pages: KVPages, layer: int, k: jax.Array, v: jax.Array, slots: jax.Array
) -> KVPages:
    """See `write_pages`; slots out of range are dropped by the scatter itself."""
    page, offset = _split_slots(pages, slots)
    k, v = to_storage(k, pages), to_storage(v, pages)
    if pages.v is None:
        both = jnp.concatenate([k, v], axis=-1)  # [T, K, 2 H]
        pool = pages.k.at[layer, page, :, offset].set(both, mode="drop")
        return dataclasses.replace(pages, k=pool)
    if pages.order == "columns":
        pool = pages.k.at[layer, page, :, :, offset].set(k, mode="drop")
    else:
        pool = pages.k.at[layer, page, :, offset].set(k, mode="drop")
    return dataclasses.replace(
        pages, k=pool, v=pages.v.at[layer, page, :, offset].set(v, mode="drop")
    )


def scatter_scales(pages: KVPages, layer: int, scales: jax.Array, slots: jax.Array) -> KVPages:
    """Writes the scales [T, 2 K] of one layer's new rows; for every backend, they are few."""
    assert pages.scales is not None
    page, offset = _split_slots(pages, slots)
    pool = pages.scales.at[layer, page, :, offset].set(scales, mode="drop")
    return dataclasses.replace(pages, scales=pool)


def _split_slots(pages: KVPages, slots: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Page and offset of every slot, int32 [T] each; a page beyond the pool for those to drop."""
    # Negative indices would count from the end, so they move beyond the end, where they drop.
    page = jnp.where(slots < 0, pages.num_pages, slots // pages.page_size)
    return page, jnp.where(slots < 0, 0, slots % pages.page_size)
