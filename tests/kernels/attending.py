"""One case of attention through one implementation, and cases that mix all features."""

import dataclasses
import functools
import itertools
import random
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from helium_jax.kernels.attention import pack_batch, paged_attention, unpack_batch
from helium_jax.kernels.attention.cascade import CascadeCosts
from helium_jax.kernels.attention.cases import CASES, AttentionCase, make_inputs

FREE_GROUPS = CascadeCosts(block=0.0, page=0.0, row=0.0)
BY_NAME = {case.name: case for case in CASES}

# What a mixed case is made of. "a on b": queries in a, pages in b.
FACTORS = {
    "step": (
        "ragged", "decode", "prefill", "chunk of a long context", "prefix tree", "much padding",
        "everything shared but one token", "one sequence of one token", "empty sequences",
        "nothing but padding",
    ),
    "heads": ((4, 2), (2, 2), (1, 1), (12, 4), (8, 1), (16, 1)),
    "head_size": (64, 20, 80, 96, 128, 256),
    "page_size": (16, 32, 64, 128),
    "window": (None, 1, 24, 1000),
    "soft_cap": (None, 2.0, 30.0),
    "scale": (None, 0.7),
    "dtypes": (
        "float32", "bfloat16", "float16", "float32 on int8", "float32 on float8_e4m3fn",
        "bfloat16 on int8",
    ),
    "work": ("flat", "groups", "deterministic"),
}  # fmt: skip


def attend(
    case: AttentionCase,
    dtypes: str,
    implementation: str,
    *,
    packed_for: str = "xla",
    work: str = "flat",
) -> tuple[np.ndarray, np.ndarray]:
    """Output and log-sum-exp of one case as float32, over a pool full of NaN.

    `packed_for` is the implementation that pages and lists are made for; `work` says whether
    prefixes are read in groups, or everything in deterministic layouts.
    """
    dtype, _, kv_dtype = dtypes.partition(" on ")
    inputs = make_inputs(case, dtype, implementation=packed_for, kv_dtype=kv_dtype or None)
    layout = dataclasses.replace(inputs.layout, deterministic=work == "deterministic")
    ints = np.full(layout.num_ints, -7, np.int32)
    pack_batch(
        layout,
        case.query_lens,
        case.kv_lens,
        inputs.page_tables,
        cascade=work == "groups",
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

    out, lse = jax.block_until_ready(step(inputs.q, inputs.pages, ints))
    assert out.shape == inputs.q.shape
    assert out.dtype == dtype
    assert lse.dtype == jnp.float32
    return np.asarray(out.astype(jnp.float32)), np.asarray(lse)


@functools.cache
def expect(case: AttentionCase, dtypes: str) -> tuple[np.ndarray, np.ndarray]:
    """What the reference gives."""
    return attend(case, dtypes, "reference")


def mixed_cases(count: int) -> Iterator[tuple[AttentionCase, str, str]]:
    """(case, dtypes, work): each drawn from some hundred random mixtures as the one that holds most
    pairs of two factors' values which none before it held.
    """
    drawn = random.Random(0)
    seen: set[tuple] = set()
    for _ in range(count):
        options = [
            {name: drawn.choice(values) for name, values in FACTORS.items()} for _ in range(300)
        ]
        best = max(options, key=lambda option: len(pairs_of(option) - seen))
        seen |= pairs_of(best)
        yield _build(best), best["dtypes"], best["work"]


def pairs_of(option: dict) -> set[tuple]:
    """Every two factors with their values."""
    return set(itertools.combinations(option.items(), 2))


def _build(option: dict) -> AttentionCase:
    step, size = BY_NAME[option["step"]], option["page_size"]
    num_heads, num_kv_heads = option["heads"]
    kv_lens = step.kv_lens
    if step.shares:  # the same pages are shared, whatever their size
        kv_lens = tuple(length * size // step.page_size for length in kv_lens)
    mixture = {name: option[name] for name in ("window", "soft_cap", "scale") if option[name]}
    words = [step.name, f"{num_heads} on {num_kv_heads} heads of {option['head_size']}"]
    words += [f"page {size}", *(f"{name} {value}" for name, value in mixture.items())]
    return dataclasses.replace(
        step,
        name=", ".join(words),
        kv_lens=kv_lens,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_size=option["head_size"],
        page_size=size,
        **mixture,
    )
