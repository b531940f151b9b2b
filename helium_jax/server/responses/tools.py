"""Tools of the Responses API, whose functions stand beside the type."""

from collections.abc import Sequence
from typing import Any

from helium_jax.server.config import Limits
from helium_jax.server.openai.sampling import check_foreign
from helium_jax.server.reading import Findings
from helium_jax.server.responses.bodies import (
    FOREIGN_TOOL_FIELDS,
    FunctionChoice,
    FunctionTool,
    ResponseBody,
)
from helium_jax.server.tools import ToolChoice, ToolSpec
from helium_jax.server.tools.bodies import (
    AllowedTools,
    ChosenFunction,
    FunctionBody,
    ToolBody,
    ToolChoiceBody,
)
from helium_jax.server.tools.request import FLAT, check_tools


def check_response_tools(
    body: ResponseBody, raw: dict[str, Any], limits: Limits, found: Findings
) -> tuple[list[ToolSpec], ToolChoice]:
    """The tools that the model is told of, and which it may or must call.

    `raw`: what the body was read from.
    """
    for i, _ in enumerate(body.tools or ()):
        check_foreign(raw["tools"][i], FOREIGN_TOOL_FIELDS, f"tools[{i}]", found)
    wanted = body.tool_choice
    return check_tools(
        _nested(body.tools or ()),
        _nested_choice(wanted) if isinstance(wanted, FunctionChoice) else wanted,
        limits,
        found,
        is_parallel=body.parallel_tool_calls,
        paths=FLAT,
    )


def _nested(tools: Sequence[FunctionTool]) -> list[ToolBody]:
    """The tools in chat's form."""
    nested = []
    for tool in tools:
        function = None
        if tool.name is not None:
            function = FunctionBody(
                name=tool.name,
                description=tool.description,
                parameters=tool.parameters,
                strict=tool.strict,
            )
        nested.append(ToolBody(type=tool.type, function=function))
    return nested


def _nested_choice(choice: FunctionChoice) -> ToolChoiceBody:
    """The choice in chat's form."""
    named = None if choice.name is None else ChosenFunction(name=choice.name)
    allowed = None
    if choice.tools is not None:
        allowed = AllowedTools(mode=choice.mode or "", tools=_nested(choice.tools))
    return ToolChoiceBody(type=choice.type, function=named, allowed_tools=allowed)
