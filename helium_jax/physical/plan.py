"""A physical plan: operators in an order in which they can run, and what is wanted of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from helium_jax.physical.operators import (
    Generate,
    Loop,
    Map,
    PhysicalOperator,
    View,
    regions,
)
from helium_jax.physical.references import direct_needs
from helium_jax.plan import RunLimits


# Without slots, so that what is derived from the fields can be computed once and kept.
@dataclass(frozen=True, kw_only=True)
class PhysicalPlan:
    """What a run does for every row.

    Attributes:
        plan_id: of the plan it came from.
        operators: every operator after those it needs; those of regions are inside their owners.
        outputs: (name, operator) pairs, in the author's order.
        limits: what the run may spend.
    """

    plan_id: str
    operators: tuple[PhysicalOperator, ...]
    outputs: tuple[tuple[str, str], ...]
    limits: RunLimits

    @cached_property
    def all_operators(self) -> tuple[PhysicalOperator, ...]:
        """Every operator, those in regions before the operator that owns the region."""
        return tuple(_flatten(self.operators))

    @cached_property
    def calls(self) -> tuple[Generate, ...]:
        """The operators that call the language model, in regions too."""
        return tuple(op for op in self.all_operators if isinstance(op, Generate))

    @cached_property
    def needs(self) -> Mapping[str, tuple[str, ...]]:
        """What each operator needs, names that loops and maps bind included; without cycles.

        An operator in a region also needs what decides whether the region runs; a control operator
        also needs what its regions give. A carried name counts as its initial value, an item as
        what the list is made from.
        """
        needs: dict[str, tuple[str, ...]] = {}
        _collect_needs(self.operators, (), needs)
        return needs

    @cached_property
    def users(self) -> Mapping[str, tuple[str, ...]]:
        """What needs each operator or bound name."""
        users: dict[str, list[str]] = {name: [] for name in self.needs}
        for name, needs in self.needs.items():
            for need in needs:
                users[need].append(name)
        return {name: tuple(names) for name, names in users.items()}

    @cached_property
    def remembered(self) -> frozenset[str]:
        """The names of which more than the text is needed: the conversation, for history and views.

        Carried names pass on what they begin and go on with.
        """
        wanted: set[str] = set()
        pending: list[str] = []
        sources: dict[str, tuple[str, str]] = {}
        for op in self.all_operators:
            match op:
                case Generate(history=str() as history):
                    pending.append(history)
                case View(source=source):
                    pending.append(source)
                case Loop(carried=carried):
                    sources |= {one.name: (one.initial, one.next) for one in carried}
                case _:
                    pass
        while pending:
            name = pending.pop()
            if name not in wanted:
                wanted.add(name)
                pending += sources.get(name, ())
        return frozenset(wanted)


def calls_within(operators: tuple[PhysicalOperator, ...]) -> tuple[str, ...]:
    """The names of the operators that call the language model among these and in their regions."""
    return tuple(op.name for op in _flatten(operators) if isinstance(op, Generate))


def _flatten(operators: tuple[PhysicalOperator, ...]) -> Iterator[PhysicalOperator]:
    for op in operators:
        for region in regions(op):
            yield from _flatten(region.operators)
        yield op


def _collect_needs(
    operators: tuple[PhysicalOperator, ...],
    deciding: tuple[str, ...],
    needs: dict[str, tuple[str, ...]],
) -> None:
    """Adds what `operators` need, given the names that decide whether they run at all."""
    for op in operators:
        direct = tuple(dict.fromkeys((*direct_needs(op), *deciding)))
        results: list[str] = []
        match op:
            case Loop(carried=carried, body=body):
                for one in carried:
                    needs[one.name] = (one.initial,)
                results = [body.result, *(one.next for one in carried)]
            case Map(item=item, over=over, body=body):
                needs[item] = over.names
                results = [body.result]
            case _:
                results = [region.result for region in regions(op)]
        for region in regions(op):
            _collect_needs(region.operators, direct, needs)
        needs[op.name] = tuple(dict.fromkeys((*direct, *results)))
