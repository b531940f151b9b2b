"""The one entry for page writes: checks shapes once, then writes in place."""

import jax

from helium_jax.kernels.page_write.xla_scatter import scatter_pages
from helium_jax.kernels.pages import KVPages


def write_pages(
    pages: KVPages, layer: int, k: jax.Array, v: jax.Array, slots: jax.Array
) -> KVPages:
    """Writes one layer's new keys and values; in place when `pages` is donated to the step.

    Args:
        pages: the pools.
        layer: 0 to L - 1, static.
        k: [T, K, H], any float dtype; cast to the pages' dtype.
        v: [T, K, H], likewise.
        slots: int32 [T], page * page_size + offset; a slot outside [0, P * B) is dropped, which is
            how padding rows are written nowhere. Slots inside must differ from one another.

    Returns:
        The pages after the write; `pages` itself is no longer valid under donation.

    Raises:
        ValueError: an argument has the wrong shape, dtype or range; the message names it.
    """
    if not 0 <= layer < pages.num_layers:
        raise ValueError(f"{layer=} is not a layer of these pages ({pages.num_layers=})")
    expected = (k.shape[0], pages.num_kv_heads, pages.head_size)
    for name, array in (("k", k), ("v", v)):
        if array.shape != expected:
            raise ValueError(f"{name} has shape {array.shape}; expected [T, K, H] = {expected}")
    if slots.shape != k.shape[:1] or slots.dtype != "int32":
        raise ValueError(
            f"slots is {slots.dtype}{list(slots.shape)}; expected int32[{k.shape[0]}], one per row"
        )
    return scatter_pages(pages, layer, k, v, slots)
