"""The messages of a chat, in either of their two forms, and the conversation before them."""

from typing import Any, cast, get_args

from helium_jax.plan.fields import (
    check_fields,
    describe,
    read_choice,
    read_mapping,
    read_reference,
    read_template,
)
from helium_jax.plan.findings import Findings
from helium_jax.plan.limits import MAX_MESSAGES
from helium_jax.plan.nodes import ROLES, Chat, Message, Role
from helium_jax.plan.reading_context import Reading
from helium_jax.plan.settings import SETTINGS_FIELDS, UNSUPPORTED_FIELDS, read_settings
from helium_jax.plan.writing import chat_fields


def read_chat(name: str, document: dict[str, Any], path: str, reading: Reading) -> Chat:
    """An operator of type llm.chat."""
    found = reading.found
    known = ("type", "history", "system", "user", "messages", *SETTINGS_FIELDS)
    check_fields(document, path, known, UNSUPPORTED_FIELDS, found)
    chat = Chat(
        name=name,
        history=read_reference(document.get("history"), f"{path}.history", found),
        messages=_read_messages(document, path, found),
        settings=read_settings(document, path, found),
    )
    if "messages" in document:  # the author's path may differ from the canonical one
        for index, field in enumerate(chat_fields(chat)):
            reading.paths[f"{path}.{field}"] = f"{path}.messages[{index}].content"
    return chat


def _read_messages(document: dict[str, Any], path: str, found: Findings) -> tuple[Message, ...]:
    if "messages" not in document:
        messages = []
        if document.get("system") is not None:
            system = read_template(document["system"], f"{path}.system", found) or ()
            messages.append(Message(role="system", content=system))
        if document.get("user") is None:
            found.add(f"{path}.user", "is missing; write user, or a list of messages")
        user = read_template(document.get("user"), f"{path}.user", found) or ()
        return (*messages, Message(role="user", content=user))
    if "system" in document or "user" in document:
        found.add(path, "has both messages and system/user; write one of the two forms")
    turns = document["messages"]
    if not isinstance(turns, list):
        found.add(f"{path}.messages", f"must be a list of messages, not {describe(turns)}")
        return (Message(role="user", content=()),)
    if not 1 <= len(turns) <= MAX_MESSAGES:
        found.add(f"{path}.messages", f"has {len(turns)} messages; 1 to {MAX_MESSAGES} are allowed")
        return (Message(role="user", content=()),)
    return tuple(
        _read_message(turn, f"{path}.messages[{index}]", found) for index, turn in enumerate(turns)
    )


def _read_message(turn: object, path: str, found: Findings) -> Message:
    if not isinstance(turn, dict):
        found.add(path, f"must be a mapping with role and content, not {describe(turn)}")
        return Message(role="user", content=())
    document = read_mapping(turn, path, found)
    unsupported = frozenset({"name", "tool_calls", "tool_call_id", "function_call"})
    check_fields(document, path, ("role", "content"), unsupported, found)
    if document.get("role") is None:
        found.add(f"{path}.role", f"is missing; roles are {', '.join(ROLES)}")
    role = read_choice(document.get("role"), f"{path}.role", found, get_args(Role), "roles")
    if document.get("content") is None:
        found.add(f"{path}.content", "is missing; write the text, with {{slots}} for values")
    content = read_template(document.get("content"), f"{path}.content", found) or ()
    return Message(role=cast(Role, role or "user"), content=content)
