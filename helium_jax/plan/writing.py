"""A plan's parts as the builtin values of a plan document; the inverse of `reading`."""

from typing import Any

from helium_jax.plan.control import Body, Branch, Loop, Map, Op, Race, Reduce
from helium_jax.plan.limits import RunLimits
from helium_jax.plan.nodes import (
    CachePolicy,
    CallSettings,
    Chat,
    Completion,
    Concat,
    Const,
    Input,
    Lambda,
    Param,
    Slice,
    Template,
    View,
)
from helium_jax.plan.response_format import write_response_format
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
    """The value under `ops.<name>`: only fields that differ from their defaults.

    That of a lambda names its function; it is good for telling plans apart, but not to be read.
    """
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
        case Chat():
            return _write_chat(op)
        case Lambda(function=function, args=args):
            named = {"function": function.name, "pure": function.is_pure}
            return {"type": "lambda"} | named | {"args": list(args)}
        case Slice(source=source, start=start, stop=stop, unit=unit):
            ends = {"start": start, "stop": stop}
            document = {"type": "slice", "source": source}
            document |= {key: value for key, value in ends.items() if value is not None}
            return document | ({"unit": unit} if unit != "chars" else {})
        case Concat(sources=sources, separator=separator):
            document = {"type": "concat", "sources": list(sources)}
            return document | ({"separator": separator} if separator else {})
        case View(source=source, kind=kind):
            return {"type": "view", "source": source, "kind": kind}
        case Branch(condition=condition, then=then, otherwise=otherwise):
            document = {"type": "branch", "if": condition.source, "then": write_body(then)}
            return document | ({"else": write_body(otherwise)} if otherwise is not None else {})
        case Loop():
            return _write_loop(op)
        case Map(over=over, item=item, body=body, max_items=max_items, reduce=reduce):
            document = {"type": "map", "over": over.source, "as": item, "max_items": max_items}
            return document | {"body": write_body(body)} | _write_reduce(reduce)
        case Race(arms=arms, k=k, reduce=reduce):
            document = {"type": "race", "arms": [write_body(arm) for arm in arms]}
            return document | ({"k": k} if k != 1 else {}) | _write_reduce(reduce)


def write_body(body: Body) -> dict[str, Any]:
    """The value under `then`, `else`, `body` or `arms`."""
    ops = {op.name: write_op(op) for op in body.ops}
    return ({"ops": ops} if ops else {}) | {"result": body.result}


def _write_chat(chat: Chat) -> dict[str, Any]:
    document: dict[str, Any] = {"type": "llm.chat"}
    if chat.history is not None:
        document["history"] = chat.history
    contents = [format_template(message.content) for message in chat.messages]
    fields = chat_fields(chat)
    if fields[-1] == "user":
        document |= dict(zip(fields, contents, strict=True))
    else:
        document["messages"] = [
            {"role": message.role, "content": content}
            for message, content in zip(chat.messages, contents, strict=True)
        ]
    return document | write_settings(chat.settings)


def _write_loop(loop: Loop) -> dict[str, Any]:
    document: dict[str, Any] = {"type": "loop"}
    if loop.carried:
        document["carry"] = {
            one.name: {"from": one.initial, "next": one.next} for one in loop.carried
        }
    if loop.count is not None:
        document["count"] = loop.count
    if loop.condition is not None:
        document["while"] = loop.condition.source
    if loop.max_iterations != loop.count:
        document["max_iterations"] = loop.max_iterations
    return document | {"body": write_body(loop.body)}


def _write_reduce(reduce: Reduce) -> dict[str, Any]:
    if reduce == Reduce():
        return {}
    document: dict[str, Any] = {"type": reduce.kind}
    if reduce.separator != Reduce().separator:
        document["separator"] = reduce.separator
    if reduce.score is not None:
        document["score"] = reduce.score.source
    return {"reduce": document}


def chat_fields(chat: Chat) -> tuple[str, ...]:
    """Where each message stands in the document: the short form wherever it can say it."""
    roles = tuple(message.role for message in chat.messages)
    if roles in (("user",), ("system", "user")):
        return roles
    return tuple(f"messages[{index}].content" for index in range(len(roles))) or ("messages",)


def write_settings(settings: CallSettings) -> dict[str, Any]:
    """The fields of a call besides its prompt."""
    defaults = SamplingParams()
    document: dict[str, Any] = {} if settings.model is None else {"model": settings.model}
    for name in SAMPLING_FIELDS:
        value = getattr(settings.sampling, name)
        if value == getattr(defaults, name):
            continue
        if name == "logit_bias":
            value = {str(token_id): bias for token_id, bias in value}
        document[name] = list(value) if isinstance(value, tuple) else value
    if settings.stop:
        document["stop"] = list(settings.stop)
    if settings.response_format is not None:
        document["response_format"] = write_response_format(settings.response_format)
    if settings.priority:
        document["priority"] = settings.priority
    if settings.cache != CachePolicy():
        document["cache"] = {
            "results": "auto" if settings.cache.results else "off",
            "kv": "auto" if settings.cache.kv else "off",
        }
    if settings.retries:
        document["retries"] = settings.retries
    if settings.timeout_s is not None:
        document["timeout"] = settings.timeout_s
    if settings.on_error == "default":
        document["on_error"] = {"default": settings.default}
    elif settings.on_error != "fail":
        document["on_error"] = settings.on_error
    return document


def write_limits(limits: RunLimits) -> dict[str, Any]:
    """The value under `limits`; durations in seconds."""
    given = {
        "max_llm_calls": limits.max_llm_calls,
        "max_total_tokens": limits.max_total_tokens,
        "timeout": limits.timeout_s,
        "max_concurrency": limits.max_concurrency,
    }
    document = {key: value for key, value in given.items() if value is not None}
    if limits.on_row_error != "skip":
        document["on_row_error"] = limits.on_row_error
    return document
