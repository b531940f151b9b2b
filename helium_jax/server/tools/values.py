"""What a tool is, which of them the model may or must call, and what it called."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """A function that the model may call.

    Attributes:
        name: of letters, digits, "_" and "-".
        description: for the model.
        parameters: JSON Schema of its arguments, of type object, for the model.
        enforced: schema that its arguments are held to; None: `parameters`.
        path: where in the request its schema stands, for errors.
    """

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    enforced: Mapping[str, Any] | None = None
    path: str = "tools"

    @property
    def schema(self) -> Mapping[str, Any]:
        """What arguments are held to."""
        return self.parameters if self.enforced is None else self.enforced


class ToolMode(enum.StrEnum):
    """Whether the model calls tools."""

    NONE = "none"
    AUTO = "auto"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolChoice:
    """Which calls an answer may or must have.

    Attributes:
        mode: no calls, what the model likes, or at least one.
        names: only these tools may be called; None: every tool. One name and REQUIRED is what
            other servers call a named choice.
        max_calls: most calls of one answer.
    """

    mode: ToolMode = ToolMode.AUTO
    names: frozenset[str] | None = None
    max_calls: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One call of an answer.

    Attributes:
        id: unique, by which the client sends the result.
        name: of the tool.
        arguments: JSON text as the model wrote it; cut off where the answer was.
    """

    id: str
    name: str
    arguments: str


def allowed_tools(tools: Sequence[ToolSpec], choice: ToolChoice) -> list[ToolSpec]:
    """The tools that may be called under `choice`, in their order."""
    if choice.mode is ToolMode.NONE:
        return []
    return [tool for tool in tools if choice.names is None or tool.name in choice.names]
