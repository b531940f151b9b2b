"""Typed readers of document values: each returns the value or records a fault and returns None.

None also stands for an absent or null field, which means its default.
"""

import math
from collections.abc import Mapping
from typing import Any

from helium_jax.plan.findings import Findings
from helium_jax.plan.formula import Formula, FormulaError, parse_formula
from helium_jax.plan.template import Slot, TemplateSyntaxError, Text, parse_template

MAX_KEYS_SHOWN = 3  # of a mapping's keys that are no names


def describe(value: object) -> str:
    """A value of a document in a message: its kind, and itself if that is short."""
    match value:
        case None:
            return "null"
        case bool():
            return f"the boolean {str(value).lower()}"
        case int() | float():
            return f"the number {str(value)[:40]}"
        case str():
            return f"the text {value[:40]!r}"
        case list():
            return f"a list of {len(value)}"
        case dict():
            return "a mapping"
    return f"a {type(value).__name__}"


def read_mapping(value: object, path: str, found: Findings) -> dict[str, Any]:
    """A mapping with text keys, without others; empty when it is none."""
    if isinstance(value, dict):
        wrong = [key for key in value if not isinstance(key, str)]
        for key in wrong[:MAX_KEYS_SHOWN]:
            found.add(path, f"the key {key!r} must be text; quote it")
        return {key: one for key, one in value.items() if isinstance(key, str)} if wrong else value
    if value is not None:
        found.add(path, f"must be a mapping of names, not {describe(value)}")
    return {}


def read_text(value: object, path: str, found: Findings) -> str | None:
    """A text, taken as it is."""
    if value is None or isinstance(value, str):
        return value
    hint = "; quote it" if isinstance(value, bool | int | float) else ""
    found.add(path, f"must be text, not {describe(value)}{hint}")
    return None


def read_template(value: object, path: str, found: Findings) -> Text | None:
    """A text with slots."""
    source = read_text(value, path, found)
    if source is None:
        return None
    try:
        return parse_template(source)
    except TemplateSyntaxError as error:
        found.add(path, str(error), "template_syntax")
        return None


def read_reference(value: object, path: str, found: Findings) -> str | None:
    """A name, as it is or as the slot `{{name}}` that it would be in a text."""
    name = read_text(value, path, found)
    if name is None or not name.lstrip().startswith("{{"):
        return name
    text = read_template(name.strip(), path, found)
    if text is not None and len(text) == 1 and isinstance(text[0], Slot):
        return text[0].name
    if text is not None:
        found.add(path, f"{name[:40]!r} must be one name; make a template operator of it")
    return None


def read_formula(value: object, path: str, found: Findings) -> Formula | None:
    """A formula; a boolean stands for the formula that is it."""
    if isinstance(value, bool):
        value = "true" if value else "false"
    source = read_text(value, path, found)
    if source is None:
        return None
    try:
        return parse_formula(source)
    except FormulaError as error:
        found.add(path, str(error), "formula_syntax")
        return None


def read_int(value: object, path: str, found: Findings, low: int, high: int) -> int | None:
    """A whole number in [low, high]; a boolean is none."""
    if value is None:
        return None
    if type(value) is not int:
        found.add(path, f"must be a whole number, not {describe(value)}")
    elif not low <= value <= high:
        found.add(path, f"{str(value)[:40]} must be in [{low}, {high}]")
    else:
        return value
    return None


def read_number(value: object, path: str, found: Findings, low: float, high: float) -> float | None:
    """A finite number in [low, high], as a float; a boolean is none."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        found.add(path, f"must be a number, not {describe(value)}")
    elif not low <= value <= high or math.isnan(value):
        found.add(path, f"{str(value)[:40]} must be in [{low:g}, {high:g}]")
    else:
        return float(value)
    return None


def read_bool(value: object, path: str, found: Findings) -> bool | None:
    """A boolean."""
    if value is None or isinstance(value, bool):
        return value
    found.add(path, f"must be true or false, not {describe(value)}")
    return None


def read_choice(
    value: object, path: str, found: Findings, choices: tuple[str, ...], kinds: str
) -> str | None:
    """One of a few words."""
    word = read_text(value, path, found)
    if word is None or word in choices:
        return word
    found.add(path, f"{word[:40]!r} is unknown; {found.suggest(word, choices, kinds=kinds)}")
    return None


def check_fields(
    document: Mapping[str, Any],
    path: str,
    known: tuple[str, ...],
    unsupported: frozenset[str],
    found: Findings,
) -> None:
    """Refuses fields that would have no effect: a typo must not change a plan in silence."""
    for key in document:
        if key in unsupported:
            found.add(
                f"{path}.{key}",
                f"{key} is not supported here; leave it out",
                "unsupported_parameter",
            )
        elif key not in known:
            hint = found.suggest(key, known, kinds="fields")
            found.add(f"{path}.{key[:64]}", f"is no field of this; {hint}", "unknown_field")
