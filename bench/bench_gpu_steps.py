"""Whole steps of random models on a GPU: what a decode step and a chunk of prefill cost."""

import dataclasses
import re
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.bench_gpu_attention import storage_platform
from helium_jax.engine.packing import PackedSequence, StepLayout, pack_step, step_layout
from helium_jax.engine.sampling_rows import pack_row
from helium_jax.engine.sampling_state import SamplingState, allocate_sampling_state
from helium_jax.engine.step import run_step
from helium_jax.kernels.attention import ORDERS, Target
from helium_jax.kernels.pages import KVPages, allocate_pages
from helium_jax.models.config import ModelConfig
from helium_jax.models.params import Params, init_params
from helium_jax.types import SamplingParams


def make_params(config: ModelConfig, seed: int = 0) -> Params:
    """Random weights, drawn on the device in one program."""
    draw = partial(init_params, config, dtype=jnp.dtype(config.dtype))
    return jax.jit(draw)(jax.random.key(seed))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """Of one step.

    Attributes:
        step_ms: median over steps that each wait for the one before on the device.
        host_ms: median of what the host does for a step: packing it, and the call's return.
        launches: kernels that the program starts by itself, by its compiled text.
        command_buffers: groups of kernels started together (CUDA graphs).
        temp_mib: memory beside weights and pool.
    """

    step_ms: float
    host_ms: float
    launches: int
    command_buffers: int
    temp_mib: float


class StepDriver:
    """Runs steps of equal sequences, as the engine's runner does; owns pages and token buffer.

    Args:
        config: the model.
        params: its weights, on the device.
        target: what reads the pages.
        num_seqs: sequences.
        max_len: most tokens of each.
        page_size: B.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Params,
        target: Target,
        *,
        num_seqs: int,
        max_len: int,
        page_size: int = 64,
    ) -> None:
        self.config, self.params, self.target = config, params, target
        self.num_seqs, self.max_len, self.page_size = num_seqs, max_len, page_size
        self._columns = -(-max_len // page_size)
        self._num_pages = num_seqs * self._columns
        order = np.random.default_rng(0).permutation(self._num_pages)
        self._tables = order.reshape(num_seqs, self._columns)
        self.pages: KVPages = allocate_pages(
            num_layers=config.num_layers,
            num_pages=self._num_pages,
            page_size=page_size,
            num_kv_heads=config.num_kv_heads,
            head_size=config.head_size,
            dtype=config.dtype,
            order=ORDERS[target.implementation],
            platform=storage_platform(ORDERS[target.implementation]),
        )
        self.state: SamplingState = allocate_sampling_state(num_seqs, max_len)
        self._step = jax.jit(
            partial(run_step, config=config),
            static_argnames="layout",
            donate_argnames=("pages", "state"),
        )
        self._programs: dict[StepLayout, Any] = {}

    def pack(self, new: int, length: int, token_ids: np.ndarray | None = None) -> Any:
        """A packed step in which every sequence gets `new` tokens and then has `length`."""
        layout = step_layout(
            num_tokens=max(2, self.num_seqs * new),
            max_num_seqs=self.num_seqs,
            max_model_len=self.max_len,
            page_size=self.page_size,
            num_pages=self._num_pages,
            deterministic=False,
            target=self.target,
        )
        ids = np.full((self.num_seqs, new), 7) if token_ids is None else token_ids
        used = -(-length // self.page_size)
        sequences = [
            PackedSequence(
                slot=s,
                token_ids=ids[s].tolist(),
                kv_len=length,
                pages=self._tables[s, :used].tolist(),
                sampling_row=pack_row(SamplingParams(), seed=0, prompt_len=length, slot=s),
            )
            for s in range(self.num_seqs)
        ]
        return layout, pack_step(layout, sequences, cascade=False)[0]

    def program(self, layout: StepLayout, packed: np.ndarray) -> Any:
        """The compiled step of a layout."""
        if layout not in self._programs:
            lowered = self._step.lower(self.params, self.pages, self.state, packed, layout=layout)
            self._programs[layout] = lowered.compile()
        return self._programs[layout]

    def run(self, layout: StepLayout, packed: np.ndarray) -> tuple[Any, jax.Array]:
        """Dispatches one step; returns the sampled tokens and the logits, on the device."""
        program = self.program(layout, packed)
        self.pages, self.state, sampled, logits = program(
            self.params, self.pages, self.state, packed
        )
        return sampled, logits

    def time(self, new: int, length: int, steps: int) -> StepTimes:
        """Times `steps` equal steps after one that warms up."""
        layout, packed = self.pack(new, length)
        sampled, _ = self.run(layout, packed)
        sampled.token_ids.block_until_ready()
        host = []
        started = time.perf_counter()
        for _ in range(steps):
            before = time.perf_counter()
            layout, packed = self.pack(new, length)
            sampled, _ = self.run(layout, packed)
            host.append(time.perf_counter() - before)
        sampled.token_ids.block_until_ready()
        taken = (time.perf_counter() - started) / steps
        program = self.program(layout, packed)
        text = program.as_text()
        return StepTimes(
            step_ms=taken * 1e3,
            host_ms=sorted(host)[len(host) // 2] * 1e3,
            launches=count_launches(text),
            command_buffers=len(re.findall(r"to_apply=%?command_buffer", text)),
            temp_mib=program.memory_analysis().temp_size_in_bytes / 2**20,
        )


def count_launches(text: str) -> int:
    """Fusions, custom calls and copies of the entry computation of a compiled program."""
    entry = text[text.find("ENTRY") :]
    return len(re.findall(r"= .*\b(?:fusion|custom-call|copy|call)\(", entry))
