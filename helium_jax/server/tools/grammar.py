"""The grammar of an answer that may or must call tools."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
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
    specials = special_tokens(text, syntax)
    spec = make_grammar(tools, choice, syntax, text_schema=text_schema, specials=specials)
    try:
        return await text.compile_grammar(spec, param="tools")
    except RequestError:
        # Whose schema it is shows when each is compiled alone.
        for tool in allowed_tools(tools, choice):
            required = ToolChoice(mode=ToolMode.REQUIRED)
            alone = make_grammar([tool], required, syntax, specials=specials)
            await text.compile_grammar(alone, param=tool.path)
        raise


def special_tokens(text: TextModel, syntax: ToolSyntax) -> dict[str, int]:
    """Those tokens of a syntax that are special tokens of the model, with their ids: no text spells
    them, and an answer's text has them only if its detokenizer is told to show them."""
    ids = {name: text.tokenizer.id_of(name) for name in syntax.tokens}
    specials = text.tokenizer.special_ids
    return {name: i for name, i in ids.items() if i is not None and i in specials}


def shown_tokens(text: TextModel, tools: Sequence[ToolSpec], syntax: ToolSyntax) -> frozenset[int]:
    """The special tokens that the text of an answer must have for its calls to be read."""
    return frozenset(special_tokens(text, syntax).values() if tools else ())


def make_grammar(
    tools: Sequence[ToolSpec],
    choice: ToolChoice,
    syntax: ToolSyntax,
    *,
    text_schema: Mapping[str, Any] | None = None,
    specials: Mapping[str, int] | None = None,
) -> GrammarSpec:
    """The grammar of an answer under `choice`, which must allow a tool.

    The arguments of each call meet the schema of its tool; after the last call the answer ends.

    Args:
        tools: all tools.
        choice: of mode AUTO or REQUIRED.
        syntax: how calls are written.
        text_schema: an answer without calls must be JSON of this schema; None: any text.
        specials: what of the syntax is no text but tokens, by id.

    Raises:
        RequestError: the schemas together are too long.
    """
    allowed = allowed_tools(tools, choice)
    assert allowed, "a choice that allows no tool needs no grammar"
    write = partial(_literal, specials=specials or {})
    first, each, again = _split(syntax)
    calls = f"{write(first)} call"
    more = choice.max_calls - 1
    if again is not None and more > 0:
        calls += f" ({write(again)} call){{0,{more}}}"
    calls += f" {write(syntax.suffix)}"
    bodies = [
        f"{write(each + tool.name + syntax.naming)} @tool{i} {write(syntax.closing)}"
        for i, tool in enumerate(allowed)
    ]
    marker = write(syntax.marker)
    lines = [
        *_beginnings(choice.mode, syntax, marker, calls, text_schema),
        "call: " + " | ".join(bodies),
    ]
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


def _split(syntax: ToolSyntax) -> tuple[str, str, str | None]:
    """What stands after the marker once, before each name, and between two calls."""
    if syntax.prefix:
        return syntax.prefix.removeprefix(syntax.marker), syntax.opening, syntax.between
    again = None if syntax.between is None else syntax.between + syntax.marker
    return "", syntax.opening.removeprefix(syntax.marker), again


def _beginnings(
    mode: ToolMode,
    syntax: ToolSyntax,
    marker: str,
    calls: str,
    text_schema: Mapping[str, Any] | None,
) -> list[str]:
    """The rules up to the first call; `marker` as the grammar has it."""
    if mode is ToolMode.REQUIRED:
        return [f"start: {marker} {calls}"]
    if text_schema is not None:
        return [f"start: @text | {marker} {calls}"]
    if not syntax.may_follow_text:
        first = _in_class(syntax.marker[0])
        return [f"start: TEXT? | {marker} {calls}", f"TEXT: /[^{first}]{_TEXT[1:]}"]
    if marker.startswith('"'):
        return [
            f"start: TEXT | first {calls}",
            f"TEXT: {_TEXT}",
            f"first[lazy]: TEXT {marker}",
        ]
    # A text that spells the token would be read as a call, without its schema.
    spelled = "".join(map(_in_class, syntax.marker))
    return [
        f"start: TEXT? | TEXT? {marker} {calls}",
        f"TEXT: {_TEXT} & ~/(.|\\n)*{spelled}(.|\\n)*/",
    ]


def _in_class(char: str) -> str:
    """A character as it stands in a regular expression, in a class or alone."""
    return char if char.isalnum() else "\\" + char


def _literal(text: str, specials: Mapping[str, int]) -> str:
    """A text as literals and tokens; nothing for an empty one."""
    names = "|".join(map(re.escape, specials))
    parts = re.split(f"({names})", text) if names else [text]
    return " ".join(
        f"<[{specials[part]}]>" if part in specials else json.dumps(part, ensure_ascii=False)
        for part in parts
        if part
    )
