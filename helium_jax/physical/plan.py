"""A physical plan: operators in an order in which they can run, and what is wanted of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from helium_jax.physical.operators import Apply, Generate, Hold, PhysicalOperator, Read
from helium_jax.plan import RunLimits, Slot
from helium_jax.plan.template import Text, slot_names


# Without slots, so that what is derived from the fields can be computed once and kept.
@dataclass(frozen=True, kw_only=True)
class PhysicalPlan:
    """What a run does for every row.

    Attributes:
        plan_id: of the plan it came from.
        operators: every operator after those it needs.
        outputs: (name, operator) pairs, in the author's order.
        limits: what the run may spend.
    """

    plan_id: str
    operators: tuple[PhysicalOperator, ...]
    outputs: tuple[tuple[str, str], ...]
    limits: RunLimits

    @cached_property
    def calls(self) -> tuple[Generate, ...]:
        """The operators that call the language model."""
        return tuple(op for op in self.operators if isinstance(op, Generate))

    @cached_property
    def needs(self) -> Mapping[str, tuple[str, ...]]:
        """The operators that each operator needs."""
        return {op.name: slot_names(operator_text(op)) for op in self.operators}

    @cached_property
    def users(self) -> Mapping[str, tuple[str, ...]]:
        """The operators that need each operator."""
        users: dict[str, list[str]] = {op.name: [] for op in self.operators}
        for name, needs in self.needs.items():
            for need in needs:
                users[need].append(name)
        return {name: tuple(names) for name, names in users.items()}


def operator_text(operator: PhysicalOperator) -> Text:
    """All text of an operator in a row, for what it refers to."""
    match operator:
        case Generate(turns=turns):
            return tuple(part for turn in turns for part in turn.content)
        case Apply(text=text):
            return text
        case Read() | Hold():
            return ()


def static_prefix(text: Text) -> str:
    """What stands before the first slot."""
    return text[0] if text and not isinstance(text[0], Slot) else ""
