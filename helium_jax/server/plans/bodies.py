"""The bodies of plans, runs and the cache as types; `bodies` has those of OpenAI's endpoints."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from helium_jax.server.openai.bodies import Int32, Message, Name

Format = Literal["text", "json", "mermaid", "dot"]
Total = Annotated[int, Meta(ge=1, le=2**53)]
Param = str | int | float | bool


class PlanBody(Struct, kw_only=True, frozen=True):
    """POST /v1/plans. `plan`: what /v1/plans/schema describes."""

    plan: dict[str, Any]


class PlanFields(Struct, kw_only=True, frozen=True):
    """Which plan and over which rows.

    Either `plan` or the `plan_id` of a registered one. `inputs`: one object of columns per row.
    `disable`: rewrite rules that are not applied. `cache_salt`: answers and KV are shared only
    with runs and requests of the same key and salt.
    """

    plan: dict[str, Any] | None = None
    plan_id: Name | None = None
    inputs: list[Any] | None = None
    params: dict[str, Param] | None = None
    policy: Name | None = None
    disable: list[Name] | None = None
    cache_salt: Annotated[str, Meta(min_length=1)] | None = None


class ExplainBody(PlanFields, kw_only=True, frozen=True):
    """POST /v1/plans/explain. Without `inputs` the plan is explained for a row of placeholders."""

    format: Format | None = None


class RunLimitsBody(Struct, kw_only=True, frozen=True):
    """Narrows the plan's own limits for one run; `timeout_s` is in seconds from the run's start."""

    max_llm_calls: Total | None = None
    max_total_tokens: Total | None = None
    max_concurrency: Total | None = None
    timeout_s: Annotated[float, Meta(gt=0)] | None = None
    on_row_error: Literal["skip", "fail"] | None = None


class RunBody(PlanFields, kw_only=True, frozen=True):
    """POST /v1/runs.

    `priority`: lower is sooner, in the queue of runs and at the engine. `weight`: of the run's
    share of the engine. `stream`: the answer is the run's events. `background`: the answer comes
    at once, with the id. Else the answer comes with the outputs. `on_disconnect`: what becomes of
    the run when the client goes before its end; "cancel" unless said otherwise. `stream_deltas`:
    the run's events tell answers as they grow, in op.delta.
    """

    priority: Int32 | None = None
    weight: Annotated[float, Meta(ge=0.01, le=100)] | None = None
    limits: RunLimitsBody | None = None
    stream: bool | None = None
    stream_deltas: bool | None = None
    background: bool | None = None
    on_disconnect: Literal["cancel", "continue"] | None = None


class CancelBody(Struct, kw_only=True, frozen=True):
    """POST /v1/runs/{run_id}/cancel, whose body may be left out: cancels a `row`, counted from 0,
    or an `operator` for every row that lacks its value, instead of the whole run."""

    row: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    operator: Name | None = None


class WarmBody(Struct, kw_only=True, frozen=True):
    """POST /v1/cache/warm: one of `text`, `messages`, `plan` and `plan_id`.

    Of a plan, what all rows have in common at the beginning of its prompts. `pin`: eviction takes
    the pages last, for `ttl_s` seconds or until they are given back.
    """

    text: str | None = None
    messages: list[Message] | None = None
    plan: dict[str, Any] | None = None
    plan_id: Name | None = None
    params: dict[str, Param] | None = None
    pin: bool | None = None
    ttl_s: Annotated[float, Meta(gt=0)] | None = None
    cache_salt: Annotated[str, Meta(min_length=1)] | None = None


class ResetBody(Struct, kw_only=True, frozen=True):
    """POST /v1/cache/reset: what is forgotten, unless told otherwise both."""

    kv: bool | None = None
    outputs: bool | None = None
