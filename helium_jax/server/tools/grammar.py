"""The grammar of an answer that may or must call tools."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from helium_jax.errors import RequestError
from helium_jax.server.tools.syntax import ToolSyntax
from helium_jax.server.tools.values import ToolChoice, ToolMode, ToolSpec, allowed_tools
from helium_jax.text import GrammarSpec, TextModel
from helium_jax.types import TokenGrammar

# As Python's json.dumps separates, which is what models were shown. Free white space would let a
# weak model write nothing else until its last token.
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_TEXT = r"/(.|\n)*/"


async def compile_tools(
    text: TextModel,
    tools: Sequence[ToolSpec],
    choice: ToolChoice,
    syntax: ToolSyntax,
    *,
    text_schema: Mapping[str, Any] | None = None,
) -> TokenGrammar:
    """`make_grammar`, compiled in a thread.

    Raises:
        RequestError: a schema cannot be used; names the path of its tool.
        CapacityError: too many grammars wait to be compiled.
    """
    spec = make_grammar(tools, choice, syntax, text_schema=text_schema)
    try:
        return await text.compile_grammar(spec, param="tools")
    except RequestError:
        # Whose schema it is shows when each is compiled alone.
        for tool in allowed_tools(tools, choice):
            alone = make_grammar([tool], ToolChoice(mode=ToolMode.REQUIRED), syntax)
            await text.compile_grammar(alone, param=tool.path)
        raise


def make_grammar(
    tools: Sequence[ToolSpec],
    choice: ToolChoice,
    syntax: ToolSyntax,
    *,
    text_schema: Mapping[str, Any] | None = None,
) -> GrammarSpec:
    """The grammar of an answer under `choice`, which must allow a tool.

    The arguments of each call meet the schema of its tool; after the last call the answer ends.

    Args:
        tools: all tools.
        choice: of mode AUTO or REQUIRED.
        syntax: how calls are written.
        text_schema: an answer without calls must be JSON of this schema; None: any text.

    Raises:
        RequestError: the schemas together are too long.
    """
    allowed = allowed_tools(tools, choice)
    assert allowed, "a choice that allows no tool needs no grammar"
    rest = syntax.opening.removeprefix(syntax.marker)
    calls = "call"
    more = choice.max_calls - 1
    if syntax.between is not None and more > 0:
        calls += f" ({_literal(syntax.between + syntax.marker)} call){{0,{more}}}"
    bodies = [
        f"{_literal(rest + tool.name + syntax.naming)} @tool{i} {_literal(syntax.closing)}"
        for i, tool in enumerate(allowed)
    ]
    lines = [*_beginnings(choice.mode, syntax, calls, text_schema), "call: " + " | ".join(bodies)]
    schemas = {f"tool{i}": tool.schema for i, tool in enumerate(allowed)}
    if text_schema is not None and choice.mode is ToolMode.AUTO:
        schemas["text"] = text_schema
    return GrammarSpec.of_parts(
        "\n".join(lines),
        {name: _spaced(schema) for name, schema in schemas.items()},
    )


def _spaced(schema: Mapping[str, Any]) -> dict[str, Any]:
    options = schema.get("x-guidance")
    return {**schema, "x-guidance": {**(options if isinstance(options, dict) else {}), **_SPACING}}


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
        return [f"start: @text | {_literal(marker)} {calls}"]
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
