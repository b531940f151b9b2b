"""Mixtures of experts: Qwen3-MoE and Mixtral."""

from typing import Any

from helium_jax.models.families.common import read_activation, read_common, read_windows
from helium_jax.models.families.mistral import read_mistral
from helium_jax.models.hf_fields import HfFields


def read_qwen3_moe(fields: HfFields) -> dict[str, Any]:
    """Fields of ModelConfig; every decoder_sparse_step-th layer has experts."""
    common = read_common(fields)
    num_layers = common["num_layers"]
    bias = fields.take("attention_bias", bool, False)
    step = fields.take("decoder_sparse_step", int, 1)
    dense = set(fields.take("mlp_only_layers", list, []))
    dense |= {index for index in range(num_layers) if (index + 1) % step}
    uses_window = fields.take("use_sliding_window", bool, False)
    window = fields.take("sliding_window", int, None) if uses_window else None
    fields.take("sliding_window", int, None)
    has_types = fields.take("layer_types", list, None) is not None
    return common | {
        "activation": read_activation(fields),
        "qk_norm": True,
        "qkv_bias": bias,
        "o_bias": bias,
        "windows": read_windows(fields, num_layers, window)
        if has_types
        else (window,) * num_layers,
        "num_experts": _num_experts(fields),
        "experts_per_token": fields.take("num_experts_per_tok", int),
        "expert_width": fields.take("moe_intermediate_size", int),
        "norm_topk_prob": fields.take("norm_topk_prob", bool, False),
        "dense_layers": tuple(sorted(dense)),
    }


def read_mixtral(fields: HfFields) -> dict[str, Any]:
    """Fields of ModelConfig: Mistral whose feed-forward is a mixture on every layer."""
    values = read_mistral(fields)
    return values | {
        "num_experts": _num_experts(fields),
        "experts_per_token": fields.take("num_experts_per_tok", int, 2),
        "expert_width": values["ffn_width"],
        "norm_topk_prob": True,
    }


def _num_experts(fields: HfFields) -> int:
    """transformers 5 writes num_local_experts where 4 wrote num_experts."""
    local = fields.take("num_local_experts", int, None)
    other = fields.take("num_experts", int, local)
    return local if local is not None else (other or fields.take("num_local_experts", int))
