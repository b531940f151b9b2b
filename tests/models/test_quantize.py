"""Int8: what it costs in accuracy, on matrices and on whole models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helium_jax.models.checkpoint import load_hf
from helium_jax.models.dense_attention import attend_dense
from helium_jax.models.layers import linear
from helium_jax.models.params import QuantizedMatrix
from helium_jax.models.quantize import dequantize_matrix, is_quantized, quantize, quantize_matrix
from helium_jax.models.transformer import compute_logits, forward

# Largest relative error (root mean square) of the logits. Rounding the input of a router's layer
# sends a few tokens to another expert, which is why a mixture is farther off than a dense model.
LIMITS = {
    ("llama", "untied, GQA 2"): 0.06,
    ("qwen3", "tied, head size 20"): 0.06,
    ("gemma2", "soft caps, alternating windows"): 0.06,
    ("qwen3_moe", "8 experts, not normalised"): 0.1,
}
LENGTH = 64


@functools.partial(jax.jit, static_argnames="config")
def logits_of(params, config, ids):
    hidden, _ = forward(params, config, ids, jnp.arange(LENGTH), attend_dense, None)
    return compute_logits(params, config, hidden)


def test_a_quantized_matrix_is_off_by_half_a_step_at_most():
    weight = jax.random.normal(jax.random.key(0), (3, 40, 24))
    matrix = quantize_matrix(weight)
    assert matrix.values.dtype == jnp.int8
    error = np.abs(np.asarray(dequantize_matrix(matrix) - weight))
    assert (error <= np.asarray(matrix.scales)[..., None] * 0.5001).all()


def test_a_zero_row_stays_zero():
    weight = jnp.zeros((4, 8)).at[1, 2].set(3.0)
    x = jnp.zeros((2, 8)).at[1].set(1.0)
    out = linear(x, quantize_matrix(weight))
    np.testing.assert_allclose(out, [[0, 0, 0, 0], [0, 3, 0, 0]], atol=1e-6)


def test_the_int8_product_is_exact_on_numbers_that_int8_holds():
    rng = np.random.default_rng(0)
    x = rng.integers(-127, 128, (5, 16)).astype(np.float32)
    weight = rng.integers(-127, 128, (2, 7, 16)).astype(np.float32)
    x[:, 0], weight[..., 0] = 127, -127  # so that every scale is 1
    out = linear(jnp.asarray(x), quantize_matrix(jnp.asarray(weight)))
    np.testing.assert_allclose(out, np.einsum("ti,aoi->tao", x, weight), rtol=1e-6)


def test_quantizing_twice_changes_nothing(random_model):
    model = load_hf(random_model(*next(iter(LIMITS)))[0])
    once = quantize(model.params)
    twice = quantize(once)
    jax.tree.map(np.testing.assert_array_equal, once, twice)
    assert is_quantized(once)
    assert not is_quantized(model.params)


def test_a_tied_model_keeps_its_embedding_and_gets_an_int8_output(random_model):
    model = load_hf(random_model("qwen3", "tied, head size 20")[0])
    quantized = quantize(model.params)
    np.testing.assert_array_equal(quantized.embedding, model.params.embedding)
    assert isinstance(quantized.unembedding, QuantizedMatrix)


@pytest.mark.parametrize("case", list(LIMITS), ids=lambda case: f"{case[0]}: {case[1]}")
def test_whole_models_stay_close_in_int8(case, random_model, capsys):
    """Random weights are the hard case: logits are nearly flat, so that near-ties flip."""
    model = load_hf(random_model(*case)[0])
    ids = np.random.default_rng(0).integers(0, 97, LENGTH, dtype=np.int32)
    exact = np.asarray(logits_of(model.params, model.config, ids))
    found = np.asarray(logits_of(quantize(model.params), model.config, ids))
    error = float(np.sqrt(np.mean((found - exact) ** 2) / np.mean(exact**2)))
    agreement = float(np.mean(found.argmax(-1) == exact.argmax(-1)))
    with capsys.disabled():
        print(f"\nint8 {case[0]:<10} relative logit error {error:.3f}, top-1 kept {agreement:.2f}")
    assert error < LIMITS[case]
    assert agreement >= 0.85
