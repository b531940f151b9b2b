"""What makes a plan valid: every fault at once, each with its path, and warnings.

Types of single fields are checked where documents are read; this checks what any plan must fulfil,
whether it came from a file or from Python.
"""

import math
from collections.abc import Mapping

from helium_jax.errors import Problem
from helium_jax.plan import graph
from helium_jax.plan.control import Op, is_call
from helium_jax.plan.fields import describe
from helium_jax.plan.findings import Findings
from helium_jax.plan.limits import MAX_CALLS, MAX_INPUTS, MAX_OPS
from helium_jax.plan.nodes import (
    Chat,
    Completion,
    Const,
    Param,
    Template,
    Value,
    ValueType,
)
from helium_jax.plan.plan import Plan, cycle_problems
from helium_jax.plan.template import Text, is_name, slot_names
from helium_jax.plan.writing import chat_fields

NO_PATHS: Mapping[str, str] = {}


def check_plan(
    plan: Plan, *, known: frozenset[str] = frozenset(), paths: Mapping[str, str] = NO_PATHS
) -> Findings:
    """Every fault and warning of `plan`.

    Args:
        plan: the plan; nothing about it is assumed.
        known: names that exist although the plan lacks them, because they could not be read.
        paths: other paths for some of the canonical ones.
    """
    found = Findings()
    if len(plan.ops) > MAX_OPS or len(plan.inputs) + len(plan.params) > 2 * MAX_INPUTS:
        message = f"has {len(plan.ops)} operators; at most {MAX_OPS} are allowed"
        found.add("plan.ops", message, "plan_too_large")
        return found
    _check_names(plan, found)
    _check_references(plan, known, paths, found)
    for param in plan.params:
        _check_param(param, found)
    _check_columns(plan, found)
    if not plan.outputs:
        found.add("plan.outputs", "is empty; name at least one result", "no_outputs")
    found.problems += _rename(cycle_problems(plan), paths)
    if not found.problems:
        _warn_of_unused(plan, found)
    return found


def validate(plan: Plan) -> tuple[Problem, ...]:
    """The warnings of a valid plan.

    Raises:
        PlanError: the plan is not valid; names every fault.
    """
    found = check_plan(plan)
    found.raise_if_any()
    return tuple(found.warnings)


def check_size(plan: Plan, num_rows: int) -> None:
    """Refuses a batch that is too large before any work is done for it.

    Raises:
        PlanError: rows times calling operators are too many.
    """
    num_calls = sum(is_call(plan.nodes[name]) for name in plan.needed)
    found = Findings()
    if num_calls * num_rows > MAX_CALLS:
        found.add(
            "inputs",
            f"{num_rows} rows times {num_calls} calling operators are over {MAX_CALLS} calls; "
            "split the rows over several runs",
            "plan_too_large",
        )
    found.raise_if_any()


def value_fault(value: object, type_: ValueType) -> str | None:
    """Why `value` is not of a declared type, or None if it is; a boolean is no number."""
    right = {
        "text": isinstance(value, str),
        "int": type(value) is int,
        "float": isinstance(value, int | float) and not isinstance(value, bool),
        "bool": isinstance(value, bool),
    }
    if right[type_] and isinstance(value, float) and not math.isfinite(value):
        return f"must be finite, not {value}"
    return None if right[type_] else f"must be {_WORDS[type_]}, not {describe(value)}"


_WORDS = {"text": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}


def parse_value(source: str, type_: ValueType) -> Value:
    """A value written as text, as on a command line.

    Raises:
        ValueError: it is not of that type.
    """
    try:
        if type_ == "int":
            return int(source)
        if type_ == "float":
            return float(source)
    except ValueError:
        raise ValueError(f"{source[:40]!r} must be {_WORDS[type_]}") from None
    if type_ == "bool":
        if source not in ("true", "false"):
            raise ValueError(f"{source[:40]!r} must be {_WORDS[type_]}")
        return source == "true"
    return source


def _check_names(plan: Plan, found: Findings) -> None:
    kinds: dict[str, str] = {}
    for kind, names in (
        ("inputs", [node.name for node in plan.inputs]),
        ("params", [node.name for node in plan.params]),
        ("ops", [op.name for op in plan.ops]),
    ):
        for name in names:
            path = f"plan.{kind}.{name[:64]}"
            if not is_name(name) and kind != "ops":
                found.add(path, f"{name[:80]!r} is no name; letters, digits, _ and -", "bad_name")
            if name in kinds:
                message = f"the name is already in {kinds[name]}; names are shared, choose another"
                found.add(path, message, "duplicate_name")
            kinds.setdefault(name, kind)
    seen: set[str] = set()
    for output in plan.outputs:
        path = f"plan.outputs.{output.name[:64]}"
        if not is_name(output.name):
            found.add(
                path, f"{output.name[:80]!r} is no name; letters, digits, _ and -", "bad_name"
            )
        if output.name in seen:
            found.add(path, "the output is there twice; rename one", "duplicate_name")
        seen.add(output.name)


def _check_references(
    plan: Plan, known: frozenset[str], paths: Mapping[str, str], found: Findings
) -> None:
    names = [*plan.nodes]
    exists = plan.nodes.keys() | known
    for op in plan.ops:
        for field, text in texts(op):
            for name in slot_names(text):
                if name not in exists:
                    path = f"plan.ops.{op.name}.{field}"
                    hint = found.suggest(name, names, kinds="inputs, params and operators")
                    message = f"{{{{{name}}}}} is nothing in this plan; {hint}"
                    found.add(paths.get(path, path), message, "unknown_reference")
    for output in plan.outputs:
        if output.source not in exists:
            hint = found.suggest(output.source, names, kinds="inputs and operators")
            found.add(
                f"plan.outputs.{output.name[:64]}",
                f"{output.source[:64]!r} is nothing in this plan; {hint}",
                "unknown_reference",
            )


def texts(op: Op) -> list[tuple[str, Text]]:
    """An operator's texts with the names of their fields."""
    match op:
        case Template(text=text):
            return [("template", text)]
        case Completion(prompt=prompt):
            return [("prompt", prompt)]
        case Chat(messages=messages):
            fields = chat_fields(op)
            return [(field, m.content) for field, m in zip(fields, messages, strict=False)]
        case Const():
            return []


def _check_param(param: Param, found: Findings) -> None:
    path = f"plan.params.{param.name[:64]}"
    is_number = param.type in ("int", "float")
    for bound, value in (("min", param.min), ("max", param.max)):
        if value is not None and not is_number:
            found.add(f"{path}.{bound}", f"is only for int and float, not for {param.type}")
    if param.min is not None and param.max is not None and param.min > param.max:
        found.add(f"{path}.min", f"{param.min:g} is more than max={param.max:g}")
    if param.default is not None:
        fault = param_fault(param, param.default)
        if fault is not None:
            found.add(f"{path}.default", fault)


def param_fault(param: Param, value: object) -> str | None:
    """Why `value` cannot be given for `param`, or None if it can."""
    fault = value_fault(value, param.type)
    if fault is not None:
        return fault
    if isinstance(value, int | float) and not isinstance(value, bool):
        # Written so that NaN is refused too.
        if param.min is not None and not value >= param.min:
            return f"{value} is less than min={param.min:g}"
        if param.max is not None and not value <= param.max:
            return f"{value} is more than max={param.max:g}"
    return None


def _check_columns(plan: Plan, found: Findings) -> None:
    """Constant columns must agree in length: each is one value per row of the same batch."""
    first: Const | None = None
    for op in plan.ops:
        if not isinstance(op, Const) or not isinstance(op.value, tuple):
            continue
        path = f"plan.ops.{op.name}.values"
        if first is None:
            first = op
        elif isinstance(first.value, tuple) and len(op.value) != len(first.value):
            message = f"has {len(op.value)} values but {first.name!r} has {len(first.value)}"
            found.add(path, f"{message}; columns are one value per row")


def _warn_of_unused(plan: Plan, found: Findings) -> None:
    for op in plan.ops:
        if op.name not in plan.needed:
            path = f"plan.ops.{op.name}"
            found.warn(path, "no output needs it; it is pruned and never runs", "pruned")
    used = plan.needed | graph.reachable(plan.dependencies, (op.name for op in plan.ops))
    for kind, nodes in (("inputs", plan.inputs), ("params", plan.params)):
        for node in nodes:
            if node.name not in used:
                found.warn(f"plan.{kind}.{node.name}", "nothing uses it", "unused")


def _rename(problems: list[Problem], paths: Mapping[str, str]) -> list[Problem]:
    return [
        Problem(path=paths.get(p.path, p.path), message=p.message, code=p.code) for p in problems
    ]
