"""The Pallas kernels in Pallas' interpreters, with their race detectors, against the reference.

Copies, barriers and shared memory are simulated; pools are full of NaN outside the used tokens, and
so is fresh memory. What has run on hardware is in kernels/README.md.
"""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helium_jax.kernels.attention import (
    ORDERS,
    choose_implementation,
    paged_attention,
    unpack_batch,
)
from helium_jax.kernels.attention.cases import (
    CASES,
    TOLERANCES,
    AttentionCase,
    fit_pages,
    make_inputs,
)
from helium_jax.kernels.page_write import write_pages
from helium_jax.kernels.pages import allocate_pages
from helium_jax.kernels.pallas import gpu, gpu_missing, tpu
from tests.kernels.attending import attend, expect

NEEDS_GPU_INTERPRETER = pytest.mark.skipif(gpu is None, reason=gpu_missing)
# One program costs seconds in an interpreter: the default run takes what differs most.
DEFAULT = {
    ("mosaic_tpu", "prefix tree", "bfloat16"),
    ("mosaic_tpu", "empty sequences, soft cap and window", "float32"),
    ("mosaic_gpu", "prefix tree", "bfloat16"),
    ("mosaic_gpu", "soft cap and window", "bfloat16"),
    ("mosaic_gpu", "chunk of a long context", "float16"),
    ("mosaic_gpu", "page size 128", "bfloat16"),
}
# Beside them where tools/kernel_guards.sh runs, on a jax that has both interpreters.
GUARDED = {
    ("mosaic_tpu", "soft cap and window", "float32"),
    ("mosaic_tpu", "head size 80", "bfloat16"),
    ("mosaic_gpu", "head size 80", "bfloat16"),
    ("mosaic_gpu", "head size 256", "bfloat16"),
    ("mosaic_tpu", "prefix tree", "bfloat16 on int8"),
    ("mosaic_gpu", "prefix tree", "bfloat16 on int8"),
    ("mosaic_gpu", "soft cap and window", "bfloat16 on float8_e4m3fn"),
}
# Queries, and pages where they differ.
DTYPES = {
    "mosaic_tpu": ("float32", "bfloat16", "bfloat16 on int8", "float32 on int8"),
    "mosaic_gpu": ("bfloat16", "float16", "bfloat16 on int8", "bfloat16 on float8_e4m3fn"),
}


def parity_cases():
    for implementation, dtypes in DTYPES.items():
        for case in CASES:
            for dtype in dtypes:
                name = (implementation, case.name, dtype)
                fitted = fit_pages(case, dtype)
                is_default = name in DEFAULT or (gpu is not None and name in GUARDED)
                marks = [] if is_default else [pytest.mark.slow]
                if implementation == "mosaic_gpu":
                    marks.append(NEEDS_GPU_INTERPRETER)
                yield pytest.param(implementation, fitted, dtype, id="-".join(name), marks=marks)


@pytest.fixture
def interpreted(capfd):
    """A context that runs an implementation's kernels on this machine; fails if copies raced."""

    @contextlib.contextmanager
    def interpreted(implementation):
        if implementation == "mosaic_tpu":
            context = tpu.force_tpu_interpret_mode(tpu.InterpretParams(detect_races=True))
        else:
            context = gpu.force_gpu_interpret_mode(gpu.InterpretGPUParams(detect_races=True))
        with context:
            yield
        assert "RACE DETECTED" not in "".join(capfd.readouterr()).upper()

    return interpreted


@pytest.mark.parametrize(("implementation", "case", "dtype"), [*parity_cases()])
def test_agrees_with_the_reference_over_pools_full_of_nan(interpreted, implementation, case, dtype):
    work = "groups" if case.shares else "flat"
    expected_out, expected_lse = expect(case, dtype)
    with interpreted(implementation):
        out, lse = attend(case, dtype, implementation, packed_for=implementation, work=work)
    absolute, relative = TOLERANCES[dtype.split(" on ")[0]]
    if dtype != "float32":
        absolute *= 2  # parts are rounded once more, before they are merged
    np.testing.assert_allclose(out, expected_out, atol=absolute, rtol=relative)
    np.testing.assert_allclose(lse, expected_lse, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("implementation", ["mosaic_tpu", "mosaic_gpu"])
def test_other_orders_of_pages_read_the_same_through_xla(implementation):
    case = CASES[0]
    for result, expected in zip(
        attend(case, "bfloat16", "xla", packed_for=implementation),
        attend(case, "bfloat16", "xla"),
        strict=True,
    ):
        np.testing.assert_allclose(result, expected, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize(
    ("implementation", "dtype", "head_size"),
    [
        ("mosaic_tpu", "bfloat16", 64),
        pytest.param("mosaic_tpu", "float32", 64, marks=pytest.mark.slow),
        pytest.param("mosaic_gpu", "bfloat16", 64, marks=NEEDS_GPU_INTERPRETER),
        pytest.param("mosaic_gpu", "bfloat16", 20, marks=NEEDS_GPU_INTERPRETER),
    ],
)
def test_writes_what_the_scatter_writes_nan_included(interpreted, implementation, dtype, head_size):
    pages = allocate_pages(
        num_layers=2, num_pages=6, page_size=32, num_kv_heads=2, head_size=head_size,
        dtype=dtype, platform="tpu", order=ORDERS[implementation],
    )  # fmt: skip
    pages = jax.tree.map(lambda pool: pool + 7, pages)
    slots = [[35], range(69, 96), range(128, 149), [-1, -1, 0, 6 * 32, 31]]
    slots = np.concatenate([np.asarray(part, np.int32) for part in slots])
    values = np.random.default_rng(0).standard_normal((2, len(slots), 2, head_size))
    values = values.astype(np.float32)
    values[:, 3] = np.nan

    def write(implementation):
        step = jax.jit(write_pages, static_argnums=1, static_argnames="implementation")
        after = step(pages, 1, *values, slots, implementation=implementation)
        return [np.asarray(pool.astype(jnp.float32)) for pool in jax.tree.leaves(after)]

    with interpreted(implementation):
        written = write(implementation)
    for pool, expected in zip(written, write("xla"), strict=True):
        np.testing.assert_array_equal(pool, expected)


def refusal(implementation, **changes):
    """The reason that `implementation` gives for not reading such pages."""
    shape = dict(num_heads=4, num_kv_heads=2, head_size=64, page_size=16)
    dtype, kv_dtype = changes.pop("dtype", "bfloat16"), changes.pop("kv_dtype", None)
    packed_for = changes.pop("packed_for", implementation)
    shape |= changes
    inputs = make_inputs(
        AttentionCase(name="", query_lens=(1,), kv_lens=(1,), **shape),
        dtype,
        implementation=packed_for,
        kv_dtype=kv_dtype,
    )
    batch = unpack_batch(inputs.layout, jnp.zeros(inputs.layout.num_ints, jnp.int32))
    with pytest.raises(NotImplementedError) as error:
        paged_attention(inputs.q, inputs.pages, 0, batch, scale=1.0, implementation=implementation)
    return str(error.value)


def test_the_tpu_kernel_says_why_it_cannot():
    assert "head_size=320 is more than 256" in refusal("mosaic_tpu", head_size=320)
    assert "page_size=4 is no multiple of a tile's 16 rows" in refusal("mosaic_tpu", page_size=4)
    assert "float16 is no dtype" in refusal("mosaic_tpu", dtype="float16")
    assert "pages are in the order 'columns'" in refusal("mosaic_tpu", packed_for="xla")
    assert "16 is no multiple of a tile's 32 rows" in refusal("mosaic_tpu", kv_dtype="int8")
    assert "pages in float32 for queries in bfloat16" in refusal("mosaic_tpu", kv_dtype="float32")
    assert "pages in float8_e4m3fn for" in refusal("mosaic_tpu", kv_dtype="float8_e4m3fn")


@NEEDS_GPU_INTERPRETER
def test_the_gpu_kernel_says_why_it_cannot():
    assert "head_size=320 is more than 256" in refusal("mosaic_gpu", head_size=320)
    assert "page_size=4 is none of" in refusal("mosaic_gpu", page_size=4)
    assert "float32 is no dtype of the tensor cores" in refusal("mosaic_gpu", dtype="float32")
    assert "pages in float16 for queries in bfloat16" in refusal("mosaic_gpu", kv_dtype="float16")
    assert "pages are in the order 'joined'" in refusal("mosaic_gpu", packed_for="mosaic_tpu")
    assert "page_size=16 with pages in int8: scales" in refusal("mosaic_gpu", kv_dtype="int8")


@NEEDS_GPU_INTERPRETER
def test_gpu_copies_begin_at_whole_pieces_of_shared_memory():
    pages = allocate_pages(
        num_layers=1, num_pages=2, page_size=32, num_kv_heads=3, head_size=64,
        dtype="int8", platform="gpu", order="rows",
    )  # fmt: skip
    row = jnp.zeros((1, 3, 64))
    with pytest.raises(NotImplementedError, match="rows of 192 bytes are no multiple of 128"):
        write_pages(pages, 0, row, row, jnp.zeros(1, jnp.int32), implementation="mosaic_gpu")


@pytest.mark.parametrize(
    "implementation",
    ["mosaic_tpu", pytest.param("mosaic_gpu", marks=NEEDS_GPU_INTERPRETER)],
)
def test_refuses_blocks_and_lists_made_for_others(implementation):
    inputs = make_inputs(CASES[0], "bfloat16", implementation=implementation)

    def refuse(**changes):
        layout = dataclasses.replace(inputs.layout, **changes)
        batch = unpack_batch(layout, jnp.zeros(layout.num_ints, jnp.int32))
        with pytest.raises(NotImplementedError) as error:
            paged_attention(
                inputs.q, inputs.pages, 0, batch, scale=1.0, implementation=implementation
            )
        return str(error.value)

    assert "layout.block_rows=24 is no power of two" in refuse(block_rows=24)
    assert "packed for another implementation" in refuse(max_parts=0, num_workers=0)


def test_refuses_tables_beyond_scalar_memory():
    inputs = make_inputs(CASES[0], "float32", implementation="mosaic_tpu")
    layout = dataclasses.replace(inputs.layout, num_tokens=256, num_seqs=256, pages_per_seq=1024)
    batch = unpack_batch(layout, jnp.zeros(layout.num_ints, jnp.int32))
    with pytest.raises(NotImplementedError, match="262144 ints do not fit into scalar memory"):
        paged_attention(
            jnp.zeros((256, 4, 64)), inputs.pages, 0, batch, scale=1.0, implementation="mosaic_tpu"
        )


SHAPE = dict(dtype="bfloat16", head_size=128, page_size=64, num_heads=32, num_kv_heads=8)


@pytest.mark.parametrize(
    ("machine", "name", "reason"),
    [
        (dict(platform="cpu"), "xla", "there is no kernel for 'cpu'"),
        (dict(platform="tpu"), "mosaic_tpu", "64 tokens in bfloat16, 32/8 heads of 128 in bf"),
        (dict(platform="tpu", head_size=80, kv_dtype="int8"), "mosaic_tpu", "tokens in int8, 32"),
        (dict(platform="tpu", head_size=288), "xla", "not mosaic_tpu: head_size=288"),
        (dict(platform="tpu", dtype="float16"), "xla", "not mosaic_tpu: float16"),
        pytest.param(
            dict(platform="gpu", compute_capability="9.0"), "mosaic_gpu", "the Pallas kernel reads",
            marks=NEEDS_GPU_INTERPRETER,
        ),
        pytest.param(
            dict(platform="cuda", compute_capability="8.0"), "xla", "8.0 has no warpgroup products",
            marks=NEEDS_GPU_INTERPRETER,
        ),
        pytest.param(
            dict(platform="gpu", compute_capability="10.0"), "xla", "10.0 has no warpgroup",
            marks=NEEDS_GPU_INTERPRETER,
        ),
    ],
)  # fmt: skip
def test_chooses_for_a_machine_and_says_why(machine, name, reason):
    options = SHAPE | machine
    chosen, why = choose_implementation(options.pop("platform"), **options)
    assert chosen == name
    assert reason in why


@pytest.mark.skipif(gpu is not None, reason="this jax has Mosaic GPU")
def test_an_old_jax_is_the_reason_on_gpus():
    assert choose_implementation("gpu", **SHAPE) == ("xla", f"not mosaic_gpu: {gpu_missing}")
