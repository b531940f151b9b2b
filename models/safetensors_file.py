"""One safetensors file, mapped into memory, its header checked in full before anything is read.

The `safetensors` package reads too, but copies every tensor; a mapping hands slices to the
device without a copy, and tells exactly what is wrong with a damaged file.
"""

import json
import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_OTHER_ITEM_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "I32": 32, "U32": 32, "I16": 16, "U16": 16,
    "I8": 8, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4,
}  # fmt: skip
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """Where one tensor lies.

    Attributes:
        dtype: the format's name, such as "BF16".
        shape: of the tensor.
        start: byte in the file.
        num_bytes: from there.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetensorsFile:
    """An open, checked file; arrays from `tensor` keep the mapping alive.

    Attributes:
        path: of the file.
        entries: by tensor name.
        header: its raw bytes.
        data: the whole mapped file.
    """

    path: Path
    entries: Mapping[str, TensorEntry]
    header: bytes
    data: mmap.mmap

    def tensor(self, name: str) -> np.ndarray:
        """A read-only array over the mapped file, no copy.

        Raises:
            ValueError: the tensor's dtype is not one that weights have.
        """
        entry = self.entries[name]
        if entry.dtype not in DTYPES:
            raise ValueError(
                f"tensor {name!r} in {self.path} has dtype {entry.dtype}; supported: {[*DTYPES]}"
            )
        count = math.prod(entry.shape)
        flat = np.frombuffer(self.data, DTYPES[entry.dtype], count, entry.start)
        return flat.reshape(entry.shape)

    def release(self, name: str) -> None:
        """Lets go of the memory that reading a tensor took; a later read fetches it again.

        Without this the part of the file that was read counts as the process's own memory.
        """
        entry = self.entries[name]
        start = entry.start - entry.start % mmap.PAGESIZE
        if entry.num_bytes and hasattr(mmap, "MADV_DONTNEED"):
            self.data.madvise(mmap.MADV_DONTNEED, start, entry.start + entry.num_bytes - start)


def open_safetensors(path: Path) -> SafetensorsFile:
    """Maps a file and checks its header against the format and the file's size.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: truncated, trailing bytes, or a header that lies; names file and tensor.
    """
    if not path.is_file():
        raise FileNotFoundError(f"weights file {path} does not exist")
    size = path.stat().st_size
    if size < 8:
        raise ValueError(f"{path} is truncated: {size} bytes, not even a header length")
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    (length,) = struct.unpack("<Q", data[:8])
    if length > _MAX_HEADER_BYTES:
        raise ValueError(f"{path} is not a safetensors file: it claims a header of {length} bytes")
    if 8 + length > size:
        raise ValueError(f"{path} is truncated: header of {length} bytes in a file of {size}")
    header = data[8 : 8 + length]
    entries = _entries(path, _parse(path, header), 8 + length)
    _check_coverage(path, entries, 8 + length, size)
    return SafetensorsFile(path=path, entries=entries, header=header, data=data)


def _parse(path: Path, header: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError(f"{path}: the header names a tensor twice")
        return result

    try:
        parsed = json.loads(header, object_pairs_hook=unique)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: the header is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"{path}: the header is not a JSON object")
    parsed.pop("__metadata__", None)
    return parsed


def _entries(path: Path, parsed: dict[str, Any], base: int) -> dict[str, TensorEntry]:
    entries = {}
    for name, fields in parsed.items():
        where = f"tensor {name!r} in {path}"
        if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"{where}: its header entry must have dtype, shape, data_offsets")
        dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
        bits = 8 * DTYPES[dtype].itemsize if dtype in DTYPES else _OTHER_ITEM_BITS.get(dtype)
        if bits is None:
            raise ValueError(f"{where} has the unknown dtype {dtype!r}; supported: {[*DTYPES]}")
        if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
            raise ValueError(f"{where}: {shape=} and data_offsets={offsets} must be whole numbers")
        num_bytes = (math.prod(shape) * bits + 7) // 8
        if offsets[1] - offsets[0] != num_bytes:
            raise ValueError(
                f"{where}: data_offsets={offsets} hold {offsets[1] - offsets[0]} bytes, "
                f"but {dtype} of {shape=} takes {num_bytes}"
            )
        entries[name] = TensorEntry(
            dtype=dtype, shape=tuple(shape), start=base + offsets[0], num_bytes=num_bytes
        )
    return entries


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)


def _check_coverage(path: Path, entries: dict[str, TensorEntry], base: int, size: int) -> None:
    """Tensors follow one another without hole or overlap from the header to the file's end."""
    end = base
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].num_bytes)):
        if entry.start != end:
            raise ValueError(
                f"tensor {name!r} in {path} starts at byte {entry.start}, "
                f"but the one before it ends at {end}"
            )
        end = entry.start + entry.num_bytes
        if end > size:
            raise ValueError(
                f"{path} is truncated: tensor {name!r} ends at byte {end} of a file of {size}"
            )
    if end != size:
        raise ValueError(f"{path} has {size - end} bytes after its last tensor")
