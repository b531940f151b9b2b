"""Saving a Hugging Face folder that transformers and this project both load."""

import contextlib
import json
import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np

from helium_jax.models.checkpoint import INDEX_FILE, SINGLE_FILE
from helium_jax.models.config import ModelConfig
from helium_jax.models.hf_names import Leaf, leaves
from helium_jax.models.params import Params, QuantizedMatrix
from helium_jax.models.safetensors_file import DTYPES

_FORMAT_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def save_hf(
    folder: Path | str, config: ModelConfig, params: Params, *, max_shard_bytes: int = 5 * 10**9
) -> None:
    """Writes config.json and the weights under their Hugging Face names, one leaf at a time.

    Each file is written beside its place and renamed, so a loaded model that maps an older file
    of that name keeps it. Weights beyond `max_shard_bytes` are cut into shards with an index.

    Raises:
        ValueError: quantized params, a tree or shapes that are not the config's, or a config that
            this family's config.json has no words for.
    """
    folder = Path(folder)
    if any(isinstance(leaf, QuantizedMatrix) for leaf in _nodes(params)):
        raise ValueError("int8 params cannot be saved; save the ones that quantize() was given")
    dtype = str(params.embedding.dtype)
    hf = config.to_hf() | {"dtype": dtype}
    wanted, tree = jax.tree.flatten(leaves(config))
    if jax.tree.structure(params) != tree:
        raise ValueError(f"params are not those of a {config.family!r} model of this config")
    pairs = list(zip(wanted, jax.tree.leaves(params), strict=True))
    for leaf, array in pairs:
        if array.shape != leaf.shape:
            raise ValueError(f"{leaf.pieces[0].name}: {array.shape=}, config asks for {leaf.shape}")
    folder.mkdir(parents=True, exist_ok=True)
    shards = _cut(pairs, max_shard_bytes)
    if len(shards) == 1:
        _write_shard(folder / SINGLE_FILE, shards[0])
        (folder / INDEX_FILE).unlink(missing_ok=True)
    else:
        names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
        for name, shard in zip(names, shards, strict=True):
            _write_shard(folder / name, shard)
        weight_map = {
            piece.name: name
            for name, shard in zip(names, shards, strict=True)
            for leaf, _ in shard
            for piece in leaf.pieces
        }
        total = sum(array.nbytes for _, array in pairs)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(folder / INDEX_FILE, index)
        (folder / SINGLE_FILE).unlink(missing_ok=True)
    _write_json(folder / "config.json", hf)


Pair = tuple[Leaf, jax.Array]


def _nodes(params: Params) -> list[Any]:
    return jax.tree.leaves(params, is_leaf=lambda node: isinstance(node, QuantizedMatrix))


def _cut(pairs: list[Pair], max_bytes: int) -> list[list[Pair]]:
    """Leaves in order, a new shard where the next leaf would go over; none is split."""
    shards: list[list[Pair]] = [[]]
    size = 0
    for leaf, array in pairs:
        if shards[-1] and size + array.nbytes > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append((leaf, array))
        size += array.nbytes
    return shards


def _write_shard(path: Path, shard: list[Pair]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for leaf, array in shard:
        if array.dtype not in _FORMAT_NAMES:
            raise ValueError(f"{leaf.pieces[0].name} is {array.dtype}; supported: {[*DTYPES]}")
        for piece in leaf.pieces:
            end = offset + math.prod(piece.shape) * array.dtype.itemsize
            header[piece.name] = {
                "dtype": _FORMAT_NAMES[array.dtype],
                "shape": list(piece.shape),
                "data_offsets": [offset, end],
            }
            offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    # Aligned data: a CPU can then use the tensors of the mapped file in place.
    encoded += b" " * (-(len(encoded) + 8) % 64)
    with _replacing(path) as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for leaf, array in shard:
            view = np.asarray(array).reshape(leaf.view)
            for piece in leaf.pieces:
                file.write(np.ascontiguousarray(view[piece.index]).view(np.uint8).data)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with _replacing(path) as file:
        file.write(json.dumps(content, indent=2).encode() + b"\n")


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its place only once it is written to the end."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            yield file
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
