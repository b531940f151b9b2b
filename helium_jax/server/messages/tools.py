"""Tools of Anthropic's Messages API: which the model is told of, and which it may call."""

from collections.abc import Sequence

from helium_jax.server.config import Limits
from helium_jax.server.messages.bodies import PromptFields, Tool
from helium_jax.server.reading import Findings
from helium_jax.server.tools import ToolChoice, ToolMode, ToolSpec
from helium_jax.server.tools.specs import check_size, read_spec

_MODES = {
    "auto": ToolMode.AUTO,
    "any": ToolMode.REQUIRED,
    "tool": ToolMode.REQUIRED,
    "none": ToolMode.NONE,
}


def check_messages_tools(
    body: PromptFields, limits: Limits, found: Findings
) -> tuple[list[ToolSpec], ToolChoice]:
    """The tools that the model is told of, and which it may or must call."""
    tools = _read_tools(body.tools or [], limits, found)
    wanted, names = body.tool_choice, {tool.name for tool in tools}
    if wanted is None:
        return tools, ToolChoice(
            mode=ToolMode.AUTO if tools else ToolMode.NONE, max_calls=limits.tool_calls
        )
    mode = _MODES[wanted.type]
    if mode is ToolMode.NONE:
        return [], ToolChoice(mode=mode)
    if not tools and not found.problems:
        found.add("tool_choice", f"is {wanted.type!r}, but there are no tools")
    only = None
    if wanted.type == "tool":
        if wanted.name not in names:
            known = ", ".join(sorted(names)[:16]) or "none"
            found.add("tool_choice.name", f"is not the name of a tool; there is {known}")
        only = frozenset((wanted.name or "",))
    one = wanted.disable_parallel_tool_use or only is not None
    return tools, ToolChoice(mode=mode, names=only, max_calls=1 if one else limits.tool_calls)


def _read_tools(bodies: Sequence[Tool], limits: Limits, found: Findings) -> list[ToolSpec]:
    if not check_size(bodies, limits, found):
        return []
    tools: dict[str, ToolSpec] = {}
    for i, body in enumerate(bodies):
        path = f"tools[{i}]"
        if body.type not in (None, "custom"):
            found.add_unsupported(f"{path}.type", f"the type {body.type[:32]!r}")
        elif body.input_schema is None:
            found.add(f"{path}.input_schema", "is required: a JSON Schema of an object")
        elif body.name in tools:
            found.add(f"{path}.name", "is the name of an earlier tool too")
        else:
            tools[body.name] = read_spec(
                body.name,
                body.description,
                body.input_schema,
                strict=False,
                name_path=f"{path}.name",
                schema_path=f"{path}.input_schema",
                found=found,
            )
    return list(tools.values())
