"""Gemma 2 and the text part of Gemma 3: norms around every block, windows on most layers."""

from typing import Any

from helium_jax.models.families.common import (
    read_activation,
    read_common,
    read_windows,
    rope_from,
)
from helium_jax.models.hf_fields import HfFields


def read_gemma2(fields: HfFields) -> dict[str, Any]:
    """Fields of ModelConfig; the even layers have the window."""
    return _read_gemma(fields, pattern=2) | {
        "attention_soft_cap": fields.take("attn_logit_softcapping", float, None),
        "logit_soft_cap": fields.take("final_logit_softcapping", float, None),
    }


def read_gemma3(fields: HfFields) -> dict[str, Any]:
    """Fields of ModelConfig; norms on q and k, and a rope of their own for windowed layers."""
    pattern = fields.take("sliding_window_pattern", int, 6)
    values = _read_gemma(fields, pattern=pattern)
    ropes = _read_ropes(fields, values["max_position"])
    return (
        values
        | ropes
        | {
            "qk_norm": True,
            "attention_soft_cap": fields.take("attn_logit_softcapping", float, None),
            "logit_soft_cap": fields.take("final_logit_softcapping", float, None),
        }
    )


def _read_gemma(fields: HfFields, *, pattern: int) -> dict[str, Any]:
    nested = fields.take("rope_parameters", dict, {})
    has_two_ropes = "full_attention" in nested  # Gemma 3, read by its own function
    common = read_common(fields, tied=True, with_rope=not has_two_ropes)
    bias = fields.take("attention_bias", bool, False)
    window = fields.take("sliding_window", int, None)
    if fields.take("layer_types", list, None) is not None:
        windows = read_windows(fields, common["num_layers"], window)
    else:
        windows = tuple(
            window if (index + 1) % pattern else None for index in range(common["num_layers"])
        )
    activation = "hidden_activation" if fields.take("hidden_activation", str, "") else "hidden_act"
    fields.take("hidden_act", str, None)  # older files carry a stale one beside the other
    return common | {
        "activation": read_activation(fields, activation, "gelu_pytorch_tanh"),
        "qkv_bias": bias,
        "o_bias": bias,
        "windows": windows,
        "embedding_scale": common["width"] ** 0.5,
        "norm_offset": 1.0,
        "post_norms": True,
        "query_scale": fields.take("query_pre_attn_scalar", (int, float)) ** -0.5,
    }


def _read_ropes(fields: HfFields, max_position: int) -> dict[str, Any]:
    nested = fields.take("rope_parameters", dict, None)
    theta = fields.take("rope_theta", float, 1_000_000.0)
    local_theta = fields.take("rope_local_base_freq", float, 10_000.0)
    if nested is None:  # transformers 4
        nested = {"full_attention": fields.take("rope_scaling", dict, {}), "sliding_attention": {}}
    ropes = {
        "rope": {"rope_theta": theta} | (nested.get("full_attention") or {}),
        "local_rope": {"rope_theta": local_theta} | (nested.get("sliding_attention") or {}),
    }
    return {name: rope_from(rope, max_position) for name, rope in ropes.items()}
