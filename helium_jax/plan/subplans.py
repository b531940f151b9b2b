"""Operators of type plan: while a document is read, a plan inside it becomes operators of its own.

What is called `judge` inside of the sub-plan `sub` becomes `sub/judge`; its inputs become the names
that they are given, its parameters constants. Outside, `sub/verdict` is the output `verdict`, and
`sub` itself the output if there is only one. Nothing of the sub-plan is left after reading, so
the optimiser and the executor see one flat plan.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from helium_jax.plan.control import Loop, Op, bodies, body_fields, bound_names, walk
from helium_jax.plan.fields import check_fields, read_mapping, read_reference
from helium_jax.plan.nodes import Const, Input, Output, Param, Value
from helium_jax.plan.reading_context import ANY_NAME, NO_NAME, Reading
from helium_jax.plan.references import map_bodies, own_references, rename_all
from helium_jax.plan.spec import param_fault
from helium_jax.plan.template import Slot, TemplateSyntaxError, is_path, parse_template

NONE: frozenset[str] = frozenset()
SUBPLAN_FIELDS = ("version", "name", "inputs", "params", "ops", "outputs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a document of a plan says, but for its limits."""

    inputs: tuple[Input, ...]
    params: tuple[Param, ...]
    ops: tuple[Op, ...]
    outputs: tuple[Output, ...]


ReadParts = Callable[[dict[str, Any], str, Reading], Parts]


def expand_subplan(
    name: str, document: dict[str, Any], path: str, reading: Reading, read_parts: ReadParts
) -> tuple[Op, ...]:
    """The operators that an operator of type plan stands for; its outputs become aliases."""
    found = reading.found
    check_fields(document, path, ("type", "plan", "inputs", "params"), NONE, found)
    if document.get("plan") is None:
        found.add(f"{path}.plan", "is missing; write a plan with inputs, ops and outputs")
    root = read_mapping(document.get("plan"), f"{path}.plan", found)
    if not root:
        reading.unread.add(ANY_NAME)
        return ()
    if "limits" in root:
        message = "a plan inside a plan has no limits of its own; write them in the outer plan"
        found.add(f"{path}.plan.limits", message, "unsupported_parameter")
        root = {key: value for key, value in root.items() if key != "limits"}
    check_fields(root, f"{path}.plan", SUBPLAN_FIELDS, NONE, found)
    inner = Reading(
        found=found, inputs={}, params={}, depth=reading.depth + 1, num_ops=reading.num_ops
    )
    parts = read_parts(root, f"{path}.plan", inner)
    reading.num_ops = inner.num_ops
    reading.unread |= {
        one if one in (NO_NAME, ANY_NAME) else f"{name}/{one}" for one in inner.unread
    }
    given = _bind_inputs(parts, document, path, reading)
    values, passed = _bind_params(parts, document, path, reading)
    names = {one: f"{name}/{one}" for op in walk(parts.ops) for one in (op.name, *bound_names(op))}
    names |= given | passed | {param: f"{name}/{param}" for param in values}
    for new in names.values():
        if new.startswith(f"{name}/") and not is_path(new):
            found.add(path, f"{new[:80]!r} is too deep or too long for a name", "bad_name")
    counted = tuple(fix_counts(op, values) for op in parts.ops)
    used = _used(counted, parts.outputs)
    constants = tuple(
        Const(name=names[param], value=value) for param, value in values.items() if param in used
    )
    ops = tuple(rename_all(op, names) for op in counted)
    _note_paths(parts.ops, ops, path, inner, reading)
    _note_outputs(name, parts, names, path, reading)
    return constants + ops


def _bind_inputs(
    parts: Parts, document: dict[str, Any], path: str, reading: Reading
) -> dict[str, str]:
    """The outer name for each input of the sub-plan."""
    found, path = reading.found, f"{path}.inputs"
    values = read_mapping(document.get("inputs"), path, found)
    declared = {node.name: node for node in parts.inputs}
    for name in values:
        if name not in declared:
            hint = found.suggest(name, declared, kinds="inputs of the sub-plan")
            found.add(f"{path}.{name[:64]}", f"is no input of it; {hint}", "unknown_reference")
    given: dict[str, str] = {}
    for name, node in declared.items():
        outer = read_reference(values.get(name), f"{path}.{name}", found)
        if values.get(name) is None:
            message = "is missing; name the operator or input whose value it gets"
            found.add(f"{path}.{name}", message)
        if outer is None:
            reading.unread.add(NO_NAME)
        given[name] = outer or NO_NAME
        column = reading.inputs.get(given[name])
        type_ = "text" if column is None else column.type
        if outer and node.type not in ("text", type_):
            message = f"must be {node.type}, and {outer!r} is {type_}; declare the input as text"
            found.add(f"{path}.{name}", message)
    return given


def _bind_params(
    parts: Parts, document: dict[str, Any], path: str, reading: Reading
) -> tuple[dict[str, Value], dict[str, str]]:
    """The values of the sub-plan's parameters, and those that are parameters of the outer plan."""
    found, path = reading.found, f"{path}.params"
    given = read_mapping(document.get("params"), path, found)
    declared = {param.name: param for param in parts.params}
    for name in given:
        if name not in declared:
            hint = found.suggest(name, declared, kinds="parameters of the sub-plan")
            found.add(f"{path}.{name[:64]}", f"is no parameter of it; {hint}", "unknown_reference")
    values: dict[str, Value] = {}
    passed: dict[str, str] = {}
    for name, param in declared.items():
        where = f"{path}.{name}"
        value = given.get(name, param.default)
        if isinstance(value, dict):
            passed[name] = _pass_param(param, value, where, reading)
            continue
        if name in given and (outer := _one_slot(value)) is not None:
            message = f"is a value, not a template; for the parameter write {{param: {outer}}}"
            found.add(where, message)
        fault = "is missing and has no default" if value is None else param_fault(param, value)
        if fault is not None:
            found.add(where, fault)
            value = {"int": 0, "float": 0.0, "bool": False}.get(param.type, "")
        values[name] = value if isinstance(value, str | int | float) else ""
    return values, passed


def _pass_param(param: Param, document: dict[str, Any], path: str, reading: Reading) -> str:
    """The outer parameter in `{param: rounds}`."""
    found = reading.found
    check_fields(document, path, ("param",), NONE, found)
    outer = read_reference(document.get("param"), f"{path}.param", found)
    outer_param = reading.params.get(outer or NO_NAME)
    if outer_param is None:
        hint = found.suggest(outer or NO_NAME, reading.params, kinds="parameters")
        found.add(path, f"{outer!r} is no parameter of the outer plan; {hint}")
        reading.unread.add(outer or NO_NAME)
    elif outer_param.type != param.type:
        found.add(path, f"must be {param.type}, and {outer!r} is {outer_param.type}")
    return outer or NO_NAME


def _one_slot(value: object) -> str | None:
    """The name in a text that is one slot, `{{rounds}}`, and nothing else."""
    try:
        text = parse_template(value.strip()) if isinstance(value, str) else ()
    except TemplateSyntaxError:
        return None
    return text[0].name if len(text) == 1 and isinstance(text[0], Slot) else None


def _used(ops: tuple[Op, ...], outputs: tuple[Output, ...]) -> set[str]:
    """Every name that is used in some place."""
    used = {output.source for output in outputs}
    for op in walk(ops):
        used.update(own_references(op))
        used.update(body.result for body in bodies(op))
        if isinstance(op, Loop):
            used.update(one.next for one in op.carried)
    return used


def fix_counts(op: Op, values: Mapping[str, Value]) -> Op:
    """Loops that count by a parameter whose value is known count by that."""
    op = map_bodies(op, lambda inner: fix_counts(inner, values))
    if isinstance(op, Loop) and isinstance(op.count, str) and type(values.get(op.count)) is int:
        count = values[op.count]
        return Loop(
            name=op.name,
            carried=op.carried,
            body=op.body,
            count=int(count),
            max_iterations=max(op.max_iterations, 1),
        )
    return op


def _note_paths(
    old: tuple[Op, ...], new: tuple[Op, ...], path: str, inner: Reading, reading: Reading
) -> None:
    """Faults of the flat plan are reported where the author wrote what they are about."""
    scope = path[: path.rindex(".")]  # of the operator of type plan
    reading.paths |= inner.paths
    for written, flat in zip(_paths(old, f"{path}.plan.ops"), _paths(new, scope), strict=True):
        reading.paths[flat] = written


def _paths(ops: tuple[Op, ...], path: str) -> list[str]:
    paths = []
    for op in ops:
        paths.append(f"{path}.{op.name}")
        for body, field in zip(bodies(op), body_fields(op), strict=True):
            paths += _paths(body.ops, f"{path}.{op.name}.{field}.ops")
    return paths


def _note_outputs(
    name: str, parts: Parts, names: Mapping[str, str], path: str, reading: Reading
) -> None:
    known = {*names}
    for output in parts.outputs:
        where = f"{path}.plan.outputs.{output.name[:64]}"
        unread = {f"{name}/{output.source}", ANY_NAME} & reading.unread
        if output.source not in known and not unread:
            hint = reading.found.suggest(output.source, known, kinds="inputs and operators")
            message = f"{output.source[:64]!r} is nothing in this sub-plan; {hint}"
            reading.found.add(where, message, "unknown_reference")
            reading.unread.add(f"{name}/{output.name}")
            continue
        if output.name in known and output.name != output.source:
            message = "is also the name of another node of the sub-plan; rename one"
            reading.found.add(where, message, "duplicate_name")
            continue
        reading.aliases[f"{name}/{output.name}"] = names.get(output.source, output.source)
    if len(parts.outputs) == 1:
        reading.aliases[name] = f"{name}/{parts.outputs[0].name}"
    elif not parts.outputs:
        reading.found.add(f"{path}.plan.outputs", "is empty; name at least one result")
        reading.unread.add(name)
