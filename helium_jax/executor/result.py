"""What a run gives back: outputs and errors per row, and what it cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from helium_jax.schedule.prediction import ModelComparison

RunStatus = Literal["completed", "failed", "cancelled", "expired"]
SpanSource = Literal["computed", "kv", "result", "failed", "running"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowError:
    """Why a row lacks outputs: the operator that failed, not those that needed it.

    Attributes:
        row: index in the batch, from 0.
        operator: name of the operator that failed or had not finished.
        code: a stable word for programs.
        message: for people.
    """

    row: int
    operator: str
    code: str
    message: str

    def __str__(self) -> str:
        return f"rows[{self.row}], operator {self.operator}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    """One row's outputs; those that a failure kept from being computed are None."""

    row: int
    outputs: Mapping[str, str | None]
    errors: tuple[RowError, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorStatistics:
    """What one calling operator did and cost, in rows, calls and tokens.

    An operator in a loop or map is done once per iteration and item, in a branch perhaps never.

    Attributes:
        operator: its name.
        num_rows: rows of the batch.
        num_done: values it gave.
        num_failed: times it will give none.
        num_replaced: of `num_done`, calls that failed and gave what the plan says for that case.
        num_calls: calls that reached the engine, further attempts included.
        num_retries: of `num_calls`, further attempts.
        num_saved_calls: values that the answer of an equal call of the run gave.
        num_cached_calls: values that the output cache or another run gave.
        prompt_tokens: of the prompts of `num_calls`; of those `kv_cached` were found in the store.
        kv_cached: see above.
        saved_prompt_tokens: of the prompts of `num_saved_calls`.
        cached_prompt_tokens: of the prompts of `num_cached_calls`.
        completion_tokens: generated so far.
    """

    operator: str
    num_rows: int
    num_done: int = 0
    num_failed: int = 0
    num_replaced: int = 0
    num_calls: int = 0
    num_retries: int = 0
    num_saved_calls: int = 0
    num_cached_calls: int = 0
    prompt_tokens: int = 0
    kv_cached: int = 0
    saved_prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSpan:
    """One call's way through the run; times in seconds since its start, None if it came not so far.

    Attributes:
        operator: who called.
        row: for which row.
        index: the iterations and items it stood in, outermost first.
        worker: where the policy placed it; None if that was left to the pool.
        ready: its inputs were there.
        encoded: its prompt was token ids.
        submitted: the policy let it go.
        admitted: there was room for it at the engine, which it went to.
        first_token: the first of its answer.
        finished: its answer was there, or it had failed.
        source: "computed", "kv", "result" or "failed"; "running" in a look at a run that goes on.
        prompt_tokens: of its prompt.
        kv_cached: of those, found in the KV store.
        completion_tokens: of its answer.
    """

    operator: str
    row: int
    index: tuple[int, ...]
    worker: int | None
    ready: float
    encoded: float | None
    submitted: float | None
    first_token: float | None
    finished: float
    source: SpanSource
    prompt_tokens: int
    kv_cached: int
    completion_tokens: int
    admitted: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatistics:
    """What a run cost.

    `needed == computed + kv_cached + single_flight_saved + result_cached + merged_saved`.

    Attributes:
        num_calls: calls that reached the engine.
        num_saved_calls: values that the answer of an equal call of the run gave.
        needed: prompt tokens that a run without any reuse computes for the same answers.
        computed: prompt tokens that were computed.
        kv_cached: prompt tokens whose KV was found in the store.
        single_flight_saved: prompt tokens of calls that were not made because of equal ones.
        completion_tokens: generated.
        seconds: from start to end, what was computed ahead included.
        operators: the same per calling operator.
        num_cached_calls: values that the output cache or another run gave.
        result_cached: prompt tokens of those.
        precomputed: prompt tokens computed ahead of the calls; not part of `needed`.
        precompute_seconds: how long that took; calls go out meanwhile.
        merged_saved: prompt tokens of operators that the optimiser merged into others.
        planning_seconds: spent on rewriting, lowering and scheduling.
        spans: when each call was ready, submitted and finished; what a timeline is drawn from.
    """

    num_calls: int
    num_saved_calls: int
    needed: int
    computed: int
    kv_cached: int
    single_flight_saved: int
    completion_tokens: int
    seconds: float
    operators: tuple[OperatorStatistics, ...]
    num_cached_calls: int = 0
    result_cached: int = 0
    precomputed: int = 0
    precompute_seconds: float = 0.0
    merged_saved: int = 0
    planning_seconds: float = 0.0
    spans: tuple[CallSpan, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a run ended.

    Attributes:
        run_id: of the run.
        plan_id: of the plan.
        status: "completed" even when rows failed, as long as that was allowed.
        rows: one entry per row of the batch, in its order.
        statistics: what it cost.
        models: how well the cost models predict it; None where the engine's speed is not known, or
            something else ran meanwhile.
    """

    run_id: str
    plan_id: str
    status: RunStatus
    rows: tuple[RowResult, ...]
    statistics: RunStatistics
    models: ModelComparison | None = None

    @property
    def errors(self) -> tuple[RowError, ...]:
        """All rows' errors, by row."""
        return tuple(error for row in self.rows for error in row.errors)

    @property
    def is_partial(self) -> bool:
        """Whether some row lacks an output."""
        return any(None in row.outputs.values() for row in self.rows)


def summarize(
    operators: tuple[OperatorStatistics, ...],
    seconds: float,
    *,
    spans: tuple[CallSpan, ...] = (),
    precomputed: int = 0,
    precompute_seconds: float = 0.0,
) -> RunStatistics:
    """The run's statistics from those of its operators."""
    prompt_tokens = sum(op.prompt_tokens for op in operators)
    kv_cached = sum(op.kv_cached for op in operators)
    saved = sum(op.saved_prompt_tokens for op in operators)
    cached = sum(op.cached_prompt_tokens for op in operators)
    return RunStatistics(
        num_calls=sum(op.num_calls for op in operators),
        num_saved_calls=sum(op.num_saved_calls for op in operators),
        needed=prompt_tokens + saved + cached,
        computed=prompt_tokens - kv_cached,
        kv_cached=kv_cached,
        single_flight_saved=saved,
        completion_tokens=sum(op.completion_tokens for op in operators),
        seconds=seconds,
        operators=operators,
        num_cached_calls=sum(op.num_cached_calls for op in operators),
        result_cached=cached,
        precomputed=precomputed,
        precompute_seconds=precompute_seconds,
        spans=spans,
    )
