"""Pages: sizes, storage, writes in place, and a pool that a step never copies."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helium_jax.kernels.attention import make_layout, paged_attention, unpack_batch
from helium_jax.kernels.page_write import write_pages
from helium_jax.kernels.pages import (
    allocate_pages,
    from_storage,
    gather_keys,
    gather_values,
    pages_bytes,
)

SHAPE = dict(num_layers=3, num_pages=5, page_size=16, num_kv_heads=2, head_size=8)
DTYPES = ["float32", "bfloat16", "float16"]
QUANTIZED = ["int8", "float8_e4m3fn"]


@pytest.mark.parametrize("order", ["columns", "rows", "joined"])
@pytest.mark.parametrize("dtype", DTYPES + QUANTIZED)
def test_pages_take_the_bytes_that_are_foretold(dtype, order):
    pages = allocate_pages(**SHAPE, dtype=dtype, order=order)
    assert pages.nbytes == pages_bytes(**SHAPE, dtype=dtype, order=order)
    assert (pages.num_layers, pages.num_pages, pages.page_size) == (3, 5, 16)
    assert (pages.num_kv_heads, pages.head_size, pages.dtype) == (2, 8, dtype)


def test_names_a_bad_count_and_dtype():
    with pytest.raises(ValueError, match="num_pages=0 must be at least 1"):
        allocate_pages(**{**SHAPE, "num_pages": 0}, dtype="float32")
    with pytest.raises(ValueError, match="dtype='int4' is not a KV dtype"):
        allocate_pages(**SHAPE, dtype="int4")
    with pytest.raises(ValueError, match="order='spiral' is unknown"):
        allocate_pages(**SHAPE, dtype="float32", order="spiral")


@pytest.mark.parametrize("dtype", DTYPES)
def test_writes_its_slots_and_nothing_else(dtype):
    rng = np.random.default_rng(0)
    slots = np.array([17, -1, 0, 5 * 16, 79, 2**31 - 1, -(2**31), 18], np.int32)
    k, v = rng.standard_normal((2, len(slots), 2, 8)).astype(np.float32)
    before = allocate_pages(**SHAPE, dtype=dtype)
    after = jax.jit(write_pages, static_argnums=1)(before, 1, k, v, slots)

    expected_k = np.zeros((3, 5, 2, 8, 16), np.float32)
    expected_v = np.zeros((3, 5, 2, 16, 8), np.float32)
    for i, slot in enumerate(slots):
        if 0 <= slot < 80:
            expected_k[1, slot // 16, :, :, slot % 16] = k[i]
            expected_v[1, slot // 16, :, slot % 16] = v[i]
    for pool, expected in ((after.k, expected_k), (after.v, expected_v)):
        rounded = jnp.asarray(expected).astype(dtype)
        np.testing.assert_array_equal(from_storage(pool, after), rounded)


@pytest.mark.parametrize("order", ["columns", "rows", "joined"])
@pytest.mark.parametrize(("dtype", "steps"), [("int8", 2 * 127), ("float8_e4m3fn", 16)])
def test_quantized_rows_come_back_within_half_a_step_of_their_largest(dtype, steps, order):
    rng = np.random.default_rng(0)
    scale = 10.0 ** rng.integers(-3, 4, (2, 20, 2, 1))
    k, v = (rng.standard_normal((2, 20, 2, 8)) * scale).astype(np.float32)
    k[3], v[4], k[5, 0] = 0.0, np.nan, np.inf
    slots = np.arange(30, 50, dtype=np.int32)
    pages = allocate_pages(**SHAPE, dtype=dtype, order=order)
    write = partial(write_pages, layer=1, implementation="xla")
    pages = jax.jit(write)(pages, k=k, v=v, slots=slots)
    table = jnp.arange(5, dtype=jnp.int32)
    keys = np.asarray(gather_keys(pages, 1, table)).transpose(0, 3, 1, 2).reshape(80, 2, 8)[30:50]
    values = np.asarray(gather_values(pages, 1, table)).transpose(0, 2, 1, 3).reshape(80, 2, 8)
    for read, written in ((keys, k), (values[30:50], v)):
        good = np.isfinite(written).all(-1, keepdims=True)
        assert not np.isfinite(read[~good[..., 0]]).all(-1).any()
        most = np.abs(np.where(good, written, 0)).max(-1, keepdims=True)
        assert (np.abs(read - written) <= most / steps + 1e-9)[
            np.broadcast_to(good, read.shape)
        ].all()


def test_names_the_argument_that_does_not_fit():
    pages = allocate_pages(**SHAPE, dtype="float32")
    k, slots = jnp.zeros((4, 2, 8)), jnp.zeros(4, jnp.int32)
    with pytest.raises(ValueError, match="layer=3 is not a layer"):
        write_pages(pages, 3, k, k, slots)
    with pytest.raises(ValueError, match=r"v has shape \(4, 2, 9\)"):
        write_pages(pages, 0, k, jnp.zeros((4, 2, 9)), slots)
    with pytest.raises(ValueError, match="k is in int8; expected a float dtype"):
        write_pages(pages, 0, k.astype("int8"), k, slots)
    with pytest.raises(ValueError, match="slots is float32"):
        write_pages(pages, 0, k, k, jnp.zeros(4))


@pytest.mark.parametrize(
    "dtype",
    [
        "float32",
        "bfloat16",  # stored as uint16
        "int8",
        pytest.param("float16", marks=pytest.mark.slow),  # stored as it is, as float32 is
        pytest.param("float8_e4m3fn", marks=pytest.mark.slow),  # as int8 is, with scales
    ],
)
def test_a_donated_step_never_copies_the_pool(full_compiler, dtype):
    """Every layer writes and then reads; each layer's keys depend on the layer before. The second
    reads another way, and the third is the first again.
    """
    num_layers, num_tokens = 3, 64
    pages = allocate_pages(
        num_layers=num_layers,
        num_pages=4096,
        page_size=16,
        num_kv_heads=2,
        head_size=32,
        dtype=dtype,
    )
    layout = make_layout(
        num_tokens=num_tokens, num_seqs=4, pages_per_seq=16, page_size=16, num_pages=4096
    )

    def step(pages, q, slots, ints):
        batch = unpack_batch(layout, ints)
        for layer in range(num_layers):
            pages = write_pages(pages, layer, q[:, :2], q[:, 2:], slots)
            window = 20 if layer % 2 else None
            q, _ = paged_attention(q, pages, layer, batch, scale=0.2, window=window)
        return pages, q

    q = jax.ShapeDtypeStruct((num_tokens, 4, 32), "float32" if dtype in QUANTIZED else dtype)
    slots = jax.ShapeDtypeStruct((num_tokens,), jnp.int32)
    ints = jax.ShapeDtypeStruct((layout.num_ints,), jnp.int32)
    memory = (
        jax.jit(step, donate_argnums=0).lower(pages, q, slots, ints).compile().memory_analysis()
    )
    assert memory.alias_size_in_bytes >= pages.nbytes
    assert memory.temp_size_in_bytes < pages.k.nbytes // num_layers
