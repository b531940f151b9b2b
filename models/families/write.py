"""The way back: a config.json, in transformers' words, that reads as the same config."""

from typing import Any

from helium_jax.models.rope import Rope

_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "mixtral": "MixtralForCausalLM",
}


def hf_fields_of(config: Any) -> dict[str, Any]:
    """The content of config.json for a ModelConfig.

    The caller checks that it reads back as the same config: a family has no words for settings
    that only others have (Llama has none for a window, say).
    """
    c = config
    eos = list(c.eos_token_ids)
    gemma = c.family.startswith("gemma")
    fields: dict[str, Any] = {
        "architectures": [_ARCHITECTURES[c.family]] if c.family in _ARCHITECTURES else None,
        "model_type": c.family,
        "dtype": c.dtype,
        "vocab_size": c.vocab_size,
        "hidden_size": c.width,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_q_heads,
        "num_key_value_heads": c.num_kv_heads,
        "head_dim": c.head_size,
        "intermediate_size": c.ffn_width,
        "max_position_embeddings": c.max_position,
        "rms_norm_eps": c.norm_eps,
        "tie_word_embeddings": c.tie_embeddings,
        "bos_token_id": c.bos_token_id,
        "eos_token_id": eos[0] if len(eos) == 1 else eos or None,
        "hidden_activation" if gemma else "hidden_act": _activation(c.activation),
        "rope_parameters": _rope(c.rope),
    }
    return fields | _EXTRA[c.family](c)


def _activation(name: str) -> str:
    return {"gelu_tanh": "gelu_pytorch_tanh"}.get(name, name)


def _rope(rope: Rope) -> dict[str, Any]:
    fields: dict[str, Any] = {"rope_theta": rope.theta, "rope_type": rope.scaling}
    if rope.scaling != "default":
        fields["factor"] = rope.factor
    if rope.scaling in ("llama3", "yarn"):
        fields["original_max_position_embeddings"] = rope.original_max_position
    if rope.scaling == "llama3":
        names: tuple[str, ...] = ("low_freq_factor", "high_freq_factor")
        fields |= {name: getattr(rope, name) for name in names}
    if rope.scaling == "yarn":
        names = ("beta_fast", "beta_slow", "truncate", "attention_factor")
        fields |= {name: getattr(rope, name) for name in names}
    return fields


def _layer_types(c: Any) -> list[str]:
    return ["full_attention" if w is None else "sliding_attention" for w in c.windows]


def _window(c: Any) -> int | None:
    return next((window for window in c.windows if window is not None), None)


def _llama(c: Any) -> dict[str, Any]:
    return {"attention_bias": c.qkv_bias, "mlp_bias": c.ffn_bias}


def _mistral(c: Any) -> dict[str, Any]:
    return {"sliding_window": _window(c)}


def _qwen2(c: Any) -> dict[str, Any]:
    window = _window(c)
    return {
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "layer_types": _layer_types(c),
    }


def _qwen3(c: Any) -> dict[str, Any]:
    return _qwen2(c) | {"attention_bias": c.qkv_bias}


def _gemma2(c: Any) -> dict[str, Any]:
    scalar = c.query_scale**-2
    return {
        "attention_bias": c.qkv_bias,
        "sliding_window": _window(c),
        "layer_types": _layer_types(c),
        "attn_logit_softcapping": c.attention_soft_cap,
        "final_logit_softcapping": c.logit_soft_cap,
        "query_pre_attn_scalar": round(scalar) if abs(scalar - round(scalar)) < 1e-6 else scalar,
    }


def _gemma3(c: Any) -> dict[str, Any]:
    return _gemma2(c) | {
        "rope_parameters": {
            "full_attention": _rope(c.rope),
            "sliding_attention": _rope(c.local_rope or c.rope),
        }
    }


def _qwen3_moe(c: Any) -> dict[str, Any]:
    window = _window(c)
    return {
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "attention_bias": c.qkv_bias,
        "num_experts": c.num_experts,
        "num_experts_per_tok": c.experts_per_token,
        "moe_intermediate_size": c.expert_width,
        "norm_topk_prob": c.norm_topk_prob,
        "mlp_only_layers": list(c.dense_layers),
    }


def _mixtral(c: Any) -> dict[str, Any]:
    return _mistral(c) | {
        "num_local_experts": c.num_experts,
        "num_experts_per_tok": c.experts_per_token,
    }


_EXTRA = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "qwen3_moe": _qwen3_moe,
    "mixtral": _mixtral,
}
