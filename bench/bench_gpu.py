"""One run on a GPU machine: parity first, then ceilings, attention and whole steps.

`bash tools/gpu_check.sh` calls it. Every part is skipped when time is short, so that what was
measured is always written; `--tiny` runs all of it on any machine in small, to see that it works.
Results are JSON lines in bench/results; fractions are of the ceilings measured in the same run.
"""

import argparse
import dataclasses
import sys
import time
import traceback
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from bench.bench_gpu_attention import Heads, attention_results, seconds_of
from bench.bench_gpu_parity import (
    Agreement,
    check_generation,
    check_kernels,
    check_writes,
    tiny_model,
)
from bench.bench_gpu_steps import StepDriver, make_params
from bench.harness import Recorder
from helium_jax.kernels.attention import Target, choose_target
from helium_jax.models.config import ModelConfig
from helium_jax.models.params import params_bytes
from helium_jax.models.shapes import random_config


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """What the machine does at best, measured.

    Attributes:
        bandwidth: bytes a second of a copy, read and written counted.
        flop_rate: bfloat16 matrix flops a second.
    """

    bandwidth: float
    flop_rate: float


def measure_ceilings(*, is_tiny: bool) -> Ceilings:
    """A large copy and a large product, medians of five."""
    size, width = (2**20, 256) if is_tiny else (2**31, 8192)
    source = jnp.ones((size // 2,), jnp.bfloat16)
    copy = jax.jit(lambda x: x + jnp.bfloat16(1))
    copied = seconds_of(lambda: copy(source).block_until_ready(), 5)[2]
    left = jax.random.normal(jax.random.key(0), (width, width), jnp.bfloat16)
    product = jax.jit(lambda a: jax.lax.fori_loop(0, 10, lambda _, x: (x @ a) * 0.01, a))
    multiplied = seconds_of(lambda: product(left).block_until_ready(), 5)[2] / 10
    return Ceilings(bandwidth=2 * size / copied, flop_rate=2 * width**3 / multiplied)


def parity(target: Target, *, is_tiny: bool) -> Iterator[Agreement]:
    """Kernels, writes and a generation against the CPU."""
    cpu, device = jax.devices("cpu")[0], jax.devices()[0]
    names = ("ragged", "prefix tree") if is_tiny else None
    dtypes = {"mosaic_gpu": ("bfloat16",), "mosaic_tpu": ("bfloat16", "float32")}
    of_target = dtypes.get(target.implementation, ("float32",))
    yield from check_kernels(target.implementation, of_target, cpu, device, names)
    yield check_writes(target.implementation, of_target[0], cpu, device)
    yield check_generation(target, cpu, device)


def steps(
    name: str, config: ModelConfig, target: Target, ceilings: Ceilings, *, is_tiny: bool
) -> Iterator[tuple[str, dict[str, float]]]:
    """(case, fields) of decode steps at 1 K of context, and of chunks of prefill."""
    params = make_params(config)
    weights = params_bytes(params)
    if not config.tie_embeddings:
        weights -= config.vocab_size * config.width * 2  # the embedding is gathered, not read
    per_token = config.kv_elements_per_token * 2
    batches, context, chunks = ((2,), 100, (64,)) if is_tiny else (
        (128, 1, 32, 8), 1024, (8192, 2048)
    )  # fmt: skip
    for batch in batches:
        driver = StepDriver(config, params, target, num_seqs=batch, max_len=context + 64)
        times = driver.time(1, context, 2 if is_tiny else 30)
        least = (weights + batch * context * per_token) / ceilings.bandwidth
        yield (
            f"{name} decode {batch} x {context}",
            dict(dataclasses.asdict(times), tokens_per_s=batch / times.step_ms * 1e3,
                 of_bandwidth=least * 1e3 / times.step_ms),
        )  # fmt: skip
        del driver
    matrix = 2.0 * (weights / 2 - config.vocab_size * config.width)  # logits of one row only
    for chunk in chunks:
        driver = StepDriver(config, params, target, num_seqs=1, max_len=chunk + 64)
        times = driver.time(chunk, chunk, 2 if is_tiny else 5)
        attention = 2.0 * chunk * config.num_layers * config.num_q_heads * config.head_size
        flops = chunk * (matrix + attention)
        yield (
            f"{name} prefill {chunk}",
            dict(dataclasses.asdict(times), tokens_per_s=chunk / times.step_ms * 1e3,
                 of_flop_rate=flops / times.step_ms * 1e3 / ceilings.flop_rate),
        )  # fmt: skip
        del driver


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="everything in small, on any machine")
    parser.add_argument("--budget-s", type=float, default=540.0, help="no part begins after it")
    parser.add_argument("--parts", default="parity,ceilings,attention,steps")
    arguments = parser.parse_args()
    started = time.monotonic()
    is_tiny = arguments.tiny
    heads = (
        Heads(num_heads=8, num_kv_heads=2, head_size=64, dtype="float32", kv_dtype="float32")
        if is_tiny
        else Heads()
    )
    target, reason = choose_target(
        jax.devices()[0], dtype=heads.dtype, kv_dtype=heads.kv_dtype, head_size=heads.head_size,
        page_size=heads.page_size, num_heads=heads.num_heads, num_kv_heads=heads.num_kv_heads,
    )  # fmt: skip
    print(f"{jax.devices()[0].device_kind}: attention by {target.implementation}, {reason}")
    recorder = Recorder("gpu-tiny" if is_tiny else "gpu")
    is_well = True

    def part(name: str, run: Callable[[], None]) -> None:
        nonlocal is_well
        if name not in arguments.parts.split(","):
            return
        if time.monotonic() - started > arguments.budget_s:
            print(f"{name}: no time left")
            return
        try:
            run()
        except Exception:  # the other parts' results are worth having
            is_well = False
            traceback.print_exc()

    def run_parity() -> None:
        nonlocal is_well
        for one in parity(target, is_tiny=is_tiny):
            is_well &= one.is_good
            print(f"{'ok' if one.is_good else 'WRONG':<6}{one.case:<44} {one.text}", flush=True)
            recorder.record(one.case, target.implementation, is_good=one.is_good)

    ceilings = Ceilings(bandwidth=float("inf"), flop_rate=float("inf"))

    def run_ceilings() -> None:
        nonlocal ceilings
        ceilings = measure_ceilings(is_tiny=is_tiny)
        recorder.record(
            "ceilings", "xla", bandwidth_gb_s=ceilings.bandwidth / 1e9,
            flop_rate_tflop_s=ceilings.flop_rate / 1e12,
        )  # fmt: skip

    def record(implementation: str, results: Iterator[tuple[str, dict[str, float]]]) -> None:
        for case, fields in results:
            recorder.record(case, implementation, **fields)
            if time.monotonic() - started > arguments.budget_s:
                print("no time left for the rest of this part")
                return

    def run_attention() -> None:
        for each in dict.fromkeys((target, dataclasses.replace(target, implementation="xla"))):
            record(each.implementation, attention_results(
                each, heads, bandwidth=ceilings.bandwidth, flop_rate=ceilings.flop_rate,
                is_tiny=is_tiny or each != target,
            ))  # fmt: skip

    def run_steps() -> None:
        models = {"tiny": tiny_model()} if is_tiny else {
            "8b": random_config("qwen3-8b"), "0.6b": random_config("qwen3-0.6b")
        }  # fmt: skip
        for name, config in models.items():
            of_model = dataclasses.replace(
                target, num_heads=config.num_q_heads, num_kv_heads=config.num_kv_heads
            )
            record(target.implementation, steps(name, config, of_model, ceilings, is_tiny=is_tiny))

    part("parity", run_parity)
    part("ceilings", run_ceilings)
    part("attention", run_attention)
    part("steps", run_steps)
    print(
        f"{'well' if is_well else 'NOT WELL'}; {time.monotonic() - started:.0f}s; {recorder.path}"
    )
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
