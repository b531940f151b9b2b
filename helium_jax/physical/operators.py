"""What a step of a run is: the physical operators, values like the plan's nodes.

Their texts hold only what changes from row to row as slots; parameters and constants are literals
by now, so that the part of a prompt that all rows share is visible. A concatenation is an `Apply`
by now, too.
"""

from dataclasses import dataclass

from helium_jax.plan import CallSettings, Text, Value
from helium_jax.plan.control import Reduce
from helium_jax.plan.formula import Formula
from helium_jax.plan.nodes import Function, SliceUnit, ViewKind


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
class Slice:
    """A part of a text; see `plan.nodes.Slice`."""

    name: str
    source: str
    start: int | None
    stop: int | None
    unit: SliceUnit


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Another look at the call that gave `source` its value; see `plan.nodes.View`."""

    name: str
    source: str
    kind: ViewKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoke:
    """A Python function of other values."""

    name: str
    function: Function
    args: tuple[str, ...]


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
        history: whose conversation comes before `turns`: of a call or of a carried name.
    """

    name: str
    turns: tuple[Turn, ...]
    settings: CallSettings
    history: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Operators with one result: what a control operator runs, as often as it decides.

    Attributes:
        operators: every operator after those of the region that it needs, and none without need.
        result: a name inside or visible from it.
    """

    operators: "tuple[PhysicalOperator, ...]"
    result: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """One of two regions per row; without `otherwise` the value may be the empty text."""

    name: str
    condition: Formula
    then: Region
    otherwise: Region | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Carry:
    """A value that one iteration hands to the next; see `plan.control.Carried`."""

    name: str
    initial: str
    next: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """A region run again and again: `count` times, or while `condition` holds.

    Attributes:
        body: everything that some iteration computes.
        again: the part of it that an iteration computes when another one follows or may follow.
        last: the part of it that an iteration computes when it is known to be the last.
        count: iterations; None with a condition.
    """

    name: str
    carried: tuple[Carry, ...]
    body: Region
    again: Region
    last: Region
    count: int | None
    condition: Formula | None
    max_iterations: int

    @property
    def wanted(self) -> tuple[str, ...]:
        """The names that an iteration must give when another one follows or may follow."""
        nexts = tuple(one.next for one in self.carried)
        return nexts if self.count is not None else (*nexts, self.final)

    @property
    def final(self) -> str:
        """The name whose value an iteration leaves behind as the loop's, should it be the last."""
        nexts = {one.name: one.next for one in self.carried}
        return nexts.get(self.body.result, self.body.result)


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """A region for every item of a list that the row produced."""

    name: str
    over: Formula
    item: str
    body: Region
    max_items: int
    reduce: Reduce


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """Regions of which the first `k` to finish count."""

    name: str
    arms: tuple[Region, ...]
    k: int
    reduce: Reduce


Control = Branch | Loop | Map | Race
PhysicalOperator = Read | Hold | Apply | Slice | View | Invoke | Generate | Control


def regions(operator: PhysicalOperator) -> tuple[Region, ...]:
    """The regions of an operator, each once; of most operators none."""
    match operator:
        case Branch(then=then, otherwise=otherwise):
            return (then,) if otherwise is None else (then, otherwise)
        case Loop(body=body) | Map(body=body):
            return (body,)
        case Race(arms=arms):
            return arms
        case _:
            return ()


def render_value(value: Value) -> str:
    """A value as it stands in a text: booleans as true and false, floats as short as exact."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)
