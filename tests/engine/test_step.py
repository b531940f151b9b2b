"""The compiled step: the pool is never copied, padding changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helium_jax.engine.packing import FROM_DEVICE, PackedSequence, pack_step, step_layout
from helium_jax.engine.runner import Runner
from helium_jax.engine.sampling_rows import Variant, pack_row
from helium_jax.engine.sampling_state import allocate_sampling_state
from helium_jax.engine.step import run_step
from helium_jax.kernels.pages import allocate_pages
from helium_jax.types import SamplingParams
from tests.engine.conftest import MODEL, oracle_greedy, resolved, tiny_params


@pytest.mark.parametrize(
    ("kv_dtype", "num_tokens"),
    [
        ("float32", 2),
        ("bfloat16", 2),
        ("bfloat16", 64),
        ("int8", 64),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("float32", 64), ("float16", 2), ("float16", 64), ("int8", 2))
        ),
    ],
)
def test_the_compiled_step_never_copies_the_pool(full_compiler, kv_dtype, num_tokens):
    """XLA:CPU would convert a whole bfloat16 pool to float32 and back at every scatter."""
    pages = allocate_pages(
        num_layers=MODEL.num_layers,
        num_pages=4096,
        page_size=16,
        num_kv_heads=MODEL.num_kv_heads,
        head_size=MODEL.head_size,
        dtype=kv_dtype,
    )
    pool_bytes = pages.nbytes
    layout = step_layout(
        num_tokens=num_tokens,
        max_num_seqs=4,
        max_model_len=128,
        page_size=16,
        num_pages=4096,
        deterministic=False,
    )
    step = jax.jit(run_step, static_argnames=("config", "layout"), donate_argnums=(1, 2))
    compiled = step.lower(
        tiny_params(),
        pages,
        allocate_sampling_state(4, 128),
        jax.ShapeDtypeStruct((layout.num_ints,), jnp.int32),
        config=MODEL,
        layout=layout,
    ).compile()
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes >= pool_bytes  # donated, and taken
    assert memory.temp_size_in_bytes < pool_bytes / 8


def run_one(runner, token_ids, *, kv_len, pages=(1, 2, 3), slot=0):
    row = pack_row(SamplingParams(), seed=0, prompt_len=kv_len, slot=slot)
    sequence = PackedSequence(
        slot=slot, token_ids=token_ids, kv_len=kv_len, pages=pages, sampling_row=row
    )
    ticket = runner.run([sequence], wants_logprobs=False)
    return int(runner.collect(ticket).token_ids[0])


def test_a_token_that_only_the_device_knows_is_the_next_steps_input():
    prompt = (5, 4, 3, 2, 1)
    expected = oracle_greedy(prompt, 4)
    runner = Runner(tiny_params(), MODEL, resolved())
    tokens = [run_one(runner, prompt, kv_len=5)]
    tokens += [run_one(runner, [FROM_DEVICE], kv_len=6 + i) for i in range(3)]
    assert tuple(tokens) == expected


def test_any_chunking_gives_the_same_token():
    prompt = tuple(range(1, 15))
    (expected,) = oracle_greedy(prompt, 1)
    token = None
    for chunk in (1, 2, 3, 7, 14):
        runner = Runner(tiny_params(), MODEL, resolved())
        for start in range(0, len(prompt), chunk):
            part = prompt[start : start + chunk]
            token = run_one(runner, part, kv_len=start + len(part))
        assert token == expected


def test_rows_of_padding_write_nothing():
    config = resolved()
    runner = Runner(tiny_params(), MODEL, config)
    before = np.asarray(runner._pages.k).copy()
    packed, needed = pack_step(runner._layouts[-1], (), cascade=True)
    assert needed is Variant.GREEDY
    pages, *_ = runner._program(runner._layouts[-1])(
        runner._params, runner._pages, runner._state, packed
    )
    np.testing.assert_array_equal(np.asarray(pages.k), before)
