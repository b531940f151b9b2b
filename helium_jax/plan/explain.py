"""EXPLAIN: a plan as an indented tree or as JSON; nothing is run, compiled or cached."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from helium_jax.errors import Problem
from helium_jax.plan.control import (
    Control,
    Node,
    bodies,
    body_fields,
    is_deterministic,
)
from helium_jax.plan.describing import details, title, type_word
from helium_jax.plan.nodes import Chat, Completion
from helium_jax.plan.outline import outline
from helium_jax.plan.plan import Plan
from helium_jax.plan.references import body_order, references
from helium_jax.plan.size import max_executions, row_size
from helium_jax.plan.writing import write_settings

MAX_INDENT = 40  # levels; deeper ones stay at the margin, or a long chain would fill the memory
NO_TOKENS: Mapping[str, int] = {}


def explain_text(
    plan: Plan,
    *,
    num_rows: int | None = None,
    prefix_tokens: Mapping[str, int] = NO_TOKENS,
    warnings: Sequence[Problem] = (),
) -> str:
    """The plan as a tree, one operator a line, the outputs at the top.

    Under an operator stands what it needs; a body hangs under its operator as a tree of its own,
    which begins at the body's result.

    Args:
        plan: a valid plan.
        num_rows: of the batch, when it is known.
        prefix_tokens: by operator, how many leading prompt tokens are the same for every row.
        warnings: of validation, shown at the end.
    """
    lines = [f"Plan {plan.name or '(unnamed)'}  ({_facts(plan, num_rows)})"]
    for line in outline(plan):
        indent = "  " * min(line.depth, MAX_INDENT)
        if line.node is None:
            lines.append(f"{indent}{line.label}")
        elif line.is_repeated:
            lines.append(f"{indent}->  {title(line.node)}  (shown above)")
        else:
            facts = details(line.node, num_rows, prefix_tokens.get(line.node.name))
            lines.append(f"{indent}->  {title(line.node)}  ({', '.join(facts)})")
    pruned = [op for op in plan.all_ops if op.name not in plan.needed]
    if pruned:
        lines.append("Pruned (no output needs them)")
        lines += [f"  ->  {title(op)}  (never executed)" for op in pruned]
    others = [problem for problem in warnings if problem.code != "pruned"]
    if others:
        lines.append("Warnings")
        lines += [f"  {problem}" for problem in others]
    return "\n".join(lines)


def explain_json(
    plan: Plan,
    *,
    num_rows: int | None = None,
    prefix_tokens: Mapping[str, int] = NO_TOKENS,
    warnings: Sequence[Problem] = (),
) -> bytes:
    """The same as one JSON object, operators in an order in which they can run.

    What is in bodies comes right after the operator that holds it, with its name as `inside`.
    """
    executions = max_executions(plan)
    operators: list[dict[str, Any]] = []
    pending: list[tuple[Node, str | None]] = [
        (plan.nodes[name], None) for name in reversed(plan.topological_order)
    ]
    while pending:
        node, inside = pending.pop()
        most = executions.get(node.name, 0) if node.name in plan.needed else 0
        operator = _operator(node, most, num_rows)
        operator["pruned"] = node.name not in plan.needed
        if inside is not None:
            operator["inside"] = inside
        if node.name in prefix_tokens:
            operator["static_prefix_tokens"] = prefix_tokens[node.name]
        operators.append(operator)
        if isinstance(node, Control):
            inner = [(op, node.name) for body in bodies(node) for op in body_order(body.ops)]
            pending += reversed(inner)
    document = {
        "plan_id": plan.plan_id,
        "name": plan.name,
        "rows": num_rows,
        "operators": operators,
        "outputs": {output.name: output.source for output in plan.outputs},
        "warnings": [{"path": w.path, "message": w.message, "code": w.code} for w in warnings],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2)


def _facts(plan: Plan, num_rows: int | None) -> str:
    calls = row_size(plan).calls
    # Branches, loops and maps make fewer calls than their bounds, as each row needs.
    is_bound = any(isinstance(op, Control) for op in plan.all_ops)
    facts = [
        plan.plan_id,
        f"operators={len(plan.all_ops)}",
        f"calls per row{'<=' if is_bound else '='}{calls}",
    ]
    if num_rows is not None:
        facts += [f"rows={num_rows}", f"calls<={calls * num_rows}"]
    return ", ".join(facts)


def _operator(node: Node, most: int, num_rows: int | None) -> dict[str, Any]:
    operator: dict[str, Any] = {
        "name": node.name,
        "type": type_word(node),
        "needs": list(references(node)),
    }
    if isinstance(node, Control):
        operator["deterministic"] = is_deterministic(node)
        operator["bodies"] = {
            field: {"operators": [op.name for op in body.ops], "result": body.result}
            for field, body in zip(body_fields(node), bodies(node), strict=True)
        }
    if isinstance(node, Chat | Completion):
        operator["max_calls"] = None if num_rows is None else most * num_rows
        operator["deterministic"] = node.settings.sampling.is_deterministic
        operator["settings"] = write_settings(node.settings)
    return operator
