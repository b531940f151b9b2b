"""The KV pages: a pytree of pools stacked over layers, their order, allocation and size.

The order of a page's elements is what its kernel reads, so that a pool is never reordered:

    "columns"  k[L, P, K, H, B], v[L, P, K, B, H]   XLA: both products of attention contract over
               memory that lies in order (measured 3.5x on CPUs against token-major pages)
    "rows"     k[L, P, K, B, H], v[L, P, K, B, H]   Mosaic GPU: a head's page is one TMA copy
    "joined"   k[L, P, K, B, 2 H], no v             Mosaic TPU: one DMA brings keys and values of
               all heads; a key's H lanes lie before its value's

At most two leaves for all layers, because every donated leaf costs host time per call.

XLA:CPU scatters bfloat16 by converting the whole operand to float32 and back, so on CPUs a bfloat16
pool is stored as uint16 and only the rows moved are bitcast.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class KVPages:
    """Keys and values of all layers, in pages.

    Attributes:
        k: the keys' pool, or that of both, in storage dtype; shapes in the module docstring.
        v: the values' pool; None when joined.
        dtype: name of the dtype the elements mean; storage is uint16 for bfloat16 on CPUs.
        order: "columns", "rows" or "joined".
    """

    k: jax.Array
    v: jax.Array | None
    dtype: str = field(metadata=dict(static=True))
    order: str = field(default="columns", metadata=dict(static=True))

    @property
    def num_layers(self) -> int:
        return self.k.shape[0]

    @property
    def num_pages(self) -> int:
        return self.k.shape[1]

    @property
    def num_kv_heads(self) -> int:
        return self.k.shape[2]

    @property
    def head_size(self) -> int:
        if self.order == "joined":
            return self.k.shape[4] // 2
        return self.k.shape[3 if self.order == "columns" else 4]

    @property
    def page_size(self) -> int:
        return self.k.shape[4 if self.order == "columns" else 3]

    @property
    def nbytes(self) -> int:
        """Of all pools."""
        return self.k.nbytes + (0 if self.v is None else self.v.nbytes)


def allocate_pages(
    *,
    num_layers: int,
    num_pages: int,
    page_size: int,
    num_kv_heads: int,
    head_size: int,
    dtype: str,
    platform: str | None = None,
    order: str = "columns",
) -> KVPages:
    """Allocates zeroed pages on the default device.

    Args:
        dtype: "float32", "bfloat16" or "float16".
        platform: of the device the pages will live on; None takes the default backend.
        order: of a page's elements, see the module docstring; `ORDERS` of
            `helium_jax.kernels.attention` has that of each implementation.

    Raises:
        ValueError: a count is not positive, or the dtype or order is unknown.
    """
    counts = dict(
        num_layers=num_layers,
        num_pages=num_pages,
        page_size=page_size,
        num_kv_heads=num_kv_heads,
        head_size=head_size,
    )
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}={count} must be at least 1")
    storage = _storage_dtype(dtype, platform or jax.default_backend())
    outer = (num_layers, num_pages, num_kv_heads)
    shapes = {
        "columns": ((head_size, page_size), (page_size, head_size)),
        "rows": ((page_size, head_size), (page_size, head_size)),
        "joined": ((page_size, 2 * head_size), None),
    }
    if order not in shapes:
        raise ValueError(f"{order=} is unknown; choose one of {[*shapes]}")
    of_k, of_v = shapes[order]
    return KVPages(
        k=jnp.zeros((*outer, *of_k), storage),
        v=None if of_v is None else jnp.zeros((*outer, *of_v), storage),
        dtype=dtype,
        order=order,
    )


def pages_bytes(
    *,
    num_layers: int,
    num_pages: int,
    page_size: int,
    num_kv_heads: int,
    head_size: int,
    dtype: str,
) -> int:
    """Bytes that `allocate_pages` with the same arguments takes."""
    elements = 2 * num_layers * num_pages * page_size * num_kv_heads * head_size
    return elements * _storage_dtype(dtype, "cpu").itemsize


def gather_keys(pages: KVPages, layer: int, page_ids: jax.Array) -> jax.Array:
    """Keys of some pages, int32 [W] -> [W, K, H, B] in `pages.dtype`."""
    taken = _gather(pages, pages.k, layer, page_ids)
    if pages.order == "columns":
        return taken
    return taken[..., : pages.head_size].swapaxes(2, 3)


def gather_values(pages: KVPages, layer: int, page_ids: jax.Array) -> jax.Array:
    """Values of some pages, int32 [W] -> [W, K, B, H] in `pages.dtype`."""
    if pages.v is not None:
        return _gather(pages, pages.v, layer, page_ids)
    return _gather(pages, pages.k, layer, page_ids)[..., pages.head_size :]


def _gather(pages: KVPages, pool: jax.Array, layer: int, page_ids: jax.Array) -> jax.Array:
    """Whole pages; XLA:CPU gathers them fastest from a pool seen as [pages, elements], with the
    layer folded into the page index so that no layer is ever sliced out.
    """
    rows = pool.reshape(pool.shape[0] * pool.shape[1], -1)
    taken = rows.at[page_ids + layer * pages.num_pages].get(mode="promise_in_bounds")
    return from_storage(taken.reshape(-1, *pool.shape[2:]), pages)


def to_storage(values: jax.Array, pages: KVPages) -> jax.Array:
    """Casts activations of any float dtype to what the pools hold."""
    values = values.astype(pages.dtype)
    if pages.k.dtype == values.dtype:
        return values
    return jax.lax.bitcast_convert_type(values, pages.k.dtype)


def from_storage(stored: jax.Array, pages: KVPages) -> jax.Array:
    """The meaning, in `pages.dtype`, of elements read from the pools."""
    if stored.dtype == pages.dtype:
        return stored
    return jax.lax.bitcast_convert_type(stored, jnp.dtype(pages.dtype))


def _storage_dtype(dtype: str, platform: str) -> jnp.dtype:
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"{dtype=} is not a KV dtype; choose float32, bfloat16 or float16")
    return jnp.dtype("uint16" if dtype == "bfloat16" and platform == "cpu" else dtype)
