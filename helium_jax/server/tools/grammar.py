"""The grammar of an answer that may or must call tools, in llguidance's dialect of Lark."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from helium_jax.server.tools.syntax import ToolSyntax
from helium_jax.server.tools.values import ToolChoice, ToolMode, ToolSpec, allowed_tools

# As Python's json.dumps separates, which is what models were shown. Free white space would let a
# weak model write nothing else until its last token.
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_TEXT = r"/(.|\n)*/"


def make_lark(
    tools: Sequence[ToolSpec],
    choice: ToolChoice,
    syntax: ToolSyntax,
    *,
    text_schema: Mapping[str, Any] | None = None,
) -> str:
    """The grammar of an answer under `choice`, which must allow a tool.

    The arguments of each call meet the schema of its tool; after the last call the answer ends.

    Args:
        tools: all tools.
        choice: of mode AUTO or REQUIRED.
        syntax: how calls are written.
        text_schema: an answer without calls must be JSON of this schema; None: any text.
    """
    allowed = allowed_tools(tools, choice)
    assert allowed, "a choice that allows no tool needs no grammar"
    rest = syntax.opening.removeprefix(syntax.marker)
    calls = "call"
    more = choice.max_calls - 1
    if syntax.between is not None and more > 0:
        calls += f" ({_literal(syntax.between + syntax.marker)} call){{0,{more}}}"
    bodies = [
        f"{_literal(rest + tool.name + syntax.naming)} {_json(tool.parameters)} "
        f"{_literal(syntax.closing)}"
        for tool in allowed
    ]
    lines = ["%llguidance {}", *_beginnings(choice.mode, syntax, calls, text_schema)]
    return "\n".join([*lines, "call: " + "\n    | ".join(bodies)]) + "\n"


def _beginnings(
    mode: ToolMode,
    syntax: ToolSyntax,
    calls: str,
    text_schema: Mapping[str, Any] | None,
) -> list[str]:
    """The rules up to the first call."""
    marker = syntax.marker
    if mode is ToolMode.REQUIRED:
        return [f"start: {_literal(marker)} {calls}"]
    if text_schema is not None:
        return [f"start: {_json(text_schema)} | {_literal(marker)} {calls}"]
    if syntax.may_follow_text:
        return [
            f"start: TEXT | first {calls}",
            f"TEXT: {_TEXT}",
            f"first[lazy]: TEXT {_literal(marker)}",
        ]
    return [
        f"start: TEXT? | {_literal(marker)} {calls}",
        f"TEXT: /[^{_in_class(marker[0])}]{_TEXT[1:]}",
    ]


def _in_class(char: str) -> str:
    """A character as it stands in a class of characters of a regular expression."""
    return char if char.isalnum() else "\\" + char


def _literal(text: str) -> str:
    """A text as a literal; nothing for an empty one."""
    return json.dumps(text, ensure_ascii=False) if text else ""


def _json(schema: Mapping[str, Any]) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": _SPACING}, ensure_ascii=False)
