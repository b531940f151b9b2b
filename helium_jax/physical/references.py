"""What a physical operator reads."""

from helium_jax.physical.operators import (
    Apply,
    Branch,
    Generate,
    Hold,
    Invoke,
    Loop,
    Map,
    PhysicalOperator,
    Race,
    Read,
    Slice,
    View,
)
from helium_jax.plan import Slot, Text
from helium_jax.plan.references import reduce_names
from helium_jax.plan.template import slot_names


def direct_needs(operator: PhysicalOperator) -> tuple[str, ...]:
    """The names an operator must have to start, each once; its regions may need more later."""
    match operator:
        case Read() | Hold():
            names: tuple[str, ...] = ()
        case Apply(text=text):
            names = slot_names(text)
        case Slice(source=source) | View(source=source):
            names = (source,)
        case Invoke(args=args):
            names = args
        case Generate(history=history):
            before = () if history is None else (history,)
            names = (*before, *slot_names(operator_text(operator)))
        case Branch(condition=condition):
            names = condition.names
        case Loop(carried=carried, condition=condition):
            bound = {one.name for one in carried}
            formula = () if condition is None else condition.names
            names = (
                *(one.initial for one in carried),
                *(name for name in formula if name not in bound),
            )
        case Map(over=over, reduce=reduce):
            names = (*over.names, *reduce_names(reduce))
        case Race(reduce=reduce):
            names = reduce_names(reduce)
    return tuple(dict.fromkeys(names))


def value_needs(operator: PhysicalOperator) -> tuple[str, ...]:
    """Of what an operator and its regions' results read, the names that are no slots of a text."""
    match operator:
        case Read() | Hold() | Apply():
            return ()
        case Generate(history=history):
            return () if history is None else (history,)
        case Slice() | View() | Invoke():
            return direct_needs(operator)
        case Branch(then=then, otherwise=otherwise):
            results = (then.result,) if otherwise is None else (then.result, otherwise.result)
        case Loop(carried=carried, body=body):
            results = (body.result, *(one.next for one in carried))
        case Map(body=body):
            results = (body.result,)
        case Race(arms=arms):
            results = tuple(arm.result for arm in arms)
    return (*direct_needs(operator), *results)


def operator_text(operator: PhysicalOperator) -> Text:
    """All text of an operator in a row, of itself and not of its regions."""
    match operator:
        case Generate(turns=turns):
            return tuple(part for turn in turns for part in turn.content)
        case Apply(text=text):
            return text
        case _:
            return ()


def static_prefix(text: Text) -> str:
    """What stands before the first slot."""
    return text[0] if text and not isinstance(text[0], Slot) else ""
