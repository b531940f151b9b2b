"""One measured run of a workload under a variant."""

import dataclasses
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from helium_jax.errors import InternalError
from helium_jax.executor import NAIVE, RunResult, RunStatistics, run_plan
from helium_jax.executor.output_cache import OutputCache
from helium_jax.experiments.environment import load_average
from helium_jax.experiments.variant import Variant
from helium_jax.experiments.watching import Watcher
from helium_jax.experiments.workload import Row, Workload
from helium_jax.runtime import Runtime
from helium_jax.types import EngineStatistics

Outputs = tuple[Mapping[str, str | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What a run cost; times in seconds unless a name ends otherwise.

    Attributes:
        seconds: of the batch, planning and precomputing included.
        planning_s: of those, rewriting, lowering and scheduling.
        precompute_s: until static prefixes were computed, beside the first calls.
        warmup_s: of the batch before, if the workload has one; not in `seconds`.
        num_rows: of the batch.
        calls: that reached the engine.
        reused_calls: that did not: an equal call's answer, or a cached one, served.
        needed: prompt tokens that a run without any reuse computes.
        computed: prompt tokens that were computed, precomputed ones not included.
        floor: prompt tokens that the same calls in the same order had computed with a KV store
            without a limit that was empty at first; what is above it is what eviction and calls
            of one time cost, what is below it was there before the batch.
        precomputed: prompt tokens that were computed ahead of the calls.
        output_tokens: generated.
        hit_rate: share of the prompt tokens of `calls` that were found in the KV store.
        saved_rate: share of `needed` that was not computed in any way.
        evicted_then_needed: prompt tokens that were computed again because they had been evicted.
        steps: of the engines.
        mean_batch: sequences that decoded in a step.
        preemptions: sequences sent back to the queue.
        host_s: of the engines' time outside the device.
        device_s: of the engines' time on the device.
        cpu_s: of this process on all cores: on a CPU it says more than `seconds` when others are
            busy too.
        call_median_s: from ready to finished, the median of all calls that reached the engine.
        call_p95_s: the 95th percentile of the same.
        pressure: tokens of all prompts and answers over the KV capacity of all workers.
        load_average: of the machine before the run.
    """

    seconds: float
    planning_s: float
    precompute_s: float
    warmup_s: float
    num_rows: int
    calls: int
    reused_calls: int
    needed: int
    computed: int
    floor: int
    precomputed: int
    output_tokens: int
    hit_rate: float
    saved_rate: float
    evicted_then_needed: int
    steps: int
    mean_batch: float
    preemptions: int
    host_s: float
    device_s: float
    cpu_s: float
    call_median_s: float
    call_p95_s: float
    pressure: float
    load_average: float

    def fields(self) -> dict[str, Any]:
        """For a record, with four significant digits."""
        return {name: _rounded(value) for name, value in dataclasses.asdict(self).items()}


async def measure(
    runtime: Runtime, workload: Workload, variant: Variant
) -> tuple[Measurement, Outputs]:
    """Runs a workload from empty caches.

    Raises:
        InternalError: a row failed: policies that do not do the same work cannot be compared.
    """
    generator = Watcher(runtime.generator, forgetful=not variant.plans_eviction)
    await generator.reset_cache()
    cache = OutputCache() if variant.options.output_cache else None
    load = load_average()

    async def run(rows: Sequence[Row]) -> RunResult:
        result = await run_plan(
            workload.plan,
            rows,
            generator=generator,
            codec=runtime.text,
            options=variant.options,
            output_cache=cache,
        )
        if result.errors:
            raise InternalError(f"{workload.name} under {variant.name}: {result.errors[0]}")
        return result

    warmup_s = 0.0
    if workload.earlier is not None:
        warmup_s = (await run(workload.earlier)).statistics.seconds
    generator.clear()
    before = generator.statistics()
    started, cpu_started = time.perf_counter(), time.process_time()
    result = await run(workload.rows)
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    change = _Change(before, generator.statistics())
    floor = generator.least_computed(before[0].cache.page_size)
    measured = _measurement(
        result.statistics, change, seconds=seconds, warmup_s=warmup_s, rows=len(workload.rows)
    )
    outputs = tuple(row.outputs for row in result.rows)
    return dataclasses.replace(measured, load_average=load, cpu_s=cpu_s, floor=floor), outputs


async def warm_up(runtime: Runtime, workload: Workload) -> None:
    """The batch once, unmeasured: a process's first seconds of work are its slowest."""
    await run_plan(
        workload.plan,
        workload.rows,
        generator=runtime.generator,
        codec=runtime.text,
        options=dataclasses.replace(NAIVE, policy="as_ready", max_in_flight=None),
    )


def equal_outputs(ours: Outputs, theirs: Outputs) -> float:
    """Share of the outputs that are the same text in both."""
    pairs = [(a[name], b[name]) for a, b in zip(ours, theirs, strict=False) for name in a]
    return sum(a == b for a, b in pairs) / max(1, len(pairs))


class _Change:
    """What happened between two moments, summed over workers."""

    def __init__(
        self, before: Sequence[EngineStatistics], after: Sequence[EngineStatistics]
    ) -> None:
        self._pairs = list(zip(before, after, strict=True))
        self.kv_tokens = sum(s.cache.num_pages * s.cache.page_size for s in after)

    def of(self, name: str) -> float:
        return sum(getattr(b, name) - getattr(a, name) for a, b in self._pairs)

    @property
    def evicted_then_needed(self) -> int:
        name = "evicted_then_needed_tokens"
        return sum(getattr(b.cache, name) - getattr(a.cache, name) for a, b in self._pairs)


def _measurement(
    cost: RunStatistics, change: _Change, *, seconds: float, warmup_s: float, rows: int
) -> Measurement:
    latencies = sorted(
        span.finished - span.ready for span in cost.spans if span.submitted is not None
    )
    prompts = cost.computed + cost.kv_cached
    return Measurement(
        seconds=seconds,
        planning_s=cost.planning_seconds,
        precompute_s=cost.precompute_seconds,
        warmup_s=warmup_s,
        num_rows=rows,
        calls=cost.num_calls,
        reused_calls=cost.num_saved_calls + cost.num_cached_calls,
        needed=cost.needed,
        computed=cost.computed,
        floor=0,
        precomputed=cost.precomputed,
        output_tokens=cost.completion_tokens,
        hit_rate=cost.kv_cached / max(1, prompts),
        saved_rate=1 - (cost.computed + cost.precomputed) / max(1, cost.needed),
        evicted_then_needed=change.evicted_then_needed,
        steps=int(change.of("num_steps")),
        mean_batch=change.of("num_decode_tokens") / max(1.0, change.of("num_steps")),
        preemptions=int(change.of("num_preemptions")),
        host_s=change.of("host_seconds"),
        device_s=change.of("device_seconds"),
        cpu_s=0.0,
        call_median_s=statistics.median(latencies) if latencies else 0.0,
        call_p95_s=latencies[int(0.95 * (len(latencies) - 1))] if latencies else 0.0,
        pressure=(cost.needed + cost.completion_tokens) / max(1, change.kv_tokens),
        load_average=0.0,
    )


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
