"""Page writes as one XLA scatter per pool."""

import dataclasses

import jax
import jax.numpy as jnp

from helium_jax.kernels.pages import KVPages, to_storage


def scatter_pages(
    pages: KVPages, layer: int, k: jax.Array, v: jax.Array, slots: jax.Array
) -> KVPages:
    """See `write_pages`; slots out of range are dropped by the scatter itself."""
    size = pages.page_size
    # Negative indices would count from the end, so they move beyond the end, where they drop.
    page = jnp.where(slots < 0, pages.num_pages, slots // size)  # [T]
    offset = jnp.where(slots < 0, 0, slots % size)
    return dataclasses.replace(
        pages,
        k=pages.k.at[layer, page, :, :, offset].set(to_storage(k, pages), mode="drop"),
        v=pages.v.at[layer, page, :, offset].set(to_storage(v, pages), mode="drop"),
    )
