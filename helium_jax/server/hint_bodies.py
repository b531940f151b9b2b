"""Hints of other systems as fields of a body; what becomes of each is in `hints`."""

from typing import Annotated

from msgspec import Meta, Struct


class AgentHints(Struct, kw_only=True, frozen=True):
    """NVIDIA Dynamo's hints; `priority` is theirs: higher is sooner."""

    priority: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] | None = None
    strict_priority: int | None = None
    latency_sensitivity: float | None = None
    osl: int | None = None
    speculative_prefill: bool | None = None


class Nvext(Struct, kw_only=True, frozen=True):
    """NVIDIA's extensions of a request."""

    agent_hints: AgentHints | None = None


class HintFields(Struct, kw_only=True, frozen=True):
    """Fields that only say something about a request.

    `prompt_cache_key`: requests with equal keys run on the same worker. `agent_hints`, alone or in
    `nvext`: NVIDIA Dynamo's. What has no use here is named in the answer's `warnings`.
    """

    user: str | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    store: bool | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    agent_hints: AgentHints | None = None
    nvext: Nvext | None = None
