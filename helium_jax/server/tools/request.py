"""The rules of tools in OpenAI's two forms: which the model is told of, and which it may call."""

from collections.abc import Sequence
from dataclasses import dataclass

from helium_jax.server.config import Limits
from helium_jax.server.reading import Findings
from helium_jax.server.tools import ToolChoice, ToolMode, ToolSpec
from helium_jax.server.tools.bodies import FunctionBody, ToolBody, ToolChoiceBody
from helium_jax.server.tools.specs import check_size, read_spec

_MODES = tuple(ToolMode)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolPaths:
    """Where in a body the parts of tools and of a choice stand, after the path of the whole.

    Attributes:
        function: fields of a function.
        allowed: mode and tools of a choice among some tools.
    """

    function: str
    allowed: str


NESTED = ToolPaths(function=".function", allowed=".allowed_tools")  # /v1/chat/completions
FLAT = ToolPaths(function="", allowed="")  # /v1/responses


def check_tools(
    tools: Sequence[ToolBody] | None,
    wanted: str | ToolChoiceBody | None,
    limits: Limits,
    found: Findings,
    *,
    is_parallel: bool | None,
    paths: ToolPaths = NESTED,
) -> tuple[list[ToolSpec], ToolChoice]:
    """The tools that the model is told of, and which it may or must call.

    Args:
        tools: of the body.
        wanted: its tool_choice.
        limits: of one request.
        found: gains the faults.
        is_parallel: its parallel_tool_calls.
        paths: where all this stands in the body.
    """
    specs = read_tools(tools or [], limits, found, paths=paths)
    max_calls = 1 if is_parallel is False else limits.tool_calls
    choice = _read_choice(wanted, [tool.name for tool in specs], max_calls, paths, found)
    return ([] if choice.mode is ToolMode.NONE else specs), choice


def read_tools(
    bodies: Sequence[ToolBody], limits: Limits, found: Findings, *, paths: ToolPaths = NESTED
) -> list[ToolSpec]:
    """The tools of a body; only meaningful without problems in `found`."""
    if not check_size(bodies, limits, found):
        return []
    tools: dict[str, ToolSpec] = {}
    for i, body in enumerate(bodies):
        path = f"tools[{i}]"
        inner = f"{path}{paths.function}"
        if body.type != "function":
            found.add_unsupported(f"{path}.type", f"the type {body.type[:32]!r}")
        elif body.function is None:
            found.add(f"{path}{paths.function or '.name'}", "is required")
        elif body.function.name in tools:
            found.add(f"{inner}.name", "is the name of an earlier tool too")
        else:
            tools[body.function.name] = _read_function(body.function, inner, found)
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
    wanted: str | ToolChoiceBody | None,
    names: Sequence[str],
    max_calls: int,
    paths: ToolPaths,
    found: Findings,
) -> ToolChoice:
    path = "tool_choice"
    default = ToolMode.AUTO if names else ToolMode.NONE
    if wanted is None:
        return ToolChoice(mode=default, max_calls=max_calls)
    if isinstance(wanted, str):
        mode = _read_mode(wanted, path, _MODES, names, found)
        return ToolChoice(mode=mode if names else default, max_calls=max_calls)
    if wanted.type == "function" and wanted.function is not None:
        _check_known(wanted.function.name, f"{path}{paths.function}.name", names, found)
        only = frozenset({wanted.function.name})
        return ToolChoice(mode=ToolMode.REQUIRED, names=only, max_calls=1)
    if wanted.type == "allowed_tools" and wanted.allowed_tools is not None:
        allowed, inner = wanted.allowed_tools, f"{path}{paths.allowed}"
        mode = _read_mode(allowed.mode, f"{inner}.mode", _MODES[1:], names, found)
        only = _allowed_names(allowed.tools, f"{inner}.tools", names, paths, found)
        return ToolChoice(mode=mode, names=only, max_calls=max_calls)
    if wanted.type == "function":
        found.add(f"{path}{paths.function or '.name'}", "is required")
    elif wanted.type == "allowed_tools":
        found.add(f"{path}{paths.allowed or '.tools'}", "is required")
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
    bodies: Sequence[ToolBody],
    path: str,
    names: Sequence[str],
    paths: ToolPaths,
    found: Findings,
) -> frozenset[str]:
    if not bodies:
        found.add(path, "is empty; set tool_choice to 'none' for no calls")
    allowed = []
    for i, body in enumerate(bodies):
        if body.type != "function" or body.function is None:
            found.add(f"{path}[{i}]", 'is not a function: {"type": "function", ...} with its name')
        else:
            where = f"{path}[{i}]{paths.function}.name"
            _check_known(body.function.name, where, names, found)
            allowed.append(body.function.name)
    return frozenset(allowed)


def _check_known(name: str, path: str, names: Sequence[str], found: Findings) -> None:
    if name not in names:
        known = ", ".join(names[:16]) or "none"
        found.add(path, f"{name[:64]!r} is not the name of a tool; there is {known}")
