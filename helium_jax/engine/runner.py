"""The owner of everything on the device: weights, KV pages, token buffer, compiled steps."""

import copy
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from jax.stages import Compiled, Lowered

from helium_jax.config import ResolvedEngineConfig
from helium_jax.engine.attention_choice import choose_attention
from helium_jax.engine.embedding import Embedder
from helium_jax.engine.memory import MemoryUse, num_bytes, temporary_bytes
from helium_jax.engine.packing import PackedSequence, StepLayout, pack_step, step_layout
from helium_jax.engine.sampling import Sampled
from helium_jax.engine.sampling_rows import Variant, num_ints
from helium_jax.engine.sampling_state import (
    SamplingState,
    allocate_sampling_state,
    make_slot_arrays,
    needs_slot,
    set_slot,
)
from helium_jax.engine.step import mask_logits, resample, run_step
from helium_jax.errors import RequestError
from helium_jax.kernels.attention import ORDERS
from helium_jax.kernels.pages import KVPages, allocate_pages
from helium_jax.models.config import ModelConfig
from helium_jax.models.params import Params
from helium_jax.types import SamplingParams, TokenLogprobs

log = logging.getLogger(__name__)

# Called with the programs compiled so far, the programs in all, and the last one's name.
Progress = Callable[[int, int, str], None]

# XLA compiles one program on one core, and what a machine of two cores gains is measured (2x).
NUM_COMPILE_THREADS = 4

# A step is known by its layout, a resampling by its number of rows and its variant, masking by its
# number of rows.
_Program = StepLayout | tuple[int, Variant] | int
_RESAMPLED = (Variant.FULL, Variant.RANDOM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A step that was dispatched; `Runner.collect` waits for it.

    Attributes:
        sampled: on the device, perhaps not computed yet.
        num_rows: rows of it that mean something.
        num_tokens: tokens the step computed.
        num_padded: rows of the token axis that only filled the bucket.
        wants_logprobs: some row asked for log-probabilities.
    """

    sampled: Sampled
    num_rows: int
    num_tokens: int
    num_padded: int
    wants_logprobs: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """A step's samples on the host, one entry per sampling row, in order.

    Attributes:
        token_ids: int32 [R].
        is_ok: bool [R]; False where the logits were not numbers.
        logprobs: float32 [R], None when nobody asked.
        top_ids: int32 [R, 20], likewise.
        top_logprobs: float32 [R, 20], likewise.
    """

    token_ids: np.ndarray
    is_ok: np.ndarray
    logprobs: np.ndarray | None = None
    top_ids: np.ndarray | None = None
    top_logprobs: np.ndarray | None = None

    def logprobs_of(self, index: int, num_top: int | None) -> tuple[TokenLogprobs, ...]:
        """What a row that asked for `num_top` alternatives gets; None asked for nothing."""
        if num_top is None or self.logprobs is None:
            return ()
        assert self.top_ids is not None, "comes with logprobs"
        assert self.top_logprobs is not None, "comes with logprobs"
        ids = self.top_ids[index, :num_top].tolist()
        values = self.top_logprobs[index, :num_top].tolist()
        # A vocabulary smaller than the capacity leaves -inf behind its last token.
        top = tuple((i, v) for i, v in zip(ids, values, strict=True) if v != float("-inf"))
        return (TokenLogprobs(logprob=float(self.logprobs[index]), top=top),)


class Runner:
    """Runs packed steps in order on one device.

    Args:
        params: the weights, on the device.
        model: the model's configuration.
        config: buckets, pool and modes.

    Attributes:
        embedder: makes vectors of texts with the same weights.

    Raises:
        RequestError: the implementation of attention that was asked for fails its self-check.
    """

    def __init__(self, params: Params, model: ModelConfig, config: ResolvedEngineConfig) -> None:
        self._params = params
        self._model = model
        self._config = config
        self._device = min(jax.tree.leaves(params)[0].devices(), key=lambda device: device.id)
        # Kernels have lists and an order of pages of their own.
        choice = choose_attention(self._device, model, config)
        if choice.fault is not None:
            if config.attention is not None:
                raise RequestError(f"attention={config.attention!r}: {choice.fault}; choose 'xla'")
            log.warning("attention falls back to XLA's slower path, %s", choice.reason)
        self._target = choice.target
        self._layouts = tuple(
            step_layout(
                num_tokens=bucket,
                max_num_seqs=config.max_num_seqs,
                max_model_len=config.max_model_len,
                page_size=config.page_size,
                num_pages=config.num_pages,
                deterministic=config.deterministic,
                target=self._target,
            )
            for bucket in config.token_buckets
        )
        self._step = jax.jit(
            partial(run_step, config=model, attention=config.attention),
            static_argnames="layout",
            donate_argnames=("pages", "state"),
        )
        self._resample = jax.jit(resample, static_argnames="variant", donate_argnames="state")
        self._mask_logits = jax.jit(mask_logits)
        self._programs: dict[_Program, Compiled] = {}
        self._num_compiles_after_warmup = 0
        self._pages, self._state = self._allocate()
        self.embedder = Embedder(params, model, max_tokens=config.max_model_len)

    def replica(self) -> "Runner":
        """A runner with pages and buffers of its own that shares weights and programs with this
        one; it is as warm as this one is."""
        other = copy.copy(self)
        other._num_compiles_after_warmup = 0
        other.reset()
        return other

    def warm_up(self, progress: Progress | None = None) -> float:
        """Compiles every program from shapes alone, a few at a time; returns the seconds taken.

        Programs come from the persistent compile cache where it has them.
        """
        started = time.monotonic()
        # The largest take longest: first, so that no thread is left alone with one.
        wanted: list[_Program] = [*reversed(self._layouts)]
        sizes = {layout.num_seqs for layout in self._layouts}
        wanted += [(size, variant) for variant in _RESAMPLED for size in sorted(sizes)]
        wanted += sorted(sizes)
        with ThreadPoolExecutor(NUM_COMPILE_THREADS) as threads:
            compiling = {threads.submit(self._compile, key): key for key in wanted}
            try:
                for count, done in enumerate(as_completed(compiling)):
                    self._programs[compiling[done]] = done.result()
                    if progress is not None:
                        progress(count + 1, len(wanted), _name(compiling[done]))
            except BaseException:  # `progress` may give up: what has not begun shall not begin
                threads.shutdown(wait=False, cancel_futures=True)
                raise
        self._set_slot(self._config.max_num_seqs, SamplingParams(), ())
        return time.monotonic() - started

    @property
    def attention(self) -> str:
        """The implementation of attention that steps are packed for."""
        return self._target.implementation

    @property
    def memory(self) -> MemoryUse:
        """What it takes, with all that is compiled so far."""
        return MemoryUse(
            weights=num_bytes(self._params),
            kv=num_bytes(self._pages),
            scratch=num_bytes(self._state) + temporary_bytes(self._programs.values()),
        )

    @property
    def num_compiles_after_warmup(self) -> int:
        """Programs that a request had to wait for; 0 once warmed up."""
        return self._num_compiles_after_warmup

    def run(self, sequences: Sequence[PackedSequence], *, wants_logprobs: bool) -> Ticket:
        """Dispatches one step over `sequences`, in their order; returns without waiting."""
        num_tokens = sum(len(sequence.token_ids) for sequence in sequences)
        layout = next(layout for layout in self._layouts if layout.num_tokens >= num_tokens)
        packed, needed = pack_step(
            layout,
            sequences,
            cascade=self._config.cascade,
        )
        self._pages, self._state, sampled, logits = self._program(layout)(
            self._params, self._pages, self._state, packed
        )
        masked = logits
        masks = [sequence.mask for sequence in sequences if sequence.sampling_row is not None]
        if any(mask is not None for mask in masks):
            masked = self._program(layout.num_seqs)(logits, self._stack_masks(layout, masks))
            needed = max(needed, Variant.RANDOM)  # the least that chooses again
        if needed is not Variant.GREEDY:
            self._state, sampled = self._program((layout.num_seqs, needed))(
                masked, logits, self._state, packed[layout.sampling_part]
            )
        return Ticket(
            sampled=sampled,
            num_rows=sum(sequence.sampling_row is not None for sequence in sequences),
            num_tokens=num_tokens,
            num_padded=layout.num_tokens - num_tokens,
            wants_logprobs=wants_logprobs,
        )

    def collect(self, ticket: Ticket) -> StepResult:
        """Waits for a step and brings its samples to the host."""
        rows = slice(ticket.num_rows)
        sampled = ticket.sampled
        result = StepResult(
            token_ids=np.asarray(sampled.token_ids)[rows], is_ok=np.asarray(sampled.ok)[rows]
        )
        if not ticket.wants_logprobs:
            return result
        return StepResult(
            token_ids=result.token_ids,
            is_ok=result.is_ok,
            logprobs=np.asarray(sampled.logprobs)[rows],
            top_ids=np.asarray(sampled.top_ids)[rows],
            top_logprobs=np.asarray(sampled.top_logprobs)[rows],
        )

    def _stack_masks(self, layout: StepLayout, masks: Sequence[np.ndarray | None]) -> np.ndarray:
        """uint32 [S, ceil(V / 32)]: everything allowed in rows without a mask and of padding."""
        num_words = -(-self._model.vocab_size // 32)
        stacked = np.full((layout.num_seqs, num_words), 0xFFFF_FFFF, np.uint32)
        for index, mask in enumerate(masks):
            if mask is not None:
                stacked[index] = mask
        return stacked

    def fill_slot(self, slot: int, sampling: SamplingParams, token_ids: Sequence[int]) -> None:
        """Puts into an admitted sequence's slot what its sampling needs beyond the step's tokens.

        Nothing unless it has penalties or biases: tokens of a cached prefix are never scheduled,
        so the device would not know them.
        """
        if needs_slot(sampling):
            self._set_slot(slot, sampling, token_ids)

    def _set_slot(self, slot: int, sampling: SamplingParams, token_ids: Sequence[int]) -> None:
        arrays = make_slot_arrays(sampling, token_ids, self._config.max_model_len)
        with jax.default_device(self._device):
            self._state = set_slot(self._state, np.int32(slot), *arrays)

    def reset(self) -> None:
        """Allocates pages and buffers anew; needed after a failed step, whose inputs are gone."""
        self._pages, self._state = self._allocate()

    def close(self) -> None:
        """Lets go of the device memory; the runner cannot run afterwards."""
        del self._pages, self._state, self._params, self.embedder

    def _program(self, key: _Program) -> Compiled:
        program = self._programs.get(key)
        if program is None:
            program = self._programs[key] = self._compile(key)
            self._num_compiles_after_warmup += 1
        return program

    def _compile(self, key: _Program) -> Compiled:
        with jax.default_device(self._device):
            return self._lower(key).compile()

    def _lower(self, key: _Program) -> Lowered:
        if isinstance(key, StepLayout):
            packed = jax.ShapeDtypeStruct((key.num_ints,), np.int32)
            return self._step.lower(self._params, self._pages, self._state, packed, layout=key)
        num_rows, variant = (key, None) if isinstance(key, int) else key
        logits = jax.ShapeDtypeStruct((num_rows, self._model.vocab_size), np.float32)
        if variant is None:
            num_words = -(-self._model.vocab_size // 32)
            masks = jax.ShapeDtypeStruct((num_rows, num_words), np.uint32)
            return self._mask_logits.lower(logits, masks)
        packed = jax.ShapeDtypeStruct((num_ints(num_rows),), np.int32)
        return self._resample.lower(logits, logits, self._state, packed, variant=variant)

    def _allocate(self) -> tuple[KVPages, SamplingState]:
        with jax.default_device(self._device):
            pages = allocate_pages(
                num_layers=self._model.num_layers,
                num_pages=self._config.num_pages,
                page_size=self._config.page_size,
                num_kv_heads=self._model.num_kv_heads,
                head_size=self._model.head_size,
                dtype=self._config.kv_dtype,
                order=ORDERS[self._target.implementation],
            )
            state = allocate_sampling_state(self._config.max_num_seqs, self._config.max_model_len)
        return pages, state


def _name(key: _Program) -> str:
    if isinstance(key, StepLayout):
        return f"step of {key.num_tokens} tokens"
    if isinstance(key, int):
        return f"masking of {key} rows"
    num_rows, variant = key
    return f"{variant.name.lower()} sampling of {num_rows} rows"
