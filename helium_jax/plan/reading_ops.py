"""The operators of a plan document: which reader each type has, and those of single values."""

from collections.abc import Callable
from typing import Any, cast, get_args

from helium_jax.plan.control import Body, Op
from helium_jax.plan.fields import (
    check_fields,
    describe,
    read_choice,
    read_int,
    read_mapping,
    read_number,
    read_reference,
    read_template,
    read_text,
)
from helium_jax.plan.findings import Findings
from helium_jax.plan.limits import MAX_SOURCES
from helium_jax.plan.nodes import (
    Completion,
    Concat,
    Const,
    Function,
    Lambda,
    Slice,
    SliceUnit,
    Template,
    Value,
    View,
    ViewKind,
)
from helium_jax.plan.reading_chat import read_chat
from helium_jax.plan.reading_context import ANY_NAME, NO_NAME, Reading
from helium_jax.plan.reading_control import read_branch, read_loop, read_map, read_race
from helium_jax.plan.settings import SETTINGS_FIELDS, UNSUPPORTED_FIELDS, read_settings
from helium_jax.plan.template import Text, is_path

NAME_RULE = "a name has letters, digits, _ and -, begins with a letter or _, and is at most 64 long"
NONE: frozenset[str] = frozenset()
MAX_SLICE = 2**31

Ops = tuple[Op, ...]
ReadPlan = Callable[[str, dict[str, Any], str, Reading], Ops]


class OpReader:
    """Reads the operators of one plan, bodies and sub-plans included.

    Args:
        reading: what is known and found so far.
        read_subplan: reads an operator of type plan into the operators it stands for.
    """

    def __init__(self, reading: Reading, read_subplan: ReadPlan) -> None:
        self._reading = reading
        self._read_subplan = read_subplan

    def read_ops(self, document: dict[str, Any], path: str) -> Ops:
        """The operators under `path`, as far as they can be read."""
        if not self._reading.may_hold(len(document), path):
            return ()
        ops: list[Op] = []
        for name, value in document.items():
            read = self._read_op(name, value, f"{path}.{name[:64]}")
            if not read:
                self._reading.unread.add(name)
            ops += read
        return tuple(ops)

    def read_body(self, value: object, path: str) -> Body:
        """A mapping of ops and result; only a name stands for a body that has that result."""
        found = self._reading.found
        if isinstance(value, str):
            return Body(ops=(), result=read_reference(value, path, found) or NO_NAME)
        if value is None:
            found.add(path, "is missing; write ops and the name of their result")
        document = read_mapping(value, path, found)
        if not isinstance(value, dict):
            self._reading.unread |= {NO_NAME, ANY_NAME}
            return Body(ops=(), result=NO_NAME)
        check_fields(document, path, ("ops", "result"), NONE, found)
        self._reading.depth += 1
        ops = self.read_ops(read_mapping(document.get("ops"), f"{path}.ops", found), f"{path}.ops")
        self._reading.depth -= 1
        result = read_reference(document.get("result"), f"{path}.result", found)
        if document.get("result") is None:
            found.add(f"{path}.result", "is missing; name the operator whose value this has")
        if result is None:
            self._reading.unread.add(NO_NAME)
        return Body(ops=ops, result=result or NO_NAME)

    def _read_op(self, name: str, value: object, path: str) -> Ops:
        found = self._reading.found
        if not is_path(name):
            found.add(path, f"{name[:80]!r} is no name; {NAME_RULE}", "bad_name")
        if not isinstance(value, dict):
            found.add(path, f"must be a mapping with a type, not {describe(value)}")
            return ()
        document = read_mapping(value, path, found)
        type_ = document.get("type")
        if type_ == "plan":
            return self._read_subplan(name, document, path, self._reading)
        reader = _LEAVES.get(type_) if isinstance(type_, str) else None
        if reader is not None:
            op = reader(name, document, path, self._reading)
            return () if op is None else (op,)
        match type_:
            case "branch":
                return (read_branch(name, document, path, self._reading, self.read_body),)
            case "loop":
                return (read_loop(name, document, path, self._reading, self.read_body),)
            case "map":
                return (read_map(name, document, path, self._reading, self.read_body),)
            case "race":
                return (read_race(name, document, path, self._reading, self.read_body),)
        what = "has no type" if type_ is None else f"{describe(type_)} is no operator type"
        hint = found.suggest(type_ if isinstance(type_, str) else "", OP_TYPES, kinds="types")
        found.add(f"{path}.type", f"{what}; {hint}", "unknown_op_type")
        return ()


def _read_const(name: str, document: dict[str, Any], path: str, reading: Reading) -> Const:
    found = reading.found
    check_fields(document, path, ("type", "value", "values"), NONE, found)
    if ("value" in document) == ("values" in document):
        found.add(path, "needs either value (one for all rows) or values (a list, one per row)")
        return Const(name=name, value="")
    if "value" in document:
        return Const(name=name, value=read_value(document["value"], f"{path}.value", found))
    values = document["values"]
    if not isinstance(values, list):
        found.add(
            f"{path}.values", f"must be a list with one value per row, not {describe(values)}"
        )
        return Const(name=name, value="")
    column = tuple(read_value(v, f"{path}.values[{i}]", found) for i, v in enumerate(values))
    return Const(name=name, value=column)


def read_value(value: object, path: str, found: Findings) -> Value:
    """A text, number or boolean; "" when it is none."""
    match value:
        case str() | bool():
            return value
        case int():
            return read_int(value, path, found, -(2**63), 2**63 - 1) or 0
        case float():
            return read_number(value, path, found, -1e308, 1e308) or 0.0
    found.add(path, f"must be text, a number or a boolean, not {describe(value)}")
    return ""


def _read_template(name: str, document: dict[str, Any], path: str, reading: Reading) -> Template:
    check_fields(document, path, ("type", "template"), NONE, reading.found)
    return Template(name=name, text=required_text(document, "template", path, reading.found))


def _read_completion(
    name: str, document: dict[str, Any], path: str, reading: Reading
) -> Completion:
    known = ("type", "prompt", *SETTINGS_FIELDS)
    check_fields(document, path, known, UNSUPPORTED_FIELDS, reading.found)
    prompt = required_text(document, "prompt", path, reading.found)
    return Completion(
        name=name, prompt=prompt, settings=read_settings(document, path, reading.found)
    )


def required_text(document: dict[str, Any], field: str, path: str, found: Findings) -> Text:
    """A template that must be there; the empty one when it is not."""
    if document.get(field) is None:
        found.add(f"{path}.{field}", "is missing; write the text, with {{slots}} for values")
    return read_template(document.get(field), f"{path}.{field}", found) or ()


def _read_lambda(name: str, document: dict[str, Any], path: str, reading: Reading) -> Op | None:
    """Only Python can put a function there, so only a builder's document has one."""
    function, args = document.get("function"), document.get("args")
    if not isinstance(function, Function) or not isinstance(args, list):
        message = (
            "a plan file holds no code: lambdas exist only in Python (PlanBuilder.apply); "
            "formulas, slice, concat and view may do instead"
        )
        reading.found.add(f"{path}.type", message, "unsupported_parameter")
        return None
    return Lambda(name=name, function=function, args=tuple(args))


def _read_slice(name: str, document: dict[str, Any], path: str, reading: Reading) -> Slice:
    found = reading.found
    check_fields(document, path, ("type", "source", "start", "stop", "unit"), NONE, found)
    ends = {
        end: read_int(document.get(end), f"{path}.{end}", found, -MAX_SLICE, MAX_SLICE)
        for end in ("start", "stop")
    }
    unit = read_choice(
        document.get("unit"), f"{path}.unit", found, get_args(SliceUnit), kinds="units"
    )
    source = required_reference(document, "source", path, reading)
    return Slice(name=name, source=source, unit=cast(SliceUnit, unit or "chars"), **ends)


def _read_concat(name: str, document: dict[str, Any], path: str, reading: Reading) -> Concat:
    found = reading.found
    check_fields(document, path, ("type", "sources", "separator"), NONE, found)
    separator = read_text(document.get("separator"), f"{path}.separator", found) or ""
    values = document.get("sources")
    path = f"{path}.sources"
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_SOURCES:
        message = f"must be a list of 1 to {MAX_SOURCES} names, not {describe(values)}"
        found.add(path, message)
        return Concat(name=name, sources=(), separator=separator)
    sources = [read_reference(v, f"{path}[{i}]", found) for i, v in enumerate(values)]
    for index, source in enumerate(values):
        if source is None:
            found.add(f"{path}[{index}]", "must name an operator or input, not null")
    return Concat(
        name=name, sources=tuple(one for one in sources if one is not None), separator=separator
    )


def _read_view(name: str, document: dict[str, Any], path: str, reading: Reading) -> View:
    found = reading.found
    check_fields(document, path, ("type", "source", "kind"), NONE, found)
    source = required_reference(document, "source", path, reading)
    kinds = get_args(ViewKind)
    kind = read_choice(document.get("kind"), f"{path}.kind", found, kinds, kinds="kinds")
    if document.get("kind") is None:
        found.add(f"{path}.kind", f"is missing; kinds are {', '.join(kinds)}")
    return View(name=name, source=source, kind=cast(ViewKind, kind or "text"))


def required_reference(document: dict[str, Any], field: str, path: str, reading: Reading) -> str:
    """A name that must be there; when it is not, one that no further fault is reported for."""
    if document.get(field) is None:
        reading.found.add(f"{path}.{field}", "is missing; name an operator or input")
    name = read_reference(document.get(field), f"{path}.{field}", reading.found)
    if name is None:
        reading.unread.add(NO_NAME)
    return name or NO_NAME


_LEAVES: dict[str, Callable[[str, dict[str, Any], str, Reading], Op | None]] = {
    "const": _read_const,
    "template": _read_template,
    "llm.chat": read_chat,
    "llm.completion": _read_completion,
    "lambda": _read_lambda,
    "slice": _read_slice,
    "concat": _read_concat,
    "view": _read_view,
}
OP_TYPES = (
    *(type_ for type_ in _LEAVES if type_ != "lambda"),
    "branch",
    "loop",
    "map",
    "race",
    "plan",
)
