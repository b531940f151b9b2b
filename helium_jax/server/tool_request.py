"""The rules of a chat request's tools: which the model is told of, and which it may call."""

import uuid
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from helium_jax.server.bodies import ChatBody
from helium_jax.server.config import Limits
from helium_jax.server.reading import Findings
from helium_jax.server.tool_bodies import FunctionBody, ToolBody
from helium_jax.server.tool_specs import read_spec
from helium_jax.server.tools import (
    ToolChoice,
    ToolMode,
    ToolParser,
    ToolSpec,
    ToolSyntax,
    allowed_tools,
)

_MODES = tuple(ToolMode)


def check_tools(
    body: ChatBody, limits: Limits, found: Findings
) -> tuple[list[ToolSpec], ToolChoice]:
    """The tools that the model is told of, and which it may or must call."""
    tools = read_tools(body.tools or [], limits, found)
    choice = _read_choice(body, [tool.name for tool in tools], limits, found)
    return ([] if choice.mode is ToolMode.NONE else tools), choice


def parser_maker(
    tools: Sequence[ToolSpec], choice: ToolChoice, syntax: ToolSyntax
) -> Callable[[], ToolParser] | None:
    """What makes a reader of one answer; None when the answer has no calls."""
    names = [tool.name for tool in allowed_tools(tools, choice)]
    return partial(ToolParser, syntax, names, _new_id) if names else None


def _new_id() -> str:
    return f"call_{uuid.uuid4().hex}"


def read_tools(bodies: Sequence[ToolBody], limits: Limits, found: Findings) -> list[ToolSpec]:
    """The tools of a body; only meaningful without problems in `found`."""
    if len(bodies) > limits.tools:
        found.add("tools", f"has {len(bodies)} entries; the limit is {limits.tools}")
        return []
    size = len(msgspec.json.encode(bodies))
    if size > limits.tools_bytes:
        found.add("tools", f"have {size} bytes; the limit is {limits.tools_bytes}")
        return []
    tools: dict[str, ToolSpec] = {}
    for i, body in enumerate(bodies):
        path = f"tools[{i}]"
        if body.type != "function":
            found.add_unsupported(f"{path}.type", f"the type {body.type[:32]!r}")
        elif body.function is None:
            found.add(f"{path}.function", "is required")
        elif body.function.name in tools:
            found.add(f"{path}.function.name", "is the name of an earlier tool too")
        else:
            tools[body.function.name] = _read_function(body.function, f"{path}.function", found)
    return list(tools.values())


def _read_function(body: FunctionBody, path: str, found: Findings) -> ToolSpec:
    schema = body.parameters
    if schema is None:
        schema = {"properties": {}, "additionalProperties": False}
    return read_spec(
        body.name,
        body.description,
        schema,
        strict=bool(body.strict),
        name_path=f"{path}.name",
        schema_path=f"{path}.parameters",
        found=found,
    )


def _read_choice(
    body: ChatBody, names: Sequence[str], limits: Limits, found: Findings
) -> ToolChoice:
    wanted, path = body.tool_choice, "tool_choice"
    max_calls = 1 if body.parallel_tool_calls is False else limits.tool_calls
    default = ToolMode.AUTO if names else ToolMode.NONE
    if wanted is None:
        return ToolChoice(mode=default, max_calls=max_calls)
    if isinstance(wanted, str):
        mode = _read_mode(wanted, path, _MODES, names, found)
        return ToolChoice(mode=mode if names else default, max_calls=max_calls)
    if wanted.type == "function" and wanted.function is not None:
        _check_known(wanted.function.name, f"{path}.function.name", names, found)
        only = frozenset({wanted.function.name})
        return ToolChoice(mode=ToolMode.REQUIRED, names=only, max_calls=1)
    if wanted.type == "allowed_tools" and wanted.allowed_tools is not None:
        allowed, path = wanted.allowed_tools, f"{path}.allowed_tools"
        mode = _read_mode(allowed.mode, f"{path}.mode", _MODES[1:], names, found)
        only = _allowed_names(allowed.tools, f"{path}.tools", names, found)
        return ToolChoice(mode=mode, names=only, max_calls=max_calls)
    if wanted.type in ("function", "allowed_tools"):
        found.add(f"{path}.{wanted.type}", "is required")
    else:
        found.add(f"{path}.type", f"{wanted.type[:32]!r} is not one of function, allowed_tools")
    return ToolChoice(mode=default)


def _read_mode(
    word: str, path: str, modes: Sequence[ToolMode], names: Sequence[str], found: Findings
) -> ToolMode:
    if word not in modes:
        found.add(path, f"{word[:32]!r} is not one of {', '.join(modes)}")
        return ToolMode.AUTO
    if word == ToolMode.REQUIRED and not names:
        found.add(path, "is 'required', but there are no tools")
    return ToolMode(word)


def _allowed_names(
    bodies: Sequence[ToolBody], path: str, names: Sequence[str], found: Findings
) -> frozenset[str]:
    if not bodies:
        found.add(path, "is empty; set tool_choice to 'none' for no calls")
    allowed = []
    for i, body in enumerate(bodies):
        if body.type != "function" or body.function is None:
            found.add(f"{path}[{i}]", 'is not {"type": "function", "function": {"name": ...}}')
        else:
            _check_known(body.function.name, f"{path}[{i}].function.name", names, found)
            allowed.append(body.function.name)
    return frozenset(allowed)


def _check_known(name: str, path: str, names: Sequence[str], found: Findings) -> None:
    if name not in names:
        known = ", ".join(names[:16]) or "none"
        found.add(path, f"{name[:64]!r} is not the name of a tool; there is {known}")
