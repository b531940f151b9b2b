"""A plan as a graph in Mermaid's and Graphviz' languages."""

from collections.abc import Iterator

from helium_jax.explain.graph import GraphNode, PlanGraph, plan_graph
from helium_jax.explain.report import Report

GONE = ("merged", "pruned")


def draw_mermaid(report: Report) -> str:
    """The optimised plan as a Mermaid flowchart; merged and pruned operators are dashed."""
    graph = plan_graph(report).outermost
    labels = _labels(report, graph)
    ids = {name: f"n{number}" for number, name in enumerate(labels)}
    lines = ["flowchart TD"]
    for node in graph.nodes:
        text = labels[node.name].replace("&", "#amp;").replace('"', "#quot;").replace("\n", "<br/>")
        style = ":::gone" if node.state in GONE else ""
        lines.append(f'  {ids[node.name]}["{text}"]{style}')
    lines += [
        f"  {ids[edge.source]} {'-.->' if edge.is_gone else '-->'} {ids[edge.target]}"
        for edge in graph.edges
    ]
    lines.append("  classDef gone stroke-dasharray: 4 4,opacity:0.6")
    return "\n".join(lines)


def draw_dot(report: Report) -> str:
    """The optimised plan as a Graphviz digraph; merged and pruned operators are dashed."""
    graph = plan_graph(report).outermost
    labels = _labels(report, graph)
    lines = ["digraph plan {", "  node [shape=box, fontname=sans];"]
    for node in graph.nodes:
        style = ", style=dashed" if node.state in GONE else ""
        lines.append(f"  {_quote(node.name)} [label={_quote(labels[node.name])}{style}];")
    lines += [
        f"  {_quote(edge.source)} -> {_quote(edge.target)}"
        f"{' [style=dashed]' if edge.is_gone else ''};"
        for edge in graph.edges
    ]
    return "\n".join([*lines, "}"])


def _labels(report: Report, graph: PlanGraph) -> dict[str, str]:
    return {node.name: "\n".join(_label(report, node)) for node in graph.nodes}


def _label(report: Report, node: GraphNode) -> Iterator[str]:
    yield node.name
    if node.state in GONE:
        yield node.state if node.into is None else f"merged into {node.into}"
        return
    if node.type != "output":
        yield node.type
    if (estimate := report.estimates.get(node.name)) is not None:
        yield f"{estimate.calls:g} calls, {estimate.prompt_tokens:.0f} tokens each"
    if (actual := report.actuals.get(node.name)) is not None and actual.prompt_tokens:
        yield f"{actual.kv_cached / actual.prompt_tokens:.0%} from KV"


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
