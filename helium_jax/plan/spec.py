"""What makes a plan valid: every fault at once, each with its path, and warnings.

Types of single fields are checked where documents are read; this checks what any plan must fulfil,
whether it came from a file or from Python.
"""

import math
from collections.abc import Mapping

from helium_jax.errors import Problem
from helium_jax.plan import graph
from helium_jax.plan.control import Loop, bodies
from helium_jax.plan.control_spec import check_controls
from helium_jax.plan.fields import describe
from helium_jax.plan.findings import Findings
from helium_jax.plan.limits import MAX_INPUTS, MAX_NESTING, MAX_OPS
from helium_jax.plan.nodes import Const, Param, Value, ValueType
from helium_jax.plan.plan import Plan, cycle_problems
from helium_jax.plan.reading_context import ANY_NAME, author_path
from helium_jax.plan.scopes import Scopes, check_unique, check_uses, collect_scopes
from helium_jax.plan.size import NO_PARAMS, row_size, size_fault
from helium_jax.plan.template import is_name

NO_PATHS: Mapping[str, str] = {}


def check_plan(
    plan: Plan, *, known: frozenset[str] = frozenset(), paths: Mapping[str, str] = NO_PATHS
) -> Findings:
    """Every fault and warning of `plan`.

    Args:
        plan: the plan; nothing about it is assumed.
        known: names that exist although the plan lacks them, because they could not be read; with
            `ANY_NAME` among them nobody knows which.
        paths: other paths for some of the canonical ones, and so for all that begin with them.
    """
    found = Findings()
    _check_extent(plan, found)
    if found.problems:
        return found
    scopes = collect_scopes(plan)
    _check_names(plan, scopes, paths, found)
    check_uses(scopes, known, paths, found)
    _check_outputs(plan, scopes, known, found)
    for param in plan.params:
        _check_param(param, found)
    _check_columns(plan, found)
    controls = Findings()
    check_controls(plan, scopes, controls)
    found.problems += _rename(controls.problems, paths)
    if not plan.outputs:
        found.add("plan.outputs", "is empty; name at least one result", "no_outputs")
    found.problems += _rename(cycle_problems(plan), paths)
    if not found.problems and (fault := size_fault(row_size(plan), 1)) is not None:
        message = f"one row may become too much: {fault}; lower counts, max_iterations or max_items"
        found.add("plan.ops", message, "plan_too_large")
    if not found.problems:
        _warn_of_unused(plan, scopes, paths, found)
    return found


def _check_extent(plan: Plan, found: Findings) -> None:
    """Refuses what is too large or too deep before anything is derived from it."""
    num_ops, level, depth = 0, list(plan.ops), 0
    while level and num_ops <= MAX_OPS and depth <= MAX_NESTING:
        num_ops += len(level)
        level = [op for one in level for body in bodies(one) for op in body.ops]
        depth += 1
    if num_ops > MAX_OPS or len(plan.inputs) + len(plan.params) > 2 * MAX_INPUTS:
        message = f"has {num_ops} operators; at most {MAX_OPS} are allowed"
        found.add("plan.ops", message, "plan_too_large")
    elif level:
        message = f"is more than {MAX_NESTING} bodies deep; flatten the plan"
        found.add("plan.ops", message, "plan_too_large")


def validate(plan: Plan) -> tuple[Problem, ...]:
    """The warnings of a valid plan.

    Raises:
        PlanError: the plan is not valid; names every fault.
    """
    found = check_plan(plan)
    found.raise_if_any()
    return tuple(found.warnings)


def check_size(plan: Plan, num_rows: int, params: Mapping[str, Value] = NO_PARAMS) -> None:
    """Refuses a run that is too large before any work is done for it.

    Args:
        plan: a valid plan.
        num_rows: of the batch.
        params: every parameter's value; without them loops count their bounds.

    Raises:
        PlanError: rows times calls, steps or tokens are too many, all bounds used up, or a
            parameter asks a loop for more iterations than it may make.
    """
    found = Findings()
    for op in plan.all_ops:
        if not isinstance(op, Loop) or not isinstance(op.count, str) or op.name not in plan.needed:
            continue
        count = params.get(op.count, 0)
        if not isinstance(count, int) or not 0 <= count <= op.max_iterations:
            message = f"{count} iterations of {op.name!r} must be in [0, {op.max_iterations}]"
            found.add(f"params.{op.count}", message)
    if (fault := size_fault(row_size(plan, params), num_rows)) is not None:
        message = f"{fault}; split the rows over several runs"
        found.add("inputs", message, "plan_too_large")
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


def _check_names(plan: Plan, scopes: Scopes, paths: Mapping[str, str], found: Findings) -> None:
    # Names in operators have been checked where they were read; only Python can get here.
    for kind, nodes in (("inputs", plan.inputs), ("params", plan.params)):
        for node in nodes:
            if not is_name(node.name):
                message = f"{node.name[:80]!r} is no name; letters, digits, _ and -"
                found.add(f"plan.{kind}.{node.name[:64]}", message, "bad_name")
    check_unique(scopes, paths, found)
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


def _check_outputs(plan: Plan, scopes: Scopes, known: frozenset[str], found: Findings) -> None:
    inner = {op.name: path for op, path in scopes.ops if path != f"plan.ops.{op.name}"}
    for output in plan.outputs:
        path = f"plan.outputs.{output.name[:64]}"
        if output.source in plan.nodes or output.source in known:
            continue
        if output.source in inner:
            message = f"{output.source!r} is inside of another operator; name that one"
            found.add(path, message, "not_visible")
            continue
        if ANY_NAME in known:
            continue
        hint = found.suggest(output.source, plan.nodes, kinds="inputs and operators")
        message = f"{output.source[:64]!r} is nothing in this plan; {hint}"
        found.add(path, message, "unknown_reference")


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


def _warn_of_unused(plan: Plan, scopes: Scopes, paths: Mapping[str, str], found: Findings) -> None:
    for op, path in scopes.ops:
        if op.name not in plan.needed:
            message = "no output needs it; it is pruned and never runs"
            found.warn(author_path(path, paths), message, "pruned")
    used = plan.needed | graph.reachable(plan.dependencies, (op.name for op in plan.ops))
    for kind, nodes in (("inputs", plan.inputs), ("params", plan.params)):
        for node in nodes:
            if node.name not in used:
                found.warn(f"plan.{kind}.{node.name}", "nothing uses it", "unused")


def _rename(problems: list[Problem], paths: Mapping[str, str]) -> list[Problem]:
    return [
        Problem(path=author_path(p.path, paths), message=p.message, code=p.code) for p in problems
    ]
