"""Int8 weights with one scale per output channel; activations are quantized on the fly."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from helium_jax.models.layers import quantize_rows
from helium_jax.models.params import Layer, Matrix, Params, QuantizedMatrix


def quantize(params: Params) -> Params:
    """The same model with every large matrix in int8; its products then run in int8 x int8.

    Quantized: qkv, o, gate and up, down (experts too) and the output matrix; a tied model gets an
    int8 output matrix beside its embedding, a quarter of that in float32. Kept: the embedding,
    norms, biases and routers. Leaves are done one by one; what is already int8 stays.
    """
    output = params.embedding if params.unembedding is None else params.unembedding
    return replace(
        params,
        layers=tuple(_quantize_layer(layer) for layer in params.layers),
        unembedding=quantize_matrix(output),
    )


def is_quantized(params: Params) -> bool:
    """Whether `quantize` made these."""
    return isinstance(params.unembedding, QuantizedMatrix)


def _quantize_layer(layer: Layer) -> Layer:
    ffn: Any = layer.ffn
    return replace(
        layer,
        qkv=quantize_matrix(layer.qkv),
        o=quantize_matrix(layer.o),
        ffn=replace(ffn, gate_up=quantize_matrix(ffn.gate_up), down=quantize_matrix(ffn.down)),
    )


def quantize_matrix(weight: Matrix) -> QuantizedMatrix:
    """Symmetric, rounded to nearest: |weight - values * scales| <= scales / 2.

    weight: [..., out, in] of any float dtype; returns values of its shape, scales [..., out].
    """
    if isinstance(weight, QuantizedMatrix):
        return weight
    values, scales = _quantize_array(weight)
    return QuantizedMatrix(values=values, scales=scales)


@jax.jit
def _quantize_array(weight: jax.Array) -> tuple[jax.Array, jax.Array]:
    return quantize_rows(weight)


def dequantize_matrix(weight: QuantizedMatrix, dtype: Any = jnp.float32) -> jax.Array:
    """What the int8 matrix means."""
    return (weight.values.astype(jnp.float32) * weight.scales[..., None]).astype(dtype)
