"""Tensor parallelism: how parameters and KV pages are split over a mesh axis.

Attention is split over KV heads (each device holds K / n heads with their queries, so pages never
move), feed-forwards over F, experts over the experts' own F, embedding and output over V. XLA
inserts one sum over devices after `o` and one after `down`.
"""

from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from helium_jax.models.config import ModelConfig
from helium_jax.models.params import Experts, Ffn, Layer, Params, QuantizedMatrix


def params_specs(config: ModelConfig, axis: str = "model") -> Params:
    """The tree of `config` with a PartitionSpec in place of every array."""
    spec: Any = PartitionSpec

    def ffn(layer: int) -> Ffn | Experts:
        if config.has_experts(layer):
            gate_up, down = spec(None, axis), spec(None, None, axis)
            return Experts(router=spec(), gate_up=gate_up, down=down)
        return Ffn(
            gate_up=spec(axis),
            down=spec(None, axis),
            gate_up_bias=spec(axis) if config.ffn_bias else None,
            down_bias=spec() if config.ffn_bias else None,
        )

    return Params(
        embedding=spec(axis, None),
        layers=tuple(
            Layer(
                norms=spec(),
                qkv=spec(axis, None),
                o=spec(None, axis),
                ffn=ffn(index),
                qkv_bias=spec(axis) if config.qkv_bias else None,
                qk_norms=spec() if config.qk_norm else None,
                o_bias=spec() if config.o_bias else None,
            )
            for index in range(config.num_layers)
        ),
        final_norm=spec(),
        unembedding=None if config.tie_embeddings else spec(axis, None),
    )


def pages_spec(axis: str = "model") -> PartitionSpec:
    """Of both KV pools, [L, P, K, ...]: each device keeps the pages of its own heads."""
    return PartitionSpec(None, None, axis)


def params_shardings(config: ModelConfig, mesh: Mesh | AbstractMesh, axis: str = "model") -> Params:
    """The tree of `config` with a NamedSharding in place of every array, for `load_hf`.

    Raises:
        ValueError: a size that the axis does not divide; names it and the sizes that would do.
    """
    parts = mesh.shape[axis]
    sizes = {
        "num_kv_heads": config.num_kv_heads,
        "vocab_size": config.vocab_size,
        "ffn_width": config.ffn_width,
    }
    if config.num_experts:
        sizes["expert_width"] = config.expert_width
    for name, size in sizes.items():
        if size % parts:
            raise ValueError(
                f"{name}={size} cannot be split over {parts} devices of mesh axis {axis!r}; "
                f"use a number that divides {size}"
            )
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        params_specs(config, axis),
        is_leaf=lambda node: isinstance(node, PartitionSpec),
    )


def shard_params(params: Params, shardings: Params) -> Params:
    """Moves params to their places; an int8 matrix's scales go with its rows."""

    def place(leaf: Any, sharding: NamedSharding) -> Any:
        if not isinstance(leaf, QuantizedMatrix):
            return jax.device_put(leaf, sharding)
        spec = (*sharding.spec, *(None,) * (leaf.values.ndim - len(sharding.spec)))
        rows = NamedSharding(sharding.mesh, PartitionSpec(*spec[:-1]))
        return QuantizedMatrix(
            values=jax.device_put(leaf.values, sharding), scales=jax.device_put(leaf.scales, rows)
        )

    shardings = _with_output(params, shardings)
    return jax.tree.map(
        place, params, shardings, is_leaf=lambda node: isinstance(node, QuantizedMatrix)
    )


def _with_output(params: Params, shardings: Params) -> Params:
    """`quantize` gives tied models an output matrix; it is split as the embedding is."""
    if params.unembedding is None or shardings.unembedding is not None:
        return shardings
    return Params(
        embedding=shardings.embedding,
        layers=shardings.layers,
        final_norm=shardings.final_norm,
        unembedding=shardings.embedding,
    )
