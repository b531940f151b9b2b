"""From the items of a response's input to what a chat template takes, with every fault named."""

from collections.abc import Sequence
from typing import Any

import msgspec

from helium_jax.server.config import Limits
from helium_jax.server.openai.prompts import ROLES, join_parts
from helium_jax.server.openai.sampling import check_foreign
from helium_jax.server.openai.turns import TemplateMessage, Turns
from helium_jax.server.reading import Findings
from helium_jax.server.responses.bodies import FOREIGN_ITEM_FIELDS, Item, ResponseBody
from helium_jax.server.tools.calls import check_name, read_arguments

_TEXTS = ("input_text", "output_text", "text")


def check_input(
    body: ResponseBody,
    raw: dict[str, Any],
    earlier: Sequence[TemplateMessage],
    limits: Limits,
    found: Findings,
) -> Turns:
    """Reads the input; the result is only meaningful without problems in `found`.

    Args:
        body: of the request.
        raw: what it was read from.
        earlier: the conversation that it goes on from; is not changed.
        limits: of one request, whose conversation counts as a whole.
        found: gains the faults.

    Returns: the conversation, without the instructions.
    """
    turns = Turns(
        messages=[dict(message) for message in earlier],
        called={call["id"] for one in earlier for call in one.get("tool_calls", ())},
        num_chars=sum(map(_count_chars, earlier)),
    )
    if body.input is None and not earlier:
        found.add("input", "is required; send a text or items, or a previous_response_id")
    elif body.input is not None and not body.input:
        found.add("input", "is empty; send a text or at least one item")
    elif isinstance(body.input, str):
        turns.add_message("user", body.input)
    elif body.input is not None:
        if len(earlier) + len(body.input) > limits.messages:
            number = len(earlier) + len(body.input)
            found.add("input", f"makes {number} items; the limit is {limits.messages}")
            return turns
        for i, item in enumerate(body.input):
            check_foreign(raw["input"][i], FOREIGN_ITEM_FIELDS, f"input[{i}]", found)
            _add_item(turns, item, f"input[{i}]", found)
    answered = {one.get("tool_call_id") for one in turns.messages}
    for call_id in sorted(turns.called - answered):
        found.add("input", f"has no function_call_output of the call {call_id[:64]!r}")
    num_chars = turns.num_chars + len(body.instructions or "")
    if num_chars > limits.prompt_chars:
        found.add("input", f"makes {num_chars} characters; the limit is {limits.prompt_chars}")
    return turns


def _count_chars(message: TemplateMessage) -> int:
    calls = message.get("tool_calls", ())
    return len(message["content"]) + sum(len(msgspec.json.encode(call)) for call in calls)


def with_instructions(
    instructions: str | None, messages: Sequence[TemplateMessage]
) -> list[TemplateMessage]:
    """The whole prompt; a system message that comes first and the instructions are one, because
    many templates take no second one."""
    if not instructions:
        return list(messages)
    rest = list(messages)
    if rest and rest[0]["role"] == "system":
        instructions = f"{instructions}\n{rest[0]['content']}"
        rest = rest[1:]
    return [{"role": "system", "content": instructions}, *rest]


def _add_item(turns: Turns, item: Item, path: str, found: Findings) -> None:
    match item.type:
        case None | "message":
            _add_message(turns, item, path, found)
        case "function_call":
            _add_call(turns, item, path, found)
        case "function_call_output":
            _add_output(turns, item, path, found)
        case _:
            found.add(
                f"{path}.type",
                f"items of type {item.type[:32]!r} are not for this server's models; there are "
                "message, function_call and function_call_output",
                "unsupported_content",
            )


def _add_message(turns: Turns, item: Item, path: str, found: Findings) -> None:
    role = None if item.role in (None, "tool") else ROLES.get(item.role or "")
    if item.role is None:
        found.add(f"{path}.role", "is required in a message")
    elif role is None:
        found.add(
            f"{path}.role",
            f"{item.role[:32]!r} is not one of assistant, developer, system, user",
        )
    content = join_parts(item.content, f"{path}.content", found, kinds=_TEXTS)
    turns.add_message(role or "user", content)


def _add_call(turns: Turns, item: Item, path: str, found: Findings) -> None:
    values = {name: getattr(item, name) for name in ("call_id", "name", "arguments")}
    missing = [name for name, value in values.items() if value is None]
    for name in missing:
        found.add(f"{path}.{name}", "is required in a function_call")
    if missing:
        return
    check_name(values["name"], f"{path}.name", found)
    if values["call_id"] in turns.called:
        found.add(f"{path}.call_id", "is the id of an earlier call too")
    text = values["arguments"]
    turns.add_call(values["call_id"], values["name"], read_arguments(text), num_chars=len(text))


def _add_output(turns: Turns, item: Item, path: str, found: Findings) -> None:
    if item.call_id is None:
        found.add(f"{path}.call_id", "is required: the id of the call that was answered")
    elif item.call_id not in turns.called:
        found.add(
            f"{path}.call_id",
            f"{item.call_id[:64]!r} is not the id of a call in an earlier item",
        )
    output = join_parts(item.output, f"{path}.output", found, kinds=_TEXTS)
    turns.add_result(item.call_id or "", output)
