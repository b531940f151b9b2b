"""EXPLAIN: a plan as an indented tree or as JSON; nothing is run, compiled or cached."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from helium_jax.errors import Problem
from helium_jax.plan.control import Node, is_call
from helium_jax.plan.nodes import (
    CallSettings,
    Chat,
    Completion,
    Const,
    Input,
    Param,
    Template,
)
from helium_jax.plan.plan import Plan
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

    Args:
        plan: a valid plan.
        num_rows: of the batch, when it is known.
        prefix_tokens: by operator, how many leading prompt tokens are the same for every row.
        warnings: of validation, shown at the end.
    """
    lines = [f"Plan {plan.name or '(unnamed)'}  ({_facts(plan, num_rows)})"]
    shown: set[str] = set()
    # Depth first with a stack of our own: a chain may be longer than Python's.
    pending = [(output.source, 1, f"Output {output.name}") for output in plan.outputs]
    pending.reverse()
    while pending:
        name, depth, label = pending.pop()
        indent = "  " * min(depth, MAX_INDENT)
        if label:
            lines.append(f"{'  ' * (depth - 1)}{label}")
        node = plan.nodes[name]
        needs = plan.dependencies[name]
        if name in shown and needs:
            lines.append(f"{indent}->  {_title(node)}  (shown above)")
            continue
        shown.add(name)
        details = _details(node, num_rows, prefix_tokens.get(name))
        lines.append(f"{indent}->  {_title(node)}  ({', '.join(details)})")
        pending += [(need, depth + 1, "") for need in reversed(needs)]
    pruned = [op for op in plan.ops if op.name not in plan.needed]
    if pruned:
        lines.append("Pruned (no output needs them)")
        lines += [f"  ->  {_title(op)}  (never executed)" for op in pruned]
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
    """The same as one JSON object, operators in an order in which they can run."""
    operators = []
    for name in plan.topological_order:
        node = plan.nodes[name]
        is_needed = name in plan.needed
        operator: dict[str, Any] = {
            "name": name,
            "type": _type(node),
            "needs": list(plan.dependencies[name]),
            "pruned": not is_needed,
        }
        if isinstance(node, Chat | Completion):
            operator["max_calls"] = num_rows if is_needed else 0
            operator["deterministic"] = node.settings.sampling.is_deterministic
            operator["settings"] = write_settings(node.settings)
        if name in prefix_tokens:
            operator["static_prefix_tokens"] = prefix_tokens[name]
        operators.append(operator)
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
    calls = sum(is_call(plan.nodes[name]) for name in plan.needed)
    facts = [plan.plan_id, f"operators={len(plan.ops)}", f"calls per row={calls}"]
    if num_rows is not None:
        facts += [f"rows={num_rows}", f"calls<={calls * num_rows}"]
    return ", ".join(facts)


def _title(node: Node) -> str:
    return f"{type(node).__name__} {node.name}"


def _type(node: Node) -> str:
    match node:
        case Chat():
            return "llm.chat"
        case Completion():
            return "llm.completion"
        case _:
            return type(node).__name__.lower()


def _details(node: Node, num_rows: int | None, prefix_tokens: int | None) -> list[str]:
    match node:
        case Input(type=type_):
            details = [f"column of {type_}"]
        case Param(type=type_, default=default):
            details = [
                f"{type_} per run" + (f", default {default!r}" if default is not None else "")
            ]
        case Const(value=tuple() as values):
            details = [f"column of {len(values)} values"]
        case Const():
            details = ["one value"]
        case Template():
            details = ["text"]
        case Chat(settings=settings) | Completion(settings=settings):
            details = _call_details(settings)
    if num_rows is not None:
        details.insert(0, f"rows={num_rows}")
    if prefix_tokens is not None:
        details.append(f"static prefix={prefix_tokens} tokens")
    return details


def _call_details(settings: CallSettings) -> list[str]:
    sampling = settings.sampling
    if sampling.is_greedy:
        details = ["greedy"]
    elif sampling.seed is not None:
        details = [f"temperature={sampling.temperature:g}", f"seed={sampling.seed}"]
    else:
        details = [f"temperature={sampling.temperature:g}", "every call a new draw"]
    if sampling.max_tokens is not None:
        details.append(f"max_tokens={sampling.max_tokens}")
    return details
