"""A plan as lines of a tree: what EXPLAIN prints, in whichever form and with whatever numbers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from helium_jax.plan.control import Control, Loop, Map, Node, bodies, body_fields, walk
from helium_jax.plan.plan import Plan
from helium_jax.plan.references import own_references


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the tree.

    Attributes:
        depth: levels from the margin.
        node: the node that the line is about; None for a heading.
        label: the heading: an output, a body, or a name that a loop or map gives its body.
        is_repeated: the node and what it needs have been shown above.
    """

    depth: int
    node: Node | None = None
    label: str = ""
    is_repeated: bool = False


def outline(plan: Plan) -> Iterator[Line]:
    """The lines of a valid plan, outputs first, each node above those it needs.

    Every needed node is shown in full once; nodes without needs and bodies wherever they are used.
    """
    nodes: dict[str, Node] = {**plan.nodes, **{op.name: op for op in plan.all_ops}}
    bound = _bound_labels(plan)
    shown: set[str] = set()
    # Depth first with a stack of our own: a chain may be longer than Python's. An entry is a name
    # to show, or a heading.
    pending: list[tuple[int, str, str]] = []
    for output in reversed(plan.outputs):
        pending += [(1, output.source, ""), (0, "", f"Output {output.name}")]
    while pending:
        depth, name, label = pending.pop()
        if not name:
            yield Line(depth=depth, label=label)
            continue
        if name in bound:
            yield Line(depth=depth, label=f"->  {bound[name]}")
            continue
        node = nodes[name]
        needs = own_references(node)
        held = _bodies(node, depth)
        is_repeated = name in shown and bool(needs or held)
        yield Line(depth=depth, node=node, is_repeated=is_repeated)
        shown.add(name)
        if not is_repeated:
            pending += reversed([(depth + 1, need, "") for need in needs] + held)


def _bodies(node: Node, depth: int) -> list[tuple[int, str, str]]:
    """Headings and results of a node's bodies, and of what a loop carries on."""
    if not isinstance(node, Control):
        return []
    fields = zip(body_fields(node), bodies(node), strict=True)
    results = [(field, body.result) for field, body in fields]
    if isinstance(node, Loop):
        # A result that is handed on, or was, is shown as that.
        handed = {name for one in node.carried for name in (one.name, one.next)}
        results = [entry for entry in results if entry[1] not in handed]
        results += [(f"next {one.name}", one.next) for one in node.carried]
    entries: list[tuple[int, str, str]] = []
    for field, result in results:
        entries += [(depth + 1, "", f"{field}:"), (depth + 2, result, "")]
    return entries


def _bound_labels(plan: Plan) -> Mapping[str, str]:
    """What to show for carried names and items."""
    labels: dict[str, str] = {}
    for op in walk(plan.ops):
        if isinstance(op, Loop):
            labels |= {one.name: f"Carried {one.name}  (of {op.name})" for one in op.carried}
        elif isinstance(op, Map):
            labels[op.item] = f"Item {op.item}  (of {op.name})"
    return labels
