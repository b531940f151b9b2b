"""Attention of one ragged step over KV pages, one interface for every backend.

A step is described on the host by `pack_batch` into one int32 array, taken apart on the device by
`unpack_batch`, and read by `paged_attention` in every layer. Not here: writing pages
(`helium_jax.kernels.page_write`) and rotary phases (`helium_jax.models`).
"""

from helium_jax.kernels.attention.api import IMPLEMENTATIONS, paged_attention
from helium_jax.kernels.attention.choose import ORDERS, choose_implementation, choose_target
from helium_jax.kernels.attention.layout import (
    AttentionBatch,
    AttentionLayout,
    make_layout,
    unpack_batch,
)
from helium_jax.kernels.attention.pack import pack_batch
from helium_jax.kernels.attention.tuning import Target

__all__ = [
    "IMPLEMENTATIONS",
    "ORDERS",
    "AttentionBatch",
    "AttentionLayout",
    "Target",
    "choose_implementation",
    "choose_target",
    "make_layout",
    "pack_batch",
    "paged_attention",
    "unpack_batch",
]
