"""helium-jax: language models in pure JAX, agentic workflows as query plans.

Importing this touches no device and starts no thread: the names below are looked up when used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from helium_jax.api import LM, Answer, AsyncLM, load, open_lm
    from helium_jax.config import EngineConfig
    from helium_jax.errors import (
        CapacityError,
        HeliumError,
        InternalError,
        PlanError,
        RequestError,
    )
    from helium_jax.executor import NAIVE, RunOptions, RunResult
    from helium_jax.explain import Report, draw_timeline, explain_stages
    from helium_jax.plan import Plan, PlanBuilder
    from helium_jax.types import FinishReason, SamplingParams, Usage

_HOMES = {
    "LM": "helium_jax.api",
    "NAIVE": "helium_jax.executor",
    "Answer": "helium_jax.api",
    "AsyncLM": "helium_jax.api",
    "CapacityError": "helium_jax.errors",
    "EngineConfig": "helium_jax.config",
    "FinishReason": "helium_jax.types",
    "HeliumError": "helium_jax.errors",
    "InternalError": "helium_jax.errors",
    "Plan": "helium_jax.plan",
    "PlanBuilder": "helium_jax.plan",
    "PlanError": "helium_jax.errors",
    "Report": "helium_jax.explain",
    "RequestError": "helium_jax.errors",
    "RunOptions": "helium_jax.executor",
    "RunResult": "helium_jax.executor",
    "SamplingParams": "helium_jax.types",
    "Usage": "helium_jax.types",
    "draw_timeline": "helium_jax.explain",
    "explain_stages": "helium_jax.explain",
    "load": "helium_jax.api",
    "open_lm": "helium_jax.api",
}

__all__ = [
    "LM",
    "NAIVE",
    "Answer",
    "AsyncLM",
    "CapacityError",
    "EngineConfig",
    "FinishReason",
    "HeliumError",
    "InternalError",
    "Plan",
    "PlanBuilder",
    "PlanError",
    "Report",
    "RequestError",
    "RunOptions",
    "RunResult",
    "SamplingParams",
    "Usage",
    "draw_timeline",
    "explain_stages",
    "load",
    "open_lm",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'helium_jax' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
