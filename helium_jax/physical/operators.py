"""What a step of a run is: the physical operators, values like the plan's nodes.

Their texts hold only what changes from row to row as slots; parameters and constants are literals
by now, so that the part of a prompt that all rows share is visible.
"""

from dataclasses import dataclass

from helium_jax.plan import CallSettings, Text, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """The values of an input column, as text."""

    name: str
    column: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Values that came with the plan: one for every row, or one per row."""

    name: str
    values: tuple[str, ...]
    is_column: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """A text put together in this process; costs nothing."""

    name: str
    text: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One message of a call; `role` is None for a bare prompt."""

    role: str | None
    content: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Generate:
    """A call of the language model per row.

    Attributes:
        name: of the operator.
        turns: the messages, or one turn without a role for a bare prompt.
        settings: how the model is called.
    """

    name: str
    turns: tuple[Turn, ...]
    settings: CallSettings


PhysicalOperator = Read | Hold | Apply | Generate


def render_value(value: Value) -> str:
    """A value as it stands in a text: booleans as true and false, floats as short as exact."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)
