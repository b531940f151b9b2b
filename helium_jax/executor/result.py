"""What a run gives back: outputs and errors per row, and what it cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

RunStatus = Literal["completed", "failed", "cancelled", "expired"]


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
        return f"row {self.row + 1}, operator {self.operator}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    """One row's outputs; those that a failure kept from being computed are None."""

    row: int
    outputs: Mapping[str, str | None]
    errors: tuple[RowError, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorStatistics:
    """What one calling operator did and cost, in rows, calls and tokens.

    Attributes:
        operator: its name.
        num_rows: rows of the batch.
        num_done: rows that have a value.
        num_failed: rows that will have none.
        num_calls: calls that reached the engine.
        num_saved_calls: rows served by the answer of an equal call.
        prompt_tokens: of the prompts of `num_calls`; of those `kv_cached` were found in the store.
        kv_cached: see above.
        saved_prompt_tokens: of the prompts of `num_saved_calls`.
        completion_tokens: generated so far.
    """

    operator: str
    num_rows: int
    num_done: int = 0
    num_failed: int = 0
    num_calls: int = 0
    num_saved_calls: int = 0
    prompt_tokens: int = 0
    kv_cached: int = 0
    saved_prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatistics:
    """What a run cost: `needed == computed + kv_cached + single_flight_saved` always.

    Attributes:
        num_calls: calls that reached the engine.
        num_saved_calls: rows served by the answer of an equal call.
        needed: prompt tokens that a run without any reuse computes for the same answers.
        computed: prompt tokens that were computed.
        kv_cached: prompt tokens whose KV was found in the store.
        single_flight_saved: prompt tokens of calls that were not made.
        completion_tokens: generated.
        seconds: from start to end.
        operators: the same per calling operator.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a run ended.

    Attributes:
        run_id: of the run.
        plan_id: of the plan.
        status: "completed" even when rows failed, as long as that was allowed.
        rows: one entry per row of the batch, in its order.
        statistics: what it cost.
    """

    run_id: str
    plan_id: str
    status: RunStatus
    rows: tuple[RowResult, ...]
    statistics: RunStatistics

    @property
    def errors(self) -> tuple[RowError, ...]:
        """All rows' errors, by row."""
        return tuple(error for row in self.rows for error in row.errors)

    @property
    def is_partial(self) -> bool:
        """Whether some row lacks an output."""
        return any(row.errors for row in self.rows)


def summarize(operators: tuple[OperatorStatistics, ...], seconds: float) -> RunStatistics:
    """The run's statistics from those of its operators."""
    prompt_tokens = sum(op.prompt_tokens for op in operators)
    kv_cached = sum(op.kv_cached for op in operators)
    saved = sum(op.saved_prompt_tokens for op in operators)
    return RunStatistics(
        num_calls=sum(op.num_calls for op in operators),
        num_saved_calls=sum(op.num_saved_calls for op in operators),
        needed=prompt_tokens + saved,
        computed=prompt_tokens - kv_cached,
        kv_cached=kv_cached,
        single_flight_saved=saved,
        completion_tokens=sum(op.completion_tokens for op in operators),
        seconds=seconds,
        operators=operators,
    )
