"""Reading a Hugging Face config.json so that no setting is silently ignored."""

from collections.abc import Mapping
from typing import Any

# Fields that do not change what the model computes, or that say how it was trained or stored.
_WITHOUT_EFFECT = frozenset(
    (
        "architectures",
        "attention_dropout",
        "auto_map",
        "cache_implementation",
        "chunk_size_feed_forward",
        "embd_pdrop",
        "hidden_dropout",
        "id2label",
        "initializer_range",
        "label2id",
        "max_window_layers",
        "model_type",
        "name_or_path",
        "num_return_sequences",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "pad_token_id",
        "problem_type",
        "resid_pdrop",
        "return_dict",
        "router_aux_loss_coef",
        "router_jitter_noise",
        "task_specific_params",
        "tokenizer_class",
        "torchscript",
        "transformers_version",
        "use_bfloat16",
        "use_cache",
        "use_return_dict",
    )
)
# Fields that may only have the value that means "off".
_MUST_BE = {
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "pretraining_tp": (1,),
    "partial_rotary_factor": (1.0,),
    "use_bidirectional_attention": (False,),
    "quantization_config": (),
    "tie_encoder_decoder": (False,),
    "pruned_heads": ({},),
    "layer_norm_eps": (),
    "clip_qkv": (),
}
_MISSING: Any = object()


class HfFields:
    """The fields of one config.json; `finish` refuses those that nobody took."""

    def __init__(self, hf: Mapping[str, Any]) -> None:
        self._fields = dict(hf)
        self._taken: set[str] = set()

    def take(self, name: str, kind: type | tuple[type, ...], default: Any = _MISSING) -> Any:
        """The field's value; `default` where it is missing or null.

        Raises:
            ValueError: missing without a default, or not of `kind`; names the field and value.
        """
        self._taken.add(name)
        value = self._fields.get(name)
        if value is None:
            if default is _MISSING:
                raise ValueError(f"config.json has no {name!r}, which this model needs")
            return default
        kinds = kind if isinstance(kind, tuple) else (kind,)
        is_number = float in kinds and isinstance(value, int)
        if (isinstance(value, bool) and bool not in kinds) or not (
            is_number or isinstance(value, kinds)
        ):
            names = " or ".join(k.__name__ for k in kinds)
            raise ValueError(f"config.json: {name}={value!r} must be of type {names}")
        return value

    def choose(self, name: str, choices: Mapping[Any, Any], default: Any = _MISSING) -> Any:
        """What `choices` holds under the field's value.

        Raises:
            ValueError: another value; lists the ones supported.
        """
        value = self.take(name, (str, bool, int), default)
        if value not in choices:
            raise ValueError(
                f"config.json: {name}={value!r} is not supported; supported: {[*choices]}"
            )
        return choices[value]

    def refuse(self, name: str, supported: str) -> None:
        """Raises ValueError saying that the field's value is not supported, and what is."""
        value = self._fields.get(name)
        raise ValueError(f"config.json: {name}={value!r} is not supported; supported: {supported}")

    def finish(self) -> None:
        """Refuses fields that nobody took and that may change what the model computes.

        Raises:
            ValueError: names the first such field and its value.
        """
        for name, value in self._fields.items():
            if name in self._taken or name in _WITHOUT_EFFECT or name.startswith("_"):
                continue
            if value is None or value in _MUST_BE.get(name, ()):
                continue
            allowed = _MUST_BE.get(name)
            hint = f"only {[*allowed, None]}" if allowed is not None else "leaving it out"
            raise ValueError(f"config.json: {name}={value!r} is not supported; supported: {hint}")
