"""Implementations x cases x dtypes against the reference, over pools full of NaN."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helium_jax.kernels.attention import pack_batch, paged_attention, unpack_batch
from helium_jax.kernels.attention.cascade import CascadeCosts
from helium_jax.kernels.attention.cases import CASES, TOLERANCES, AttentionCase, make_inputs
from helium_jax.kernels.attention.pack import CASCADE_COSTS

# Precision does not interact with shapes: a few cases are enough, and each is two compiles.
LOW_PRECISION_CASES = [
    case
    for case in CASES
    if case.name in ("ragged", "prefix tree", "soft cap and window", "head size 128")
]
FREE_GROUPS = CascadeCosts(block=0.0, page=0.0, row=0.0)


@functools.cache
def run(
    case: AttentionCase,
    dtype: str,
    implementation: str,
    *,
    cascade: bool = False,
    deterministic: bool = False,
    costs: CascadeCosts = CASCADE_COSTS,
    kv_dtype: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Output and log-sum-exp of one case as float32."""
    inputs = make_inputs(case, dtype, kv_dtype=kv_dtype)
    layout = dataclasses.replace(inputs.layout, deterministic=deterministic)
    ints = np.full(layout.num_ints, -7, np.int32)
    pack_batch(
        layout,
        case.query_lens,
        case.kv_lens,
        inputs.page_tables,
        cascade=cascade,
        out=ints,
        costs=costs,
    )

    @jax.jit
    def step(q, pages, ints):
        return paged_attention(
            q,
            pages,
            case.num_layers - 1,
            unpack_batch(layout, ints),
            scale=inputs.scale,
            window=case.window,
            soft_cap=case.soft_cap,
            implementation=implementation,
        )

    out, lse = step(inputs.q, inputs.pages, ints)
    assert out.shape == inputs.q.shape
    assert out.dtype == dtype
    assert lse.dtype == jnp.float32
    return np.asarray(out.astype(jnp.float32)), np.asarray(lse)


def check_against_reference(case, dtype, out, lse, kv_dtype=None):
    expected_out, expected_lse = run(case, dtype, "reference", kv_dtype=kv_dtype)
    absolute, relative = TOLERANCES[dtype]
    np.testing.assert_allclose(out, expected_out, atol=absolute, rtol=relative)
    np.testing.assert_allclose(lse, expected_lse, atol=2e-5, rtol=2e-5)
    rows = sum(case.query_lens)
    assert not out[rows:].any()
    assert np.isneginf(lse[rows:]).all()
    assert np.isfinite(lse[:rows]).all()


FAST = ["xla"]  # kernels run in interpreters: test_attention_mosaic_*.py


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("implementation", FAST)
def test_agrees_with_the_reference(implementation, case):
    check_against_reference(case, "float32", *run(case, "float32", implementation))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", LOW_PRECISION_CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("implementation", FAST)
def test_agrees_with_the_reference_in_low_precision(implementation, case, dtype):
    check_against_reference(case, dtype, *run(case, dtype, implementation))


@pytest.mark.parametrize("kv_dtype", ["int8", "float8_e4m3fn"])
@pytest.mark.parametrize("case", LOW_PRECISION_CASES[:2], ids=lambda case: case.name)
@pytest.mark.parametrize("implementation", FAST)
def test_agrees_with_the_reference_over_quantized_pools(implementation, case, kv_dtype):
    result = run(case, "float32", implementation, kv_dtype=kv_dtype, cascade=bool(case.shares))
    check_against_reference(case, "float32", *result, kv_dtype=kv_dtype)


def test_quantized_pools_stay_near_full_ones():
    case = next(case for case in CASES if case.name == "ragged")
    (full, _), (near, _), (far, _) = (
        run(case, "float32", "reference", kv_dtype=kv_dtype)
        for kv_dtype in (None, "int8", "float8_e4m3fn")
    )
    assert 0 < np.abs(near - full).max() < 0.03
    assert 0 < np.abs(far - full).max() < 0.2


@pytest.mark.parametrize("case", [c for c in CASES if c.shares], ids=lambda case: case.name)
@pytest.mark.parametrize("implementation", FAST)
def test_prefix_groups_agree_with_the_reference(implementation, case):
    result = run(case, "float32", implementation, cascade=True, costs=FREE_GROUPS)
    check_against_reference(case, "float32", *result)


@pytest.mark.parametrize("case", CASES[:6], ids=lambda case: case.name)
@pytest.mark.parametrize("implementation", FAST)
def test_deterministic_work_agrees_with_the_reference(implementation, case):
    result = run(case, "float32", implementation, deterministic=True)
    check_against_reference(case, "float32", *result)


def dense_attention(q, k, v, *, first_position, scale, window, soft_cap):
    """[R, N, H] over [J, K, H] in float64: the formula once more, without pages."""
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    scores = scale * np.einsum("rnh,jnh->rnj", q, k)
    if soft_cap is not None:
        scores = soft_cap * np.tanh(scores / soft_cap)
    row = first_position + np.arange(len(q))[:, None]
    key = np.arange(len(k))
    visible = (key <= row) & (key > row - (window or len(k) + 1))
    scores = np.where(visible[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("rnj,jnh->rnh", weights, v)


@pytest.mark.parametrize(("window", "soft_cap"), [(None, None), (9, None), (None, 5.0)])
def test_reference_is_dense_attention_of_every_sequence(window, soft_cap):
    case = AttentionCase(
        name="", query_lens=(1, 7, 33), kv_lens=(17, 40, 33), window=window, soft_cap=soft_cap
    )
    inputs = make_inputs(case, "float32")
    out, _ = run(case, "float32", "reference")
    row = 0
    keys = np.asarray(inputs.pages.k[-1]).transpose(0, 3, 1, 2)  # [P, B, K, H]
    values = np.asarray(inputs.pages.v[-1]).transpose(0, 2, 1, 3)
    for s, (new, length) in enumerate(zip(case.query_lens, case.kv_lens, strict=True)):
        positions = np.arange(length)
        at = inputs.page_tables[s, positions // case.page_size], positions % case.page_size
        expected = dense_attention(
            np.asarray(inputs.q[row : row + new], np.float64),
            keys[at].astype(np.float64),
            values[at].astype(np.float64),
            first_position=length - new,
            scale=inputs.scale,
            window=window,
            soft_cap=soft_cap,
        )
        np.testing.assert_allclose(out[row : row + new], expected, atol=1e-5, rtol=1e-5)
        row += new
