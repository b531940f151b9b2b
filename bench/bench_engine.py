"""How fast the engine is, and how near to what the machine can do at all.

python -m bench.bench_engine --model random:bench-110m --dtype float32 --dtype bfloat16
python -m bench.bench_engine --scale small --rounds 1        # does it run?
"""

import argparse
import dataclasses
import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from bench.adapters.helium import HeliumAdapter
from bench.driver import Run, run_calls
from bench.harness import Ceilings, Recorder, measure_ceilings, summarise
from bench.workloads import SCALES, Case
from helium_jax.config import EngineConfig
from helium_jax.experiments.environment import load_average
from helium_jax.models.checkpoint import read_config
from helium_jax.models.config import ModelConfig
from helium_jax.models.params import param_shapes
from helium_jax.models.shapes import PREFIX, random_config
from helium_jax.runtime import open_engine

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The least work a model allows, to divide the ceilings by.

    Attributes:
        flops_per_row: products of the layers, per token computed; attention is left out.
        flops_per_sample: of the output matrix, per token sampled.
        bytes_per_step: weights that every step reads: layers and output matrix; KV is left out.
    """

    flops_per_row: float
    flops_per_sample: float
    bytes_per_step: float


def cost_of(model: ModelConfig, item_bytes: int) -> Cost:
    """Exact for dense models; a mixture of experts is counted as if all experts ran."""
    shapes = param_shapes(model)
    total = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    table = model.vocab_size * model.width
    layers = total - table * (1 if model.tie_embeddings else 2)
    return Cost(
        flops_per_row=2.0 * layers,
        flops_per_sample=2.0 * table,
        bytes_per_step=float(layers + table) * item_bytes,
    )


def fractions(run: Run, cost: Cost, ceilings: Ceilings, dtype: str) -> dict[str, float]:
    """Share of the bandwidth and of the matrix rate that a run reached."""
    counters = run.counters
    rows = counters["prefill_tokens"] + counters["decode_tokens"]
    flops = rows * cost.flops_per_row + counters["decode_tokens"] * cost.flops_per_sample
    rate = ceilings.float32_gflop_s if dtype == "float32" else ceilings.bfloat16_gflop_s
    num_bytes = counters["steps"] * cost.bytes_per_step
    return {
        "bandwidth_fraction": num_bytes / run.wall_s / (ceilings.read_gb_s * 1e9),
        "matrix_fraction": flops / run.wall_s / (rate * 1e9),
    }


def steps(run: Run) -> dict[str, float]:
    """What a step cost and where its time went."""
    counters = run.counters
    count = max(counters["steps"], 1)
    return {
        "step_ms": run.wall_s / count * 1e3,
        "host_ms_per_step": counters["host_s"] / count * 1e3,
        "host_fraction": counters["host_s"] / run.wall_s,
        "padded_fraction": counters["padded_tokens"]
        / max(
            counters["padded_tokens"] + counters["prefill_tokens"] + counters["decode_tokens"], 1
        ),
        "compiles_after_warmup": counters["compiles_after_warmup"],
    }


@contextmanager
def opened(model: str, config: EngineConfig) -> Iterator[tuple[HeliumAdapter, float]]:
    """An engine and the seconds it took to load, compile and start."""
    start = time.perf_counter()
    adapter = HeliumAdapter(open_engine(model, config))
    seconds = time.perf_counter() - start
    try:
        yield adapter, seconds
    finally:
        adapter.close()


def measure_case(
    adapter: HeliumAdapter, make: Any, *, rounds: int, vocab_size: int
) -> tuple[Case, list[Run]]:
    """One round to warm up, then `rounds` that count, each with prompts of its own."""
    case, runs = make(vocab_size, 0), []
    for seed in range(rounds + 1):
        case = make(vocab_size, seed)
        runs.append(run_calls(adapter, case.calls))
    return case, runs[1:]


def measure_model(
    recorder: Recorder,
    model: str,
    config: EngineConfig,
    ceilings: Ceilings,
    *,
    scale: str,
    rounds: int,
) -> None:
    """Start times without and with compiled programs, then every case of the scale."""
    dtype = config.dtype or "float32"
    item_bytes = 1 if config.quantization == "int8" else ITEM_BYTES[dtype]
    shape = random_config(model) if model.startswith(PREFIX) else read_config(Path(model))
    cost = cost_of(shape, item_bytes)
    name = "/".join(filter(None, (Path(model).name, dtype, config.quantization)))
    load = load_average()
    with opened(model, config) as (_, seconds):
        recorder.record("start_without_cache", name, start_s=seconds, load_average=load)
    with opened(model, config) as (adapter, seconds):
        recorder.record("start_with_cache", name, start_s=seconds, load_average=load)
        for make in SCALES[scale]:
            load = load_average()
            case, runs = measure_case(
                adapter, make, rounds=rounds, vocab_size=adapter.engine.info.vocab_size
            )
            middle = sorted(runs, key=lambda run: run.wall_s)[len(runs) // 2]
            recorder.record(
                case.name,
                name,
                tokens_per_s=case.counted_tokens / middle.wall_s,
                **summarise([run.wall_s for run in runs]),
                **fractions(middle, cost, ceilings, dtype),
                **steps(middle),
                prefix_hit_tokens=middle.counters["hit_tokens"],
                load_average=load,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", help="random:<shape> or a folder; repeatable")
    parser.add_argument("--dtype", action="append", choices=ITEM_BYTES, help="repeatable")
    parser.add_argument("--int8", action="store_true", help="measure int8 weights too")
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-model-len", type=int, default=1024)
    parser.add_argument("--max-num-batched-tokens", type=int)
    arguments = parser.parse_args()
    recorder = Recorder("engine")
    ceilings = measure_ceilings()
    recorder.record("ceilings", "xla", **dataclasses.asdict(ceilings), load_average=load_average())
    with tempfile.TemporaryDirectory() as cache:
        for model in arguments.model or ["random:bench-110m"]:
            for dtype in arguments.dtype or ["float32"]:
                for quantization in (None, "int8") if arguments.int8 else (None,):
                    config = EngineConfig(
                        dtype=dtype,
                        quantization=quantization,
                        max_model_len=arguments.max_model_len,
                        max_num_batched_tokens=arguments.max_num_batched_tokens,
                        compile_cache_dir=cache,
                    )
                    measure_model(
                        recorder,
                        model,
                        config,
                        ceilings,
                        scale=arguments.scale,
                        rounds=arguments.rounds,
                    )
    print(f"written to {recorder.path}")


if __name__ == "__main__":
    main()
