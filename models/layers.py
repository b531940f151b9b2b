"""The arithmetic that layers share: linear, norms, activations, the gated feed-forward."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

from helium_jax.models.params import Ffn, Matrix, QuantizedMatrix


def linear(
    x: Float[Array, "R I"], weight: Matrix, *, out_dtype: jnp.dtype | type | None = None
) -> Float[Array, "R ..."]:
    """x times weight, [..., in], contracted on both last axes; accumulated in float32.

    Returns [R, *weight.shape[:-1]] in `out_dtype`, by default x's dtype. The product itself is
    always of two matrices: given three axes, XLA:CPU transposes the whole weight in every call.
    """
    if isinstance(weight, QuantizedMatrix):
        shape = weight.values.shape
        out = _quantized_product(x, weight.values.reshape(-1, shape[-1]), weight.scales.reshape(-1))
    else:
        shape = weight.shape
        out = _product(x, weight.reshape(-1, shape[-1]), jnp.float32)
    return out.astype(out_dtype or x.dtype).reshape(x.shape[0], *shape[:-1])


def _product(x: Array, weight: Array, dtype: jnp.dtype | type) -> Array:
    return jax.lax.dot_general(x, weight, (((1,), (1,)), ((), ())), preferred_element_type=dtype)


def _quantized_product(
    x: Float[Array, "R I"], values: Int8[Array, "O I"], scales: Float[Array, " O"]
) -> Float[Array, "R O"]:
    """Int8 product with int32 sums; each row of x gets its own scale from its largest value."""
    rows, row_scales = quantize_rows(x)
    sums = _product(rows, values, jnp.int32).astype(jnp.float32)
    return sums * (row_scales[:, None] * scales[None, :])


def quantize_rows(
    x: Float[Array, "... I"],
) -> tuple[Int8[Array, "... I"], Float[Array, "..."]]:
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
    gate_up = linear(x, ffn.gate_up)  # [T, F, 2]
    if ffn.gate_up_bias is not None:
        gate_up = gate_up + ffn.gate_up_bias[None]
    hidden = ACTIVATIONS[activation](gate_up[..., 0]) * gate_up[..., 1]  # [T, F]
    out = linear(hidden, ffn.down)
    return out if ffn.down_bias is None else out + ffn.down_bias[None]
