"""The one entry for page writes: checks shapes once, then writes in place."""

from typing import Protocol

import jax
import jax.numpy as jnp

from helium_jax.kernels.page_write.mosaic_gpu import write_rows
from helium_jax.kernels.page_write.mosaic_tpu import write_tiles
from helium_jax.kernels.page_write.xla_scatter import scatter_pages, scatter_scales
from helium_jax.kernels.pages import KVPages, pad_head, quantize


class Implementation(Protocol):
    """How a backend writes pages: rows as wide as in storage, in a dtype that a cast brings there.

    Raises:
        NotImplementedError: it cannot do these pages; the message says why.
    """

    def __call__(
        self, pages: KVPages, layer: int, k: jax.Array, v: jax.Array, slots: jax.Array
    ) -> KVPages: ...


# In the order the default tries them.
IMPLEMENTATIONS: dict[str, Implementation] = {
    "mosaic_tpu": write_tiles,
    "mosaic_gpu": write_rows,
    "xla": scatter_pages,
}


def write_pages(
    pages: KVPages,
    layer: int,
    k: jax.Array,
    v: jax.Array,
    slots: jax.Array,
    *,
    implementation: str | None = None,
) -> KVPages:
    """Writes one layer's new keys and values; in place when `pages` is donated to the step.

    Args:
        pages: the pools.
        layer: 0 to L - 1, static.
        k: [T, K, H], any float dtype; cast to the pages' dtype, or quantized for pools of int8 and
            float8.
        v: [T, K, H], likewise.
        slots: int32 [T], page * page_size + offset; a slot outside [0, P * B) is dropped, which is
            how padding rows are written nowhere. Slots inside must differ from one another, and
            those of one page be in ascending order on neighbouring rows, as a step's are.
        implementation: a key of IMPLEMENTATIONS; None takes the first that can do this.

    Returns:
        The pages after the write; `pages` itself is no longer valid under donation.

    Raises:
        ValueError: an argument has the wrong shape, dtype or range; the message names it.
        NotImplementedError: the named implementation cannot do this; the message says why.
    """
    if not 0 <= layer < pages.num_layers:
        raise ValueError(f"{layer=} is not a layer of these pages ({pages.num_layers=})")
    expected = (k.shape[0], pages.num_kv_heads, pages.head_size)
    for name, array in (("k", k), ("v", v)):
        if array.shape != expected:
            raise ValueError(f"{name} has shape {array.shape}; expected [T, K, H] = {expected}")
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name} is in {array.dtype}; expected a float dtype")
    if slots.shape != k.shape[:1] or slots.dtype != "int32":
        raise ValueError(
            f"slots is {slots.dtype}{list(slots.shape)}; expected int32[{k.shape[0]}], one per row"
        )
    if pages.scales is not None:
        (k, k_scales), (v, v_scales) = quantize(k, pages.dtype), quantize(v, pages.dtype)
        scales = jnp.concatenate([k_scales, v_scales], axis=1)  # [T, 2 K]
        pages = scatter_scales(pages, layer, scales, slots)
    k, v = pad_head(k, pages), pad_head(v, pages)
    if implementation is not None:
        if implementation not in IMPLEMENTATIONS:
            raise ValueError(f"{implementation=} is unknown; choose one of {[*IMPLEMENTATIONS]}")
        return IMPLEMENTATIONS[implementation](pages, layer, k, v, slots)
    for write in IMPLEMENTATIONS.values():
        try:
            return write(pages, layer, k, v, slots)
        except NotImplementedError:
            continue
    raise NotImplementedError("no implementation can write these pages")
