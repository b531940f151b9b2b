"""Orbax checkpoints of the same parameter tree, beside a config.json."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from helium_jax.models.config import ModelConfig
from helium_jax.models.params import Params, QuantizedMatrix, param_shapes

_PARAMS = "params"


def save_orbax(folder: Path | str, config: ModelConfig, params: Params) -> None:
    """Writes config.json and the tree under `params/`.

    Raises:
        FileExistsError: the folder already holds params.
        ValueError: quantized params, or a config that its family's config.json has no words for.
    """
    folder = Path(folder).absolute()  # Orbax wants no relative paths
    if (folder / _PARAMS).exists():
        raise FileExistsError(f"{folder / _PARAMS} exists; choose a new folder")
    if isinstance(params.unembedding, QuantizedMatrix):
        raise ValueError("int8 params cannot be saved; save the ones that quantize() was given")
    hf = config.to_hf() | {"dtype": str(params.embedding.dtype)}
    folder.mkdir(parents=True, exist_ok=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / _PARAMS, params)
    (folder / "config.json").write_text(json.dumps(hf, indent=2) + "\n")


def restore_orbax(
    folder: Path | str, *, dtype: str | None = None, sharding: Any | None = None
) -> tuple[ModelConfig, Params]:
    """Reads what `save_orbax` wrote.

    Args:
        folder: given to save_orbax.
        dtype: of the parameters; None: the checkpoint's own.
        sharding: None for the default device, or a tree like Params of jax.sharding.Sharding.

    Raises:
        FileNotFoundError: no such folder, or not one of save_orbax.
        ValueError: the tree or a shape is not that of config.json.
    """
    folder = Path(folder).absolute()
    for needed in (folder / "config.json", folder / _PARAMS):
        if not needed.exists():
            raise FileNotFoundError(f"{needed} does not exist; {folder} is no Orbax checkpoint")
    config = ModelConfig.from_hf(json.loads((folder / "config.json").read_text()))
    shapes = param_shapes(config, jnp.dtype(dtype or config.dtype))
    if sharding is None:
        one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        sharding = jax.tree.map(lambda _: one, shapes)
    target = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        sharding,
    )
    with ocp.StandardCheckpointer() as checkpointer:
        # Checked first, because a restore that fails half-way leaves its other reads hanging.
        metadata = checkpointer.metadata(folder / _PARAMS)
        _check_shapes(folder, target, metadata.item_metadata.tree)
        return config, checkpointer.restore(folder / _PARAMS, target)


def _check_shapes(folder: Path, target: Params, stored: Any) -> None:
    """Orbax's metadata is a tree of dicts and lists with the same names."""
    found = {_name(p): leaf.shape for p, leaf in jax.tree_util.tree_leaves_with_path(stored)}
    wanted = {_name(p): leaf.shape for p, leaf in jax.tree_util.tree_leaves_with_path(target)}
    for name, shape in wanted.items():
        if name not in found:
            raise ValueError(f"array {name} is missing in {folder}")
        if found[name] != shape:
            raise ValueError(
                f"array {name} in {folder} has shape {found[name]}; config.json asks for {shape}"
            )
    for name in found:
        if name not in wanted:
            raise ValueError(f"array {name} in {folder} is extra: this model has no such weight")


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
