"""A plan's parts as the builtin values of a plan document; the inverse of `reading`."""

from typing import Any

from helium_jax.plan.control import Op
from helium_jax.plan.limits import RunLimits
from helium_jax.plan.nodes import (
    CachePolicy,
    CallSettings,
    Chat,
    Completion,
    Const,
    Input,
    Param,
    Template,
)
from helium_jax.plan.template import format_template
from helium_jax.types import SamplingParams

VERSION = "helium/v1"
SAMPLING_FIELDS = (
    "temperature",
    "max_tokens",
    "min_tokens",
    "seed",
    "stop_token_ids",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "ignore_eos",
)


def write_input(node: Input) -> dict[str, Any]:
    """The value under `inputs.<name>`."""
    return {"type": node.type}


def write_param(node: Param) -> dict[str, Any]:
    """The value under `params.<name>`."""
    given = {"default": node.default, "min": node.min, "max": node.max}
    return {"type": node.type} | {key: value for key, value in given.items() if value is not None}


def write_op(op: Op) -> dict[str, Any]:
    """The value under `ops.<name>`: only fields that differ from their defaults."""
    match op:
        case Const(value=tuple() as values):
            return {"type": "const", "values": list(values)}
        case Const(value=value):
            return {"type": "const", "value": value}
        case Template(text=text):
            return {"type": "template", "template": format_template(text)}
        case Completion(prompt=prompt, settings=settings):
            document = {"type": "llm.completion", "prompt": format_template(prompt)}
            return document | write_settings(settings)
        case Chat(messages=messages, settings=settings):
            contents = [format_template(message.content) for message in messages]
            fields = chat_fields(op)
            if fields[-1] == "user":
                document = {"type": "llm.chat"} | dict(zip(fields, contents, strict=True))
            else:
                turns = [
                    {"role": message.role, "content": content}
                    for message, content in zip(messages, contents, strict=True)
                ]
                document = {"type": "llm.chat", "messages": turns}
            return document | write_settings(settings)


def chat_fields(chat: Chat) -> tuple[str, ...]:
    """Where each message stands in the document: the short form wherever it can say it."""
    roles = tuple(message.role for message in chat.messages)
    if roles in (("user",), ("system", "user")):
        return roles
    return tuple(f"messages[{index}].content" for index in range(len(roles))) or ("messages",)


def write_settings(settings: CallSettings) -> dict[str, Any]:
    """The fields of a call besides its prompt."""
    defaults = SamplingParams()
    document: dict[str, Any] = {}
    for name in SAMPLING_FIELDS:
        value = getattr(settings.sampling, name)
        if value == getattr(defaults, name):
            continue
        if name == "logit_bias":
            value = {str(token_id): bias for token_id, bias in value}
        document[name] = list(value) if isinstance(value, tuple) else value
    if settings.stop:
        document["stop"] = list(settings.stop)
    if settings.priority:
        document["priority"] = settings.priority
    if settings.cache != CachePolicy():
        document["cache"] = {
            "results": "auto" if settings.cache.results else "off",
            "kv": "auto" if settings.cache.kv else "off",
        }
    return document


def write_limits(limits: RunLimits) -> dict[str, Any]:
    """The value under `limits`; durations in seconds."""
    given = {
        "max_llm_calls": limits.max_llm_calls,
        "max_total_tokens": limits.max_total_tokens,
        "timeout": limits.timeout_s,
    }
    document = {key: value for key, value in given.items() if value is not None}
    if limits.on_row_error != "skip":
        document["on_row_error"] = limits.on_row_error
    return document
