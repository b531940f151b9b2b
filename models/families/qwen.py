"""Qwen2, Qwen2.5 (biases on q, k, v) and Qwen3 (norms on q and k heads instead)."""

from typing import Any

from helium_jax.models.families.common import read_activation, read_common, read_windows
from helium_jax.models.hf_fields import HfFields


def read_qwen2(fields: HfFields) -> dict[str, Any]:
    """Fields of ModelConfig."""
    return _read_qwen(fields) | {"qkv_bias": True}


def read_qwen3(fields: HfFields) -> dict[str, Any]:
    """Fields of ModelConfig."""
    bias = fields.take("attention_bias", bool, False)
    return _read_qwen(fields) | {"qk_norm": True, "qkv_bias": bias, "o_bias": bias}


def _read_qwen(fields: HfFields) -> dict[str, Any]:
    common = read_common(fields)
    return common | {
        "activation": read_activation(fields),
        "windows": read_qwen_windows(fields, common["num_layers"]),
    }


def read_qwen_windows(fields: HfFields, num_layers: int) -> tuple[int | None, ...]:
    """The window holds only where use_sliding_window is set; older files have no layer_types and
    mean the layers from max_window_layers on.
    """
    uses_window = fields.take("use_sliding_window", bool, False)
    window = fields.take("sliding_window", int, None) if uses_window else None
    fields.take("sliding_window", int, None)
    full_layers = fields.take("max_window_layers", int, num_layers)
    if fields.take("layer_types", list, None) is not None:
        return read_windows(fields, num_layers, window)
    return tuple(window if index >= full_layers else None for index in range(num_layers))
