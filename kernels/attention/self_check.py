"""Whether a kernel may be trusted on a device: a few small steps of it beside XLA's own path.

Kernels are proven in interpreters and by compilers; a new chip, driver or compiler may still do
otherwise. An engine therefore runs this once before it allocates its pool, with its own heads,
dtypes, page size, windows and soft cap, and takes XLA's path where anything differs. A kernel that
never returns, or that breaks the device for its process, cannot be survived from within.
"""

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from helium_jax.kernels.attention.api import paged_attention
from helium_jax.kernels.attention.cascade import CascadeCosts
from helium_jax.kernels.attention.cases import TOLERANCES, AttentionCase, make_inputs
from helium_jax.kernels.attention.layout import AttentionLayout, make_layout, unpack_batch
from helium_jax.kernels.attention.pack import pack_batch
from helium_jax.kernels.attention.tuning import Target
from helium_jax.kernels.page_write import write_pages
from helium_jax.kernels.pages import KVPages

# Implementations that are checked; the others are what they are checked against.
KERNELS = frozenset({"mosaic_tpu", "mosaic_gpu"})

# Fast exponentials and logarithms of accelerators, over a few hundred keys.
_LSE_TOLERANCE = 2e-3
_ALWAYS = CascadeCosts(block=0.0, page=0.0, row=0.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CheckedShape:
    """What an engine will ask of a kernel, beside the heads that its `Target` names.

    Attributes:
        dtype: of activations.
        kv_dtype: of the pages.
        head_size: H.
        page_size: B.
        windows: one of each kind that a layer has; None is no window.
        soft_cap: as in `paged_attention`.
        deterministic: of the layouts.
    """

    dtype: str
    kv_dtype: str
    head_size: int
    page_size: int
    windows: tuple[int | None, ...] = (None,)
    soft_cap: float | None = None
    deterministic: bool = False


def find_fault(target: Target, shape: CheckedShape) -> str | None:
    """What a kernel does wrong on the default device, in one sentence; None if nothing was found.

    Pages are full of NaN wherever no sequence has a token. Takes seconds, most of them compiling.
    """
    if target.implementation not in KERNELS:
        return None
    try:
        return next(_faults(target, shape), None)
    except Exception as error:  # whatever a compiler or a device says, XLA's path is left
        text = " ".join(str(error).split())
        return f"it failed with {type(error).__name__}: {text[:300]}"


def _faults(target: Target, shape: CheckedShape) -> Iterator[str]:
    """Every difference, cheapest check first."""
    size = shape.page_size
    case = AttentionCase(
        name="self-check",
        query_lens=(1,) * 5,
        kv_lens=(3 * size + 5, 3 * size + 1, 2 * size + size // 2, 1, 70),
        shares=((1, 0, 3), (2, 0, 2)),
        num_heads=target.num_heads,
        num_kv_heads=target.num_kv_heads,
        head_size=shape.head_size,
        page_size=size,
        num_padding=140,
    )
    # The queries serve every step: a step takes as many of them as its bucket has rows.
    inputs = make_inputs(
        case, shape.dtype, implementation=target.implementation, kv_dtype=shape.kv_dtype
    )
    yield from _write_faults(inputs.pages, target.implementation)
    steps = (
        ("decode", 8, (1, 1, 1, 1, 1), False),
        ("decode with a shared prefix", 8, (1, 1, 1, 1, 1), True),
        ("a chunk beside decode", 136, (1, 37, 0, 1, 70), False),
        ("a chunk with a shared prefix", 136, (9, 1, 1, 0, 70), True),
    )
    for window in dict.fromkeys(shape.windows):
        compiled: dict[tuple[AttentionLayout, str], Any] = {}
        for name, num_tokens, query_lens, cascade in steps:
            if cascade and shape.deterministic:
                continue
            layout = make_layout(
                num_tokens=num_tokens,
                num_seqs=8,
                pages_per_seq=inputs.page_tables.shape[1],
                page_size=size,
                num_pages=inputs.pages.num_pages,
                deterministic=shape.deterministic,
                target=target,
            )
            ints = np.empty(layout.num_ints, np.int32)
            pack_batch(
                layout, query_lens, case.kv_lens, inputs.page_tables,
                cascade=cascade, out=ints, costs=_ALWAYS,
            )  # fmt: skip
            results = []
            for implementation in (target.implementation, "xla"):
                key = (layout, implementation)
                if key not in compiled:
                    compiled[key] = _make_step(
                        layout, implementation, window, shape.soft_cap, inputs.scale
                    )
                out, lse = compiled[key](inputs.q[:num_tokens], inputs.pages, ints)
                results.append((np.asarray(out.astype(jnp.float32)), np.asarray(lse)))
            of_window = "" if window is None else f", window {window}"
            for fault in _compare(results[0], results[1], shape.dtype, sum(query_lens)):
                yield f"{name}{of_window}: {fault}"


def _make_step(
    layout: AttentionLayout,
    implementation: str,
    window: int | None,
    soft_cap: float | None,
    scale: float,
) -> Any:
    @jax.jit
    def step(q: jax.Array, pages: KVPages, ints: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Accelerators would multiply float32 in fewer bits.
        with jax.default_matmul_precision("highest"):
            return paged_attention(
                q, pages, pages.num_layers - 1, unpack_batch(layout, ints), scale=scale,
                window=window, soft_cap=soft_cap, implementation=implementation,
            )  # fmt: skip

    return step


def _compare(
    ours: tuple[np.ndarray, np.ndarray],
    expected: tuple[np.ndarray, np.ndarray],
    dtype: str,
    num_rows: int,
) -> Iterator[str]:
    """Differences of the output [T, N, H] and of the log-sum-exp [T, N]."""
    absolute, relative = TOLERANCES[dtype]
    bounds = (
        ("output", 2 * absolute, 2 * relative),  # parts are rounded before they are merged
        ("log-sum-exp", _LSE_TOLERANCE, _LSE_TOLERANCE),
    )
    for (name, atol, rtol), one, other in zip(bounds, ours, expected, strict=True):
        padding = one[num_rows:]
        if not (padding == (0.0 if name == "output" else -np.inf)).all():
            yield f"the {name} of padding rows is not empty"
        one, other = one[:num_rows], other[:num_rows]
        if not np.isfinite(one).all():
            yield f"{(~np.isfinite(one)).sum()} of {one.size} numbers of the {name} are not finite"
        elif not np.allclose(one, other, atol=atol, rtol=rtol):
            most = np.abs(one - other).max()
            yield f"the {name} differs from XLA's by up to {most:.2g}, {atol:.2g} is allowed"


def _write_faults(pages: KVPages, implementation: str) -> Iterator[str]:
    """Whether new rows land in their slots and nothing else changes, to the bit."""
    size = pages.page_size
    # A run over three pages, padding, a lone row, and rows that must be written nowhere.
    slots = np.array([*range(2 * size - 3, 3 * size + 2), -1, 3, pages.num_pages * size], np.int32)
    shape = (2, len(slots), pages.num_kv_heads, pages.head_size)
    k, v = np.random.default_rng(1).standard_normal(shape).astype(np.float32)

    def write(implementation: str) -> list[jax.Array]:
        step = partial(write_pages, layer=1, implementation=implementation)
        return jax.tree.leaves(jax.jit(step)(pages, k=k, v=v, slots=slots))

    ours, expected = write(implementation), write("xla")
    for one, other in zip(ours, expected, strict=True):
        one, other = (np.asarray(x.astype(jnp.float32)) for x in (one, other))
        if not np.array_equal(one, other, equal_nan=True):
            yield "page writes differ from XLA's"
            return
