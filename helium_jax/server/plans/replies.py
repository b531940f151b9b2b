"""The answers about plans, runs and the cache as types."""

from typing import Any

from msgspec import UNSET, Struct, UnsetType, field


class PlanProblem(Struct, kw_only=True, frozen=True):
    """A fault or warning of a plan, with its place."""

    param: str
    message: str
    code: str


class PlanTotals(Struct, kw_only=True, frozen=True):
    """What this server's finished runs of a plan add up to; tokens are prompt tokens.

    Attributes:
        needed_tokens: without any reuse.
        computed_tokens: of those, computed.
        seconds: of all runs; `max_seconds` of the longest.
    """

    runs: int = 0
    rows: int = 0
    calls: int = 0
    needed_tokens: int = 0
    computed_tokens: int = 0
    seconds: float = 0.0
    max_seconds: float = 0.0


class PlanReply(Struct, kw_only=True, frozen=True):
    """A registered plan; `plan` is its document in the author's order."""

    id: str
    name: str
    created: int
    inputs: list[str]
    outputs: list[str]
    num_operators: int
    totals: PlanTotals
    object: str = "plan"
    plan: dict[str, Any] | UnsetType = UNSET
    warnings: list[PlanProblem] | UnsetType = UNSET


class PlanList(Struct, kw_only=True, frozen=True):
    """Answer of GET /v1/plans, the latest first."""

    data: list[PlanReply]
    object: str = "list"


class RowErrorReply(Struct, kw_only=True, frozen=True):
    """Why a row lacks outputs."""

    operator: str
    code: str
    message: str


class RowReply(Struct, kw_only=True, frozen=True):
    """One row's outputs; those that a failure kept from being computed are null."""

    row: int
    outputs: dict[str, str | None]
    errors: list[RowErrorReply]


class RowCounts(Struct, kw_only=True, frozen=True):
    """Rows of a run: `finished` counts those that have all they will have, `failed` of those the
    ones that lack an output."""

    total: int
    finished: int
    failed: int


class RunUsage(Struct, kw_only=True, frozen=True):
    """What a run cost.

    `needed = computed + kv_cached + single_flight_saved + result_cached + merged_saved`, all in
    prompt tokens; `precomputed` ones were computed ahead of the calls.
    """

    calls: int
    needed: int
    computed: int
    kv_cached: int
    single_flight_saved: int
    result_cached: int
    merged_saved: int
    precomputed: int
    completion_tokens: int
    seconds: float
    planning_seconds: float


class RunFailure(Struct, kw_only=True, frozen=True):
    """Why a run as a whole came to nothing."""

    code: str
    message: str


class RunReply(Struct, kw_only=True, frozen=True):
    """A run.

    Attributes:
        state: queued, planning, in_progress, cancelling; completed, failed, cancelled, expired and
            interrupted are final.
        result: "whole" or "partial" once completed; partial: some row lacks an output.
        attempt: 1, and one more with each resume.
        durable: it outlives the server's process.
        outputs: of every row, where the answer waited for them.
    """

    id: str
    plan_id: str
    plan_name: str
    state: str
    result: str | None
    attempt: int
    durable: bool
    created: float
    started: float | None
    finished: float | None
    rows: RowCounts
    usage: RunUsage | None
    error: RunFailure | None
    object: str = "run"
    outputs: list[RowReply] | UnsetType = UNSET
    warnings: list[str] | UnsetType = UNSET


class RunList(Struct, kw_only=True, frozen=True):
    """Answer of GET /v1/runs, the latest first."""

    data: list[RunReply]
    object: str = "list"


class RunEventReply(Struct, kw_only=True, frozen=True):
    """One event of a run's stream; its other fields depend on its type.

    Types: run.created, run.planned, op.started, op.progress, op.delta (on request), op.row,
    op.completed, row.completed, cache.evicted, run.completed. The texts of op.delta from the last
    one with `offset` 0 on spell the value. `id` is what Last-Event-ID takes: a part of the events,
    and the number in it.
    """

    id: str
    sequence_number: int
    run_id: str
    t_ms: float
    type: str


class DeletedReply(Struct, kw_only=True, frozen=True):
    """What was deleted."""

    id: str
    object: str
    deleted: bool = True


class WorkerCache(Struct, kw_only=True, frozen=True):
    """One worker's KV store: free + cached + used = pages; hits of queried tokens."""

    worker: int
    page_size: int
    pages: int
    free: int
    cached: int
    used: int
    pinned: int
    queried_tokens: int
    hit_tokens: int
    evicted_pages: int
    evicted_then_needed_tokens: int
    surrendered_pins: int


class OutputsCache(Struct, kw_only=True, frozen=True):
    """The output cache; `file` is none, open or failed (then it goes on in memory)."""

    entries: int
    bytes: int
    max_bytes: int
    hits: int
    misses: int
    evictions: int
    expirations: int
    file: str


class PinReply(Struct, kw_only=True, frozen=True):
    """Pages that eviction takes last; `expires` in seconds since the epoch."""

    id: str
    worker: int
    tokens: int
    created: float
    expires: float | None
    object: str = "cache.pin"


class CacheReply(Struct, kw_only=True, frozen=True):
    """Answer of GET /v1/cache; the pins are the asking key's."""

    kv: list[WorkerCache]
    outputs: OutputsCache | None
    pins: list[PinReply]
    object: str = "cache"


class PinList(Struct, kw_only=True, frozen=True):
    """Answer of GET /v1/cache/pins."""

    data: list[PinReply]
    object: str = "list"


class WarmedPrefix(Struct, kw_only=True, frozen=True):
    """A prefix in tokens: what was asked for, is resident now (whole pages), and was computed."""

    tokens: int
    resident: int
    computed: int
    worker: int
    operators: list[str] = field(default_factory=list)
    pin: PinReply | None = None


class WarmReply(Struct, kw_only=True, frozen=True):
    """Answer of POST /v1/cache/warm."""

    prefixes: list[WarmedPrefix]
    object: str = "cache.warming"
    warnings: list[str] | UnsetType = UNSET


class ResetReply(Struct, kw_only=True, frozen=True):
    """Answer of POST /v1/cache/reset: what was forgotten."""

    pages: int
    outputs: int
    object: str = "cache.reset"
