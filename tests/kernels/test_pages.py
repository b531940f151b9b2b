"""Pages: sizes, storage, writes in place, and a pool that a step never copies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helium_jax.kernels.attention import make_layout, paged_attention, unpack_batch
from helium_jax.kernels.page_write import write_pages
from helium_jax.kernels.pages import allocate_pages, from_storage, pages_bytes

SHAPE = dict(num_layers=3, num_pages=5, page_size=16, num_kv_heads=2, head_size=8)
DTYPES = ["float32", "bfloat16", "float16"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_pages_take_the_bytes_that_are_foretold(dtype):
    pages = allocate_pages(**SHAPE, dtype=dtype)
    assert pages.k.nbytes + pages.v.nbytes == pages_bytes(**SHAPE, dtype=dtype)
    assert (pages.num_layers, pages.num_pages, pages.page_size) == (3, 5, 16)
    assert (pages.num_kv_heads, pages.head_size, pages.dtype) == (2, 8, dtype)


def test_names_a_bad_count_and_dtype():
    with pytest.raises(ValueError, match="num_pages=0 must be at least 1"):
        allocate_pages(**{**SHAPE, "num_pages": 0}, dtype="float32")
    with pytest.raises(ValueError, match="dtype='int8' is not a KV dtype"):
        allocate_pages(**SHAPE, dtype="int8")


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


def test_names_the_argument_that_does_not_fit():
    pages = allocate_pages(**SHAPE, dtype="float32")
    k, slots = jnp.zeros((4, 2, 8)), jnp.zeros(4, jnp.int32)
    with pytest.raises(ValueError, match="layer=3 is not a layer"):
        write_pages(pages, 3, k, k, slots)
    with pytest.raises(ValueError, match=r"v has shape \(4, 2, 9\)"):
        write_pages(pages, 0, k, jnp.zeros((4, 2, 9)), slots)
    with pytest.raises(ValueError, match="slots is float32"):
        write_pages(pages, 0, k, k, jnp.zeros(4))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_donated_step_never_copies_the_pool(dtype):
    """Every layer writes and then reads; each layer's keys depend on the layer before."""
    num_layers, num_tokens = 4, 64
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

    q = jax.ShapeDtypeStruct((num_tokens, 4, 32), dtype)
    slots = jax.ShapeDtypeStruct((num_tokens,), jnp.int32)
    ints = jax.ShapeDtypeStruct((layout.num_ints,), jnp.int32)
    memory = (
        jax.jit(step, donate_argnums=0).lower(pages, q, slots, ints).compile().memory_analysis()
    )
    pool = pages.k.nbytes + pages.v.nbytes
    assert memory.alias_size_in_bytes >= pool
    assert memory.temp_size_in_bytes < pages.k.nbytes // num_layers
