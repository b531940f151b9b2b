"""Calls that the messages of a request tell of, as chat templates take them."""

import json
import re
from collections.abc import Sequence
from typing import Any

from helium_jax.server.reading import Findings
from helium_jax.server.tools.bodies import ToolCallBody

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def read_calls(calls: Sequence[ToolCallBody], path: str, found: Findings) -> list[dict[str, Any]]:
    """The calls of a message as chat templates take them: with arguments as a value."""
    read = []
    for i, call in enumerate(calls):
        where = f"{path}[{i}]"
        if call.type not in (None, "function"):
            found.add_unsupported(f"{where}.type", f"the type {call.type[:32]!r}")
        check_name(call.function.name, f"{where}.function.name", found)
        function = {
            "name": call.function.name,
            "arguments": read_arguments(call.function.arguments),
        }
        read.append({"id": call.id, "type": "function", "function": function})
    return read


def read_arguments(text: str) -> Any:
    """The object that the text is; the text itself if it is none, as an answer may be cut off."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def check_name(name: str, path: str, found: Findings) -> None:
    """Names go into prompts and grammars: OpenAI's rule is ours."""
    if not _NAME.fullmatch(name):
        found.add(path, f"{name[:64]!r} must have 1 to 64 letters, digits, '_' and '-'")
