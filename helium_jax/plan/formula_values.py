"""What formulas compute with, how it is converted, and the error that says where it was not."""

import math
import re

import msgspec

# A value inside a formula: a text, a number, a boolean, or what JSON has besides.
Evaluated = str | int | float | bool | None | list["Evaluated"] | dict[str, "Evaluated"]

MAX_RESULT_CHARS = 4_000_000
MAX_LIST_ITEMS = 100_000
MAX_NUMBER_CHARS = 400

_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")


class FormulaError(ValueError):
    """A formula that cannot be read, or a value that it cannot work with.

    Attributes:
        reason: what is wrong and what would be right.
        position: the character of the formula's source, from 0.
    """

    def __init__(self, reason: str, position: int) -> None:
        super().__init__(f"{reason} (at character {position + 1})")
        self.reason = reason
        self.position = position


def describe_value(value: Evaluated) -> str:
    """A value in a message: its kind, and itself if that is short."""
    match value:
        case None:
            return "null"
        case bool():
            return f"the boolean {str(value).lower()}"
        case int() | float():
            return f"the number {str(value)[:40] if abs(value) < 1e300 else 'of many digits'}"
        case str():
            return f"the text {value[:40]!r}" + ("..." if len(value) > 40 else "")
        case list():
            return f"a list of {len(value)}"
        case dict():
            return f"an object of {len(value)}"


def to_boolean(value: Evaluated, position: int) -> bool:
    """A boolean, or the text "true" or "false": how a boolean column reaches a formula.

    Raises:
        FormulaError: it is neither.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value in ("true", "false"):
        return value == "true"
    message = f"must be true or false, not {describe_value(value)}; compare it with something"
    raise FormulaError(message, position)


def to_number(value: Evaluated, position: int) -> float:
    """A finite number, or a text that is one but for white space around it.

    Raises:
        FormulaError: it is neither.
    """
    if isinstance(value, str):
        text = value.strip()
        if len(text) <= MAX_NUMBER_CHARS and _NUMBER.fullmatch(text):
            value = float(text)
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
        raise FormulaError("the number is too large", position)
    message = f"must be a number, not {describe_value(value)}; extract(text, regex) may find it"
    raise FormulaError(message, position)


def to_text(value: Evaluated, position: int) -> str:
    """A value as a text: null as the empty one, numbers and booleans as JSON has them, objects and
    lists as JSON.

    Raises:
        FormulaError: the text is too long.
    """
    match value:
        case str():
            text = value
        case None:
            text = ""
        case bool():
            text = "true" if value else "false"
        case int():
            text = str(value) if abs(value) < 10**18 else repr(to_number(value, position))
        case float():
            text = repr(value)
        case _:
            text = msgspec.json.encode(value).decode()
    if len(text) > MAX_RESULT_CHARS:
        message = f"the result has {len(text)} characters; at most {MAX_RESULT_CHARS} are allowed"
        raise FormulaError(message, position)
    return text


def to_list(value: Evaluated, position: int) -> list[str]:
    """A list's entries as texts.

    Raises:
        FormulaError: it is no list, or its texts are too long together.
    """
    if not isinstance(value, list):
        message = f"must be a list, not {describe_value(value)}; use lines(...), split(...) or json"
        raise FormulaError(message, position)
    texts = [to_text(item, position) for item in value]
    if sum(map(len, texts)) > MAX_RESULT_CHARS:
        message = f"the list has over {MAX_RESULT_CHARS} characters"
        raise FormulaError(message, position)
    return texts
