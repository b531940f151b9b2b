"""Times paged attention over the shapes that decide a step, against the machine's own ceilings.

One JSON line per case and implementation, rounds interleaved so that a busy machine slows all of
them alike: `python bench/bench_attention.py --rounds 10`. Parity is the tests' affair; the cases
here are those of `helium_jax.kernels.attention.cases`, in the shape of a 110 M parameter model.
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from helium_jax.kernels.attention import make_layout, pack_batch, paged_attention, unpack_batch
from helium_jax.kernels.attention.cases import AttentionCase, CaseInputs, make_inputs
from helium_jax.kernels.pages import KVPages


def case_of(
    name: str,
    query_lens: tuple[int, ...],
    kv_lens: tuple[int, ...],
    shares: tuple[tuple[int, int, int], ...] = (),
) -> AttentionCase:
    """One layer of a 110 M parameter model."""
    return AttentionCase(
        name=name,
        query_lens=query_lens,
        kv_lens=kv_lens,
        shares=shares,
        num_heads=12,
        num_kv_heads=4,
        head_size=64,
        page_size=32,
        num_layers=1,
        num_padding=0,
    )


def decode(name: str, batch: int, context: int, shared: int = 0) -> AttentionCase:
    """`batch` sequences of `context` tokens whose first `shared` are common."""
    shares = tuple((s, 0, shared // 32) for s in range(1, batch)) if shared else ()
    return case_of(name, (1,) * batch, (context,) * batch, shares)


CASES = (
    decode("decode 1 x 300", 1, 300),
    decode("decode 1 x 1000", 1, 1000),
    decode("decode 8 x 300", 8, 300),
    decode("decode 8 x 1000", 8, 1000),
    decode("decode 32 x 300", 32, 300),
    decode("decode 32 x 1000", 32, 1000),
    decode("decode 32 x (192 + 64)", 32, 256, 192),
    decode("decode 8 x (1024 + 64)", 8, 1088, 1024),
    decode("decode 32 x (1024 + 64)", 32, 1088, 1024),
    case_of("prefill 512", (512,), (512,)),
    case_of("prefill 8 x 64", (64,) * 8, (64,) * 8),
    case_of("prefill 512 at 2048", (512,), (2048,)),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One thing to time: call runs it once and blocks; ms gathers its rounds."""

    case: str
    implementation: str
    call: Callable[[], object]
    fields: dict[str, float | int]
    ms: list[float]


def attention(
    case: AttentionCase,
    inputs: CaseInputs,
    *,
    implementation: str,
    cascade: bool,
    deterministic: bool,
) -> Timed:
    """One layer's attention; the packing of the step is timed once, apart."""
    layout = make_layout(
        num_tokens=inputs.layout.num_tokens,
        num_seqs=inputs.layout.num_seqs,
        pages_per_seq=64,
        page_size=case.page_size,
        num_pages=inputs.layout.num_pages,
        deterministic=deterministic,
    )
    ints = np.empty(layout.num_ints, np.int32)

    def pack() -> None:
        pack_batch(
            layout, case.query_lens, case.kv_lens, inputs.page_tables, cascade=cascade, out=ints
        )

    pack()
    start = time.perf_counter()
    for _ in range(20):
        pack()
    pack_us = (time.perf_counter() - start) / 20 * 1e6

    def step(q: jax.Array, pages: KVPages, ints: jax.Array) -> jax.Array:
        batch = unpack_batch(layout, ints)
        return paged_attention(
            q, pages, 0, batch, scale=inputs.scale, implementation=implementation
        )[0]

    start = time.perf_counter()
    compiled = jax.jit(step).lower(inputs.q, inputs.pages, ints).compile()
    compile_s = time.perf_counter() - start
    device_ints = jnp.asarray(ints)
    label = implementation + ("+cascade" if cascade else "") + ("+deterministic" * deterministic)
    return Timed(
        case=case.name,
        implementation=label,
        call=lambda: compiled(inputs.q, inputs.pages, device_ints).block_until_ready(),
        fields=dict(pack_us=round(pack_us, 1), compile_s=round(compile_s, 2)),
        ms=[],
    )


def floors(case: AttentionCase, dtype: str) -> list[Timed]:
    """Reading the distinct KV bytes once, and the case's products at the matrix rate."""
    tokens = sum(case.kv_lens) - sum(pages * case.page_size for _, _, pages in case.shares)
    elements = 2 * tokens * case.num_kv_heads * case.head_size
    kv = jnp.ones((max(elements // 1024, 1), 1024), dtype)
    read = jax.jit(lambda x: x.astype(jnp.float32).sum(axis=1)).lower(kv).compile()
    pairs = sum(
        new * (length - new) + new * (new + 1) / 2
        for new, length in zip(case.query_lens, case.kv_lens, strict=True)
    )
    flops = 4 * pairs * case.num_heads * case.head_size
    rows = max(int(flops / (2 * 1024 * 1024)), 1)
    left, right = jnp.ones((rows, 1024)), jnp.ones((1024, 1024))
    product = jax.jit(lambda a, b: a @ b.T).lower(left, right).compile()
    return [
        Timed(case=case.name, implementation="floor:bytes", fields=dict(bytes=kv.nbytes),
              call=lambda: read(kv).block_until_ready(), ms=[]),
        Timed(case=case.name, implementation="floor:flops", fields=dict(flops=int(flops)),
              call=lambda: product(left, right).block_until_ready(), ms=[]),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="timed calls of each, interleaved")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--implementation", default="xla")
    arguments = parser.parse_args()
    for case in CASES:
        if arguments.only not in case.name:
            continue
        inputs = make_inputs(case, arguments.dtype)
        timed = floors(case, arguments.dtype)
        variants = [(False, False), (False, True), *([(True, False)] if case.shares else [])]
        for cascade, deterministic in variants:
            timed.append(
                attention(
                    case,
                    inputs,
                    implementation=arguments.implementation,
                    cascade=cascade,
                    deterministic=deterministic,
                )
            )
        for one in timed:
            one.call()
        for _ in range(arguments.rounds):
            for one in timed:
                start = time.perf_counter()
                one.call()
                one.ms.append((time.perf_counter() - start) * 1e3)
        for one in timed:
            ordered = sorted(one.ms)
            result = dict(
                subject="attention",
                case=one.case,
                implementation=one.implementation,
                dtype=arguments.dtype,
                min_ms=round(ordered[0], 3),
                median_ms=round(statistics.median(ordered), 3),
                p95_ms=round(ordered[int(0.95 * (len(ordered) - 1))], 3),
                device=jax.devices()[0].device_kind,
                jax=jax.__version__,
                **one.fields,
            )
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
