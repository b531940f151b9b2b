"""The table of attention cases that the parity test and the benchmark share, and their inputs."""

import math
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from helium_jax.kernels.attention.choose import ORDERS
from helium_jax.kernels.attention.layout import AttentionLayout, make_layout
from helium_jax.kernels.attention.tuning import Target
from helium_jax.kernels.pages import (
    QUANTIZED,
    KVPages,
    allocate_pages,
    pad_head,
    quantize,
    to_storage,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionCase:
    """One ragged step.

    Attributes:
        name: unique in its table.
        query_lens: new tokens of each sequence.
        kv_lens: tokens of each sequence, the new ones included.
        shares: (sequence, earlier sequence, pages): equal leading page ids.
        num_heads: N.
        num_kv_heads: K.
        head_size: H.
        page_size: B.
        window: as in `paged_attention`.
        soft_cap: as in `paged_attention`.
        scale: as in `paged_attention`; None is 1 / sqrt(H).
        num_padding: rows of the token axis beyond the sequences'.
        num_layers: L; attention reads the last one.
    """

    name: str
    query_lens: tuple[int, ...]
    kv_lens: tuple[int, ...]
    shares: tuple[tuple[int, int, int], ...] = ()
    num_heads: int = 4
    num_kv_heads: int = 2
    head_size: int = 64
    page_size: int = 16
    window: int | None = None
    soft_cap: float | None = None
    scale: float | None = None
    num_padding: int = 1
    num_layers: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseInputs:
    """What `pack_batch` and `paged_attention` take, for one case and dtype.

    Attributes:
        q: [T, N, H].
        pages: NaN everywhere but in the tokens that sequences own.
        page_tables: int32 [S, C]; page 0 belongs to nobody.
        layout: with default tuning.
        scale: of the scores.
    """

    q: jax.Array
    pages: KVPages
    page_tables: np.ndarray
    layout: AttentionLayout
    scale: float


# A few, so that a worker of a GPU layout has several items and a piece several workers.
NUM_CORES = 4

_RAGGED = AttentionCase(name="ragged", query_lens=(1, 7, 1, 33, 1), kv_lens=(17, 40, 1, 33, 70))
_DECODE = AttentionCase(name="decode", query_lens=(1, 1, 1, 1), kv_lens=(5, 64, 33, 100))
_TREE = AttentionCase(
    name="prefix tree",
    query_lens=(1, 1, 1, 5, 1, 1),
    kv_lens=(90, 81, 100, 70, 49, 30),
    shares=((1, 0, 5), (2, 0, 3), (3, 0, 3), (4, 0, 1)),
)

_EMPTY = AttentionCase(
    name="empty sequences", query_lens=(0, 3, 0, 1, 0), kv_lens=(0, 20, 35, 9, 16)
)

CASES = (
    _RAGGED,
    _DECODE,
    AttentionCase(name="prefill", query_lens=(70,), kv_lens=(70,), num_padding=0),
    AttentionCase(name="chunk of a long context", query_lens=(40, 24), kv_lens=(300, 530)),
    _TREE,
    replace(_TREE, name="prefix tree, window", window=20),
    AttentionCase(
        name="everything shared but one token",
        query_lens=(1,) * 6,
        kv_lens=(65,) * 6,
        shares=tuple((s, 0, 4) for s in range(1, 6)),
    ),
    AttentionCase(name="one sequence of one token", query_lens=(1,), kv_lens=(1,)),
    _EMPTY,
    replace(_EMPTY, name="empty sequences, soft cap and window", soft_cap=30.0, window=9),
    AttentionCase(name="nothing but padding", query_lens=(), kv_lens=(), num_padding=4),
    replace(_DECODE, name="much padding", num_padding=28),
    replace(_RAGGED, name="window 1", window=1),
    replace(_RAGGED, name="window 24", window=24),
    replace(_RAGGED, name="window beyond the context", window=1000),
    AttentionCase(name="window, long context", query_lens=(1, 40), kv_lens=(700, 650), window=130),
    replace(_RAGGED, name="soft cap", soft_cap=2.0),
    replace(_RAGGED, name="soft cap and window", soft_cap=30.0, window=24),
    replace(_RAGGED, name="scale", scale=0.7),
    replace(_RAGGED, name="one query head a KV head", num_heads=2, num_kv_heads=2),
    replace(_RAGGED, name="one head", num_heads=1, num_kv_heads=1),
    replace(_RAGGED, name="3 query heads a KV head", num_heads=12, num_kv_heads=4),
    replace(_RAGGED, name="8 query heads a KV head", num_heads=8, num_kv_heads=1),
    replace(_RAGGED, name="16 query heads a KV head", num_heads=16, num_kv_heads=1),
    replace(_RAGGED, name="head size 20", head_size=20),
    replace(_RAGGED, name="head size 80", head_size=80),
    replace(_RAGGED, name="head size 96", head_size=96),
    replace(_RAGGED, name="head size 128", head_size=128),
    replace(_RAGGED, name="head size 256", head_size=256),
    replace(_RAGGED, name="page size 32", page_size=32),
    replace(_RAGGED, name="page size 64", page_size=64),
    replace(_RAGGED, name="page size 128", page_size=128),
)

# Largest allowed difference from the reference, by dtype of queries and pages: (absolute,
# relative). Accumulation is float32 everywhere, so low precision is that of the output alone.
TOLERANCES = {
    "float32": (2e-5, 2e-5),
    "bfloat16": (1e-2, 1e-2),
    "float16": (2e-3, 2e-3),
}


def fit_pages(case: AttentionCase, dtypes: str) -> AttentionCase:
    """The case with pages that kernels read in "a on b", queries in a and pages in b: of 8 bits, a
    TPU's tile has 32 rows, and 32 scales are the least that a GPU copies.
    """
    if " on " in dtypes and case.page_size < 32:
        return replace(case, page_size=32)
    return case


def make_inputs(
    case: AttentionCase,
    dtype: str,
    seed: int = 0,
    *,
    implementation: str = "xla",
    kv_dtype: str | None = None,
) -> CaseInputs:
    """Random queries and pages; every element of the pool that no sequence owns is NaN.

    Pages and layout are those of `implementation`; the values are the same for all. Pages are in
    `kv_dtype`, by default that of the queries.
    """
    rng = np.random.default_rng(seed)
    size = case.page_size
    counts = [math.ceil(n / size) for n in case.kv_lens]
    columns = max([1, *counts])
    tables = np.zeros((len(counts), columns), np.int32)
    free = 1 + rng.permutation(sum(counts) + 2).astype(np.int32)
    used = 0
    for s, count in enumerate(counts):
        tables[s, :count] = free[used : used + count]
        used += count
    for s, other, shared in case.shares:
        tables[s, :shared] = tables[other, :shared]
    num_pages = len(free) + 1

    owned = np.zeros((num_pages, size), bool)
    for table, length in zip(tables, case.kv_lens, strict=True):
        positions = np.arange(length)
        owned[table[positions // size], positions % size] = True
    values = rng.standard_normal((2, num_pages, size, case.num_kv_heads, case.head_size))
    values[:, ~owned] = np.nan
    layers = np.full((case.num_layers, *values.shape), np.nan, np.float32)
    layers[-1] = values
    order = ORDERS[implementation]
    pages = make_pages(layers[:, 0], layers[:, 1], kv_dtype or dtype, order=order)

    num_tokens = max(2, sum(case.query_lens) + case.num_padding)
    q = rng.standard_normal((num_tokens, case.num_heads, case.head_size)).astype(np.float32)
    return CaseInputs(
        q=jnp.asarray(q.astype(dtype)),
        pages=pages,
        page_tables=tables,
        layout=make_layout(
            num_tokens=num_tokens,
            num_seqs=max(1, len(counts)),
            pages_per_seq=columns,
            page_size=size,
            num_pages=num_pages,
            target=Target(
                implementation=implementation,
                num_heads=case.num_heads,
                num_kv_heads=case.num_kv_heads,
                head_size=case.head_size,
                num_cores=NUM_CORES,
            ),
        ),
        scale=case.head_size**-0.5 if case.scale is None else case.scale,
    )


@partial(jax.jit, static_argnames=("dtype", "order"))
def make_pages(k: jax.Array, v: jax.Array, dtype: str, *, order: str = "columns") -> KVPages:
    """Pages from token-major float arrays [L, P, B, K, H]; as on a CPU in the order "columns", as
    on the kernels' own devices in the others.
    """
    shape = dict(zip(("num_layers", "num_pages", "page_size", "num_kv_heads", "head_size"),
                     k.shape, strict=True))  # fmt: skip
    platform = "cpu" if order == "columns" else "tpu"
    pages = allocate_pages(**shape, dtype=dtype, platform=platform, order=order)
    keys, values = (x.transpose(0, 1, 3, 2, 4) for x in (k, v))  # [L, P, K, B, H]
    scales = None
    if dtype in QUANTIZED:
        (keys, of_keys), (values, of_values) = quantize(keys, dtype), quantize(values, dtype)
        scales = jnp.concatenate([of_keys, of_values], axis=2)  # [L, P, 2 K, B]
        assert pages.scales is not None
        room = pages.scales.shape[3] - pages.page_size
        scales = jnp.pad(scales, ((0, 0),) * 3 + ((0, room),), constant_values=jnp.nan)
    keys, values = (to_storage(pad_head(x, pages), pages) for x in (keys, values))
    if order == "joined":
        keys = jnp.concatenate([keys, values], axis=-1)
        return replace(pages, k=keys, scales=scales)
    if order == "columns":
        keys = keys.swapaxes(3, 4)
    return replace(pages, k=keys, v=values, scales=scales)
