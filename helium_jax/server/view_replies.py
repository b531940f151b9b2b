"""The answers that a run and the KV stores are drawn from, as types."""

from msgspec import Struct


class GraphNodeReply(Struct, kw_only=True, frozen=True):
    """An operator, input, parameter or output of a run's plan, and what it did so far.

    Attributes:
        type: as a plan file has it, or input, param, output.
        state: kept, fetched (the output cache has all its answers), merged or pruned.
        into: what it was merged into.
        inside: the control operator whose body it stands in.
        lines: what EXPLAIN says of it, once the run is over with what happened.
        done: values it gave; `failed`: times it will give none.
        calls: that reached the engine; `saved`: values an equal call of the run gave; `cached`:
            values the output cache gave.
        kv_cached: of the `prompt_tokens` of its calls, found in the KV store.
    """

    name: str
    type: str
    state: str
    into: str | None
    inside: str | None
    lines: list[str]
    done: int = 0
    failed: int = 0
    calls: int = 0
    saved: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    kv_cached: int = 0


class GraphEdgeReply(Struct, kw_only=True, frozen=True):
    """From what is needed to what needs it; `gone`: from a merged operator to who does its work."""

    source: str
    target: str
    gone: bool


class PlanGraphReply(Struct, kw_only=True, frozen=True):
    """Answer of GET /v1/runs/{run_id}/graph: nodes after those they need."""

    run_id: str
    nodes: list[GraphNodeReply]
    edges: list[GraphEdgeReply]
    object: str = "run.graph"


class SpanReply(Struct, kw_only=True, frozen=True):
    """One call; times in seconds since the run's start, null if it came not so far.

    Attributes:
        ready: its inputs were there; `encoded`: its prompt was token ids.
        submitted: the schedule let it go; `admitted`: there was room for it at the engine.
        finished: the end, or the moment of asking while it goes on.
        source: computed, kv, result, failed or running.
    """

    operator: str
    row: int
    index: list[int]
    worker: int | None
    ready: float
    encoded: float | None
    submitted: float | None
    admitted: float | None
    first_token: float | None
    finished: float
    source: str
    prompt_tokens: int
    kv_cached: int
    completion_tokens: int


class TimelineReply(Struct, kw_only=True, frozen=True):
    """Answer of GET /v1/runs/{run_id}/timeline; `left_out`: earlier calls that are too many."""

    run_id: str
    spans: list[SpanReply]
    left_out: int
    object: str = "run.timeline"


class PromptPlace(Struct, kw_only=True, frozen=True):
    """A call whose prompt can be read."""

    operator: str
    row: int
    index: list[int]
    prompt_tokens: int


class PromptList(Struct, kw_only=True, frozen=True):
    """Answer of GET /v1/runs/{run_id}/prompts; not `whole` when there was no room for all."""

    run_id: str
    data: list[PromptPlace]
    whole: bool
    object: str = "list"


class PromptPart(Struct, kw_only=True, frozen=True):
    """A stretch of a prompt.

    Attributes:
        shared: "operator": every prompt of the operator begins so; "run": the beginning of some
            other prompt of the run goes on so; "none": this prompt's own.
    """

    shared: str
    text: str
    tokens: int


class PromptReply(Struct, kw_only=True, frozen=True):
    """Answer of GET /v1/runs/{run_id}/prompt: a call's prompt as the model saw it.

    `kv_cached`: tokens found in the KV store; null while the call is not over.
    """

    run_id: str
    operator: str
    row: int
    index: list[int]
    prompt_tokens: int
    kv_cached: int | None
    parts: list[PromptPart]
    object: str = "run.prompt"


class PrefixReply(Struct, kw_only=True, frozen=True):
    """A stretch of a prefix tree, up to where prompts part.

    Attributes:
        parent: index of the stretch before it; null at a root.
        pages: of the stretch; `below`: of everything behind it.
        readers: running sequences that read it.
        pinned: of its pages.
        text: how it begins; null for a prefix of another key.
    """

    parent: int | None
    pages: int
    below: int
    readers: int
    pinned: int
    text: str | None


class WorkerMap(Struct, kw_only=True, frozen=True):
    """One worker's pages.

    Attributes:
        pages_per_cell: that one letter stands for, the busiest of which it tells.
        cells: f free, c cached and read by nobody, p private to one sequence, s shared by several;
            a capital: pinned.
        folded: pages of stretches that are left out.
    """

    worker: int
    page_size: int
    pages_per_cell: int
    cells: str
    prefixes: list[PrefixReply]
    folded: int


class CacheMapReply(Struct, kw_only=True, frozen=True):
    """Answer of GET /v1/cache/map."""

    workers: list[WorkerMap]
    object: str = "cache.map"
