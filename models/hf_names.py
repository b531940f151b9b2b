"""Where every leaf of the parameters comes from among a Hugging Face checkpoint's tensors."""

from dataclasses import dataclass
from typing import Any

from helium_jax.models.config import ModelConfig
from helium_jax.models.params import Experts, Ffn, Layer, Params

Index = tuple[int | slice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One tensor of the checkpoint and its place in a leaf.

    Attributes:
        name: of the tensor.
        shape: that the tensor must have.
        index: its place in the leaf, seen in the leaf's `view`.
    """

    name: str
    shape: tuple[int, ...]
    index: Index = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One leaf, put together from tensors.

    Attributes:
        shape: of the leaf.
        view: the same elements with the axes that pieces are placed in apart.
        pieces: fill the view exactly.
    """

    shape: tuple[int, ...]
    view: tuple[int, ...]
    pieces: tuple[Piece, ...]


# The helpers below return Any: a `Leaf` stands where the tree's classes declare an array.
def _whole(name: str, *shape: int) -> Any:
    return Leaf(shape=shape, view=shape, pieces=(Piece(name=name, shape=shape),))


def _stack(shape: tuple[int, ...], *names: str) -> Any:
    """Tensors of equal shape under one another."""
    pieces = [Piece(name=n, shape=shape, index=(i,)) for i, n in enumerate(names)]
    return Leaf(shape=(len(names), *shape), view=(len(names), *shape), pieces=tuple(pieces))


def _interleave(rows: int, width: tuple[int, ...], *names: str) -> Any:
    """Tensors of equal shape [rows, *width], row by row: [rows, len(names), *width]."""
    shape = (rows, len(names), *width)
    pieces = tuple(
        Piece(name=n, shape=(rows, *width), index=(slice(None), i)) for i, n in enumerate(names)
    )
    return Leaf(shape=shape, view=shape, pieces=pieces)


def leaves(config: ModelConfig) -> Params:
    """The tree of `config` with `Leaf` in place of arrays (and None where it has none)."""
    c = config
    return Params(
        embedding=_whole("model.embed_tokens.weight", c.vocab_size, c.width),
        layers=tuple(_layer(c, index) for index in range(c.num_layers)),
        final_norm=_whole("model.norm.weight", c.width),
        unembedding=None if c.tie_embeddings else _whole("lm_head.weight", c.vocab_size, c.width),
    )


def _layer(c: ModelConfig, index: int) -> Layer:
    at = f"model.layers.{index}"
    norms = ("input_layernorm", "post_attention_layernorm")
    if c.post_norms:
        norms += ("pre_feedforward_layernorm", "post_feedforward_layernorm")
    q_norm, k_norm = f"{at}.self_attn.q_norm.weight", f"{at}.self_attn.k_norm.weight"
    return Layer(
        norms=_stack((c.width,), *(f"{at}.{norm}.weight" for norm in norms)),
        qkv=_qkv(c, f"{at}.self_attn", "weight", (c.width,)),
        o=_whole(f"{at}.self_attn.o_proj.weight", c.width, c.num_q_heads * c.head_size),
        ffn=_experts(c, at) if c.has_experts(index) else _ffn(c, f"{at}.mlp"),
        qkv_bias=_qkv(c, f"{at}.self_attn", "bias", ()) if c.qkv_bias else None,
        qk_norms=_stack((c.head_size,), q_norm, k_norm) if c.qk_norm else None,
        o_bias=_whole(f"{at}.self_attn.o_proj.bias", c.width) if c.o_bias else None,
    )


def _qkv(c: ModelConfig, at: str, kind: str, width: tuple[int, ...]) -> Any:
    group, kv_rows = c.queries_per_kv_head, c.num_kv_heads * c.head_size
    rows = c.num_kv_heads * (group + 2) * c.head_size
    places: tuple[tuple[str, int, Index], ...] = (
        ("q_proj", kv_rows * group, (slice(None), slice(0, group))),
        ("k_proj", kv_rows, (slice(None), group)),
        ("v_proj", kv_rows, (slice(None), group + 1)),
    )
    return Leaf(
        shape=(rows, *width),
        view=(c.num_kv_heads, group + 2, c.head_size, *width),
        pieces=tuple(
            Piece(name=f"{at}.{name}.{kind}", shape=(size, *width), index=index)
            for name, size, index in places
        ),
    )


def _ffn(c: ModelConfig, at: str) -> Ffn:
    gate, up = f"{at}.gate_proj", f"{at}.up_proj"
    bias = c.ffn_bias
    return Ffn(
        gate_up=_interleave(c.ffn_width, (c.width,), f"{gate}.weight", f"{up}.weight"),
        down=_whole(f"{at}.down_proj.weight", c.width, c.ffn_width),
        gate_up_bias=_interleave(c.ffn_width, (), f"{gate}.bias", f"{up}.bias") if bias else None,
        down_bias=_whole(f"{at}.down_proj.bias", c.width) if bias else None,
    )


# family: (the block's name, then its names for gate, up and down)
_EXPERT_NAMES = {"mixtral": ("block_sparse_moe", "w1", "w3", "w2")}
_DEFAULT_EXPERT_NAMES = ("mlp", "gate_proj", "up_proj", "down_proj")


def _experts(c: ModelConfig, at: str) -> Experts:
    block, gate, up, down = _EXPERT_NAMES.get(c.family, _DEFAULT_EXPERT_NAMES)
    at = f"{at}.{block}"
    num, wide, width = c.num_experts, c.expert_width, c.width
    gate_up: Any = Leaf(
        shape=(num, wide, 2, width),
        view=(num, wide, 2, width),
        pieces=tuple(
            Piece(
                name=f"{at}.experts.{expert}.{name}.weight",
                shape=(wide, width),
                index=(expert, slice(None), half),
            )
            for expert in range(num)
            for half, name in enumerate((gate, up))
        ),
    )
    return Experts(
        router=_whole(f"{at}.gate.weight", num, width),
        gate_up=gate_up,
        down=_stack((width, wide), *(f"{at}.experts.{e}.{down}.weight" for e in range(num))),
    )
