"""The programs that must compile for every chip: kernels alone, and whole steps of an engine."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from aot_targets import Chip

from helium_jax.engine.packing import step_layout
from helium_jax.engine.sampling_state import allocate_sampling_state
from helium_jax.engine.step import run_step
from helium_jax.kernels.attention import (
    ORDERS,
    Target,
    choose_implementation,
    make_layout,
    paged_attention,
    unpack_batch,
)
from helium_jax.kernels.page_write import write_pages
from helium_jax.kernels.pages import KVPages, allocate_pages
from helium_jax.models.config import ModelConfig
from helium_jax.models.params import param_shapes
from helium_jax.models.shapes import random_config

Shape = jax.ShapeDtypeStruct
# Enough for any pool copy to be seen: layers are unrolled and alike.
STEP_LAYERS = 4
TINY_LAYERS = 2
# 1 GiB a layer of 8 heads of 128: well above what a step may need beside it.
POOL_TOKENS = 256 * 1024


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Compilable:
    """One program for one chip.

    Attributes:
        function: of `arguments` in order; the pages, argument `pages_at`, are donated.
        arguments: ShapeDtypeStructs.
        donated: numbers of donated arguments.
        pool_bytes: of the pages.
        implementation: of attention.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    donated: tuple[int, ...]
    pool_bytes: int
    implementation: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KernelShape:
    """One layer's attention: N, K, H, B, T, S, C and the dtype."""

    num_heads: int = 32
    num_kv_heads: int = 8
    head_size: int = 128
    page_size: int = 64
    num_tokens: int = 64
    num_seqs: int = 64
    pages_per_seq: int = 128
    dtype: str = "bfloat16"
    kv_dtype: str = "bfloat16"
    window: int | None = None
    soft_cap: float | None = None


KERNELS = {
    "decode": KernelShape(),
    "decode-window": KernelShape(window=1024, soft_cap=50.0),
    "decode-head64": KernelShape(num_heads=14, num_kv_heads=2, head_size=64, page_size=128),
    "decode-page16": KernelShape(page_size=16, num_heads=8, num_kv_heads=8),
    "chunk": KernelShape(num_tokens=2048, num_seqs=256),
    "chunk-float16": KernelShape(num_tokens=512, num_seqs=64, dtype="float16", kv_dtype="float16"),
    "chunk-float32": KernelShape(num_tokens=512, num_seqs=64, dtype="float32", kv_dtype="float32"),
    "decode-head80": KernelShape(head_size=80),
    "decode-head96": KernelShape(head_size=96, num_heads=16, num_kv_heads=16),
    "decode-head256": KernelShape(head_size=256, num_heads=8, num_kv_heads=4),
    "chunk-head256": KernelShape(
        head_size=256, num_heads=8, num_kv_heads=4, num_tokens=512, num_seqs=64
    ),
    "decode-int8": KernelShape(kv_dtype="int8"),
    "chunk-int8": KernelShape(kv_dtype="int8", num_tokens=512, num_seqs=64),
    "decode-fp8": KernelShape(kv_dtype="float8_e4m3fn"),
    "chunk-fp8": KernelShape(kv_dtype="float8_e4m3fn", num_tokens=512, num_seqs=64),
}
STEPS = {
    "step-tiny-decode": ("tiny", 8, 8, 256),
    "step-tiny-chunk": ("tiny", 64, 8, 256),
    "step-tiny-int8": ("tiny", 64, 8, 256),
    "step-8b-decode": ("qwen3-8b", 128, 128, 8192),
    "step-8b-chunk": ("qwen3-8b", 2048, 256, 8192),
}


# Every kernel and a whole step of decode and of prefill: what `--small` compiles for every chip.
# Where XLA's path is taken the steps hold all there is.
SMALL = ("step/tiny-decode", "step/tiny-chunk")
SMALL_KERNELS = (
    "attention/decode-window",
    "attention/chunk",
    "attention/chunk-head256",
    "attention/decode-int8",
    "page_write/chunk",
    "page_write/chunk-int8",
)


def is_small(name: str, implementation: str) -> bool:
    """Whether a program belongs to the part that a change must pass."""
    return name in SMALL or (name in SMALL_KERNELS and implementation != "xla")


def make_programs() -> dict[str, Callable[[Chip], Compilable]]:
    """Every program by name, as a function of the chip: its layouts differ."""
    programs: dict[str, Callable[[Chip], Compilable]] = {}
    for name, shape in KERNELS.items():
        programs[f"attention/{name}"] = partial(_attention, shape)
    programs["page_write/decode"] = partial(_page_write, KernelShape())
    programs["page_write/chunk"] = partial(_page_write, KERNELS["chunk"])
    programs["page_write/chunk-int8"] = partial(_page_write, KERNELS["chunk-int8"])
    for name, (model, num_tokens, num_seqs, max_model_len) in STEPS.items():
        config = _tiny_config() if model == "tiny" else random_config(model)
        num_layers = TINY_LAYERS if model == "tiny" else STEP_LAYERS
        config = dataclasses.replace(
            config, num_layers=num_layers, windows=config.windows[:num_layers]
        )
        kv_dtype = "int8" if name.endswith("int8") else config.dtype
        programs[f"step/{name.removeprefix('step-')}"] = partial(
            _step, config, kv_dtype, num_tokens, num_seqs, max_model_len
        )
    return programs


def _target(chip: Chip, shape: KernelShape) -> Target:
    name, _ = choose_implementation(
        chip.platform,
        dtype=shape.dtype,
        kv_dtype=shape.kv_dtype,
        head_size=shape.head_size,
        page_size=shape.page_size,
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        compute_capability=chip.capability or None,
    )
    return Target(
        implementation=name,
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        head_size=shape.head_size,
        num_cores=chip.cores,
    )


def _pages(chip: Chip, shape: KernelShape, num_layers: int, num_pages: int) -> KVPages:
    return jax.eval_shape(
        partial(
            allocate_pages,
            num_layers=num_layers,
            num_pages=num_pages,
            page_size=shape.page_size,
            num_kv_heads=shape.num_kv_heads,
            head_size=shape.head_size,
            dtype=shape.kv_dtype,
            platform=chip.platform,
            order=ORDERS[_target(chip, shape).implementation],
        )
    )


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _attention(shape: KernelShape, chip: Chip) -> Compilable:
    """One layer's attention, over the second layer of two."""
    target = _target(chip, shape)
    pages = _pages(chip, shape, 2, POOL_TOKENS // shape.page_size)
    layout = make_layout(
        num_tokens=shape.num_tokens,
        num_seqs=shape.num_seqs,
        pages_per_seq=shape.pages_per_seq,
        page_size=shape.page_size,
        num_pages=pages.num_pages,
        target=target,
    )

    def attend(q: jax.Array, pages: KVPages, ints: jax.Array) -> jax.Array:
        batch = unpack_batch(layout, ints)
        return paged_attention(
            q,
            pages,
            1,
            batch,
            scale=shape.head_size**-0.5,
            window=shape.window,
            soft_cap=shape.soft_cap,
            implementation=target.implementation,
        )[0]

    q = Shape((shape.num_tokens, shape.num_heads, shape.head_size), shape.dtype)
    return Compilable(
        function=attend,
        arguments=(q, pages, Shape((layout.num_ints,), jnp.int32)),
        donated=(),
        pool_bytes=_bytes(pages),
        implementation=target.implementation,
    )


def _page_write(shape: KernelShape, chip: Chip) -> Compilable:
    """All layers' writes, each of which must be in place."""
    target = _target(chip, shape)
    pages = _pages(chip, shape, STEP_LAYERS, POOL_TOKENS // shape.page_size)

    def write(pages: KVPages, k: jax.Array, v: jax.Array, slots: jax.Array) -> KVPages:
        for layer in range(STEP_LAYERS):
            pages = write_pages(
                pages, layer, k + layer, v, slots, implementation=target.implementation
            )
        return pages

    new = Shape((shape.num_tokens, shape.num_kv_heads, shape.head_size), shape.dtype)
    return Compilable(
        function=write,
        arguments=(pages, new, new, Shape((shape.num_tokens,), jnp.int32)),
        donated=(0,),
        pool_bytes=_bytes(pages),
        implementation=target.implementation,
    )


def _step(
    config: ModelConfig,
    kv_dtype: str,
    num_tokens: int,
    num_seqs: int,
    max_model_len: int,
    chip: Chip,
) -> Compilable:
    """A whole step of the engine, as its runner compiles it."""
    shape = KernelShape(
        num_heads=config.num_q_heads,
        num_kv_heads=config.num_kv_heads,
        head_size=config.head_size,
        dtype=config.dtype,
        kv_dtype=kv_dtype,
    )
    target = _target(chip, shape)
    pages = _pages(chip, shape, config.num_layers, POOL_TOKENS // shape.page_size)
    layout = step_layout(
        num_tokens=num_tokens,
        max_num_seqs=num_seqs,
        max_model_len=max_model_len,
        page_size=shape.page_size,
        num_pages=pages.num_pages,
        deterministic=False,
        target=target,
    )
    state = jax.eval_shape(partial(allocate_sampling_state, num_seqs, max_model_len))
    step = partial(run_step, config=config, layout=layout)
    return Compilable(
        function=step,
        arguments=(
            param_shapes(config, jnp.dtype(config.dtype)),
            pages,
            state,
            Shape((layout.num_ints,), jnp.int32),
        ),
        donated=(1, 2),
        pool_bytes=_bytes(pages),
        implementation=target.implementation,
    )


def _tiny_config() -> ModelConfig:
    """Small in every direction, in bfloat16 with heads that the kernels take."""
    return dataclasses.replace(
        random_config("qwen3-0.6b"),
        vocab_size=512,
        width=128,
        num_q_heads=4,
        num_kv_heads=2,
        head_size=64,
        query_scale=64**-0.5,
        ffn_width=256,
        max_position=4096,
    )
