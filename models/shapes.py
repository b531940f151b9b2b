"""`random:<shape>`: true published shapes with random weights, for measuring without a download."""

import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from helium_jax.models.config import ModelConfig
from helium_jax.models.params import Params, init_kind, leaf_deviation, param_shapes
from helium_jax.models.rope import Rope

PREFIX = "random:"


def _llama3_rope(factor: float) -> Rope:
    return Rope(
        theta=500000.0,
        scaling="llama3",
        factor=factor,
        original_max_position=8192,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
    )


_LLAMA_8B = ModelConfig(
    family="llama",
    vocab_size=128256,
    width=4096,
    num_layers=32,
    num_q_heads=32,
    num_kv_heads=8,
    head_size=128,
    ffn_width=14336,
    max_position=131072,
    norm_eps=1e-5,
    rope=_llama3_rope(8.0),
    eos_token_ids=(128001, 128008, 128009),
    bos_token_id=128000,
    dtype="bfloat16",
)
_MISTRAL_7B = ModelConfig(  # v0.1, whose window later versions gave up
    family="mistral",
    vocab_size=32000,
    width=4096,
    num_layers=32,
    num_q_heads=32,
    num_kv_heads=8,
    head_size=128,
    ffn_width=14336,
    max_position=32768,
    norm_eps=1e-5,
    rope=Rope(theta=10000.0),
    windows=(4096,) * 32,
    eos_token_ids=(2,),
    bos_token_id=1,
    dtype="bfloat16",
)
_QWEN2_5_0_5B = ModelConfig(
    family="qwen2",
    vocab_size=151936,
    width=896,
    num_layers=24,
    num_q_heads=14,
    num_kv_heads=2,
    head_size=64,
    ffn_width=4864,
    max_position=32768,
    rope=Rope(theta=1_000_000.0),
    tie_embeddings=True,
    qkv_bias=True,
    eos_token_ids=(151645, 151643),
    dtype="bfloat16",
)
_QWEN3_8B = ModelConfig(
    family="qwen3",
    vocab_size=151936,
    width=4096,
    num_layers=36,
    num_q_heads=32,
    num_kv_heads=8,
    head_size=128,
    ffn_width=12288,
    max_position=40960,
    rope=Rope(theta=1_000_000.0),
    qk_norm=True,
    eos_token_ids=(151645, 151643),
    dtype="bfloat16",
)
_GEMMA2_2B = ModelConfig(
    family="gemma2",
    vocab_size=256000,
    width=2304,
    num_layers=26,
    num_q_heads=8,
    num_kv_heads=4,
    head_size=256,
    ffn_width=9216,
    max_position=8192,
    rope=Rope(theta=10000.0),
    tie_embeddings=True,
    windows=(4096, None) * 13,
    attention_soft_cap=50.0,
    logit_soft_cap=30.0,
    embedding_scale=2304**0.5,
    activation="gelu_tanh",
    norm_offset=1.0,
    post_norms=True,
    query_scale=256**-0.5,
    eos_token_ids=(1, 107),
    bos_token_id=2,
    dtype="bfloat16",
)

_BENCH_5M = ModelConfig(
    family="llama",
    vocab_size=1280,
    width=256,
    num_layers=6,
    num_q_heads=4,
    num_kv_heads=2,
    head_size=64,
    ffn_width=768,
    max_position=32768,
    norm_eps=1e-5,
    rope=Rope(theta=10000.0),
    tie_embeddings=True,
    eos_token_ids=(2,),
    bos_token_id=1,
)


def _qwen3(layers: int, width: int, ffn: int, q_heads: int, *, tied: bool = False) -> ModelConfig:
    return replace(
        _QWEN3_8B,
        num_layers=layers,
        width=width,
        ffn_width=ffn,
        num_q_heads=q_heads,
        tie_embeddings=tied,
        windows=(),
    )


SHAPES: dict[str, ModelConfig] = {
    # The shape that the engine's own tables are measured on: about 110 M parameters.
    "bench-110m": ModelConfig(
        family="llama",
        vocab_size=32000,
        width=768,
        num_layers=12,
        num_q_heads=12,
        num_kv_heads=4,
        head_size=64,
        ffn_width=2048,
        max_position=4096,
        norm_eps=1e-5,
        rope=Rope(theta=10000.0),
        eos_token_ids=(2,),
        bos_token_id=1,
    ),
    # For workflows on two cores, over the built-in tokenizer's vocabulary: 2 M and 5 M parameters.
    "bench-2m": replace(_BENCH_5M, width=192, num_layers=4, ffn_width=512, windows=()),
    "bench-5m": _BENCH_5M,
    "gemma-2-2b": _GEMMA2_2B,
    "gemma-2-9b": replace(
        _GEMMA2_2B,
        width=3584,
        num_layers=42,
        num_q_heads=16,
        num_kv_heads=8,
        ffn_width=14336,
        windows=(4096, None) * 21,
        embedding_scale=3584**0.5,
    ),
    "llama-8b": _LLAMA_8B,
    "llama-3.1-8b": _LLAMA_8B,
    "llama-3.2-1b": replace(
        _LLAMA_8B,
        width=2048,
        num_layers=16,
        head_size=64,
        query_scale=64**-0.5,
        ffn_width=8192,
        windows=(),
        rope=_llama3_rope(32.0),
        tie_embeddings=True,
    ),
    "llama-3.2-3b": replace(
        _LLAMA_8B,
        width=3072,
        num_layers=28,
        num_q_heads=24,
        ffn_width=8192,
        windows=(),
        rope=_llama3_rope(32.0),
        tie_embeddings=True,
    ),
    "mistral-7b": _MISTRAL_7B,
    "mixtral-8x7b": replace(
        _MISTRAL_7B,
        family="mixtral",
        windows=(),
        rope=Rope(theta=1_000_000.0),
        num_experts=8,
        experts_per_token=2,
        expert_width=14336,
    ),
    "qwen2.5-0.5b": _QWEN2_5_0_5B,
    "qwen2.5-7b": replace(
        _QWEN2_5_0_5B,
        vocab_size=152064,
        width=3584,
        num_layers=28,
        num_q_heads=28,
        num_kv_heads=4,
        head_size=128,
        query_scale=128**-0.5,
        ffn_width=18944,
        windows=(),
        tie_embeddings=False,
    ),
    "qwen3-0.6b": _qwen3(28, 1024, 3072, 16, tied=True),
    "qwen3-1.7b": _qwen3(28, 2048, 6144, 16, tied=True),
    "qwen3-4b": _qwen3(36, 2560, 9728, 32, tied=True),
    "qwen3-8b": _QWEN3_8B,
    "qwen3-14b": _qwen3(40, 5120, 17408, 40),
    "qwen3-32b": _qwen3(64, 5120, 25600, 64),
    "qwen3-30b-a3b": replace(
        _qwen3(48, 2048, 6144, 32),
        family="qwen3_moe",
        num_kv_heads=4,
        num_experts=128,
        experts_per_token=8,
        expert_width=768,
    ),
}


def random_config(name: str) -> ModelConfig:
    """The config of "random:<shape>" (the prefix may be left out).

    Raises:
        ValueError: an unknown shape; lists those that exist.
    """
    shape = name.removeprefix(PREFIX)
    if shape not in SHAPES:
        raise ValueError(f"random shape {shape!r} is unknown; choose one of {[*SHAPES]}")
    return SHAPES[shape]


def random_params(config: ModelConfig, seed: int = 0, dtype: str | None = None) -> Params:
    """Random weights on the device, equal for equal arguments on every backend.

    For measuring, not for training: matrices are uniform with the deviation that `init_params`
    gives them, drawn leaf by leaf (memory peaks at one leaf above the weights) from a hash of the
    element's index, about 30x faster on a CPU than normal numbers from a counter-based generator.

    Args:
        config: of the model.
        seed: of the weights.
        dtype: of the parameters; None takes the config's.
    """
    shapes = param_shapes(config, jnp.dtype(dtype or config.dtype))
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    arrays = []
    for index, (path, leaf) in enumerate(leaves):
        kind = init_kind(path)
        if kind is None:
            deviation = leaf_deviation(path, leaf.shape)
            salt = np.uint32((seed * 0x9E3779B1 + index * 0x85EBCA77) & 0xFFFFFFFF)
            arrays.append(_uniform(salt, leaf.shape, leaf.dtype, deviation))
        else:
            value = 1.0 - config.norm_offset if kind == "norm" else 0.0
            arrays.append(jnp.full(leaf.shape, value, leaf.dtype))
    return tree.unflatten(arrays)


@partial(jax.jit, static_argnames=("shape", "dtype", "deviation"))
def _uniform(
    salt: np.uint32, shape: tuple[int, ...], dtype: jnp.dtype, deviation: float
) -> jax.Array:
    """Uniform numbers of mean 0, one for each index, by a 32-bit integer hash (lowbias32)."""
    bits = jax.lax.iota(jnp.uint32, math.prod(shape)) ^ salt
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        bits = (bits ^ (bits >> np.uint32(shift))) * np.uint32(factor)
    bits ^= bits >> np.uint32(16)
    # [0, 2^32) to [-1, 1)
    unit = jax.lax.bitcast_convert_type(bits, jnp.int32).astype(jnp.float32) * 2.0**-31
    return (unit * (3.0**0.5 * deviation)).astype(dtype).reshape(shape)
