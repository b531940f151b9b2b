"""The KV pages: a pytree of pools stacked over layers, their order, allocation and size.

The order of a page's elements is what its kernel reads, so that a pool is never reordered:

    "columns"  k[L, P, K, H, B], v[L, P, K, B, H]   XLA: both products of attention contract over
               memory that lies in order (measured 3.5x on CPUs against token-major pages)
    "rows"     k[L, P, K, B, H], v[L, P, K, B, H]   Mosaic GPU: a head's page is one TMA copy
    "joined"   k[L, P, K, B, 2 H], no v             Mosaic TPU: one DMA brings keys and values of
               all heads; a key's H lanes lie before its value's

In the kernels' orders H is rounded up to what they copy, and the lanes beyond hold zeros
(`stored_head_size`). At most three leaves for all layers, because every donated leaf costs host
time per call.

Pools in int8 or float8 have a float32 scale for every token, KV head, and key or value: an element
means stored * scale, with the largest of a head at the end of the stored type's range. Scales are
scales[L, P, 2 K, B], those of the keys before those of the values; in the order "joined" a page's B
is rounded up to the 128 lanes that a TPU would give it anyway, copying the pool.

XLA:CPU scatters bfloat16 by converting the whole operand to float32 and back, so on CPUs a bfloat16
pool is stored as uint16 (float8 as uint8) and only the rows moved are bitcast.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

# The dtypes that need scales, and their largest numbers.
QUANTIZED = {"int8": 127.0, "float8_e4m3fn": 448.0}
SCALE_BYTES = 4


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class KVPages:
    """Keys and values of all layers, in pages.

    Attributes:
        k: the keys' pool, or that of both, in storage dtype; shapes in the module docstring.
        v: the values' pool; None when joined.
        dtype: name of the dtype the elements mean; storage is uint16 for bfloat16 on CPUs.
        head_size: H, without what is added to it in storage.
        order: "columns", "rows" or "joined".
        scales: float32, of quantized pools; None for others.
    """

    k: jax.Array
    v: jax.Array | None
    dtype: str = field(metadata=dict(static=True))
    head_size: int = field(metadata=dict(static=True))
    order: str = field(default="columns", metadata=dict(static=True))
    scales: jax.Array | None = None

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
    def page_size(self) -> int:
        return self.k.shape[4 if self.order == "columns" else 3]

    @property
    def nbytes(self) -> int:
        """Of all pools and scales."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self))


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
        dtype: "float32", "bfloat16", "float16", "int8" or "float8_e4m3fn".
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
    width = stored_head_size(head_size, order)
    shapes = {
        "columns": ((width, page_size), (page_size, width)),
        "rows": ((page_size, width), (page_size, width)),
        "joined": ((page_size, 2 * width), None),
    }
    of_k, of_v = shapes[order]
    scales = None
    if dtype in QUANTIZED:
        lanes = _scale_lanes(page_size, order)
        scales = jnp.zeros((num_layers, num_pages, 2 * num_kv_heads, lanes), jnp.float32)
    return KVPages(
        k=jnp.zeros((*outer, *of_k), storage),
        v=None if of_v is None else jnp.zeros((*outer, *of_v), storage),
        dtype=dtype,
        head_size=head_size,
        order=order,
        scales=scales,
    )


def stored_head_size(head_size: int, order: str) -> int:
    """Elements that a head takes in a pool: kernels copy 64 or a multiple of 128.

    Raises:
        ValueError: the order is unknown.
    """
    if order == "columns":
        return head_size
    if order not in ("rows", "joined"):
        raise ValueError(f"{order=} is unknown; choose one of columns, rows, joined")
    return 64 if head_size <= 64 else -(-head_size // 128) * 128


def pages_bytes(
    *,
    num_layers: int,
    num_pages: int,
    page_size: int,
    num_kv_heads: int,
    head_size: int,
    dtype: str,
    order: str = "columns",
) -> int:
    """Bytes that `allocate_pages` with the same arguments takes."""
    of_head = page_size * stored_head_size(head_size, order) * _storage_dtype(dtype, "cpu").itemsize
    if dtype in QUANTIZED:
        of_head += _scale_lanes(page_size, order) * SCALE_BYTES
    return 2 * num_layers * num_pages * num_kv_heads * of_head


def gather_keys(pages: KVPages, layer: int, page_ids: jax.Array) -> jax.Array:
    """Keys of some pages, int32 [W] -> [W, K, H, B] in `pages.dtype`; float32 if quantized."""
    taken = _gather(pages, pages.k, layer, page_ids)
    if pages.order != "columns":
        taken = taken[..., : pages.head_size].swapaxes(2, 3)
    if pages.scales is None:
        return taken
    scales = _gather_scales(pages, layer, page_ids)[:, : pages.num_kv_heads]  # [W, K, B]
    return taken.astype(jnp.float32) * scales[:, :, None, :]


def gather_values(pages: KVPages, layer: int, page_ids: jax.Array) -> jax.Array:
    """Values of some pages, int32 [W] -> [W, K, B, H] in `pages.dtype`; float32 if quantized."""
    if pages.v is not None:
        taken = _gather(pages, pages.v, layer, page_ids)
    else:
        taken = _gather(pages, pages.k, layer, page_ids)[..., pages.k.shape[4] // 2 :]
    taken = taken[..., : pages.head_size]
    if pages.scales is None:
        return taken
    scales = _gather_scales(pages, layer, page_ids)[:, pages.num_kv_heads :]  # [W, K, B]
    return taken.astype(jnp.float32) * scales[..., None]


def _gather(pages: KVPages, pool: jax.Array, layer: int, page_ids: jax.Array) -> jax.Array:
    """Whole pages, as what they mean but for scales."""
    return from_storage(_gather_rows(pool, layer, page_ids), pages)


def _gather_scales(pages: KVPages, layer: int, page_ids: jax.Array) -> jax.Array:
    """Of some pages, [W, 2 K, B]."""
    assert pages.scales is not None
    return _gather_rows(pages.scales, layer, page_ids)[..., : pages.page_size]


def _scale_lanes(page_size: int, order: str) -> int:
    """Scales that a page has room for."""
    return -(-page_size // 128) * 128 if order == "joined" else page_size


def _gather_rows(pool: jax.Array, layer: int, page_ids: jax.Array) -> jax.Array:
    """XLA:CPU gathers pages fastest from a pool seen as [pages, elements], with the layer folded
    into the page index so that no layer is ever sliced out.
    """
    num_pages = pool.shape[1]
    rows = pool.reshape(pool.shape[0] * num_pages, -1)
    taken = rows.at[page_ids + layer * num_pages].get(mode="promise_in_bounds")
    return taken.reshape(-1, *pool.shape[2:])


def to_storage(values: jax.Array, pages: KVPages) -> jax.Array:
    """Casts activations of any float dtype, or what `quantize` made, to what the pools hold."""
    values = values.astype(pages.dtype)
    if pages.k.dtype == values.dtype:
        return values
    return jax.lax.bitcast_convert_type(values, pages.k.dtype)


def from_storage(stored: jax.Array, pages: KVPages) -> jax.Array:
    """The meaning, in `pages.dtype` and without scales, of elements read from the pools."""
    if stored.dtype == pages.dtype:
        return stored
    return jax.lax.bitcast_convert_type(stored, jnp.dtype(pages.dtype))


def quantize(values: jax.Array, dtype: str) -> tuple[jax.Array, jax.Array]:
    """Rows of heads in a small dtype: float [..., H] to `dtype` [..., H] and float32 scales [...].

    A row with a number that is not finite has a scale that is not, so it is not hidden.
    """
    values = values.astype(jnp.float32)
    largest = QUANTIZED[dtype]
    scales = jnp.max(jnp.abs(values), axis=-1) / largest
    scaled = values / jnp.where(scales == 0, 1.0, scales)[..., None]
    if dtype == "int8":
        scaled = jnp.round(scaled)
    # The division may end a rounding beyond the range.
    return jnp.clip(scaled, -largest, largest).astype(dtype), scales


def pad_head(values: jax.Array, pages: KVPages) -> jax.Array:
    """Zeros after [..., H] up to what a head takes in storage."""
    missing = stored_head_size(pages.head_size, pages.order) - values.shape[-1]
    if not missing:
        return values
    return jnp.pad(values, (*((0, 0),) * (values.ndim - 1), (0, missing)))


def _storage_dtype(dtype: str, platform: str) -> jnp.dtype:
    known = ("float32", "bfloat16", "float16", *QUANTIZED)
    if dtype not in known:
        raise ValueError(f"{dtype=} is not a KV dtype; choose one of {', '.join(known)}")
    if platform == "cpu":
        return jnp.dtype({"bfloat16": "uint16", "float8_e4m3fn": "uint8"}.get(dtype, dtype))
    return jnp.dtype(dtype)
