"""One run as the server knows it: its state, rows and events; the run service changes them."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import msgspec
from msgspec import UNSET

from helium_jax.executor import Prepared, RunControl, RunResult
from helium_jax.executor.budget import NOTHING, Spent
from helium_jax.executor.result import OperatorStatistics, RunStatistics, summarize
from helium_jax.executor.watch import RunWatch
from helium_jax.server.plans.job import PlanJob
from helium_jax.server.plans.replies import (
    RowCounts,
    RowReply,
    RunFailure,
    RunReply,
    RunUsage,
)
from helium_jax.server.runs.events import EventLog, Told

State = Literal[
    "queued",
    "planning",
    "in_progress",
    "cancelling",
    "completed",
    "failed",
    "cancelled",
    "expired",
    "interrupted",
]
FINAL: frozenset[State] = frozenset({"completed", "failed", "cancelled", "expired", "interrupted"})


@dataclass(slots=True, kw_only=True)
class HeldEvent:
    """An event that is told once the journal has what it tells of, and after those before it.

    Attributes:
        publish: tells it.
        is_ready: the journal has it.
        row: that it tells to be finished, if it does.
    """

    publish: Callable[[], None]
    is_ready: bool
    row: int | None = None


@dataclass(slots=True, kw_only=True)
class RunRecord:
    """One run.

    Attributes:
        id: as clients call it.
        tenant: whose key asked for it.
        job: the plan, rows and options.
        created: when it was asked for, in seconds since the epoch; so `started` and `finished`.
        events: what happened.
        is_durable: it is in the journal.
        state: queued to final.
        attempt: 1, and one more with each resume.
        rows: finished rows as JSON of a RowReply, by their place in the batch.
        num_failed: of those, rows that lack an output.
        error: why the run as a whole came to nothing.
        prepared: its stages, once planned.
        result: what the last attempt gave.
        spent: what the attempts before it cost, or all of them after a restart.
        costs: what the operators of the attempt that runs have cost so far.
        control: cancels parts of it.
        done: set while the state is final.
        kept: set once the journal has the request, or will not have it.
        model_version: of the model that answers.
        held: events that wait for the journal.
        watch: the calls and prompts of the last attempt; None before it and after a restart.
        places: of the rows of that attempt, their places in the batch.
        figures: what is left of its graph, calls and analysis after a restart, packed.
        on_told: called with all that is told of it; for who made the run on its own behalf.
    """

    id: str
    tenant: str
    job: PlanJob
    created: float
    events: EventLog
    is_durable: bool = False
    state: State = "queued"
    attempt: int = 1
    started: float | None = None
    finished: float | None = None
    rows: dict[int, bytes] = field(default_factory=dict)
    num_failed: int = 0
    rows_bytes: int = 0
    error: RunFailure | None = None
    prepared: Prepared | None = None
    result: RunResult | None = None
    spent: RunUsage | None = None
    costs: dict[str, OperatorStatistics] = field(default_factory=dict)
    attempt_seconds: float = 0.0
    control: RunControl = field(default_factory=RunControl)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    kept: asyncio.Event = field(default_factory=asyncio.Event)
    model_version: str = ""
    held: deque[HeldEvent] = field(default_factory=deque)
    watch: RunWatch | None = None
    places: tuple[int, ...] = ()
    figures: bytes | None = None
    on_told: Callable[[Told], None] | None = None

    @property
    def is_final(self) -> bool:
        """Nothing more will happen, unless the run is resumed."""
        return self.state in FINAL

    @property
    def usage(self) -> RunUsage | None:
        """What all attempts have cost so far; None before there was anything to count."""
        if self.result is not None:
            now = describe_usage(self.result.statistics)
        elif self.costs:
            now = describe_usage(summarize((*self.costs.values(),), self.attempt_seconds))
        else:
            return self.spent
        return now if self.spent is None else add_usage(self.spent, now)

    def begin_attempt(self) -> None:
        """What was spent so far is of earlier attempts from now on."""
        self.spent, self.result, self.figures = self.usage, None, None
        self.costs, self.attempt_seconds = {}, 0.0

    @property
    def num_bytes(self) -> int:
        """Roughly what keeping it costs; inputs count as much again for their columns."""
        inputs = sum(len(str(value)) for row in self.job.rows for value in row.values())
        prompts = 0 if self.watch is None else self.watch.num_bytes
        figures = 0 if self.figures is None else len(self.figures)
        return 2 * inputs + self.rows_bytes + self.events.num_bytes + prompts + figures + 4096

    def put_row(self, row: RowReply) -> None:
        """Keeps a finished row; one that is there already stays."""
        if row.row not in self.rows:
            data = self.rows[row.row] = msgspec.json.encode(row)
            self.rows_bytes += len(data)
            self.num_failed += bool(row.errors)

    def tell_created(self) -> None:
        """Tells that the run, or its next attempt, was asked for."""
        plan = self.job.known.plan
        self.events.append(
            "run.created",
            0.0,
            {
                "attempt": self.attempt,
                "plan_id": plan.plan_id,
                "plan_name": plan.name,
                "rows": self.job.num_rows,
                "rows_finished": len(self.rows),
            },
        )

    def end(self, state: State, *, t_ms: float) -> None:
        """Puts the run into a final state and tells so, `t_ms` after the attempt's start."""
        self.state = state
        self.events.append(
            "run.completed",
            t_ms,
            {
                "state": state,
                "result": self.outcome,
                "rows": msgspec.to_builtins(self.counts),
                "usage": msgspec.to_builtins(self.usage),
                "error": msgspec.to_builtins(self.error),
            },
        )
        self.done.set()

    def describe(
        self, *, with_outputs: bool = False, warnings: list[str] | None = None
    ) -> RunReply:
        """The run as clients see it."""
        outputs: list[RowReply] | msgspec.UnsetType = UNSET
        if with_outputs:
            rows = (self.rows[row] for row in sorted(self.rows))
            outputs = [msgspec.json.decode(data, type=RowReply) for data in rows]
        plan = self.job.known.plan
        return RunReply(
            id=self.id,
            plan_id=plan.plan_id,
            plan_name=plan.name,
            state=self.state,
            result=self.outcome,
            attempt=self.attempt,
            durable=self.is_durable,
            created=self.created,
            started=self.started,
            finished=self.finished,
            rows=self.counts,
            usage=self.usage,
            error=self.error,
            outputs=outputs,
            warnings=warnings or UNSET,
        )

    @property
    def outcome(self) -> str | None:
        """ "whole" or "partial", of a completed run."""
        if self.state != "completed":
            return None
        return "partial" if self.num_failed else "whole"

    @property
    def counts(self) -> RowCounts:
        """Its rows."""
        return RowCounts(total=self.job.num_rows, finished=len(self.rows), failed=self.num_failed)


def add_usage(one: RunUsage, other: RunUsage) -> RunUsage:
    """What two attempts cost together."""
    pairs = zip(msgspec.structs.astuple(one), msgspec.structs.astuple(other), strict=True)
    return RunUsage(
        **dict(zip(one.__struct_fields__, (left + right for left, right in pairs), strict=True))
    )


def spent_of(usage: RunUsage | None) -> Spent:
    """The part of a cost that counts against limits."""
    if usage is None:
        return NOTHING
    return Spent(
        num_calls=usage.calls,
        num_tokens=usage.computed + usage.kv_cached + usage.completion_tokens,
        seconds=usage.seconds,
    )


def describe_usage(cost: RunStatistics) -> RunUsage:
    """What an attempt cost, as clients see it."""
    return RunUsage(
        calls=cost.num_calls,
        needed=cost.needed,
        computed=cost.computed,
        kv_cached=cost.kv_cached,
        single_flight_saved=cost.single_flight_saved,
        result_cached=cost.result_cached,
        merged_saved=cost.merged_saved,
        precomputed=cost.precomputed,
        completion_tokens=cost.completion_tokens,
        seconds=cost.seconds,
        planning_seconds=cost.planning_seconds,
    )
