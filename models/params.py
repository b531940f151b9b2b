"""The parameters: a plain pytree of frozen dataclasses with few leaves, and random ones.

Matrices are [out, in] and contracted on their last axis: on CPUs up to 2x faster than [in, out]
in float32 and 4x in bfloat16. What is multiplied by the same input is one matrix, and small
vectors are stacked, because every leaf costs host time in every step.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

from helium_jax.models.config import ModelConfig


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedMatrix:
    """A matrix in int8 with one scale per output channel: weight = values * scales.

    Attributes:
        values: int8, the matrix's shape [..., out, in].
        scales: float32, [..., out].
    """

    values: Int8[Array, "... O I"]
    scales: Float[Array, "... O"]


Matrix = Float[Array, "... O I"] | QuantizedMatrix


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class Ffn:
    """A gated feed-forward: down(activation(gate) * up).

    Attributes:
        gate_up: [F, 2, D]: gate and up of each channel side by side, so that a split over
            channels is a split of rows.
        down: [D, F].
        gate_up_bias: [F, 2], or None.
        down_bias: [D], or None.
    """

    gate_up: Matrix
    down: Matrix
    gate_up_bias: Float[Array, "F 2"] | None = None
    down_bias: Float[Array, " D"] | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """A mixture of gated feed-forwards.

    Attributes:
        router: [E, D].
        gate_up: [E, F, 2, D].
        down: [E, D, F].
    """

    router: Float[Array, "E D"]
    gate_up: Matrix
    down: Matrix


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One transformer layer.

    Attributes:
        norms: [2, D]: before attention, before the feed-forward; [4, D] with post-norms: before
            attention, after it, before the feed-forward, after it.
        qkv: [K * (G + 2) * H, D]: per KV head its G query heads, its key, its value, so that a
            split over KV heads is a split of rows.
        o: [D, N * H].
        ffn: the feed-forward.
        qkv_bias: [K * (G + 2) * H], or None.
        qk_norms: [2, H]: of queries, of keys; or None.
        o_bias: [D], or None.
    """

    norms: Float[Array, "n D"]
    qkv: Matrix
    o: Matrix
    ffn: Ffn | Experts
    qkv_bias: Float[Array, " QKV"] | None = None
    qk_norms: Float[Array, "2 H"] | None = None
    o_bias: Float[Array, " D"] | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """All weights of a model.

    Attributes:
        embedding: [V, D]; also the output matrix when `unembedding` is None.
        layers: one entry per layer.
        final_norm: [D].
        unembedding: [V, D], or None when tied.
    """

    embedding: Float[Array, "V D"]
    layers: tuple[Layer, ...]
    final_norm: Float[Array, " D"]
    unembedding: Matrix | None = None


def param_shapes(config: ModelConfig, dtype: jnp.dtype | type = jnp.float32) -> Params:
    """The tree of `config` with jax.ShapeDtypeStruct leaves."""
    c = config
    leaf: Any = partial(jax.ShapeDtypeStruct, dtype=jnp.dtype(dtype))
    qkv_rows = c.num_kv_heads * (c.queries_per_kv_head + 2) * c.head_size

    def ffn(layer: int) -> Ffn | Experts:
        if c.has_experts(layer):
            e, f = c.num_experts, c.expert_width
            return Experts(
                router=leaf((e, c.width)),
                gate_up=leaf((e, f, 2, c.width)),
                down=leaf((e, c.width, f)),
            )
        return Ffn(
            gate_up=leaf((c.ffn_width, 2, c.width)),
            down=leaf((c.width, c.ffn_width)),
            gate_up_bias=leaf((c.ffn_width, 2)) if c.ffn_bias else None,
            down_bias=leaf((c.width,)) if c.ffn_bias else None,
        )

    def layer(index: int) -> Layer:
        return Layer(
            norms=leaf((4 if c.post_norms else 2, c.width)),
            qkv=leaf((qkv_rows, c.width)),
            o=leaf((c.width, c.num_q_heads * c.head_size)),
            ffn=ffn(index),
            qkv_bias=leaf((qkv_rows,)) if c.qkv_bias else None,
            qk_norms=leaf((2, c.head_size)) if c.qk_norm else None,
            o_bias=leaf((c.width,)) if c.o_bias else None,
        )

    return Params(
        embedding=leaf((c.vocab_size, c.width)),
        layers=tuple(layer(index) for index in range(c.num_layers)),
        final_norm=leaf((c.width,)),
        unembedding=None if c.tie_embeddings else leaf((c.vocab_size, c.width)),
    )


def params_bytes(params: Params) -> int:
    """Bytes of all leaves, arrays or ShapeDtypeStructs."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))


@partial(jax.jit, static_argnames=("config", "dtype"))
def init_params(
    config: ModelConfig, key: jax.Array, dtype: jnp.dtype | type = jnp.float32
) -> Params:
    """Random weights: matrices normal with deviation 1/sqrt(in), embeddings 0.02, norms one.

    Jitted, because drawing leaf by leaf takes seconds. Norm weights are stored less
    `config.norm_offset`, biases are zero.
    """
    shapes = param_shapes(config, dtype)
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)

    def draw(index: int, path: tuple[Any, ...], shape: jax.ShapeDtypeStruct) -> jax.Array:
        kind = init_kind(path)
        if kind is not None:
            value = 1.0 - config.norm_offset if kind == "norm" else 0.0
            return jnp.full(shape.shape, value, shape.dtype)
        drawn = jax.random.normal(jax.random.fold_in(key, index), shape.shape, jnp.float32)
        return (drawn * leaf_deviation(path, shape.shape)).astype(shape.dtype)

    return tree.unflatten([draw(i, path, leaf) for i, (path, leaf) in enumerate(leaves)])


def init_kind(path: tuple[Any, ...]) -> str | None:
    """ "norm" or "bias" for leaves that start constant, None for matrices drawn at random."""
    name = path[-1].name
    return "norm" if "norm" in name else "bias" if name.endswith("bias") else None


def leaf_deviation(path: tuple[Any, ...], shape: tuple[int, ...]) -> float:
    """Standard deviation of a matrix's first weights."""
    return 0.02 if path[-1].name == "embedding" else shape[-1] ** -0.5
