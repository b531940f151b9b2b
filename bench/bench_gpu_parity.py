"""Kernels and a whole generation on the accelerator here, against the reference on the CPU."""

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.bench_gpu_steps import StepDriver, make_params
from helium_jax.kernels.attention import Target, pack_batch, paged_attention, unpack_batch
from helium_jax.kernels.attention.cascade import CascadeCosts
from helium_jax.kernels.attention.cases import (
    CASES,
    TOLERANCES,
    AttentionCase,
    fit_pages,
    make_inputs,
)
from helium_jax.kernels.page_write import write_pages
from helium_jax.models.config import ModelConfig
from helium_jax.models.shapes import random_config

FREE_GROUPS = CascadeCosts(block=0.0, page=0.0, row=0.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Of one case with the reference.

    Attributes:
        case: its name.
        is_good: within the tolerance.
        text: the largest difference, or why it was not run.
    """

    case: str
    is_good: bool
    text: str


def attend(
    case: AttentionCase, dtypes: str, implementation: str, packed_for: str, device: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Output and log-sum-exp of one case, computed on `device`; dtypes as "bfloat16 on int8"."""
    dtype, _, kv_dtype = dtypes.partition(" on ")
    with jax.default_device(device):
        inputs = make_inputs(case, dtype, implementation=packed_for, kv_dtype=kv_dtype or None)
        layout = inputs.layout
        ints = np.empty(layout.num_ints, np.int32)
        pack_batch(
            layout, case.query_lens, case.kv_lens, inputs.page_tables,
            cascade=bool(case.shares), out=ints, costs=FREE_GROUPS,
        )  # fmt: skip

        def step(q: jax.Array, pages: Any, ints: jax.Array) -> tuple[jax.Array, jax.Array]:
            with jax.default_matmul_precision("highest"):
                return paged_attention(
                    q, pages, case.num_layers - 1, unpack_batch(layout, ints),
                    scale=inputs.scale, window=case.window, soft_cap=case.soft_cap,
                    implementation=implementation,
                )  # fmt: skip

        out, lse = jax.jit(step)(inputs.q, inputs.pages, ints)
        return np.asarray(out.astype(jnp.float32)), np.asarray(lse)


def check_kernels(implementation: str, dtypes: tuple[str, ...], cpu: Any,
                  device: Any, names: tuple[str, ...] | None = None, num_threads: int = 8
                  ) -> Iterator[Agreement]:  # fmt: skip
    """Every case of the parity test that the implementation takes; `names` limits them.

    Most of the time is compiling, so several cases are compiled at once.
    """
    wanted = [
        (fit_pages(case, each), each)
        for case in CASES
        if names is None or case.name in names
        for each in dtypes
    ]

    def check(one: tuple[AttentionCase, str]) -> Agreement:
        return _check_case(one[0], one[1], implementation, cpu, device)

    if num_threads == 1:  # interpreters know one thread
        yield from map(check, wanted)
        return
    with ThreadPoolExecutor(num_threads) as threads:
        yield from threads.map(check, wanted)


def _check_case(
    case: AttentionCase, dtypes: str, implementation: str, cpu: Any, device: Any
) -> Agreement:
    label = f"{case.name} {dtypes}"
    try:
        result = attend(case, dtypes, implementation, implementation, device)
    except NotImplementedError as error:
        return Agreement(case=label, is_good=True, text=f"refused: {error}")
    except Exception as error:  # the other cases are worth knowing
        return Agreement(case=label, is_good=False, text=f"{type(error).__name__}: {error}"[:400])
    expected = attend(case, dtypes, "reference", "xla", cpu)
    absolute, relative = TOLERANCES[dtypes.split(" on ")[0]]
    rows = np.isfinite(expected[1])
    of_out = float(np.abs(result[0] - expected[0]).max(initial=0.0))
    of_lse = float(np.abs(result[1][rows] - expected[1][rows]).max(initial=0.0))
    is_good = bool(
        np.allclose(result[0], expected[0], atol=2 * absolute, rtol=relative)
        # A GPU's fast exponentials and logarithms; TF32 is nowhere in these dtypes.
        and np.allclose(result[1][rows], expected[1][rows], atol=2e-3, rtol=2e-3)
        and (np.isfinite(result[1]) == rows).all()
    )
    return Agreement(
        case=label, is_good=is_good, text=f"out {of_out:.1e}, log-sum-exp {of_lse:.1e}"
    )


def check_writes(implementation: str, dtype: str, cpu: Any, device: Any) -> Agreement:
    """A page write with padding, in order of slots, equals the scatter's to the bit."""
    case = next(case for case in CASES if case.name == "ragged")
    slots = np.array([*range(20, 37), -1, 3, 10**6], np.int32)
    values = np.random.default_rng(0).standard_normal((2, len(slots), 2, 64)).astype(np.float32)
    pools = []
    for name, place in ((implementation, device), ("xla", cpu)):
        with jax.default_device(place):
            pages = make_inputs(case, dtype, implementation=implementation).pages
            step = jax.jit(write_pages, static_argnums=1, static_argnames="implementation")
            after = step(pages, 1, *values, slots, implementation=name)
            pools.append([np.asarray(x.astype(jnp.float32)) for x in jax.tree.leaves(after)])
    is_good = all(np.array_equal(a, b, equal_nan=True) for a, b in zip(*pools, strict=True))
    return Agreement(case=f"page write {dtype}", is_good=is_good, text="to the bit")


def tiny_model(num_layers: int = 4) -> ModelConfig:
    """A few layers with heads that the kernels take."""
    base = random_config("qwen3-0.6b")
    return dataclasses.replace(
        base, vocab_size=512, width=256, num_layers=num_layers,
        windows=base.windows[:num_layers], num_q_heads=8, num_kv_heads=2, head_size=64,
        query_scale=64**-0.5, ffn_width=512, max_position=2048,
    )  # fmt: skip


def check_generation(target: Target, cpu: Any, device: Any, *, steps: int = 16) -> Agreement:
    """Prefill and decode steps of three sequences; the accelerator is fed the CPU's tokens."""
    config, num_seqs, prompt = tiny_model(num_layers=4 if steps > 2 else 1), 3, 70
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (num_seqs, prompt))
    runs: list[list[np.ndarray]] = []
    tokens: list[np.ndarray] = []
    with jax.default_device(cpu):
        params = make_params(config)
    for place, of_place in ((cpu, Target()), (device, target)):
        logits_of_steps = []
        with jax.default_device(place):
            driver = StepDriver(
                config, jax.device_put(params, place), of_place, num_seqs=num_seqs, max_len=128
            )
            for step in range(steps):
                new = ids if step == 0 else tokens[step - 1]
                layout, packed = driver.pack(new.shape[1], prompt + step, new)
                sampled, logits = driver.run(layout, packed)
                logits_of_steps.append(np.asarray(logits)[:num_seqs])
                if place is cpu:
                    tokens.append(np.asarray(sampled.token_ids)[:num_seqs, None])
        runs.append(logits_of_steps)
    on_cpu, on_device = (np.stack(run) for run in runs)
    difference = float(np.abs(on_cpu - on_device).max() / on_cpu.std())
    equal = float((on_cpu.argmax(-1) == on_device.argmax(-1)).mean())
    return Agreement(
        case=f"generation, {config.dtype}, {target.implementation}",
        is_good=difference < 0.25 and equal > 0.9,
        text=f"{equal:.0%} equal greedy tokens, logits differ by {difference:.3f} deviations",
    )
