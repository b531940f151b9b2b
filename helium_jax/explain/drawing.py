"""A plan as a graph in Mermaid's and Graphviz' languages."""

from helium_jax.explain.report import Report
from helium_jax.plan import Plan
from helium_jax.plan.describing import type_word
from helium_jax.plan.references import references


def draw_mermaid(report: Report) -> str:
    """The optimised plan as a Mermaid flowchart; merged and pruned operators are dashed."""
    nodes, edges = _graph(report)
    ids = {name: f"n{number}" for number, name in enumerate(nodes)}
    lines = ["flowchart TD"]
    for name, (label, is_gone) in nodes.items():
        text = label.replace("&", "#amp;").replace('"', "#quot;").replace("\n", "<br/>")
        lines.append(f'  {ids[name]}["{text}"]' + (":::gone" if is_gone else ""))
    lines += [f"  {ids[a]} {'-.->' if is_gone else '-->'} {ids[b]}" for a, b, is_gone in edges]
    lines.append("  classDef gone stroke-dasharray: 4 4,opacity:0.6")
    return "\n".join(lines)


def draw_dot(report: Report) -> str:
    """The optimised plan as a Graphviz digraph; merged and pruned operators are dashed."""
    nodes, edges = _graph(report)
    lines = ["digraph plan {", "  node [shape=box, fontname=sans];"]
    for name, (label, is_gone) in nodes.items():
        style = ", style=dashed" if is_gone else ""
        lines.append(f"  {_quote(name)} [label={_quote(label)}{style}];")
    lines += [
        f"  {_quote(a)} -> {_quote(b)}{' [style=dashed]' if is_gone else ''};"
        for a, b, is_gone in edges
    ]
    return "\n".join([*lines, "}"])


def _graph(report: Report) -> tuple[dict[str, tuple[str, bool]], list[tuple[str, str, bool]]]:
    """Labelled nodes, and edges from what is needed to what needs it."""
    optimized, merged = report.prepared.optimized.plan, report.prepared.optimized.merged
    nodes: dict[str, tuple[str, bool]] = {}
    edges: list[tuple[str, str, bool]] = []
    for name in optimized.topological_order:
        nodes[name] = (_label(report, optimized, name), False)
        edges += [(need, name, False) for need in references(optimized.nodes[name])]
    for name in report.prepared.plan.topological_order:
        if name not in nodes:
            gone = f"merged into {merged[name]}" if name in merged else "pruned"
            nodes[name] = (f"{name}\n{gone}", True)
            if name in merged:
                edges.append((name, merged[name], True))
    for output in optimized.outputs:
        key = f"output {output.name}"
        nodes[key] = (key, False)
        edges.append((output.source, key, False))
    return nodes, [edge for edge in edges if edge[0] in nodes and edge[1] in nodes]


def _label(report: Report, plan: Plan, name: str) -> str:
    lines = [name, type_word(plan.nodes[name])]
    if (estimate := report.estimates.get(name)) is not None:
        lines.append(f"{estimate.calls:g} calls, {estimate.prompt_tokens:.0f} tokens each")
    if (actual := report.actuals.get(name)) is not None and actual.prompt_tokens:
        lines.append(f"{actual.kv_cached / actual.prompt_tokens:.0%} from KV")
    return "\n".join(lines)


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
