"""The words between a run's state and its shell: events go in, instructions come out.

Progress values are instructions to tell the world; they leave the shell unchanged.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from helium_jax.executor.result import OperatorStatistics, RowError, RowResult, RunStatus
from helium_jax.executor.values import Answer, Turns
from helium_jax.plan import CallSettings
from helium_jax.plan.nodes import Function
from helium_jax.schedule.dispatch import PrefixUse, Release
from helium_jax.types import FinishReason, Usage

CallSource = Literal["computed", "kv", "result", "default"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of the language model.

    Attributes:
        call_id: unique in the run.
        operator: who calls.
        row: for which row.
        turns: (role, text) pairs; a bare prompt is one pair with the role None.
        settings: how the model is called.
        history: the answer whose conversation comes before `turns`.
        index: the iterations and items it stands in, outermost first.
    """

    call_id: int
    operator: str
    row: int
    turns: Turns
    settings: CallSettings
    history: Answer | None = None
    index: tuple[int, ...] = ()


# Events of a call tell which attempt at it they are of, counted from 0: what an attempt that was
# given up still has to say must not count for the next one.

# --- events: what happened -----------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """The run may begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEncoded:
    """A call's prompt is token ids now."""

    call_id: int
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallProgressed:
    """A call gained tokens, and with them text that is certain now; perhaps none yet."""

    call_id: int
    num_tokens: int
    text: str = ""
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFinished:
    """A call has its answer."""

    call_id: int
    text: str
    usage: Usage
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason = FinishReason.STOP
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CallServed:
    """An answer was already there, in the output cache or of an equal call of another run.

    Attributes:
        prompt_ids: the prompt that was not computed.
        token_ids: of the answer.
        finish_reason: why it ended when it was computed.
    """

    call_id: int
    text: str
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    finish_reason: FinishReason = FinishReason.STOP
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFailed:
    """An attempt at a call came to nothing.

    Attributes:
        may_retry: whether the same call may succeed another time.
        worker_failed: the engine that had it is gone: nothing the call did.
    """

    call_id: int
    code: str
    message: str
    may_retry: bool = True
    worker_failed: bool = False
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CallTimedOut:
    """An attempt at a call has taken as long as it may."""

    call_id: int
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionReturned:
    """A function of the plan's author gave a text."""

    invocation_id: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionFailed:
    """A function of the plan's author raised, or gave no text."""

    invocation_id: int
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRow:
    """Somebody does not want a row any more."""

    row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelOperator:
    """Somebody does not want an operator any more, for any row."""

    operator: str


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
    | CallServed
    | CallFailed
    | CallTimedOut
    | FunctionReturned
    | FunctionFailed
    | CancelRow
    | CancelOperator
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
            the KV store, "default" if the call failed and the plan says what it gives then, else
            "computed"; None for a row that failed.
        error: set when the row failed.
        index: the iterations and items it stands in, outermost first.
    """

    type: ClassVar[str] = "op.row"
    operator: str
    row: int
    source: CallSource | None
    error: RowError | None = None
    index: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OpAnswer:
    """What an answer was besides its text; told only to those who ask, before the value's `OpRow`.

    Attributes:
        operator: whose value.
        row: for which row.
        source: "result" if another call's answer served: nothing of the prompt was computed then.
        usage: of the call that computed it, or of the prompt and answer that served.
        finish_reason: why the answer ended.
        index: the iterations and items it stands in, outermost first.
    """

    type: ClassVar[str] = "op.answer"
    operator: str
    row: int
    source: CallSource
    usage: Usage
    finish_reason: FinishReason
    index: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OpDelta:
    """A row's value grew; told only to those who ask for it, before the value's `OpRow`.

    What the deltas from the last one with `offset` 0 spell together is the value.

    Attributes:
        operator: whose value.
        row: for which row.
        text: what was added.
        offset: characters before it; 0 also where another attempt begins anew.
        index: the iterations and items it stands in, outermost first.
    """

    type: ClassVar[str] = "op.delta"
    operator: str
    row: int
    text: str
    offset: int
    index: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OpCompleted:
    """An operator is done with every row."""

    type: ClassVar[str] = "op.completed"
    statistics: OperatorStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCompleted:
    """A row has all the outputs that it will have; told only to those who ask for rows."""

    type: ClassVar[str] = "row.completed"
    result: RowResult


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCompleted:
    """The run is over, well or not."""

    type: ClassVar[str] = "run.completed"
    status: RunStatus
    num_failed_rows: int


Progress = (
    OpStarted | OpProgress | OpDelta | OpAnswer | OpRow | OpCompleted | RowCompleted | RunCompleted
)


# --- instructions: what the shell shall do ---------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeCall:
    """Turn a call's prompt into token ids and say how many."""

    call: Call


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitCall:
    """Hand an encoded call to the engine, as its policy wants it."""

    call: Call
    token_ids: tuple[int, ...]
    release: Release
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelCall:
    """Forget a call, wherever it is: nobody waits for it."""

    call_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTimer:
    """Say when an attempt at a call has taken so many seconds."""

    call_id: int
    attempt: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StopTimer:
    """Forget the timer of a call."""

    call_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFunction:
    """Call a function of the plan's author with these texts, off the event loop."""

    invocation_id: int
    function: Function
    args: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelFunction:
    """Forget a function: nobody waits for its text, should it return."""

    invocation_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Foresee:
    """Tell the KV store when the plan needs prefixes again."""

    uses: tuple[PrefixUse, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillAhead:
    """Compute the beginning of a prompt whose rest is still being generated.

    Attributes:
        turns: (role, text) pairs; the last text goes on in a way that is not known yet.
        worker: where its producer runs; None if that was left to the pool.
        planned_next_use: when the plan needs it, so that it is not the first to be evicted.
    """

    turns: Turns
    worker: int | None
    planned_next_use: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Tell the world."""

    progress: Progress


Instruction = (
    EncodeCall
    | SubmitCall
    | CancelCall
    | StartTimer
    | StopTimer
    | CallFunction
    | CancelFunction
    | Foresee
    | PrefillAhead
    | Report
)
