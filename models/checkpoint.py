"""Loading a Hugging Face folder: tensor by tensor to the device, in final layout and dtype."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from helium_jax.models.config import ModelConfig
from helium_jax.models.hf_names import Leaf, leaves
from helium_jax.models.params import Params
from helium_jax.models.safetensors_file import SafetensorsFile, open_safetensors

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_ALIGNMENT = 64  # a host buffer that starts on it becomes a CPU device buffer without a copy
_CHECKED_ON_DEVICE = 2**20  # elements; for fewer, compiling the check takes longer than numpy
_SAMPLE_BYTES = 4096
_HASHED_IN_FULL_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model read from a folder.

    Attributes:
        config: with the end-of-sequence ids of generation_config.json added.
        params: on the device.
        version: digest of config, dtype and weights, see `weights_digest`.
    """

    config: ModelConfig
    params: Params
    version: str


def read_config(folder: Path) -> ModelConfig:
    """The config of a folder: config.json, and end-of-sequence ids of generation_config.json.

    Raises:
        FileNotFoundError: no such folder, or no config.json in it.
        ValueError: a file that is not a JSON object, or a setting that is not supported.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"model folder {folder} does not exist")
    config = ModelConfig.from_hf(_read_json(folder / "config.json"))
    generation = folder / "generation_config.json"
    if not generation.is_file():
        return config
    found = _read_json(generation).get("eos_token_id")
    ids = [] if found is None else found if isinstance(found, list) else [found]
    if not all(type(i) is int for i in ids):
        raise ValueError(f"{generation}: eos_token_id={found!r} must be an id or a list of ids")
    return replace(config, eos_token_ids=tuple(dict.fromkeys((*config.eos_token_ids, *ids))))


def load_hf(
    folder: Path | str, *, dtype: str | None = None, sharding: Any | None = None
) -> LoadedModel:
    """Loads a Hugging Face folder with safetensors weights.

    Files are mapped, and one leaf at a time is put together and handed to the device, so host
    memory peaks at the largest leaf. On a CPU device the handing over is without a copy where
    alignment allows, and a leaf that is one tensor in its final dtype stays in the mapped file:
    replace such a file by renaming, never write into it while a model is loaded.

    Args:
        folder: holds config.json and model.safetensors, or an index and its shards.
        dtype: of the parameters; None: the checkpoint's own.
        sharding: None for the default device, or a tree like Params of jax.sharding.Sharding.

    Raises:
        FileNotFoundError: the folder or one of its files is missing.
        ValueError: a tensor is missing, extra, truncated, not finite, or of the wrong shape or
            dtype; names the tensor and the file.
    """
    folder = Path(folder)
    config = read_config(folder)
    dtype = dtype or config.dtype
    files = open_weights(folder)
    owners = _match_tensors(config, folder, files)
    wanted, tree = jax.tree.flatten(leaves(config))
    places = [None] * len(wanted) if sharding is None else tree.flatten_up_to(sharding)
    arrays = []
    for leaf, host, place in zip(wanted, host_leaves(wanted, owners, dtype), places, strict=True):
        array = jax.block_until_ready(jax.device_put(host, place))  # one host buffer at a time
        if not _is_finite(host, array):
            _refuse_not_finite(leaf, owners, dtype)
        if array.platform() != "cpu":  # there the mapped file may be the array itself
            for piece in leaf.pieces:
                owners[piece.name].release(piece.name)
        arrays.append(array)
    version = weights_digest(config, dtype, files)
    return LoadedModel(config=config, params=tree.unflatten(arrays), version=version)


def _is_finite(host: np.ndarray, array: jax.Array) -> bool:
    if host.size < _CHECKED_ON_DEVICE:
        return bool(np.isfinite(host).all())
    return bool(_all_finite(array))


@jax.jit
def _all_finite(array: jax.Array) -> jax.Array:
    return jnp.isfinite(array).all()


def _refuse_not_finite(leaf: Leaf, owners: Mapping[str, SafetensorsFile], dtype: str) -> None:
    """Names the tensor that is to blame: not finite in the file, or only after the cast."""
    for piece in leaf.pieces:
        path = owners[piece.name].path
        tensor = owners[piece.name].tensor(piece.name)
        with np.errstate(over="ignore"):
            if not np.isfinite(tensor.astype(jnp.dtype(dtype))).all():
                raise ValueError(
                    f"tensor {piece.name!r} in {path} has values that are not finite in {dtype}"
                )
    raise AssertionError("a leaf is as finite as its tensors")


def open_weights(folder: Path) -> tuple[SafetensorsFile, ...]:
    """Opens the single weights file or every shard that the index names, in name order.

    Raises:
        FileNotFoundError: neither is there, or a shard is missing.
        ValueError: an index that is not one, names a file outside the folder, or does not agree
            with what the shards hold.
    """
    single, index = folder / SINGLE_FILE, folder / INDEX_FILE
    if single.is_file():
        return (open_safetensors(single),)
    if not index.is_file():
        raise FileNotFoundError(f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}")
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index} has no weight_map")
    for tensor, name in weight_map.items():
        is_plain = isinstance(name, str) and name == Path(name).name and "\\" not in name
        if not is_plain or not name.endswith(".safetensors"):
            raise ValueError(
                f"{index}: tensor {tensor!r} is said to lie in {name!r}, "
                "which is not the plain name of a .safetensors file"
            )
    files = {name: open_safetensors(folder / name) for name in sorted(set(weight_map.values()))}
    for tensor, name in weight_map.items():
        if tensor not in files[name].entries:
            raise ValueError(
                f"tensor {tensor!r} is missing in {folder / name}, where {index} has it"
            )
    for name, file in files.items():
        for tensor in file.entries:
            if weight_map.get(tensor) != name:
                raise ValueError(f"tensor {tensor!r} in {file.path} is extra: not in {index}")
    return tuple(files.values())


def _match_tensors(
    config: ModelConfig, folder: Path, files: tuple[SafetensorsFile, ...]
) -> dict[str, SafetensorsFile]:
    """The file of every tensor, after checking names and shapes both ways."""
    owners = {name: file for file in files for name in file.entries}
    wanted: dict[str, tuple[int, ...]] = {
        piece.name: piece.shape for leaf in jax.tree.leaves(leaves(config)) for piece in leaf.pieces
    }
    for name, shape in wanted.items():
        if name not in owners:
            raise ValueError(f"tensor {name!r} is missing in {_places(folder, files)}")
        found = owners[name].entries[name].shape
        if found != shape:
            raise ValueError(
                f"tensor {name!r} in {owners[name].path} has shape {list(found)}; "
                f"config.json asks for {list(shape)}"
            )
    for name, file in owners.items():
        if name in wanted or name.endswith(".rotary_emb.inv_freq"):  # old Llama files carry those
            continue
        if name == "lm_head.weight" and config.tie_embeddings:
            _check_tied(config, file, owners["model.embed_tokens.weight"])
            continue
        raise ValueError(f"tensor {name!r} in {file.path} is extra: this model has no such weight")
    return owners


def _check_tied(config: ModelConfig, head: SafetensorsFile, embedding: SafetensorsFile) -> None:
    """Some tied checkpoints store the output matrix too; it must be the embedding."""
    a, b = head.tensor("lm_head.weight"), embedding.tensor("model.embed_tokens.weight")
    is_equal = a.dtype == b.dtype and a.shape == b.shape
    step = max(1, 2**20 // config.width)
    if not is_equal or not all(
        np.array_equal(a[i : i + step], b[i : i + step]) for i in range(0, len(a), step)
    ):
        raise ValueError(
            f"tensor 'lm_head.weight' in {head.path} is extra: config.json ties it to the "
            "embedding, and it differs from that"
        )


def _places(folder: Path, files: tuple[SafetensorsFile, ...]) -> str:
    return str(files[0].path) if len(files) == 1 else f"the {len(files)} shards of {folder}"


def host_leaves(
    wanted: list[Leaf], owners: Mapping[str, SafetensorsFile], dtype: str
) -> Iterator[np.ndarray]:
    """Yields every leaf as a host array in its final layout and dtype, one at a time.

    A leaf that is one tensor of that dtype is the mapped file itself; others are put together in
    a new buffer.
    """
    final = np.dtype(jnp.dtype(dtype))
    for leaf in wanted:
        first = leaf.pieces[0]
        if len(leaf.pieces) == 1:
            tensor = owners[first.name].tensor(first.name)
            if tensor.dtype == final:
                yield tensor
                continue
        yield _put_together(leaf, owners, final)


def _put_together(leaf: Leaf, owners: Mapping[str, SafetensorsFile], dtype: np.dtype) -> np.ndarray:
    buffer = _aligned_empty(leaf.shape, dtype)
    view = buffer.reshape(leaf.view)
    for piece in leaf.pieces:
        place = view[piece.index]
        tensor = owners[piece.name].tensor(piece.name)
        with np.errstate(over="ignore"):  # an infinity is refused with its name later
            np.copyto(place, tensor.reshape(place.shape), casting="unsafe")
        owners[piece.name].release(piece.name)
    return buffer


def _aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def weights_digest(config: ModelConfig, dtype: str, files: tuple[SafetensorsFile, ...]) -> str:
    """32 hex digits that change with the config, the dtype or the weights; part of cache keys.

    BLAKE2b over the config, every file's header and size, and the weights' bytes: all of them in
    files up to 64 MiB, and of larger files the first and last 4 KiB of every tensor. So an edit
    that leaves shapes alone and touches only the inside of a large tensor is not seen; training
    and fine-tuning change every tensor's ends.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((config, dtype)).encode())
    for file in files:
        size = len(file.data)
        digest.update(size.to_bytes(8, "little") + file.header)
        if size <= _HASHED_IN_FULL_BYTES:
            digest.update(file.data)
            continue
        for entry in file.entries.values():
            end = entry.start + entry.num_bytes
            digest.update(file.data[entry.start : min(entry.start + _SAMPLE_BYTES, end)])
            digest.update(file.data[max(end - _SAMPLE_BYTES, entry.start) : end])
    return digest.hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        content = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return content
