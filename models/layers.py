"""The arithmetic that layers share: linear, norms, activations, the gated feed-forward."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from helium_jax.models.params import Ffn, Matrix, QuantizedMatrix


def linear(
    x: Float[Array, "R I"], weight: Matrix, *, out_dtype: jnp.dtype | type | None = None
) -> Float[Array, "R ..."]:
    """x times weight, [..., in], contracted on both last axes; accumulated in float32.

    Returns [R, *weight.shape[:-1]] in `out_dtype`, by default x's dtype.
    """
    if isinstance(weight, QuantizedMatrix):
        out = _quantized_linear(x, weight)
    else:
        out = jax.lax.dot_general(
            x, weight, (((1,), (weight.ndim - 1,)), ((), ())), preferred_element_type=jnp.float32
        )
    return out.astype(out_dtype or x.dtype)


def _quantized_linear(x: Float[Array, "R I"], weight: QuantizedMatrix) -> Float[Array, "R ..."]:
    """Int8 product with int32 sums; each row of x gets its own scale from its largest value."""
    values, row_scales = quantize_rows(x)
    sums = jax.lax.dot_general(
        values,
        weight.values,
        (((1,), (weight.values.ndim - 1,)), ((), ())),
        preferred_element_type=jnp.int32,
    )
    row_scales = row_scales.reshape(-1, *(1,) * weight.scales.ndim)
    return sums.astype(jnp.float32) * (row_scales * weight.scales[None])


def quantize_rows(
    x: Float[Array, "... I"],
) -> tuple[Array, Float[Array, "..."]]:
    """Int8 values and float32 scales with x = values * scales[..., None], symmetric, rounded."""
    x = x.astype(jnp.float32)
    largest = jnp.max(jnp.abs(x), axis=-1)
    scales = jnp.where(largest > 0, largest, 1.0) / 127.0  # an all-zero row stays zero
    return jnp.round(x / scales[..., None]).astype(jnp.int8), scales


def rms_norm(
    x: Float[Array, "... D"], weight: Float[Array, " D"], *, eps: float, offset: float = 0.0
) -> Float[Array, "... D"]:
    """x / rms(x) * (weight + offset), in float32, returned in x's dtype."""
    wide = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    gain = (weight.astype(jnp.float32) + offset).reshape(*(1,) * (x.ndim - 1), -1)
    return (wide * scale * gain).astype(x.dtype)


def _gelu_tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jax.nn.gelu(x, approximate=True)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"silu": jax.nn.silu, "gelu_tanh": _gelu_tanh}


def soft_cap(x: Float[Array, "..."], cap: float | None) -> Float[Array, "..."]:
    """cap * tanh(x / cap), or x itself without a cap."""
    return x if cap is None else jnp.tanh(x / cap) * cap


def feed_forward(x: Float[Array, "T D"], ffn: Ffn, activation: str) -> Float[Array, "T D"]:
    """down(activation(gate(x)) * up(x)), gate and up as one product."""
    gate_up = linear(x, ffn.gate_up)  # [T, 2, F]
    if ffn.gate_up_bias is not None:
        gate_up = gate_up + ffn.gate_up_bias[None]
    hidden = ACTIVATIONS[activation](gate_up[:, 0]) * gate_up[:, 1]  # [T, F]
    out = linear(hidden, ffn.down)
    return out if ffn.down_bias is None else out + ffn.down_bias[None]
