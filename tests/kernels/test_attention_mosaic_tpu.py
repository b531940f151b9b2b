"""The TPU kernels in Pallas' TPU interpreter, with its race detector, against the reference."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helium_jax.kernels.attention import make_layout, pack_batch, paged_attention, unpack_batch
from helium_jax.kernels.attention.cascade import CascadeCosts
from helium_jax.kernels.attention.cases import CASES, TOLERANCES, AttentionCase, make_inputs
from helium_jax.kernels.page_write import write_pages
from helium_jax.kernels.pages import allocate_pages
from helium_jax.kernels.pallas import tpu

FREE_GROUPS = CascadeCosts(block=0.0, page=0.0, row=0.0)
SUITED = [case for case in CASES if case.head_size % 64 == 0]
# One program costs seconds in the interpreter: the default run takes what differs most.
DEFAULT = {
    ("prefix tree", "bfloat16"),
    ("soft cap and window", "float32"),
    ("empty sequences", "float32"),
}


def case_and_dtype():
    for case in SUITED:
        for dtype in ("float32", "bfloat16"):
            marks = () if (case.name, dtype) in DEFAULT else (pytest.mark.slow,)
            yield pytest.param(case, dtype, id=f"{case.name}-{dtype}", marks=marks)


@pytest.fixture
def interpreter(capfd):
    """Runs TPU kernels on this machine; the test fails if two copies ever raced."""
    with tpu.force_tpu_interpret_mode(tpu.InterpretParams(detect_races=True)):
        yield
    assert "RACE DETECTED" not in "".join(capfd.readouterr()).upper()


def attend(case: AttentionCase, dtype: str, implementation: str):
    inputs = make_inputs(case, dtype, implementation="mosaic_tpu")
    layout = inputs.layout
    ints = np.full(layout.num_ints, -7, np.int32)
    pack_batch(
        layout,
        case.query_lens,
        case.kv_lens,
        inputs.page_tables,
        cascade=bool(case.shares),
        out=ints,
        costs=FREE_GROUPS,
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
    return np.asarray(out.astype(jnp.float32)), np.asarray(lse)


@pytest.mark.parametrize(("case", "dtype"), [*case_and_dtype()])
def test_agrees_with_the_reference_over_pools_full_of_nan(interpreter, case, dtype):
    out, lse = attend(case, dtype, "mosaic_tpu")
    expected_out, expected_lse = attend(case, dtype, "reference")
    absolute, relative = TOLERANCES[dtype]
    np.testing.assert_allclose(out, expected_out, atol=absolute, rtol=relative)
    np.testing.assert_allclose(lse, expected_lse, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float32", marks=pytest.mark.slow)])
def test_writes_what_the_scatter_writes_nan_included(interpreter, dtype):
    pages = allocate_pages(
        num_layers=2, num_pages=6, page_size=32, num_kv_heads=2, head_size=64,
        dtype=dtype, platform="tpu", order="joined",
    )  # fmt: skip
    pages = jax.tree.map(lambda pool: pool + 7, pages)
    slots = [[35], range(69, 96), range(128, 149), [-1, -1, 0, 6 * 32, 31]]
    slots = np.concatenate([np.asarray(part, np.int32) for part in slots])
    values = np.random.default_rng(0).standard_normal((2, len(slots), 2, 64)).astype(np.float32)
    values[:, 3] = np.nan

    def write(implementation):
        step = jax.jit(write_pages, static_argnums=1, static_argnames="implementation")
        after = step(pages, 1, *values, slots, implementation=implementation)
        return np.asarray(after.k.astype(jnp.float32))

    np.testing.assert_array_equal(write("mosaic_tpu"), write("xla"))


def refusal(**changes):
    options = dict(num_heads=4, num_kv_heads=2, head_size=64, page_size=16, dtype="float32")
    options |= changes
    case = AttentionCase(
        name="", query_lens=(1,), kv_lens=(1,),
        **{name: value for name, value in options.items() if name not in ("dtype", "order")},
    )  # fmt: skip
    implementation = "xla" if options.get("order") == "columns" else "mosaic_tpu"
    inputs = make_inputs(case, options["dtype"], implementation=implementation)
    batch = unpack_batch(inputs.layout, jnp.zeros(inputs.layout.num_ints, jnp.int32))
    with pytest.raises(NotImplementedError) as error:
        paged_attention(inputs.q, inputs.pages, 0, batch, scale=1.0, implementation="mosaic_tpu")
    return str(error.value)


def test_says_why_it_cannot():
    assert "head_size=80 is no multiple of 64" in refusal(head_size=80)
    assert "page_size=4 is no multiple of a tile's 8 rows" in refusal(page_size=4)
    assert "float16 is no dtype of a TPU's matrix unit" in refusal(dtype="float16")
    assert "pages are in the order 'columns'" in refusal(order="columns")


def test_refuses_tables_beyond_scalar_memory():
    inputs = make_inputs(SUITED[0], "float32", implementation="mosaic_tpu")
    layout = make_layout(
        num_tokens=256, num_seqs=256, pages_per_seq=1024, page_size=16,
        num_pages=inputs.pages.num_pages, target=None,
    )  # fmt: skip
    layout = dataclasses.replace(layout, max_parts=3)
    batch = unpack_batch(layout, jnp.zeros(layout.num_ints, jnp.int32))
    with pytest.raises(NotImplementedError, match="262144 ints do not fit into scalar memory"):
        paged_attention(
            jnp.zeros((256, 4, 64)), inputs.pages, 0, batch, scale=1.0, implementation="mosaic_tpu"
        )
