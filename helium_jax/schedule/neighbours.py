"""Nested sequences of operators one step away from others: what local search looks at."""

from collections.abc import Iterator, Mapping

from helium_jax.schedule.call_graph import CallGraph
from helium_jax.schedule.operator_order import Inner

Nested = tuple[Inner, ...]


def neighbours(nested: Nested, graph: CallGraph) -> Iterator[Nested]:
    """Sequences that differ by one step and put no operator before one that it needs."""
    needs = {node.name: node.needs for node in graph.nodes}
    for moves in (_joined, _split, _exchanged, _moved):
        yield from (other for other in moves(nested) if _is_valid(other, needs))


def _is_valid(nested: Nested, needs: Mapping[str, tuple[str, ...]]) -> bool:
    before: set[str] = set()
    for inner in nested:
        for name in inner:
            if not before.issuperset(needs[name]):
                return False
            before.add(name)
    return True


def _joined(nested: Nested) -> Iterator[Nested]:
    for i in range(len(nested) - 1):
        yield (*nested[:i], nested[i] + nested[i + 1], *nested[i + 2 :])


def _split(nested: Nested) -> Iterator[Nested]:
    for i, inner in enumerate(nested):
        for cut in range(1, len(inner)):
            yield (*nested[:i], inner[:cut], inner[cut:], *nested[i + 1 :])


def _exchanged(nested: Nested) -> Iterator[Nested]:
    """Neighbours change places, as whole sequences or inside of one."""
    for i in range(len(nested) - 1):
        yield (*nested[:i], nested[i + 1], nested[i], *nested[i + 2 :])
    for i, inner in enumerate(nested):
        for place in range(len(inner) - 1):
            swapped = (*inner[:place], inner[place + 1], inner[place], *inner[place + 2 :])
            yield (*nested[:i], swapped, *nested[i + 1 :])


def _moved(nested: Nested) -> Iterator[Nested]:
    """One operator goes elsewhere: into another sequence, first or last, or on its own."""
    for i, inner in enumerate(nested):
        for place, name in enumerate(inner):
            rest = inner[:place] + inner[place + 1 :]
            left = (*nested[:i], *([rest] if rest else []), *nested[i + 1 :])
            for target in range(len(left) + 1):
                yield (*left[:target], (name,), *left[target:])
            for target, other in enumerate(left):
                for grown in ((name, *other), (*other, name)):
                    yield (*left[:target], grown, *left[target + 1 :])
