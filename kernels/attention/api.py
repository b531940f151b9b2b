"""The one entry for attention: checks shapes once, then chooses an implementation."""

import math
from typing import Protocol

import jax
import jax.numpy as jnp

from helium_jax.kernels.attention.layout import AttentionBatch
from helium_jax.kernels.attention.mosaic_gpu import attend_gpu
from helium_jax.kernels.attention.mosaic_tpu import attend_tpu
from helium_jax.kernels.attention.reference import attend_reference
from helium_jax.kernels.attention.xla_worklist import attend_worklist
from helium_jax.kernels.pages import KVPages


class Implementation(Protocol):
    """How a backend computes `paged_attention`; shapes are already checked.

    Raises:
        NotImplementedError: it cannot do these shapes on this platform; the message says why.
    """

    def __call__(
        self,
        q: jax.Array,
        pages: KVPages,
        layer: int,
        batch: AttentionBatch,
        *,
        scale: float,
        window: int | None,
        soft_cap: float | None,
    ) -> tuple[jax.Array, jax.Array]: ...


# In the order the default tries them.
IMPLEMENTATIONS: dict[str, Implementation] = {
    "mosaic_tpu": attend_tpu,
    "mosaic_gpu": attend_gpu,
    "xla": attend_worklist,
    "reference": attend_reference,
}


def paged_attention(
    q: jax.Array,
    pages: KVPages,
    layer: int,
    batch: AttentionBatch,
    *,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Causal attention of every row of a step over its own sequence's pages.

    The formula is in `reference.py`. The step must have written its own keys and values before.

    Args:
        q: [T, N, H], float; N a multiple of the pages' K.
        pages: the pools.
        layer: 0 to L - 1, static.
        batch: from `unpack_batch`, with T = batch.layout.num_tokens.
        scale: multiplies the scores.
        window: a row sees only keys less than this many positions back, itself included.
        soft_cap: scores become soft_cap * tanh(score / soft_cap).
        implementation: a key of IMPLEMENTATIONS; None takes the first that can do this.

    Returns:
        out [T, N, H] in q's dtype, and lse [T, N] float32, the log of the sum of exponentials of a
        row's scores (natural log). Padding rows give zeros and -inf, whatever the pool holds.

    Raises:
        ValueError: an argument has the wrong shape, dtype or range; the message names it.
        NotImplementedError: the named implementation cannot do this; the message says why.
    """
    _check(q, pages, layer, batch, scale, window, soft_cap)
    if implementation is not None:
        if implementation not in IMPLEMENTATIONS:
            raise ValueError(f"{implementation=} is unknown; choose one of {[*IMPLEMENTATIONS]}")
        return IMPLEMENTATIONS[implementation](
            q, pages, layer, batch, scale=scale, window=window, soft_cap=soft_cap
        )
    reasons = []
    for name, attend in IMPLEMENTATIONS.items():
        try:
            return attend(q, pages, layer, batch, scale=scale, window=window, soft_cap=soft_cap)
        except NotImplementedError as error:
            reasons.append(f"{name}: {error}")
    raise NotImplementedError("no implementation can do this: " + "; ".join(reasons))


def _check(
    q: jax.Array,
    pages: KVPages,
    layer: int,
    batch: AttentionBatch,
    scale: float,
    window: int | None,
    soft_cap: float | None,
) -> None:
    layout = batch.layout
    if not jnp.issubdtype(q.dtype, jnp.floating):
        raise ValueError(f"q is in {q.dtype}; expected a float dtype")
    if q.ndim != 3 or q.shape[0] != layout.num_tokens or q.shape[2] != pages.head_size:
        raise ValueError(
            f"q has shape {q.shape}; expected [T, N, H] with T={layout.num_tokens} "
            f"and H={pages.head_size}"
        )
    if q.shape[1] % pages.num_kv_heads:
        raise ValueError(f"q has {q.shape[1]} heads, no multiple of {pages.num_kv_heads=}")
    if layout.page_size != pages.page_size:
        raise ValueError(f"{layout.page_size=} differs from {pages.page_size=}")
    if layout.num_pages != pages.num_pages:
        raise ValueError(f"{layout.num_pages=} differs from {pages.num_pages=}")
    if not 0 <= layer < pages.num_layers:
        raise ValueError(f"{layer=} is not a layer of these pages ({pages.num_layers=})")
    if not math.isfinite(scale):
        raise ValueError(f"{scale=} must be a finite number")
    if window is not None and (not isinstance(window, int) or window < 1):
        raise ValueError(f"{window=} must be an integer of at least 1, or None for no window")
    if soft_cap is not None and not 0 < soft_cap < math.inf:
        raise ValueError(f"{soft_cap=} must be positive and finite, or None for none")
