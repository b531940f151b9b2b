"""A plan document (builtin values of a JSON or YAML file) becomes a Plan, or all of its faults."""

from typing import Any, cast, get_args

from helium_jax.plan.control import Op
from helium_jax.plan.fields import (
    check_fields,
    describe,
    read_choice,
    read_int,
    read_mapping,
    read_number,
    read_template,
    read_text,
)
from helium_jax.plan.findings import Findings
from helium_jax.plan.limits import (
    MAX_INPUTS,
    MAX_MESSAGES,
    MAX_OPS,
    MAX_TIMEOUT_S,
    OnRowError,
    RunLimits,
    parse_duration,
)
from helium_jax.plan.nodes import (
    ROLES,
    VALUE_TYPES,
    Chat,
    Completion,
    Const,
    Input,
    Message,
    Output,
    Param,
    Role,
    Template,
    Value,
    ValueType,
)
from helium_jax.plan.plan import Plan
from helium_jax.plan.settings import SETTINGS_FIELDS, UNSUPPORTED_FIELDS, read_settings
from helium_jax.plan.spec import check_plan
from helium_jax.plan.template import is_name
from helium_jax.plan.writing import VERSION, chat_fields

OP_TYPES = ("const", "template", "llm.chat", "llm.completion")
PLAN_FIELDS = ("version", "name", "inputs", "params", "ops", "outputs", "limits")
LIMIT_FIELDS = ("max_llm_calls", "max_total_tokens", "timeout", "on_row_error")
NONE: frozenset[str] = frozenset()
NAME_RULE = "a name has letters, digits, _ and -, begins with a letter or _, and is at most 64 long"


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
    inputs = read_mapping(root.get("inputs"), "plan.inputs", found)
    params = read_mapping(root.get("params"), "plan.params", found)
    ops = read_mapping(root.get("ops"), "plan.ops", found)
    outputs = read_mapping(root.get("outputs"), "plan.outputs", found)
    for path, part, most in (
        ("plan.inputs", inputs, MAX_INPUTS),
        ("plan.params", params, MAX_INPUTS),
        ("plan.ops", ops, MAX_OPS),
        ("plan.outputs", outputs, MAX_OPS),
    ):
        if len(part) > most:
            found.add(
                path, f"has {len(part)} entries; at most {most} are allowed", "plan_too_large"
            )
    if any(problem.code == "plan_too_large" for problem in found.problems):
        return Plan(), found
    paths: dict[str, str] = {}
    read_ops = [_read_op(name, value, found, paths) for name, value in ops.items()]
    plan = Plan(
        name=read_text(root.get("name"), "plan.name", found) or "",
        inputs=tuple(_read_input(name, value, found) for name, value in inputs.items()),
        params=tuple(_read_param(name, value, found) for name, value in params.items()),
        ops=tuple(op for op in read_ops if op is not None),
        outputs=tuple(_read_outputs(outputs, found)),
        limits=_read_limits(root.get("limits"), found),
    )
    checked = check_plan(plan, known=frozenset(ops), paths=paths)
    # An output that could not be read is a fault already, not also a lack of outputs.
    found.problems += [p for p in checked.problems if p.code != "no_outputs" or not outputs]
    if not found.problems:
        found.warnings += checked.warnings
    return plan, found


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


def _read_input(name: str, value: object, found: Findings) -> Input:
    path = f"plan.inputs.{name[:64]}"
    document = read_mapping(value, path, found)
    check_fields(document, path, ("type",), NONE, found)
    return Input(name=name, type=_read_type(document, path, found))


def _read_param(name: str, value: object, found: Findings) -> Param:
    path = f"plan.params.{name[:64]}"
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


def _read_op(name: str, value: object, found: Findings, paths: dict[str, str]) -> Op | None:
    path = f"plan.ops.{name[:64]}"
    if not is_name(name):
        found.add(path, f"{name[:80]!r} is no name; {NAME_RULE}", "bad_name")
    if not isinstance(value, dict):
        found.add(path, f"must be a mapping with a type, not {describe(value)}")
        return None
    document = read_mapping(value, path, found)
    type_ = document.get("type")
    if type_ not in OP_TYPES:
        what = "has no type" if type_ is None else f"{describe(type_)} is no operator type"
        word = type_ if isinstance(type_, str) else ""
        hint = found.suggest(word, OP_TYPES, kinds="types")
        found.add(f"{path}.type", f"{what}; {hint}", "unknown_op_type")
        return None
    match type_:
        case "const":
            return _read_const(name, document, path, found)
        case "template":
            check_fields(document, path, ("type", "template"), NONE, found)
            return Template(name=name, text=_required_text(document, "template", path, found))
        case "llm.completion":
            known = ("type", "prompt", *SETTINGS_FIELDS)
            check_fields(document, path, known, UNSUPPORTED_FIELDS, found)
            prompt = _required_text(document, "prompt", path, found)
            settings = read_settings(document, path, found)
            return Completion(name=name, prompt=prompt, settings=settings)
    known = ("type", "system", "user", "messages", *SETTINGS_FIELDS)
    check_fields(document, path, known, UNSUPPORTED_FIELDS, found)
    messages = _read_messages(document, path, found)
    chat = Chat(name=name, messages=messages, settings=read_settings(document, path, found))
    if "messages" in document:  # the author's path may differ from the canonical one
        for index, field in enumerate(chat_fields(chat)):
            paths[f"{path}.{field}"] = f"{path}.messages[{index}].content"
    return chat


def _read_const(name: str, document: dict[str, Any], path: str, found: Findings) -> Const:
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


def _required_text(
    document: dict[str, Any], field: str, path: str, found: Findings
) -> tuple[Any, ...]:
    if document.get(field) is None:
        found.add(f"{path}.{field}", "is missing; write the text, with {{slots}} for values")
    return read_template(document.get(field), f"{path}.{field}", found) or ()


def _read_messages(document: dict[str, Any], path: str, found: Findings) -> tuple[Message, ...]:
    if "messages" not in document:
        messages = []
        if document.get("system") is not None:
            system = read_template(document["system"], f"{path}.system", found) or ()
            messages.append(Message(role="system", content=system))
        if document.get("user") is None:
            found.add(f"{path}.user", "is missing; write user, or a list of messages")
        user = read_template(document.get("user"), f"{path}.user", found) or ()
        return (*messages, Message(role="user", content=user))
    if "system" in document or "user" in document:
        found.add(path, "has both messages and system/user; write one of the two forms")
    turns = document["messages"]
    if not isinstance(turns, list):
        found.add(f"{path}.messages", f"must be a list of messages, not {describe(turns)}")
        return (Message(role="user", content=()),)
    if not 1 <= len(turns) <= MAX_MESSAGES:
        found.add(f"{path}.messages", f"has {len(turns)} messages; 1 to {MAX_MESSAGES} are allowed")
        return (Message(role="user", content=()),)
    return tuple(
        _read_message(turn, f"{path}.messages[{index}]", found) for index, turn in enumerate(turns)
    )


def _read_message(turn: object, path: str, found: Findings) -> Message:
    if not isinstance(turn, dict):
        found.add(path, f"must be a mapping with role and content, not {describe(turn)}")
        return Message(role="user", content=())
    document = read_mapping(turn, path, found)
    unsupported = frozenset({"name", "tool_calls", "tool_call_id", "function_call"})
    check_fields(document, path, ("role", "content"), unsupported, found)
    if document.get("role") is None:
        found.add(f"{path}.role", f"is missing; roles are {', '.join(ROLES)}")
    role = read_choice(document.get("role"), f"{path}.role", found, get_args(Role), "roles")
    content = _required_text(document, "content", path, found)
    return Message(role=cast(Role, role or "user"), content=content)


def _read_outputs(outputs: dict[str, Any], found: Findings) -> list[Output]:
    read = []
    for name, value in outputs.items():
        path = f"plan.outputs.{name[:64]}"
        source = read_text(value, path, found)
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
        for name in ("max_llm_calls", "max_total_tokens")
    }
    return RunLimits(
        timeout_s=_read_timeout(document.get("timeout"), f"{path}.timeout", found),
        on_row_error=cast(OnRowError, word or "skip"),
        **counts,
    )


def _read_timeout(value: object, path: str, found: Findings) -> float | None:
    if isinstance(value, str):
        seconds = parse_duration(value)
        if seconds is None:
            found.add(path, f"{value[:40]!r} is no duration; write 90s, 15m, 1h30m or seconds")
            return None
    else:
        seconds = read_number(value, path, found, -1e308, 1e308)
    if seconds is not None and not 0 < seconds <= MAX_TIMEOUT_S:
        found.add(path, f"{seconds:g} seconds must be over 0 and at most {MAX_TIMEOUT_S:g}")
        return None
    return seconds
