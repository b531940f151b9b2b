"""Writes helium-tiny's config and weights as an ordinary Hugging Face folder."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from helium_jax.models.config import ModelConfig
from helium_jax.models.hf_names import leaves
from helium_jax.models.params import Params

DTYPE = "float16"


def write_config(folder: Path, shape: dict[str, Any], *, eos: int, pad: int) -> dict[str, Any]:
    """Writes config.json and generation_config.json; returns the config."""
    config = shape | {
        "dtype": DTYPE,
        "bos_token_id": None,
        "eos_token_id": eos,
        "pad_token_id": pad,
    }
    generation = {"eos_token_id": eos, "pad_token_id": pad, "do_sample": False}
    for name, value in (("config.json", config), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    return config


def save_params(params: Params, config: ModelConfig, folder: Path) -> None:
    """Writes model.safetensors, replacing an older one by renaming."""
    tensors: dict[str, np.ndarray] = {}
    wanted, tree = jax.tree.flatten(leaves(config))
    for leaf, array in zip(wanted, tree.flatten_up_to(params), strict=True):
        view = np.asarray(array).astype(DTYPE).reshape(leaf.view)
        for piece in leaf.pieces:
            tensors[piece.name] = np.ascontiguousarray(view[piece.index].reshape(piece.shape))
    partial = folder / "model.safetensors.part"
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.chmod(0o644)  # the library makes it private
    partial.rename(folder / "model.safetensors")
