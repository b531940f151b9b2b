"""Mistral: Llama with a sliding window on every layer."""

from typing import Any

from helium_jax.models.families.common import read_activation, read_common
from helium_jax.models.hf_fields import HfFields


def read_mistral(fields: HfFields) -> dict[str, Any]:
    """Fields of ModelConfig."""
    common = read_common(fields)
    window = fields.take("sliding_window", int, None)
    return common | {
        "activation": read_activation(fields),
        "windows": (window,) * common["num_layers"],
    }
