"""What a model is: one frozen, hashable value, a static argument of the compiled step."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from helium_jax.models.families import FAMILIES, config_fields
from helium_jax.models.families.write import hf_fields_of
from helium_jax.models.rope import Rope


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Shape and arithmetic of one model; a family is nothing but values of these fields.

    Attributes:
        family: Hugging Face `model_type`: decides only the tensor names of checkpoints.
        vocab_size: V.
        width: D.
        num_layers: L.
        num_q_heads: N.
        num_kv_heads: K, divides N.
        head_size: H, even; N * H need not be D.
        ffn_width: F of the dense feed-forward layers.
        max_position: most positions the model was made for.
        norm_eps: added to the mean square.
        rope: rotary embedding.
        local_rope: another one for layers with a window; None: the same.
        tie_embeddings: the output matrix is the embedding.
        qk_norm: RMS norm of every query and key head, before rope.
        qkv_bias: biases on q, k and v.
        o_bias: bias on the attention's output.
        ffn_bias: biases on gate, up and down.
        windows: per layer, keys a query sees counting itself; None: all before it.
        attention_soft_cap: scores become cap * tanh(scores / cap).
        logit_soft_cap: the same for logits.
        embedding_scale: embeddings are multiplied by it, rounded to their dtype first.
        activation: "silu" or "gelu_tanh".
        norm_offset: added to every norm's weight; Gemma stores weight - 1.
        post_norms: norms after attention and after the feed-forward too.
        query_scale: scores are q . k * query_scale.
        num_experts: E; 0: no layer is a mixture.
        experts_per_token: experts that each token visits.
        expert_width: F of one expert.
        norm_topk_prob: the chosen experts' weights are made to sum to 1.
        dense_layers: indices of layers with a dense feed-forward although there are experts.
        eos_token_ids: ids that end a sequence.
        bos_token_id: id that starts one, if the model has one.
        dtype: of the checkpoint: "float32", "bfloat16" or "float16".
    """

    family: str
    vocab_size: int
    width: int
    num_layers: int
    num_q_heads: int
    num_kv_heads: int
    head_size: int
    ffn_width: int
    max_position: int
    rope: Rope
    norm_eps: float = 1e-6
    local_rope: Rope | None = None
    tie_embeddings: bool = False
    qk_norm: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    ffn_bias: bool = False
    windows: tuple[int | None, ...] = ()
    attention_soft_cap: float | None = None
    logit_soft_cap: float | None = None
    embedding_scale: float | None = None
    activation: str = "silu"
    norm_offset: float = 0.0
    post_norms: bool = False
    query_scale: float = 0.0
    num_experts: int = 0
    experts_per_token: int = 0
    expert_width: int = 0
    norm_topk_prob: bool = True
    dense_layers: tuple[int, ...] = ()
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Fills windows and query_scale where left out; refuses shapes that cannot be."""
        if not self.windows:
            object.__setattr__(self, "windows", (None,) * self.num_layers)
        if not self.query_scale:
            object.__setattr__(self, "query_scale", self.head_size**-0.5)
        for name in _POSITIVE:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if len(self.windows) != self.num_layers:
            raise ValueError(f"windows has {len(self.windows)} entries for {self.num_layers=}")
        if self.num_q_heads % self.num_kv_heads:
            raise ValueError(f"{self.num_q_heads=} must be a multiple of {self.num_kv_heads=}")
        if self.head_size % 2:
            raise ValueError(f"{self.head_size=} must be even: rope rotates pairs of dimensions")
        if self.num_experts and not 0 < self.experts_per_token <= self.num_experts:
            raise ValueError(f"{self.experts_per_token=} must be in 1..{self.num_experts=}")
        if self.num_experts and self.expert_width < 1:
            raise ValueError(f"{self.expert_width=} must be at least 1")

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> Self:
        """Reads the content of a Hugging Face config.json.

        Raises:
            ValueError: a field that is missing, of the wrong type, unknown, or set to something
                this project does not compute; named with its value and what is supported.
        """
        return cls(**config_fields(hf))

    def to_hf(self) -> dict[str, Any]:
        """The content of a config.json that `from_hf` reads as this config.

        Raises:
            ValueError: the family's config.json has no words for some setting; names the field.
        """
        if self.family not in FAMILIES:
            raise ValueError(f"{self.family=} is unknown; choose one of {[*FAMILIES]}")
        hf = hf_fields_of(self)
        back = type(self).from_hf(hf)
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(back, field.name)
            if mine != theirs:
                raise ValueError(
                    f"{field.name}={mine!r} cannot be said in a {self.family!r} config.json; "
                    f"it would read as {theirs!r}"
                )
        return hf

    @property
    def queries_per_kv_head(self) -> int:
        """G."""
        return self.num_q_heads // self.num_kv_heads

    @property
    def kv_elements_per_token(self) -> int:
        """Elements of K and V of one token over all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_size

    def has_experts(self, layer: int) -> bool:
        """Whether this layer's feed-forward is a mixture of experts."""
        return self.num_experts > 0 and layer not in self.dense_layers

    def rope_of(self, layer: int) -> Rope:
        """The rotary embedding of one layer."""
        is_local = self.windows[layer] is not None and self.local_rope is not None
        return self.local_rope if is_local and self.local_rope is not None else self.rope


_POSITIVE = (
    "vocab_size",
    "width",
    "num_layers",
    "num_q_heads",
    "num_kv_heads",
    "head_size",
    "ffn_width",
    "max_position",
)
