"""A plan document (builtin values of a JSON or YAML file) becomes a Plan, or all of its faults."""

from collections.abc import Mapping
from functools import partial
from typing import Any, cast, get_args

from helium_jax.plan.control import walk
from helium_jax.plan.fields import (
    check_fields,
    describe,
    read_choice,
    read_int,
    read_mapping,
    read_number,
    read_reference,
    read_text,
)
from helium_jax.plan.findings import Findings
from helium_jax.plan.limits import MAX_INPUTS, MAX_OPS, OnRowError, RunLimits
from helium_jax.plan.nodes import VALUE_TYPES, Input, Output, Param, ValueType
from helium_jax.plan.plan import Plan
from helium_jax.plan.reading_context import Reading
from helium_jax.plan.reading_ops import OpReader, read_value
from helium_jax.plan.references import rename_references
from helium_jax.plan.settings import read_timeout
from helium_jax.plan.spec import check_plan
from helium_jax.plan.subplans import Parts, expand_subplan
from helium_jax.plan.writing import VERSION

PLAN_FIELDS = ("version", "name", "inputs", "params", "ops", "outputs", "limits")
LIMIT_FIELDS = (
    "max_llm_calls", "max_total_tokens", "timeout", "on_row_error", "max_concurrency"
)  # fmt: skip
NONE: frozenset[str] = frozenset()


def read_plan(document: object) -> tuple[Plan, Findings]:
    """The plan that a document describes, and what is wrong with it.

    The plan is only meaningful when there are no problems; it is as complete as the faults allow,
    so that one fault does not cause others to be reported.
    """
    found = Findings()
    if not isinstance(document, dict):
        found.add(
            "plan", f"must be a mapping with version, ops and outputs, not {describe(document)}"
        )
        return Plan(), found
    _check_unicode(document, found)
    if found.problems:  # such a text cannot even be part of the canonical JSON
        return Plan(), found
    root = read_mapping(document, "plan", found)
    check_fields(root, "plan", PLAN_FIELDS, NONE, found)
    _check_version(root.get("version"), found)
    reading = Reading(found=found, inputs={}, params={})
    parts = _read_parts(root, "plan", reading)
    plan = Plan(
        name=read_text(root.get("name"), "plan.name", found) or "",
        inputs=parts.inputs,
        params=parts.params,
        ops=parts.ops,
        outputs=parts.outputs,
        limits=_read_limits(root.get("limits"), found),
    )
    if any(problem.code == "plan_too_large" for problem in found.problems):
        return Plan(), found
    checked = check_plan(plan, known=frozenset(reading.unread), paths=reading.paths)
    # What could not be read is a fault already; what is missing for that reason is none.
    outputs = root.get("outputs")
    reported = {problem.path for problem in found.problems}
    found.problems += [
        problem
        for problem in checked.problems
        if (problem.code != "no_outputs" or not (outputs or "plan.outputs" in reported))
        and (problem.code not in ("plan_invalid", "unbounded_loop") or problem.path not in reported)
    ]
    if not found.problems:
        found.warnings += checked.warnings
    return plan, found


def _read_parts(root: dict[str, Any], path: str, reading: Reading) -> Parts:
    """Inputs, parameters, operators and outputs of a plan or sub-plan."""
    found = reading.found
    kinds = ("inputs", "params", "ops", "outputs")
    parts = {kind: read_mapping(root.get(kind), f"{path}.{kind}", found) for kind in kinds}
    for kind, most in (("inputs", MAX_INPUTS), ("params", MAX_INPUTS), ("outputs", MAX_OPS)):
        if len(parts[kind]) > most:
            message = f"has {len(parts[kind])} entries; at most {most} are allowed"
            found.add(f"{path}.{kind}", message, "plan_too_large")
            return Parts(inputs=(), params=(), ops=(), outputs=())
    inputs = tuple(
        _read_input(name, value, f"{path}.inputs.{name[:64]}", found)
        for name, value in parts["inputs"].items()
    )
    params = tuple(
        _read_param(name, value, f"{path}.params.{name[:64]}", found)
        for name, value in parts["params"].items()
    )
    reading.inputs = {node.name: node for node in inputs}
    reading.params = {param.name: param for param in params}
    reader = OpReader(reading, partial(expand_subplan, read_parts=_read_parts))
    ops = reader.read_ops(parts["ops"], f"{path}.ops")
    outputs = _read_outputs(parts["outputs"], path, found)
    aliases = {alias: _follow(alias, reading.aliases) for alias in reading.aliases}
    if aliases:
        for op in walk(ops):
            if op.name in aliases:
                message = "is also the name of a sub-plan or of an output of one; rename one"
                found.add(f"{path}.ops.{op.name}", message, "duplicate_name")
        ops = tuple(rename_references(op, aliases) for op in ops)
        outputs = [
            Output(name=output.name, source=aliases.get(output.source, output.source))
            for output in outputs
        ]
    return Parts(inputs=inputs, params=params, ops=ops, outputs=tuple(outputs))


def _follow(name: str, aliases: Mapping[str, str]) -> str:
    """What a name of a sub-plan stands for in the end; a circle of them is left as it is."""
    for _ in aliases:
        if name not in aliases:
            break
        name = aliases[name]
    return name


def _check_unicode(document: object, found: Findings) -> None:
    """Refuses lone surrogates, which JSON can spell but UTF-8 cannot."""
    pending: list[tuple[str, object]] = [("plan", document)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, dict):
            pending += [(path, key) for key in value]
            pending += [(f"{path}.{str(key)[:64]}", item) for key, item in value.items()]
        elif isinstance(value, list):
            pending += [(f"{path}[{index}]", item) for index, item in enumerate(value)]
        elif isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError as error:
                place = f"U+{ord(value[error.start]):04X} at character {error.start}"
                path = path.encode("ascii", "backslashreplace").decode()
                message = f"has the lone surrogate {place}; write valid Unicode"
                found.add(path, message, "invalid_unicode")


def _check_version(version: object, found: Findings) -> None:
    if version != VERSION:
        what = "is missing" if version is None else f"{describe(version)} is unknown"
        found.add("plan.version", f"{what}; write version: {VERSION}", "unknown_version")


def _read_input(name: str, value: object, path: str, found: Findings) -> Input:
    document = read_mapping(value, path, found)
    check_fields(document, path, ("type",), NONE, found)
    return Input(name=name, type=_read_type(document, path, found))


def _read_param(name: str, value: object, path: str, found: Findings) -> Param:
    document = read_mapping(value, path, found)
    check_fields(document, path, ("type", "default", "min", "max"), NONE, found)
    default = document.get("default")
    if default is not None:
        default = read_value(default, f"{path}.default", found)
    return Param(
        name=name,
        type=_read_type(document, path, found),
        default=default,
        min=_read_bound(document.get("min"), f"{path}.min", found),
        max=_read_bound(document.get("max"), f"{path}.max", found),
    )


def _read_bound(value: object, path: str, found: Findings) -> int | float | None:
    """A bound as it was written: an int stays an int."""
    number = read_number(value, path, found, -1e18, 1e18)
    return None if number is None else cast(int | float, value)


def _read_type(document: dict[str, Any], path: str, found: Findings) -> ValueType:
    word = read_choice(document.get("type"), f"{path}.type", found, VALUE_TYPES, "types")
    return cast(ValueType, word or "text")


def _read_outputs(outputs: dict[str, Any], root: str, found: Findings) -> list[Output]:
    read = []
    for name, value in outputs.items():
        path = f"{root}.outputs.{name[:64]}"
        source = read_reference(value, path, found)
        if value is None:
            found.add(path, "must name an operator or input, not null")
        if source is not None:
            read.append(Output(name=name, source=source))
    return read


def _read_limits(value: object, found: Findings) -> RunLimits:
    path = "plan.limits"
    document = read_mapping(value, path, found)
    check_fields(document, path, LIMIT_FIELDS, NONE, found)
    choices = get_args(OnRowError)
    word = read_choice(
        document.get("on_row_error"), f"{path}.on_row_error", found, choices, "choices"
    )
    counts = {
        name: read_int(document.get(name), f"{path}.{name}", found, 1, 2**53)
        for name in ("max_llm_calls", "max_total_tokens", "max_concurrency")
    }
    return RunLimits(
        timeout_s=read_timeout(document.get("timeout"), f"{path}.timeout", found),
        on_row_error=cast(OnRowError, word or "skip"),
        **counts,
    )
