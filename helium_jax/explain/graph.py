"""A plan as a graph of its operators, those included that rewriting took away."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from helium_jax.explain.report import Report
from helium_jax.explain.text import operator_lines
from helium_jax.plan.control import Control, Node, bodies
from helium_jax.plan.describing import type_word
from helium_jax.plan.references import references

NodeState = Literal["kept", "fetched", "merged", "pruned"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphNode:
    """An operator, input, parameter or output.

    Attributes:
        name: unique among nodes; of an output, "output " and its name.
        type: as a plan file has it, or "input", "param", "output".
        state: "fetched" when the output cache has its answer for every row, "merged" into `into`,
            or "pruned".
        into: what it was merged into.
        inside: the control operator whose body it stands in.
        lines: what EXPLAIN says of it.
    """

    name: str
    type: str
    state: NodeState = "kept"
    into: str | None = None
    inside: str | None = None
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphEdge:
    """From what is needed to what needs it; of a merged operator, to what does its work."""

    source: str
    target: str
    is_gone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanGraph:
    """Nodes, each after those it needs, and edges between nodes of one body."""

    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]

    @property
    def outermost(self) -> "PlanGraph":
        """Without what stands in bodies."""
        nodes = tuple(node for node in self.nodes if node.inside is None)
        names = {node.name for node in nodes}
        edges = tuple(e for e in self.edges if e.source in names and e.target in names)
        return PlanGraph(nodes=nodes, edges=edges)


def plan_graph(report: Report) -> PlanGraph:
    """The optimised plan, and beside it what the rules merged or pruned."""
    prepared = report.prepared
    optimized, merged = prepared.optimized.plan, prepared.optimized.merged
    kept = [optimized.nodes[name] for name in optimized.topological_order]
    nodes: list[GraphNode] = []
    edges: list[GraphEdge] = []
    _add_scope(report, kept, None, nodes, edges)
    names = {node.name for node in nodes}
    for name in prepared.plan.topological_order:
        if name in names:
            continue
        into = merged.get(name)
        node = prepared.plan.nodes[name]
        gone = f"merged into {into}" if into is not None else "pruned: no output needs it"
        nodes.append(
            GraphNode(
                name=name,
                type=type_word(node),
                state="pruned" if into is None else "merged",
                into=into,
                lines=(gone,),
            )
        )
        if into in names:
            edges.append(GraphEdge(source=name, target=into, is_gone=True))
    for output in optimized.outputs:
        key = f"output {output.name}"
        nodes.append(GraphNode(name=key, type="output"))
        edges.append(GraphEdge(source=output.source, target=key))
    return PlanGraph(nodes=tuple(nodes), edges=tuple(edges))


def _add_scope(
    report: Report,
    siblings: Sequence[Node],
    inside: str | None,
    nodes: list[GraphNode],
    edges: list[GraphEdge],
) -> None:
    """Adds nodes that see each other, then those in their bodies."""
    fetched = frozenset(report.prepared.optimized.fetched)
    given = report.prepared.plan.nodes
    names = {node.name for node in siblings}
    for node in siblings:
        nodes.append(
            GraphNode(
                name=node.name,
                # What is fetched has become a constant; it is shown as what it was.
                type=type_word(given.get(node.name, node)),
                state="fetched" if node.name in fetched else "kept",
                inside=inside,
                lines=tuple(operator_lines(report, node)),
            )
        )
        needs = dict.fromkeys(need for need in references(node) if need in names)
        edges += [GraphEdge(source=need, target=node.name) for need in needs]
    for node in siblings:
        for body in _scopes(node):
            _add_scope(report, body, node.name, nodes, edges)


def _scopes(node: Node) -> Iterator[Sequence[Node]]:
    if isinstance(node, Control):
        yield from (body.ops for body in bodies(node))
