"""Branches, loops, maps and races of a plan document."""

from collections.abc import Callable
from typing import Any, cast

from helium_jax.plan.control import (
    REDUCE_KINDS,
    Body,
    Branch,
    Carried,
    Loop,
    Map,
    Race,
    Reduce,
    ReduceKind,
)
from helium_jax.plan.fields import (
    check_fields,
    describe,
    read_choice,
    read_formula,
    read_int,
    read_mapping,
    read_reference,
    read_text,
)
from helium_jax.plan.formula import Formula, parse_formula
from helium_jax.plan.limits import (
    DEFAULT_MAX_ITEMS,
    MAX_ARMS,
    MAX_CARRIED,
    MAX_ITEMS,
    MAX_ITERATIONS,
)
from helium_jax.plan.reading_context import ANY_NAME, NO_NAME, Reading
from helium_jax.plan.template import is_path

NONE: frozenset[str] = frozenset()
ReadBody = Callable[[object, str], Body]


def read_branch(
    name: str, document: dict[str, Any], path: str, reading: Reading, read_body: ReadBody
) -> Branch:
    """`if`, `then` and `else`."""
    check_fields(document, path, ("type", "if", "then", "else"), NONE, reading.found)
    condition = _required_formula(document, "if", path, reading, example="contains(answer, 'yes')")
    then = read_body(document.get("then"), f"{path}.then")
    otherwise = document.get("else")
    return Branch(
        name=name,
        condition=condition,
        then=then,
        otherwise=None if otherwise is None else read_body(otherwise, f"{path}.else"),
    )


def read_loop(
    name: str, document: dict[str, Any], path: str, reading: Reading, read_body: ReadBody
) -> Loop:
    """`carry`, `count` or `while`, `max_iterations` and `body`."""
    found = reading.found
    known = ("type", "carry", "count", "while", "max_iterations", "body")
    check_fields(document, path, known, NONE, found)
    carried = _read_carry(document.get("carry"), f"{path}.carry", reading)
    most = read_int(
        document.get("max_iterations"), f"{path}.max_iterations", found, 1, MAX_ITERATIONS
    )
    count = _read_count(document.get("count"), f"{path}.count", reading)
    if count is None and document.get("count") is not None:
        count = 0  # a fault already
    condition = None
    given = [field for field in ("count", "while") if document.get(field) is not None]
    if len(given) != 1:
        what = "has both count and while; write one" if given else "has no bound; write count"
        hint = " of the two" if given else ", or while and max_iterations"
        found.add(path, what + hint, "plan_invalid" if given else "unbounded_loop")
    elif given == ["while"]:
        condition = _required_formula(document, "while", path, reading, example="len(draft) > 9")
        if document.get("max_iterations") is None:
            message = "is missing; a while needs a bound, such as max_iterations: 10"
            found.add(f"{path}.max_iterations", message, "unbounded_loop")
    if most is None:
        is_wrong = document.get("max_iterations") is not None
        most = MAX_ITERATIONS if is_wrong else _bound_of(count, reading, path)
    body = read_body(document.get("body"), f"{path}.body")
    return Loop(
        name=name,
        carried=carried,
        count=count,
        condition=condition,
        max_iterations=most,
        body=body,
    )


def _read_count(value: object, path: str, reading: Reading) -> int | str | None:
    if isinstance(value, str):
        return read_reference(value, path, reading.found)
    return read_int(value, path, reading.found, 0, MAX_ITERATIONS)


def _bound_of(count: int | str | None, reading: Reading, path: str) -> int:
    """The most iterations of a loop that does not say: its count, or its parameter's maximum."""
    if isinstance(count, int):
        return count
    param = reading.params.get(count) if count is not None else None
    if param is None or param.type != "int":
        return 1  # a fault of its own, elsewhere
    if param.max is None or not 0 <= param.max <= MAX_ITERATIONS:
        message = f"give the parameter {count!r} a max, or the loop max_iterations"
        reading.found.add(f"{path}.count", f"has no bound; {message}", "unbounded_loop")
        return 1
    return int(param.max)


def _read_carry(value: object, path: str, reading: Reading) -> tuple[Carried, ...]:
    found = reading.found
    document = read_mapping(value, path, found)
    if len(document) > MAX_CARRIED:
        found.add(path, f"has {len(document)} names; at most {MAX_CARRIED} are allowed")
    if len(document) > MAX_CARRIED or (value is not None and not isinstance(value, dict)):
        reading.unread.add(ANY_NAME)
        return ()
    carried = []
    for name, fields in document.items():
        where = f"{path}.{name[:64]}"
        if not is_path(name):
            found.add(where, f"{name[:80]!r} is no name; letters, digits, _ and -", "bad_name")
        if not isinstance(fields, dict):
            found.add(where, f"must be a mapping with from and next, not {describe(fields)}")
            reading.unread.add(name)
            continue
        entry = read_mapping(fields, where, found)
        check_fields(entry, where, ("from", "next"), NONE, found)
        ends = {}
        for field in ("from", "next"):
            if entry.get(field) is None:
                what = "the first value" if field == "from" else "the value in the next iteration"
                found.add(f"{where}.{field}", f"is missing; name {what}")
            ends[field] = read_reference(entry.get(field), f"{where}.{field}", found)
            if ends[field] is None:
                reading.unread.add(NO_NAME)
        carried.append(
            Carried(name=name, initial=ends["from"] or NO_NAME, next=ends["next"] or NO_NAME)
        )
    return tuple(carried)


def read_map(
    name: str, document: dict[str, Any], path: str, reading: Reading, read_body: ReadBody
) -> Map:
    """`over`, `as`, `max_items`, `body` and `reduce`."""
    found = reading.found
    known = ("type", "over", "as", "max_items", "body", "reduce")
    check_fields(document, path, known, NONE, found)
    over = _required_formula(document, "over", path, reading, example="lines(list)")
    item = read_text(document.get("as"), f"{path}.as", found)
    if item is None:
        if document.get("as") is None:
            found.add(f"{path}.as", "is missing; write what the body calls its item")
        reading.unread |= {NO_NAME, ANY_NAME}
    elif not is_path(item):
        found.add(f"{path}.as", f"{item[:80]!r} is no name; letters, digits, _ and -", "bad_name")
        reading.unread.add(ANY_NAME)
    most = read_int(document.get("max_items"), f"{path}.max_items", found, 1, MAX_ITEMS)
    return Map(
        name=name,
        over=over,
        item=item or NO_NAME,
        max_items=DEFAULT_MAX_ITEMS if most is None else most,
        body=read_body(document.get("body"), f"{path}.body"),
        reduce=_read_reduce(document.get("reduce"), f"{path}.reduce", reading),
    )


def read_race(
    name: str, document: dict[str, Any], path: str, reading: Reading, read_body: ReadBody
) -> Race:
    """`arms`, `k` and `reduce`."""
    found = reading.found
    check_fields(document, path, ("type", "arms", "k", "reduce"), NONE, found)
    values = document.get("arms")
    arms: tuple[Body, ...] = ()
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_ARMS:
        message = f"must be a list of 1 to {MAX_ARMS} bodies, not {describe(values)}"
        found.add(f"{path}.arms", message)
    else:
        arms = tuple(read_body(arm, f"{path}.arms[{i}]") for i, arm in enumerate(values))
    k = read_int(document.get("k"), f"{path}.k", found, 1, MAX_ARMS)
    return Race(
        name=name,
        arms=arms,
        k=1 if k is None else k,
        reduce=_read_reduce(document.get("reduce"), f"{path}.reduce", reading),
    )


def _read_reduce(value: object, path: str, reading: Reading) -> Reduce:
    """A mapping, or only its type."""
    found = reading.found
    if value is None:
        return Reduce()
    document = {"type": value} if isinstance(value, str) else read_mapping(value, path, found)
    check_fields(document, path, ("type", "separator", "score"), NONE, found)
    kind = read_choice(document.get("type"), f"{path}.type", found, REDUCE_KINDS, "types")
    if document.get("type") is None:
        found.add(f"{path}.type", f"is missing; types are {', '.join(REDUCE_KINDS)}")
    separator = read_text(document.get("separator"), f"{path}.separator", found)
    return Reduce(
        kind=cast(ReduceKind, kind or "concat"),
        separator=Reduce().separator if separator is None else separator,
        score=read_formula(document.get("score"), f"{path}.score", found),
    )


def _required_formula(
    document: dict[str, Any], field: str, path: str, reading: Reading, *, example: str
) -> Formula:
    """A formula that must be there; `true` when it is not."""
    if document.get(field) is None:
        reading.found.add(f"{path}.{field}", f"is missing; write a formula, such as {example}")
    formula = read_formula(document.get(field), f"{path}.{field}", reading.found)
    return formula or parse_formula("true")
