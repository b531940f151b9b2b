"""flax nnx.State in and out: the border only, because nnx in a step costs milliseconds a call."""

from typing import Any

import jax
from flax import nnx

from helium_jax.models.config import ModelConfig
from helium_jax.models.params import Params, param_shapes


def to_nnx_state(params: Params) -> nnx.State:
    """The leaves as nnx.Param under their paths: ("layers", 0, "qkv") and so on."""
    flat = [
        (_names(path), nnx.Param(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    ]
    return nnx.from_flat_state(flat)


def from_nnx_state(config: ModelConfig, state: nnx.State) -> Params:
    """The tree of `config` from a state with the paths of `to_nnx_state`.

    Raises:
        ValueError: a path is missing or extra, or an array has another shape; named.
    """
    found = {tuple(path): variable for path, variable in nnx.to_flat_state(state)}
    shapes, tree = jax.tree_util.tree_flatten_with_path(param_shapes(config))
    arrays = []
    for path, shape in shapes:
        name = _names(path)
        if name not in found:
            raise ValueError(f"nnx state has no {name}, which this config needs")
        array = found.pop(name)
        array = array[...] if isinstance(array, nnx.Variable) else array
        if array.shape != shape.shape:
            raise ValueError(f"nnx state: {name} is {array.shape}; config asks for {shape.shape}")
        arrays.append(array)
    if found:
        raise ValueError(f"nnx state has {[*found]}, which this config has no place for")
    return tree.unflatten(arrays)


def _names(path: tuple[Any, ...]) -> tuple[str | int, ...]:
    return tuple(key.name if hasattr(key, "name") else key.idx for key in path)
