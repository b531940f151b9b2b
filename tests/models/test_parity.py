"""Every family against transformers, in float32: whole prompts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helium_jax.models.checkpoint import load_hf
from helium_jax.models.dense_attention import attend_dense
from helium_jax.models.transformer import compute_logits, forward

TOLERANCE = 1e-4
errors: dict[tuple[str, str], float] = {}


@functools.partial(jax.jit, static_argnames="config")
def dense_logits(params, config, ids):
    hidden, _ = forward(params, config, ids, jnp.arange(ids.shape[0]), attend_dense, None)
    return compute_logits(params, config, hidden)


def prompt(length=29, vocab=97, seed=0):
    return np.random.default_rng(seed).integers(0, vocab, length, dtype=np.int32)


def test_whole_prompts_give_the_logits_of_transformers(parity_case, random_model, oracle):
    family, case = parity_case
    folder, reference = random_model(family, case)
    model = load_hf(folder)
    expected = oracle(reference, prompt())
    assert np.abs(expected).max() > 0.5  # the weights are large enough to tell right from wrong
    found = dense_logits(model.params, model.config, prompt())
    errors[parity_case] = float(np.abs(np.asarray(found) - expected).max())
    assert errors[parity_case] < TOLERANCE


def test_the_parity_table_is_printed_and_every_family_is_in_it(capsys):
    if not errors:
        pytest.skip("the parity tests were not selected")
    with capsys.disabled():
        print(f"\n{'family':<12} {'case':<40} max |logit error|")
        for (family, case), error in errors.items():
            print(f"{family:<12} {case:<40} {error:.1e}")
    assert max(errors.values()) < TOLERANCE
