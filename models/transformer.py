"""The model as two pure functions: tokens to hidden states, hidden states to logits.

Attention is handed in, so the same code trains with dense attention and serves from KV pages.
"""

from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from helium_jax.models.config import ModelConfig
from helium_jax.models.experts import mixture
from helium_jax.models.layers import feed_forward, linear, rms_norm, soft_cap
from helium_jax.models.params import Ffn, Layer, Params
from helium_jax.models.rope import apply_rope, rope_phases

Cache = TypeVar("Cache")


class Attend(Protocol):
    """Stores a layer's new keys and values and attends to all that each token may see."""

    def __call__(
        self,
        cache: Any,
        layer: int,
        q: Float[Array, "T N H"],
        k: Float[Array, "T K H"],
        v: Float[Array, "T K H"],
        *,
        scale: float,
        window: int | None,
        soft_cap: float | None,
    ) -> tuple[Any, Float[Array, "T N H"]]:
        """Returns the cache with k and v stored, and the attention output; rope is applied."""
        ...


def forward(
    params: Params,
    config: ModelConfig,
    token_ids: Int[Array, " T"],
    positions: Int[Array, " T"],
    attend: Attend,
    cache: Cache,
) -> tuple[Float[Array, "T D"], Cache]:
    """Runs all layers over a step's tokens, which may belong to many sequences.

    Args:
        params: the weights; their dtype is that of the activations.
        config: static.
        token_ids: ids in [0, V); the host checks, for a gather clamps.
        positions: of each token in its own sequence.
        attend: called once per layer, in order.
        cache: any pytree that `attend` understands; None for attention without a memory.

    Returns:
        hidden states after the last norm, and the cache after the last layer.
    """
    x = params.embedding[token_ids]  # [T, D]
    if config.embedding_scale is not None:
        x = x * jnp.asarray(config.embedding_scale, x.dtype)
    phases = {
        rope: rope_phases(rope, config.head_size, positions)
        for rope in dict.fromkeys(config.rope_of(index) for index in range(config.num_layers))
    }
    for index, layer in enumerate(params.layers):
        with jax.named_scope(f"layer_{index}"):
            x, cache = _run_layer(
                layer, config, index, x, phases[config.rope_of(index)], attend, cache
            )
    return _norm(x, params.final_norm, config), cache


def _run_layer(
    layer: Layer,
    config: ModelConfig,
    index: int,
    x: Float[Array, "T D"],
    phases: tuple[Array, Array],
    attend: Attend,
    cache: Any,
) -> tuple[Float[Array, "T D"], Any]:
    norms = iter(layer.norms)
    out, cache = _attention(
        layer, config, index, _norm(x, next(norms), config), phases, attend, cache
    )
    x = x + (_norm(out, next(norms), config) if config.post_norms else out)
    hidden = _norm(x, next(norms), config)
    with jax.named_scope("ffn"):
        if isinstance(layer.ffn, Ffn):
            out = feed_forward(hidden, layer.ffn, config.activation)
        else:
            out = mixture(hidden, layer.ffn, config)
    return x + (_norm(out, next(norms), config) if config.post_norms else out), cache


def _attention(
    layer: Layer,
    config: ModelConfig,
    index: int,
    x: Float[Array, "T D"],
    phases: tuple[Array, Array],
    attend: Attend,
    cache: Any,
) -> tuple[Float[Array, "T D"], Any]:
    c, tokens = config, x.shape[0]
    group = c.queries_per_kv_head
    with jax.named_scope("qkv"):
        qkv = linear(x, layer.qkv)
        if layer.qkv_bias is not None:
            qkv = qkv + layer.qkv_bias[None]
        qkv = qkv.reshape(tokens, c.num_kv_heads, group + 2, c.head_size)
        q = qkv[:, :, :group].reshape(tokens, c.num_q_heads, c.head_size)
        k, v = qkv[:, :, group], qkv[:, :, group + 1]  # [T, K, H]
        if layer.qk_norms is not None:
            q = _norm(q, layer.qk_norms[0], c)
            k = _norm(k, layer.qk_norms[1], c)
        q, k = apply_rope(q, phases), apply_rope(k, phases)
    with jax.named_scope("attention"):
        cache, out = attend(
            cache,
            index,
            q,
            k,
            v,
            scale=c.query_scale,
            window=c.windows[index],
            soft_cap=c.attention_soft_cap,
        )
    with jax.named_scope("o"):
        out = linear(out.reshape(tokens, c.num_q_heads * c.head_size), layer.o)
    return (out if layer.o_bias is None else out + layer.o_bias[None]), cache


def _norm(
    x: Float[Array, "... D"], weight: Float[Array, " D"], config: ModelConfig
) -> Float[Array, "... D"]:
    return rms_norm(x, weight, eps=config.norm_eps, offset=config.norm_offset)


def compute_logits(
    params: Params, config: ModelConfig, hidden: Float[Array, "R D"]
) -> Float[Array, "R V"]:
    """Logits of the given rows of `forward`'s hidden states, float32."""
    weight = params.embedding if params.unembedding is None else params.unembedding
    with jax.named_scope("logits"):
        logits = linear(hidden, weight, out_dtype=jnp.float32)
        return soft_cap(logits, config.logit_soft_cap)
