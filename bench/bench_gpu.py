"""One run on a GPU machine: parity first, then ceilings, attention and whole steps.

`bash tools/gpu_check.sh` calls it. Every part is skipped when time is short, so that what was
measured is always written. `--tiny` runs all of it on any machine in small, to see that it works;
with `--interpret mosaic_gpu` through the kernels' interpreter, as far as the code goes on a GPU.
Results are JSON lines in bench/results; fractions are of the ceilings measured in the same run.
"""

import argparse
import dataclasses
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

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
from helium_jax.kernels.attention.self_check import CheckedShape, find_fault
from helium_jax.kernels.pallas import gpu, tpu
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


# A rehearsal is no result.
TINY_RESULTS = Path("build/gpu-tiny")
# Queries, and pages where they differ; cases of the quantized pools differ in reading only.
DTYPES = {
    "mosaic_gpu": ("bfloat16", "float16"),
    "mosaic_tpu": ("bfloat16", "float32"),
}
QUANTIZED = {
    "mosaic_gpu": ("bfloat16 on int8", "bfloat16 on float8_e4m3fn"),
    "mosaic_tpu": ("bfloat16 on int8",),
}
QUANTIZED_CASES = ("ragged", "prefix tree", "soft cap and window", "head size 256", "page size 128")


def parity(target: Target, *, is_tiny: bool) -> Iterator[Agreement]:
    """The engine's own check, then kernels, writes and a generation against the CPU."""
    cpu, device = jax.devices("cpu")[0], jax.devices()[0]
    name = target.implementation
    of_target = DTYPES.get(name, ("float32",))
    for head_size in (64,) if is_tiny else (64, 128):
        shape = CheckedShape(
            dtype=of_target[0], kv_dtype=of_target[0], head_size=head_size, page_size=64
        )
        fault = find_fault(dataclasses.replace(target, head_size=head_size), shape)
        label = f"self-check, heads of {head_size}"
        yield Agreement(case=label, is_good=fault is None, text=fault or "no fault")
    if is_tiny:
        small = partial(check_kernels, name, cpu=cpu, device=device, num_threads=1)
        yield from small(of_target[:1], names=("ragged",))
        yield from small(QUANTIZED.get(name, ())[:1], names=("prefix tree",))
    else:
        yield from check_kernels(name, of_target, cpu, device)
        yield from check_kernels(name, QUANTIZED.get(name, ()), cpu, device, QUANTIZED_CASES)
    yield check_writes(name, of_target[0], cpu, device)
    yield check_generation(target, cpu, device, steps=2 if is_tiny else 16)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepCase:
    """`count` sequences that each get `new` tokens and then have `length`."""

    count: int
    new: int
    length: int

    @property
    def name(self) -> str:
        """As in the results."""
        if self.new == 1:
            return f"decode {self.count} x {self.length}"
        return f"prefill {self.new}"


# What the aims are about comes first: time may run out.
STEP_CASES = (
    (StepCase(count=128, new=1, length=1024), StepCase(count=1, new=1, length=1024),
     StepCase(count=1, new=8192, length=8192)),
    (StepCase(count=32, new=1, length=1024), StepCase(count=8, new=1, length=1024),
     StepCase(count=1, new=2048, length=2048)),
)  # fmt: skip
TINY_STEP_CASES = (
    (StepCase(count=2, new=1, length=100),),
    (StepCase(count=1, new=64, length=64),),
)


def steps(
    config: ModelConfig, cases: tuple[StepCase, ...], target: Target, ceilings: Ceilings,
    *, rounds: tuple[int, int],
) -> Iterator[tuple[str, dict[str, float]]]:  # fmt: skip
    """(case, fields) of whole steps; `rounds` of decode and of prefill are timed."""
    params = make_params(config)
    weights = params_bytes(params)
    if not config.tie_embeddings:
        weights -= config.vocab_size * config.width * 2  # the embedding is gathered, not read
    per_token = config.kv_elements_per_token * 2
    matrix = 2.0 * (weights / 2 - config.vocab_size * config.width)  # logits of one row only
    attention = 2.0 * config.num_layers * config.num_q_heads * config.head_size  # by length
    for case in cases:
        driver = StepDriver(config, params, target, num_seqs=case.count, max_len=case.length + 64)
        is_decode = case.new == 1
        times = driver.time(case.new, case.length, rounds[0 if is_decode else 1])
        fields = dataclasses.asdict(times)
        seconds = times.step_ms / 1e3
        fields["tokens_per_s"] = case.count * case.new / seconds
        if is_decode:
            read = weights + case.count * case.length * per_token
            fields["of_bandwidth"] = read / seconds / ceilings.bandwidth
        else:
            flops = case.new * (matrix + attention * case.length)
            fields["of_flop_rate"] = flops / seconds / ceilings.flop_rate
        yield case.name, fields
        del driver


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="everything in small, on any machine")
    parser.add_argument("--budget-s", type=float, default=540.0, help="no part begins after it")
    parser.add_argument("--parts", default="parity,ceilings,attention,steps")
    parser.add_argument("--interpret", choices=("mosaic_gpu", "mosaic_tpu"))
    arguments = parser.parse_args()
    if arguments.interpret is None:
        return run(arguments)
    if arguments.interpret == "mosaic_gpu":
        context = gpu.force_gpu_interpret_mode(gpu.InterpretGPUParams())
    else:
        context = tpu.force_tpu_interpret_mode(tpu.InterpretParams())
    with context:
        return run(arguments)


def run(arguments: argparse.Namespace) -> int:
    """All parts in turn; 0 if nothing was wrong."""
    started = time.monotonic()
    is_tiny = arguments.tiny
    heads = Heads()
    if is_tiny:
        dtype = "bfloat16" if arguments.interpret else "float32"
        heads = Heads(num_heads=8, num_kv_heads=2, head_size=64, dtype=dtype, kv_dtype=dtype)
    target, reason = choose_target(
        jax.devices()[0], dtype=heads.dtype, kv_dtype=heads.kv_dtype, head_size=heads.head_size,
        page_size=heads.page_size, num_heads=heads.num_heads, num_kv_heads=heads.num_kv_heads,
        implementation=arguments.interpret,
    )  # fmt: skip
    print(f"{jax.devices()[0].device_kind}: attention by {target.implementation}, {reason}")
    recorder = Recorder("gpu", TINY_RESULTS) if is_tiny else Recorder("gpu")
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
        on_xla = dataclasses.replace(target, implementation="xla")
        runs = {(target, heads): is_tiny}  # whether in small
        if is_tiny or target.implementation != "xla":
            runs[target, dataclasses.replace(heads, kv_dtype="int8")] = is_tiny
        runs.setdefault((on_xla, heads), True)
        for (each, of_each), in_small in runs.items():
            record(each.implementation, attention_results(
                each, of_each, bandwidth=ceilings.bandwidth, flop_rate=ceilings.flop_rate,
                is_tiny=in_small,
            ))  # fmt: skip

    def run_steps() -> None:
        models = {"tiny": tiny_model(num_layers=1)} if is_tiny else {
            "8b": random_config("qwen3-8b"), "0.6b": random_config("qwen3-0.6b")
        }  # fmt: skip
        rounds = (1, 1) if is_tiny else (30, 5)
        for cases in TINY_STEP_CASES if is_tiny else STEP_CASES:
            for name, config in models.items():
                of_model = dataclasses.replace(
                    target, num_heads=config.num_q_heads, num_kv_heads=config.num_kv_heads
                )
                results = steps(config, cases, of_model, ceilings, rounds=rounds)
                named = ((f"{name} {case}", fields) for case, fields in results)
                record(target.implementation, named)

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
