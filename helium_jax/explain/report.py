"""What EXPLAIN knows: an estimate per call, beside it what the run did, and the sums of both."""

from collections.abc import Mapping
from dataclasses import dataclass

from helium_jax.executor import Prepared, RunResult
from helium_jax.executor.precompute import WeighedPrefix, static_prefixes, weigh_prefixes
from helium_jax.executor.result import CallSpan
from helium_jax.schedule import CallGraph, SoftSchedule
from helium_jax.schedule.prediction import ModelComparison
from helium_jax.schedule.prefix_tree import Decode
from helium_jax.schedule.token_step import TokenSteps

MAX_TIMED_CALLS = 5_000  # of the paper's model; beyond it a schedule is shown without times
FLAG_RATIO = 3.0  # an estimate that is off by more is flagged


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What is expected of one calling operator over the batch.

    Attributes:
        calls: that reach the engine.
        known: rows that the output cache serves.
        prompt_tokens: of one prompt, mean.
        static_tokens: leading tokens that every row has in common.
        output_tokens: of one answer, mean.
        computed_tokens: prompt tokens of all its calls that no earlier call of the plan has, were
            every prefix kept.
        start: of its first call, in the paper's token steps; None where times are not worked out.
        end: of its last call.
    """

    calls: float
    known: int
    prompt_tokens: float
    static_tokens: int
    output_tokens: float
    computed_tokens: float
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Actual:
    """What one calling operator did.

    Attributes:
        calls: that reached the engine.
        done: values it gave.
        failed: times it gave none.
        saved: values that an equal call of the run gave.
        cached: values that the output cache gave.
        prompt_tokens: of the prompts of `calls`.
        kv_cached: of those, found in the KV store.
        output_tokens: of one answer, mean.
        start: seconds from the run's start until its first call was submitted; None without calls.
        end: until its last one was finished.
    """

    calls: int
    done: int
    failed: int
    saved: int
    cached: int
    prompt_tokens: int
    kv_cached: int
    output_tokens: float
    start: float | None
    end: float | None

    @property
    def computed(self) -> int:
        """Prompt tokens that were computed."""
        return self.prompt_tokens - self.kv_cached


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """EXPLAIN's content, whatever its form.

    Attributes:
        prepared: the stages.
        estimates: by calling operator of the optimised plan; empty without a model.
        actuals: by calling operator; empty unless the plan ran.
        schedule: of the calls; None without a model.
        needed_tokens: prompt tokens that a run without any reuse computes, estimated.
        computed_tokens: those expected of this one.
        prompt_tree: the templated radix tree of the prompts as text; empty without a model.
        result: of the run; None unless the plan ran.
        prefixes: static prefixes in whole pages, and which of them it pays to compute ahead.
        models: how well the cost models predict the run; None where they are not compared.
    """

    prepared: Prepared
    prompt_tree: str
    estimates: Mapping[str, Estimate]
    actuals: Mapping[str, Actual]
    schedule: SoftSchedule | None
    needed_tokens: float
    computed_tokens: float
    result: RunResult | None = None
    prefixes: tuple[WeighedPrefix, ...] = ()
    models: ModelComparison | None = None

    @property
    def prefix_tokens(self) -> Mapping[str, int]:
        """By operator, leading prompt tokens that all rows have in common."""
        return {name: estimate.static_tokens for name, estimate in self.estimates.items()}


def make_report(
    prepared: Prepared, *, decode: Decode | None = None, result: RunResult | None = None
) -> Report:
    """Everything EXPLAIN shows; may plan a schedule, runs nothing.

    Args:
        prepared: the stages of a plan.
        decode: token ids to text, to show prompts.
        result: of a run of the plan, for ANALYZE.
    """
    calls, schedule = prepared.planned.calls, prepared.schedule
    if calls is None or schedule is None:
        estimates = {}
    else:
        setting = prepared.setting
        times = _times(schedule, [float(setting.kv_tokens)] * setting.num_workers)
        computed = _count_new_tokens(calls.graph)
        known = prepared.optimized.known_rows
        estimates = {
            node.name: Estimate(
                calls=prepared.optimized.count_calls(node.name, prepared.num_rows) * node.repeats,
                known=len(known.get(node.name, ())),
                prompt_tokens=node.prompt_tokens,
                static_tokens=len(calls.tree.static_prefix(node.name)),
                output_tokens=node.output_tokens,
                computed_tokens=computed[node.name],
                start=times.get(node.name, (None, None))[0],
                end=times.get(node.name, (None, None))[1],
            )
            for node in calls.graph.nodes
        }
    return Report(
        prepared=prepared,
        prompt_tree="" if calls is None else calls.tree.text(decode),
        estimates=estimates,
        actuals={} if result is None else _actuals(result),
        schedule=schedule,
        needed_tokens=_needed_tokens(prepared, estimates),
        computed_tokens=sum(estimate.computed_tokens for estimate in estimates.values()),
        result=result,
        models=None if result is None else result.models,
        prefixes=_weigh_prefixes(prepared),
    )


def _weigh_prefixes(prepared: Prepared) -> tuple[WeighedPrefix, ...]:
    calls = prepared.planned.calls
    if calls is None:
        return ()
    page_size, kv_tokens = prepared.setting.page_size, prepared.setting.kv_tokens
    prefixes = static_prefixes(prepared.physical, calls, page_size=page_size)
    return weigh_prefixes(prefixes, prepared.roofline, page_size=page_size, kv_tokens=kv_tokens)


def is_far_off(estimate: float, actual: float) -> bool:
    """Whether an estimate deserves a flag."""
    low, high = sorted((max(estimate, 1.0), max(actual, 1.0)))
    return high > FLAG_RATIO * low


def _needed_tokens(prepared: Prepared, estimates: Mapping[str, Estimate]) -> float:
    """Without reuse every row calls for itself, merged operators do, and cached rows call again."""
    calls = prepared.planned.calls
    nodes = () if calls is None else calls.graph.nodes
    per_operator = {
        node.name: estimates[node.name].prompt_tokens * prepared.num_rows * node.repeats
        for node in nodes
        if node.name in estimates
    }
    merged = sum(per_operator.get(by, 0.0) for by in prepared.optimized.merged.values())
    return sum(per_operator.values()) + merged + sum(map(sum, prepared.fetched.values()))


def _count_new_tokens(graph: CallGraph) -> dict[str, float]:
    """Per operator, prompt tokens under prefixes that no call before it has, over all rows."""
    # A prefix is a number: that of the prefix before its last segment, and that segment.
    prefixes: dict[tuple[int, object], int] = {}
    new: dict[str, float] = {}
    for node in graph.nodes:
        total = 0.0
        for row in range(graph.num_rows):
            prefix = 0
            for segment in node.segments:
                identity = graph.identity(segment, row) if segment.key else object()
                key = (prefix, identity)
                if key not in prefixes:
                    total += segment.num_tokens
                prefix = prefixes.setdefault(key, len(prefixes) + 1)
        new[node.name] = total * node.repeats
    return new


def _times(
    schedule: SoftSchedule, capacities: list[float]
) -> dict[str, tuple[float | None, float | None]]:
    """First start and last end of every operator, in token steps."""
    graph = schedule.graph
    rows = graph.num_rows
    if len(graph.nodes) * rows > MAX_TIMED_CALLS:
        return {}
    orders = [
        [graph.place[name] * rows + row for name, row in schedule.order(worker)]
        for worker in range(len(capacities))
    ]
    timeline = TokenSteps(graph=graph, capacities=tuple(capacities)).evaluate(orders)
    return {
        node.name: (
            min(timeline.starts[place * rows : (place + 1) * rows]),
            max(timeline.ends[place * rows : (place + 1) * rows]),
        )
        for place, node in enumerate(graph.nodes)
    }


def _actuals(result: RunResult) -> dict[str, Actual]:
    spans: dict[str, list[CallSpan]] = {}
    for span in result.statistics.spans:
        spans.setdefault(span.operator, []).append(span)
    actuals = {}
    for op in result.statistics.operators:
        own = spans.get(op.operator, [])
        submitted = [span.submitted for span in own if span.submitted is not None]
        actuals[op.operator] = Actual(
            calls=op.num_calls,
            done=op.num_done,
            failed=op.num_failed,
            saved=op.num_saved_calls,
            cached=op.num_cached_calls,
            prompt_tokens=op.prompt_tokens,
            kv_cached=op.kv_cached,
            output_tokens=op.completion_tokens / op.num_calls if op.num_calls else 0.0,
            start=min(submitted, default=None),
            end=max((span.finished for span in own), default=None),
        )
    return actuals
