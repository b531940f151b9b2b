"""One run as the server knows it: its state, rows and events; the run service changes them."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import msgspec
from msgspec import UNSET

from helium_jax.executor import Prepared, RunControl, RunResult
from helium_jax.executor.watch import RunWatch
from helium_jax.server.plan_job import PlanJob
from helium_jax.server.plan_replies import (
    RowCounts,
    RowReply,
    RunFailure,
    RunReply,
    RunUsage,
)
from helium_jax.server.run_events import EventLog

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
        control: cancels parts of it.
        done: set while the state is final.
        kept: set once the journal has the request, or will not have it.
        model_version: of the model that answers.
        held: events that wait for the journal.
        watch: the calls and prompts of the last attempt; None before it and after a restart.
        places: of the rows of that attempt, their places in the batch.
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
    control: RunControl = field(default_factory=RunControl)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    kept: asyncio.Event = field(default_factory=asyncio.Event)
    model_version: str = ""
    held: deque[HeldEvent] = field(default_factory=deque)
    watch: RunWatch | None = None
    places: tuple[int, ...] = ()

    @property
    def is_final(self) -> bool:
        """Nothing more will happen, unless the run is resumed."""
        return self.state in FINAL

    @property
    def num_bytes(self) -> int:
        """Roughly what keeping it costs; inputs count as much again for their columns."""
        inputs = sum(len(str(value)) for row in self.job.rows for value in row.values())
        prompts = 0 if self.watch is None else self.watch.num_bytes
        return 2 * inputs + self.rows_bytes + self.events.num_bytes + prompts + 4096

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
        result = self.result
        self.events.append(
            "run.completed",
            t_ms,
            {
                "state": state,
                "result": self.outcome,
                "rows": msgspec.to_builtins(self.counts),
                "usage": None if result is None else msgspec.to_builtins(describe_usage(result)),
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
            usage=None if self.result is None else describe_usage(self.result),
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


def describe_usage(result: RunResult) -> RunUsage:
    """What an attempt cost, as clients see it."""
    cost = result.statistics
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
