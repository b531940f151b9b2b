"""Lines of a batch as rows: which of them one plan can hold, and that plan with one operator."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from helium_jax.plan import Chat, Completion, Plan
from helium_jax.plan.nodes import CallSettings, Input, Message, Output, Role
from helium_jax.plan.template import Slot, Text, normalize
from helium_jax.server.openai.answering import Job
from helium_jax.text import GrammarSpec

OPERATOR = "answer"
PLAN_NAME = "batch"

# A line with any other field is asked by itself: a plan's call has no such thing. What these say
# is in the line's job, or changes no answer.
_FIELDS = frozenset(
    {
        *("model", "messages", "prompt", "n", "stream"),
        *("max_tokens", "max_completion_tokens", "min_tokens", "temperature", "top_p", "top_k"),
        *("min_p", "seed", "stop", "stop_token_ids", "ignore_eos", "logit_bias"),
        *("presence_penalty", "frequency_penalty", "repetition_penalty"),
        *("priority", "cache_salt", "prompt_cache_key", "prompt_cache_retention", "user"),
        *("metadata", "store", "service_tier", "safety_identifier", "agent_hints", "nvext"),
        *("response_format", "structured_outputs"),
        *("guided_json", "guided_regex", "guided_choice", "guided_grammar"),
    }
)
# What the endpoint calls "developer" a chat template knows as "system"; see `prompts.ROLES`.
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RowKind:
    """What lines have in common that are rows of one plan.

    Attributes:
        roles: of their messages; empty for bare prompts.
        settings: how the model is called.
        cache_salt: with whom KV and answers are shared.
        priority: of the engine's requests.
    """

    roles: tuple[Role, ...]
    settings: CallSettings
    cache_salt: str
    priority: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRow:
    """A line as a row.

    Attributes:
        kind: rows of one plan have equal ones.
        texts: one per message, or the prompt.
    """

    kind: RowKind
    texts: tuple[str, ...]


def read_row(
    body: dict[str, Any], job: Job, response_format: GrammarSpec | None
) -> BatchRow | None:
    """A line as a row, if a plan's call gives the answer that its endpoint gives; else None.

    Args:
        body: of the line, found to be all right.
        job: what its endpoint made of it.
        response_format: what it says the answer must look like.
    """
    if any(value is not None and name not in _FIELDS for name, value in body.items()):
        return None
    turns = _turns(body)
    if turns is None or len(job.requests) != 1:
        return None
    (request,) = job.requests
    if request.worker is not None or job.include_stop or request.sampling.logprobs is not None:
        return None
    roles, texts = turns
    settings = CallSettings(
        sampling=request.sampling, stop=job.stop, response_format=response_format
    )
    return BatchRow(
        kind=RowKind(
            roles=roles,
            settings=settings,
            cache_salt=request.cache_salt,
            priority=request.priority,
        ),
        texts=texts,
    )


def _turns(body: dict[str, Any]) -> tuple[tuple[Role, ...], tuple[str, ...]] | None:
    """Roles and texts of a body's messages or prompt, if they are plain."""
    if "messages" not in body:
        prompt = body.get("prompt")
        return ((), (prompt,)) if isinstance(prompt, str) else None
    roles, texts = [], []
    for message in body["messages"]:
        is_plain = message.keys() <= {"role", "content"} and message["role"] in _ROLES
        if not is_plain or not isinstance(message.get("content"), str):
            return None
        roles.append(_ROLES[message["role"]])
        texts.append(message["content"])
    return tuple(roles), tuple(texts)


def make_plan(rows: Sequence[BatchRow]) -> tuple[Plan, tuple[dict[str, str], ...]]:
    """One call over rows of one kind, and the values of its inputs.

    A message that all rows share is part of the plan, which can then be computed ahead of them;
    the last one is an input in any case.
    """
    kind, count = rows[0].kind, len(rows[0].texts)
    columns = {
        f"turn_{place}": [row.texts[place] for row in rows]
        for place in range(count)
        if place == count - 1 or len({row.texts[place] for row in rows}) > 1
    }

    def content(place: int) -> Text:
        name = f"turn_{place}"
        return (Slot(name=name),) if name in columns else normalize([rows[0].texts[place]])

    operator: Chat | Completion
    if kind.roles:
        operator = Chat(
            name=OPERATOR,
            messages=tuple(
                Message(role=role, content=content(place)) for place, role in enumerate(kind.roles)
            ),
            settings=kind.settings,
        )
    else:
        operator = Completion(name=OPERATOR, prompt=content(0), settings=kind.settings)
    plan = Plan(
        name=PLAN_NAME,
        inputs=tuple(Input(name=name) for name in columns),
        ops=(operator,),
        outputs=(Output(name=OPERATOR, source=OPERATOR),),
    )
    values = zip(*columns.values(), strict=True)
    return plan, tuple(cast(dict[str, str], dict(zip(columns, row, strict=True))) for row in values)
