"""The table of model families: each reads its config.json into the same fields.

Not here: arithmetic (all families share `helium_jax.models.transformer`) and tensor names
(`helium_jax.models.hf_names`).
"""

from collections.abc import Callable, Mapping
from typing import Any

from helium_jax.models.families.gemma import read_gemma2, read_gemma3
from helium_jax.models.families.llama import read_llama
from helium_jax.models.families.mistral import read_mistral
from helium_jax.models.families.moe import read_mixtral, read_qwen3_moe
from helium_jax.models.families.qwen import read_qwen2, read_qwen3
from helium_jax.models.hf_fields import HfFields

FAMILIES: dict[str, Callable[[HfFields], dict[str, Any]]] = {
    "llama": read_llama,
    "mistral": read_mistral,
    "qwen2": read_qwen2,
    "qwen3": read_qwen3,
    "gemma2": read_gemma2,
    "gemma3_text": read_gemma3,
    "qwen3_moe": read_qwen3_moe,
    "mixtral": read_mixtral,
}


def config_fields(hf: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of ModelConfig for the content of a config.json.

    Raises:
        ValueError: an unknown model_type, or a field that is missing, wrong or not supported.
    """
    fields = HfFields(hf)
    read = fields.choose("model_type", FAMILIES)
    values = read(fields)
    fields.finish()
    return values
