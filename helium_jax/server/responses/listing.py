"""A kept conversation as the items of the Responses API."""

import json
from collections.abc import Sequence

from helium_jax.server.openai.turns import TemplateMessage
from helium_jax.server.responses.replies import (
    CallOutput,
    FunctionCall,
    InputItem,
    InputMessage,
    InputText,
    OutputText,
)


def list_items(messages: Sequence[TemplateMessage], response_id: str) -> list[InputItem]:
    """The items that the messages were made of, in their order.

    `response_id`: of the response that came after them; makes the ids, which stay the same.
    """
    items: list[InputItem] = []

    def new_id(prefix: str) -> str:
        return f"{prefix}_{response_id.removeprefix('resp_')}_{len(items)}"

    for message in messages:
        role, text = message["role"], message["content"]
        if role == "tool":
            call_id = message["tool_call_id"]
            items.append(CallOutput(id=new_id("fco"), call_id=call_id, output=text))
            continue
        calls = message.get("tool_calls", ())
        if text or not calls:
            part = OutputText(text=text) if role == "assistant" else InputText(text=text)
            items.append(InputMessage(id=new_id("msg"), role=role, content=[part]))
        for call in calls:
            function = call["function"]
            items.append(
                FunctionCall(
                    id=new_id("fc"),
                    call_id=call["id"],
                    name=function["name"],
                    arguments=_written(function["arguments"]),
                    status="completed",
                )
            )
    return items


def _written(arguments: object) -> str:
    """Arguments as text: what was no JSON object when it was read is a text already."""
    if isinstance(arguments, str):
        return arguments
    return json.dumps(arguments, ensure_ascii=False)
