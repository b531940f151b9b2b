"""Implementations x cases x dtypes against the reference, over pools full of NaN.

By default cases that mix all features; with `-m slow` every case in every dtype. Kernels run in
their interpreters: `test_mosaic.py`.
"""

import numpy as np
import pytest

from helium_jax.kernels.attention.cases import CASES, TOLERANCES, AttentionCase, make_inputs
from tests.kernels.attending import FACTORS, attend, expect, mixed_cases, pairs_of

NUM_MIXED = 26
IMPLEMENTATIONS = ["xla"]
errors: dict[tuple[str, str, str, str], float] = {}


def parity_cases():
    """(implementation, case, dtypes, work)."""
    for implementation in IMPLEMENTATIONS:
        for case, dtypes, work in mixed_cases(NUM_MIXED):
            name = f"{implementation}-{case.name}-{dtypes}-{work}"
            yield pytest.param(implementation, case, dtypes, work, id=name)
        for case in CASES:
            works = FACTORS["work"] if case.shares else ("flat", "deterministic")
            for dtypes in FACTORS["dtypes"]:
                for work in works:
                    name = f"{implementation}-{case.name}-{dtypes}-{work}"
                    yield pytest.param(
                        implementation, case, dtypes, work, id=name, marks=pytest.mark.slow
                    )


@pytest.mark.parametrize(("implementation", "case", "dtypes", "work"), [*parity_cases()])
def test_agrees_with_the_reference(implementation, case, dtypes, work):
    out, lse = attend(case, dtypes, implementation, packed_for=implementation, work=work)
    expected_out, expected_lse = expect(case, dtypes)
    absolute, relative = TOLERANCES[dtypes.split(" on ")[0]]
    np.testing.assert_allclose(out, expected_out, atol=absolute, rtol=relative)
    np.testing.assert_allclose(lse, expected_lse, atol=2e-5, rtol=2e-5)
    rows = sum(case.query_lens)
    assert not out[rows:].any()
    assert np.isneginf(lse[rows:]).all()
    assert np.isfinite(lse[:rows]).all()
    errors[implementation, case.name, dtypes, work] = float(np.abs(out - expected_out).max())


def test_the_parity_table_is_printed(capsys):
    if not errors:
        pytest.skip("the parity tests were not selected")
    with capsys.disabled():
        print(f"\n{'backend':<8} {'dtypes':<25} {'work':<14} {'max |error|':<12} case")
        for (implementation, case, dtypes, work), error in errors.items():
            print(f"{implementation:<8} {dtypes:<25} {work:<14} {error:<12.1e} {case}")


def test_mixed_cases_hold_every_value_and_most_pairs_of_values():
    """What the default run proves is known, and does not shrink unseen."""
    values, pairs = set(), set()
    for case, dtypes, work in mixed_cases(NUM_MIXED):
        option = {
            "step": case.name.split(", ")[0],
            "heads": (case.num_heads, case.num_kv_heads),
            **{name: getattr(case, name) for name in
               ("head_size", "page_size", "window", "soft_cap", "scale")},
            "dtypes": dtypes,
            "work": work,
        }  # fmt: skip
        assert option.keys() == FACTORS.keys()
        values |= set(option.items())
        pairs |= pairs_of(option)
    assert values == {(name, value) for name, of in FACTORS.items() for value in of}
    counts = [len(of) for of in FACTORS.values()]
    possible = (sum(counts) ** 2 - sum(count**2 for count in counts)) / 2
    assert len(pairs) > 0.7 * possible


def test_quantized_pools_stay_near_full_ones():
    (full, _), (near, _), (far, _) = (
        expect(CASES[0], dtypes)
        for dtypes in ("float32", "float32 on int8", "float32 on float8_e4m3fn")
    )
    assert 0 < np.abs(near - full).max() < 0.03
    assert 0 < np.abs(far - full).max() < 0.2


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
    out, _ = expect(case, "float32")
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
