"""A call on its way through a run, and what becomes of those that wait for it."""

from dataclasses import dataclass, field
from typing import Literal

from helium_jax.executor.events import Call, CallSource
from helium_jax.executor.frames import Place
from helium_jax.executor.prompts import Prompt
from helium_jax.executor.values import Value
from helium_jax.schedule.dispatch import Release
from helium_jax.types import FinishReason, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Landing:
    """What became of a place that waited for a call: a value, or the reason why there is none."""

    place: Place
    value: Value | None = None
    source: CallSource | None = None
    code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The answer of a call, for the places that wait for it and for equal ones that come later."""

    value: Value
    usage: Usage
    finish_reason: FinishReason


@dataclass(slots=True, kw_only=True)
class Flight:
    """A call on its way, and the places that wait for its answer."""

    call: Call
    prompt: Prompt
    key: bytes | None
    waiting: list[Place]
    stage: Literal["encoding", "ready", "held", "submitted"] = "encoding"
    token_ids: tuple[int, ...] = ()
    release: Release | None = None
    attempt: int = 0  # retries and reruns
    num_retries: int = 0
    num_reruns: int = 0
    num_tokens: int = 0  # of the answer, in this attempt
    told: list[str] = field(default_factory=list)  # of the answer, in this attempt
