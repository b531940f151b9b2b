"""Random models of published shapes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helium_jax.models.params import init_params, param_shapes
from helium_jax.models.shapes import SHAPES, random_config, random_params

# From the models' own cards, in billions of parameters.
PUBLISHED = {
    "gemma-2-2b": 2.61,
    "gemma-2-9b": 9.24,
    "llama-8b": 8.03,
    "llama-3.2-1b": 1.24,
    "llama-3.2-3b": 3.21,
    "mistral-7b": 7.24,
    "mixtral-8x7b": 46.7,
    "qwen2.5-0.5b": 0.494,
    "qwen2.5-7b": 7.62,
    "qwen3-0.6b": 0.596,
    "qwen3-1.7b": 1.72,
    "qwen3-4b": 4.02,
    "qwen3-8b": 8.19,
    "qwen3-14b": 14.8,
    "qwen3-32b": 32.8,
    "qwen3-30b-a3b": 30.5,
}


@pytest.mark.parametrize("shape", list(PUBLISHED))
def test_shapes_have_the_published_number_of_parameters(shape):
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(param_shapes(SHAPES[shape])))
    assert count / 1e9 == pytest.approx(PUBLISHED[shape], rel=5e-3)


def test_an_unknown_shape_lists_those_there_are():
    assert random_config("random:llama-8b") is SHAPES["llama-8b"]
    with pytest.raises(ValueError, match=r"'llama-9b' is unknown; choose one of \['bench-110m'"):
        random_config("random:llama-9b")


def tiny():
    from dataclasses import replace

    return replace(
        SHAPES["gemma-2-2b"],
        vocab_size=500,
        width=64,
        num_layers=2,
        num_q_heads=4,
        num_kv_heads=2,
        head_size=16,
        ffn_width=96,
        windows=(8, None),
    )


def test_random_params_repeat_and_differ_by_seed():
    first, again, other = (random_params(tiny(), seed) for seed in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.array_equal(first.layers[0].qkv, other.layers[0].qkv)
    assert not np.array_equal(first.layers[0].qkv, first.layers[1].qkv)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_random_and_initial_params_have_the_same_shapes_means_and_deviations(dtype):
    config = tiny()
    drawn = random_params(config, 0, dtype)
    normal = init_params(config, jax.random.key(0), jnp.dtype(dtype))
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(drawn), jax.tree.leaves(normal), strict=True
    ):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        assert a.shape == b.shape, path
        assert a.mean() == pytest.approx(b.mean(), abs=0.01), path
        assert a.std() == pytest.approx(b.std(), rel=0.05, abs=1e-6), path
