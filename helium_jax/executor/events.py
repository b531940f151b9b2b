"""The words between a run's state and its shell: events go in, instructions come out.

Progress values are instructions to tell the world; they leave the shell unchanged.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from helium_jax.executor.result import OperatorStatistics, RowError, RunStatus
from helium_jax.plan import CallSettings
from helium_jax.types import Usage

CallSource = Literal["computed", "kv", "result"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of the language model.

    Attributes:
        call_id: unique in the run.
        operator: who calls.
        row: for which row.
        turns: (role, text) pairs; a bare prompt is one pair with the role None.
        settings: how the model is called.
    """

    call_id: int
    operator: str
    row: int
    turns: tuple[tuple[str | None, str], ...]
    settings: CallSettings


# --- events: what happened -----------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """The run may begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEncoded:
    """A call's prompt is token ids now."""

    call_id: int
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CallProgressed:
    """A call gained tokens."""

    call_id: int
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFinished:
    """A call has its answer."""

    call_id: int
    text: str
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFailed:
    """A call has none and will not get one."""

    call_id: int
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested:
    """Somebody wants the run to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadlinePassed:
    """The run's time is over."""


Event = (
    RunStarted
    | CallEncoded
    | CallProgressed
    | CallFinished
    | CallFailed
    | CancelRequested
    | DeadlinePassed
)


# --- progress: what the world may know ------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class OpStarted:
    """An operator's first call goes out."""

    type: ClassVar[str] = "op.started"
    operator: str
    num_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpProgress:
    """How far an operator is; only the latest of an operator's matters."""

    type: ClassVar[str] = "op.progress"
    statistics: OperatorStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class OpRow:
    """An operator has a row's value or failed at it.

    Attributes:
        source: "result" if another call's answer served, "kv" if part of the prompt was found in
            the KV store, else "computed"; None for a row that failed.
        error: set when the row failed.
    """

    type: ClassVar[str] = "op.row"
    operator: str
    row: int
    source: CallSource | None
    error: RowError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpCompleted:
    """An operator is done with every row."""

    type: ClassVar[str] = "op.completed"
    statistics: OperatorStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCompleted:
    """The run is over, well or not."""

    type: ClassVar[str] = "run.completed"
    status: RunStatus
    num_failed_rows: int


Progress = OpStarted | OpProgress | OpRow | OpCompleted | RunCompleted


# --- instructions: what the shell shall do ---------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeCall:
    """Turn a call's prompt into token ids and say how many."""

    call: Call


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitCall:
    """Hand an encoded call to the engine."""

    call_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelCall:
    """Forget a call: nobody waits for it."""

    call_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Tell the world."""

    progress: Progress


Instruction = EncodeCall | SubmitCall | CancelCall | Report
