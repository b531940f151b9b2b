"""Llama 2, 3, 3.1, 3.2, 3.3: the family that the others differ from."""

from typing import Any

from helium_jax.models.families.common import read_activation, read_common
from helium_jax.models.hf_fields import HfFields


def read_llama(fields: HfFields) -> dict[str, Any]:
    """Fields of ModelConfig; attention_bias puts a bias on the output projection too."""
    bias = fields.take("attention_bias", bool, False)
    return read_common(fields) | {
        "activation": read_activation(fields),
        "qkv_bias": bias,
        "o_bias": bias,
        "ffn_bias": fields.take("mlp_bias", bool, False),
    }
