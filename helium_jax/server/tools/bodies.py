"""OpenAI's tools, choice of tools and calls, as the bodies of requests have them."""

from typing import Any

from msgspec import Struct


class FunctionBody(Struct, kw_only=True, frozen=True):
    """A function; without `parameters` it takes none. Calls always meet the schema, whether
    `strict` is set or not."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolBody(Struct, kw_only=True, frozen=True):
    """A tool; the only `type` is "function"."""

    type: str
    function: FunctionBody | None = None


class ChosenFunction(Struct, kw_only=True, frozen=True):
    """The function that must be called."""

    name: str


class AllowedTools(Struct, kw_only=True, frozen=True):
    """Of the tools, those that may be called; `mode` is "auto" or "required"."""

    mode: str
    tools: list[ToolBody]


class ToolChoiceBody(Struct, kw_only=True, frozen=True):
    """`type` is "function" or "allowed_tools"."""

    type: str
    function: ChosenFunction | None = None
    allowed_tools: AllowedTools | None = None


class CalledFunction(Struct, kw_only=True, frozen=True):
    """What was called; `arguments` is JSON as text."""

    name: str
    arguments: str


class ToolCallBody(Struct, kw_only=True, frozen=True):
    """A call in a message of the assistant."""

    id: str
    function: CalledFunction
    type: str | None = None
