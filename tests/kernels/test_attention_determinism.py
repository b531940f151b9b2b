"""Deterministic work: a row's bits are those of its own sequence, however the step is made up."""

import functools

import jax
import numpy as np
import pytest

from helium_jax.kernels.attention import make_layout, pack_batch, paged_attention, unpack_batch
from helium_jax.kernels.attention.cases import make_pages

KV_HEADS, HEAD_SIZE, PAGE_SIZE = 2, 64, 16
LENGTHS = (97, 300, 41, 97)


@pytest.fixture(scope="module", autouse=True)
def compiler():
    """Bits are promised of what the full compiler makes."""


class Sequences:
    """Four sequences with keys, values and queries at every position; the last equals the first."""

    def __init__(self, dtype: str, group: int, window: int | None):
        self.window = window
        rng = np.random.default_rng(3)
        counts = [-(-length // PAGE_SIZE) for length in LENGTHS]
        order = 1 + rng.permutation(sum(counts))
        splits = np.split(order, np.cumsum(counts)[:-1])
        self.tables = np.zeros((len(LENGTHS), max(counts)), np.int32)
        for s, ids in enumerate(splits):
            self.tables[s, : len(ids)] = ids
        shape = (2, 1, sum(counts) + 1, PAGE_SIZE, KV_HEADS, HEAD_SIZE)
        pool = rng.standard_normal(shape).astype(np.float32)
        pool[:, :, splits[3]] = pool[:, :, splits[0]]
        self.num_pages = shape[2]
        self.pages = make_pages(pool[0], pool[1], dtype)
        self.q = [
            rng.standard_normal((n, KV_HEADS * group, HEAD_SIZE)).astype(dtype) for n in LENGTHS
        ]
        self.q[3] = self.q[0]

    def attend(self, work: list[tuple[int, int, int]], num_tokens: int) -> list[np.ndarray]:
        """Rows [begin, end) of sequences in one step of a bucket: (sequence, begin, end)."""
        layout = make_layout(
            num_tokens=num_tokens,
            num_seqs=min(num_tokens, 8),
            pages_per_seq=self.tables.shape[1],
            page_size=PAGE_SIZE,
            num_pages=self.num_pages,
            deterministic=True,
        )
        ints = np.empty(layout.num_ints, np.int32)
        pack_batch(
            layout,
            [end - begin for _, begin, end in work],
            [end for _, _, end in work],
            self.tables[[s for s, _, _ in work]],
            cascade=False,
            out=ints,
        )
        rows = np.concatenate([self.q[s][begin:end] for s, begin, end in work])
        q = np.zeros((num_tokens, *rows.shape[1:]), rows.dtype)
        q[: len(rows)] = rows
        out, lse = compiled_step(layout, self.window)(q, self.pages, ints)
        both = np.concatenate([np.asarray(out).astype(np.float32), lse[..., None]], axis=-1)
        ends = np.cumsum([end - begin for _, begin, end in work])
        return np.split(both[: ends[-1]], ends[:-1])


@functools.cache
def compiled_step(layout, window):
    def step(q, pages, ints):
        batch = unpack_batch(layout, ints)
        return paged_attention(q, pages, 0, batch, scale=0.125, window=window)

    return jax.jit(step)


@pytest.mark.parametrize(
    ("dtype", "group", "window"),
    [
        ("float32", 1, None),
        pytest.param("float32", 3, None, marks=pytest.mark.slow),
        ("float32", 3, 50),
        ("bfloat16", 3, None),
    ],
)
def test_bits_do_not_depend_on_neighbours_chunks_or_bucket(dtype, group, window):
    sequences = Sequences(dtype, group, window)
    (whole,) = sequences.attend([(0, 0, 97)], 128)

    def check(work, num_tokens):
        for (s, begin, end), rows in zip(work, sequences.attend(work, num_tokens), strict=True):
            if s in (0, 3):
                np.testing.assert_array_equal(rows, whole[begin:end], err_msg=f"{work}")

    check([(0, 0, 50), (3, 50, 97)], 128)
    check([(1, 290, 300), (0, 0, 64), (2, 40, 41), (3, 64, 97)], 128)
    for begin, end in ((0, 13), (13, 32), (32, 64), (64, 96), (65, 97)):
        check([(0, begin, end)], 32)
    for position in (0, 15, 16, 40, 96):
        check([(0, position, position + 1)], 2)
        check([(1, 299, 300), (3, position, position + 1)], 2)
        check([(2, 17, 18), (1, 200, 201), (0, position, position + 1)], 8)
        check([(0, position, position + 1), (1, 100, 120)], 32)
