"""What every family reads alike: sizes, token ids, rope, windows."""

import math
from collections.abc import Mapping
from typing import Any

from helium_jax.models.hf_fields import HfFields
from helium_jax.models.rope import Rope

ACTIVATION_NAMES = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
_DTYPES = {name: name for name in ("float32", "bfloat16", "float16")}
_ROPE_KINDS = ("default", "linear", "dynamic", "yarn", "llama3")


def read_common(fields: HfFields, *, tied: bool = False, with_rope: bool = True) -> dict[str, Any]:
    """The fields of ModelConfig that all families have.

    Args:
        tied: the family's default for tie_word_embeddings.
        with_rope: read its one rope; False for a family that has two and reads them itself.
    """
    width = fields.take("hidden_size", int)
    num_q_heads = fields.take("num_attention_heads", int)
    dtype_name = "dtype" if fields.take("dtype", str, "") else "torch_dtype"
    fields.take("torch_dtype", str, "")
    rope = {"rope": read_rope(fields)} if with_rope else {}
    return rope | {
        "family": fields.take("model_type", str),
        "vocab_size": fields.take("vocab_size", int),
        "width": width,
        "num_layers": fields.take("num_hidden_layers", int),
        "num_q_heads": num_q_heads,
        "num_kv_heads": fields.take("num_key_value_heads", int, num_q_heads),
        "head_size": fields.take("head_dim", int, width // max(num_q_heads, 1)),
        "ffn_width": fields.take("intermediate_size", int),
        "max_position": fields.take("max_position_embeddings", int),
        "norm_eps": fields.take("rms_norm_eps", float, 1e-6),
        "tie_embeddings": fields.take("tie_word_embeddings", bool, tied),
        "eos_token_ids": _ids(fields, "eos_token_id"),
        "bos_token_id": fields.take("bos_token_id", int, None),
        "dtype": fields.choose(dtype_name, _DTYPES, "float32"),
    }


def read_activation(fields: HfFields, name: str = "hidden_act", default: str = "silu") -> str:
    """One of layers.ACTIVATIONS."""
    return fields.choose(name, ACTIVATION_NAMES, default)


def _ids(fields: HfFields, name: str) -> tuple[int, ...]:
    value = fields.take(name, (int, list), [])
    return tuple(value) if isinstance(value, list) else (value,)


def read_windows(fields: HfFields, num_layers: int, window: int | None) -> tuple[int | None, ...]:
    """Per layer, `window` where layer_types says sliding_attention.

    Raises:
        ValueError: a layer type of another kind, or a list of the wrong length.
    """
    kinds = fields.take("layer_types", list)
    if len(kinds) != num_layers:
        raise ValueError(
            f"config.json: layer_types has {len(kinds)} entries for num_hidden_layers={num_layers}"
        )
    choices = {"full_attention": None, "sliding_attention": window}
    for kind in kinds:
        if kind not in choices:
            fields.refuse("layer_types", str([*choices]))
    if window is None and "sliding_attention" in kinds:
        raise ValueError("config.json: layer_types has sliding_attention but no sliding_window")
    return tuple(choices[kind] for kind in kinds)


def read_rope(fields: HfFields) -> Rope:
    """The rope of one-rope models, from transformers 5's rope_parameters or 4's rope_scaling."""
    parameters = dict(
        fields.take("rope_parameters", dict, None) or fields.take("rope_scaling", dict, {})
    )
    fields.take("rope_scaling", dict, None)
    parameters.setdefault("rope_theta", fields.take("rope_theta", float, 10000.0))
    return rope_from(parameters, fields.take("max_position_embeddings", int))


def rope_from(parameters: Mapping[str, Any], max_position: int) -> Rope:
    """One Rope from a dict in Hugging Face's words.

    "dynamic" NTK scaling makes the base depend on the length of the whole sequence, so keys
    cached early would be wrong once the sequence grows past the original context; up to there it
    is no scaling at all. It is therefore read as "default": `max_position` stays the limit.

    Raises:
        ValueError: an unknown kind or number; named.
    """
    parameters = dict(parameters)
    theta = float(parameters.pop("rope_theta", 10000.0))
    kind = parameters.pop("rope_type", None) or parameters.get("type") or "default"
    parameters.pop("type", None)
    if kind not in _ROPE_KINDS:
        raise ValueError(
            f"config.json: rope type {kind!r} is not supported; supported: {[*_ROPE_KINDS]}"
        )
    if parameters.pop("partial_rotary_factor", 1.0) not in (1.0, None):
        raise ValueError("config.json: rope partial_rotary_factor must be 1.0")
    values: dict[str, Any] = {"theta": theta}
    if kind == "dynamic":
        for name in ("factor", "original_max_position_embeddings"):
            parameters.pop(name, None)
    elif kind != "default":
        values |= _scaled(kind, parameters, max_position)
    leftover = {name: value for name, value in parameters.items() if value is not None}
    if leftover and kind != "default":
        raise ValueError(f"config.json: rope settings {leftover} are not supported for {kind!r}")
    return Rope(**values)


def _scaled(kind: str, parameters: dict[str, Any], max_position: int) -> dict[str, Any]:
    factor = parameters.pop("factor", None)
    original = parameters.pop("original_max_position_embeddings", None) or max_position
    if kind == "yarn" and factor is None:
        factor = max_position / original
    if not isinstance(factor, int | float) or isinstance(factor, bool) or factor < 1:
        raise ValueError(f"config.json: rope factor={factor!r} of {kind!r} must be a number >= 1")
    values: dict[str, Any] = {"scaling": kind, "factor": float(factor)}
    if kind == "linear":
        return values
    values["original_max_position"] = int(original)
    if kind == "llama3":
        for name in ("low_freq_factor", "high_freq_factor"):
            if name not in parameters:
                raise ValueError(f"config.json: rope 'llama3' has no {name}")
            values[name] = float(parameters.pop(name))
        return values
    values["beta_fast"] = float(parameters.pop("beta_fast", None) or 32.0)
    values["beta_slow"] = float(parameters.pop("beta_slow", None) or 1.0)
    values["truncate"] = bool(parameters.pop("truncate", True))
    values["attention_factor"] = _yarn_attention_factor(parameters, values["factor"])
    return values


def _yarn_attention_factor(parameters: dict[str, Any], factor: float) -> float:
    """arXiv 2309.00071 section 3.4; DeepSeek's two mscale numbers replace the 0.1."""

    def temperature(mscale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    given = parameters.pop("attention_factor", None)
    mscale, all_dims = parameters.pop("mscale", None), parameters.pop("mscale_all_dim", None)
    if given is not None:
        return float(given)
    if mscale and all_dims:
        return temperature(mscale) / temperature(all_dims)
    return temperature(1.0)
