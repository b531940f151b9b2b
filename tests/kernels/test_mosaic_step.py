"""A whole step of the engine on the kernels, in interpreters, against the same step on XLA."""

import contextlib
import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helium_jax.engine.packing import FROM_DEVICE, PackedSequence, pack_step, step_layout
from helium_jax.engine.sampling_rows import pack_row
from helium_jax.engine.sampling_state import allocate_sampling_state
from helium_jax.engine.step import run_step
from helium_jax.kernels.attention import ORDERS, Target
from helium_jax.kernels.pages import allocate_pages
from helium_jax.kernels.pallas import gpu, gpu_missing, tpu
from helium_jax.models.params import init_params
from helium_jax.models.shapes import random_config
from helium_jax.types import SamplingParams

PAGE_SIZE, PROMPTS = 16, ((3, 1, 4, 1, 5, 9, 2, 6) * 3, (2, 7, 1, 8, 2))
MODEL = dataclasses.replace(
    random_config("qwen3-0.6b"), vocab_size=64, width=64, num_layers=2, windows=(None, 12),
    num_q_heads=4, num_kv_heads=2, head_size=64, query_scale=64**-0.5, ffn_width=64,
    max_position=64,
)  # fmt: skip


def generate(implementation: str) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and logits of a prefill step of two sequences and of a decode step after it."""
    target = Target(implementation=implementation, num_heads=4, num_kv_heads=2, num_cores=4)
    params = init_params(MODEL, jax.random.key(0), dtype=jnp.bfloat16)
    pages = allocate_pages(
        num_layers=2, num_pages=8, page_size=PAGE_SIZE, num_kv_heads=2, head_size=64,
        dtype="bfloat16", platform="gpu", order=ORDERS[implementation],
    )  # fmt: skip
    state = allocate_sampling_state(2, 64)
    tokens, logits_of_steps = [], []
    for step in range(2):
        new = [[*prompt] if step == 0 else [FROM_DEVICE] for prompt in PROMPTS]
        layout = step_layout(
            num_tokens=32 if step == 0 else 2, max_num_seqs=2, max_model_len=64,
            page_size=PAGE_SIZE, num_pages=8, deterministic=False, target=target,
        )  # fmt: skip
        sequences = [
            PackedSequence(
                slot=s,
                token_ids=new[s],
                kv_len=len(prompt) + step,
                pages=[3 + 2 * s, 2 + 2 * s],
                sampling_row=pack_row(SamplingParams(), seed=0, prompt_len=len(prompt), slot=s),
            )
            for s, prompt in enumerate(PROMPTS)
        ]
        packed, _ = pack_step(layout, sequences, cascade=True)
        run = jax.jit(partial(run_step, config=MODEL, layout=layout, attention=implementation))
        pages, state, sampled, logits = run(params, pages, state, packed)
        tokens.append(np.asarray(sampled.token_ids)[:2])
        logits_of_steps.append(np.asarray(logits)[:2])
    return np.stack(tokens), np.stack(logits_of_steps)


@pytest.mark.slow
@pytest.mark.parametrize(
    "implementation",
    [
        "mosaic_tpu",
        pytest.param("mosaic_gpu", marks=pytest.mark.skipif(gpu is None, reason=gpu_missing)),
    ],
)
def test_two_steps_on_kernels_give_the_tokens_and_logits_of_xla(implementation):
    expected_tokens, expected = generate("xla")
    with contextlib.ExitStack() as interpreted:
        if implementation == "mosaic_tpu":
            interpreted.enter_context(tpu.force_tpu_interpret_mode(tpu.InterpretParams()))
        else:
            interpreted.enter_context(gpu.force_gpu_interpret_mode(gpu.InterpretGPUParams()))
        tokens, logits = generate(implementation)
    np.testing.assert_allclose(logits, expected, atol=0.05, rtol=0.05)
    np.testing.assert_array_equal(tokens, expected_tokens)
