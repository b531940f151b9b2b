"""Tools and their calls in a prompt: as the model's template writes them, or else in words."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from helium_jax.server.tools.syntax import HERMES, ToolSyntax, recognise_syntax
from helium_jax.server.tools.values import ToolSpec
from helium_jax.text import ChatTemplate

Message = Mapping[str, Any]
_ANSWER_BEGIN, _ANSWER_END = "<tool_response>\n", "\n</tool_response>"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolPrompt:
    """What the chat template gets, and how the model is going to write calls.

    Attributes:
        messages: the conversation.
        tools: for the template; None: it is told of none, because there are none or because
            `messages` describe them.
        syntax: of calls in the answer.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    syntax: ToolSyntax


def write_tools(
    messages: Sequence[Message], tools: Sequence[ToolSpec], template: ChatTemplate | None
) -> ToolPrompt:
    """Prepares a conversation with tools, with calls, or with results of calls.

    A template whose syntax of calls is known gets everything as it is. For any other one the tools
    become words at the end of the system message (the first message, made when there is none), a
    call is written into its message's content, and results become messages of the user.

    Args:
        messages: in OpenAI's form, except that `arguments` of a call are a value; a text stands for
            arguments that were no JSON object.
        tools: that the model may call; the prompt describes all of them.
        template: the model's.
    """
    syntax = recognise_syntax(template)
    if syntax is not None:
        described = [_describe(tool) for tool in tools] or None
        own = [_with_short_ids(one, syntax.id_length) for one in messages]
        return ToolPrompt(messages=own, tools=described, syntax=syntax)
    plain = _in_words(messages, HERMES)
    if tools:
        words = _introduce(tools, HERMES)
        if plain and plain[0]["role"] == "system":
            words = f"{plain[0]['content']}\n\n{words}" if plain[0]["content"] else words
            plain = plain[1:]
        plain.insert(0, {"role": "system", "content": words})
    return ToolPrompt(messages=plain, tools=None, syntax=HERMES)


def _with_short_ids(message: Message, length: int | None) -> dict[str, Any]:
    """The message with ids of calls that the template takes; equal ids stay equal."""
    own = dict(message)
    if length is None:
        return own
    if own.get("tool_call_id") is not None:
        own["tool_call_id"] = _short_id(own["tool_call_id"], length)
    if own.get("tool_calls"):
        own["tool_calls"] = [
            {**call, "id": _short_id(call["id"], length)} for call in own["tool_calls"]
        ]
    return own


def _short_id(call_id: str, length: int) -> str:
    if len(call_id) == length and call_id.isascii() and call_id.isalnum():
        return call_id
    return hashlib.blake2b(call_id.encode(), person=b"helium-call").hexdigest()[:length]


def _describe(tool: ToolSpec) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    return {"type": "function", "function": {**function, "parameters": dict(tool.parameters)}}


def _introduce(tools: Sequence[ToolSpec], syntax: ToolSyntax) -> str:
    """What a model is told that was never shown tools in training."""
    described = "\n".join(
        json.dumps(_describe(tool)["function"], ensure_ascii=False) for tool in tools
    )
    example = syntax.write_call("<function name>", "<arguments as a JSON object>")
    return (
        "You can call functions. Each line describes one, with the JSON Schema of its arguments:\n"
        f"{described}\n\n"
        "To call a function, answer in this form, once for each call and with nothing after it:\n"
        f"{example}\n"
        "The results come back in the next message. If no function helps, answer in words."
    )


def _in_words(messages: Sequence[Message], syntax: ToolSyntax) -> list[dict[str, Any]]:
    """The messages with nothing but a role, a name and a text."""
    plain: list[dict[str, Any]] = []
    follows_result = False
    for message in messages:
        is_result = message["role"] == "tool"
        if is_result and follows_result:
            # One message for all results: many templates want user and assistant in turn.
            plain[-1]["content"] += "\n" + _write_result(message)
        elif is_result:
            plain.append({"role": "user", "content": _write_result(message)})
        elif message.get("tool_calls"):
            written = [_write_call(call["function"], syntax) for call in message["tool_calls"]]
            parts = [message["content"], *written] if message["content"] else written
            plain.append({"role": message["role"], "content": "\n".join(parts)})
        else:
            plain.append(dict(message))
        follows_result = is_result
    return plain


def _write_result(message: Message) -> str:
    return f"{_ANSWER_BEGIN}{message['content']}{_ANSWER_END}"


def _write_call(function: Mapping[str, Any], syntax: ToolSyntax) -> str:
    arguments = function["arguments"]
    return syntax.write_call(function["name"], json.dumps(arguments, ensure_ascii=False))
