"""The functions of formulas: what each takes, and what it gives.

Every one is linear in its texts and bounded in what it gives. Regular expressions are RE2's and
stand literally in the formula, so that a bad one is found when the plan is read and no text of a
model is ever taken for one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import msgspec
import re2

from helium_jax.plan.formula_values import (
    MAX_LIST_ITEMS,
    MAX_RESULT_CHARS,
    Evaluated,
    FormulaError,
    describe_value,
    to_list,
    to_number,
)

MAX_REGEX_CHARS = 500
MAX_REGEX_BYTES = 4 * 2**20  # of a compiled program


@dataclass(frozen=True, slots=True, kw_only=True)
class FormulaFunction:
    """One function.

    Attributes:
        usage: how it is called; its arguments from the one in brackets on may be left out.
        call: takes the arguments and the position of the call.
        regex_arg: which argument is a regular expression, if one is.
    """

    usage: str
    call: Callable[[list[Evaluated], int], Evaluated]
    least: int
    most: int
    regex_arg: int | None = None


def compile_regex(source: str, position: int) -> re2._Regexp:
    """An RE2 expression.

    Raises:
        FormulaError: it is none, or too large.
    """
    if len(source) > MAX_REGEX_CHARS:
        message = f"the regex has {len(source)} characters; at most {MAX_REGEX_CHARS} are allowed"
        raise FormulaError(message, position)
    options = re2.Options()
    options.max_mem = MAX_REGEX_BYTES
    options.log_errors = False
    try:
        return re2.compile(source, options=options)
    except re2.error as error:
        detail = error.args[0] if error.args else "it cannot be compiled"
        reason = detail.decode(errors="replace") if isinstance(detail, bytes) else str(detail)
        message = f"{source[:60]!r} is no regex that RE2 takes: {reason[:120]}"
        raise FormulaError(message, position) from None


def _text(value: Evaluated, position: int, what: str) -> str:
    if isinstance(value, str):
        return value
    raise FormulaError(f"{what} must be text, not {describe_value(value)}", position)


def _contains(args: list[Evaluated], position: int) -> Evaluated:
    whole, part = args
    if isinstance(whole, list):
        return part in whole
    return _text(part, position, "what is looked for") in _text(whole, position, "the text")


def _starts_with(args: list[Evaluated], position: int) -> Evaluated:
    text, part = (_text(arg, position, "each argument") for arg in args)
    return text.startswith(part)


def _ends_with(args: list[Evaluated], position: int) -> Evaluated:
    text, part = (_text(arg, position, "each argument") for arg in args)
    return text.endswith(part)


def _matches(args: list[Evaluated], position: int) -> Evaluated:
    text = _text(args[0], position, "the text")
    return compile_regex(cast(str, args[1]), position).search(text) is not None


def _extract(args: list[Evaluated], position: int) -> Evaluated:
    text = _text(args[0], position, "the text")
    found = compile_regex(cast(str, args[1]), position).search(text)
    if found is None:
        message = f"nothing in {describe_value(text)} matches {cast(str, args[1])[:60]!r}"
        raise FormulaError(message + "; test it with matches(text, regex) first", position)
    return cast(str | None, found.group(_group(args, found.re.groups, position))) or ""


def _extract_all(args: list[Evaluated], position: int) -> Evaluated:
    text = _text(args[0], position, "the text")
    regex = compile_regex(cast(str, args[1]), position)
    group = _group(args, regex.groups, position)
    items: list[Evaluated] = []
    for found in regex.finditer(text):
        if len(items) == MAX_LIST_ITEMS:
            raise _too_many(position)
        items.append(cast(str | None, found.group(group)) or "")
    return items


def _group(args: list[Evaluated], num_groups: int, position: int) -> int:
    """Which group of a match is wanted: the one asked for, else the first, else all of it."""
    if len(args) < 3:
        return min(num_groups, 1)
    group = args[2]
    if not isinstance(group, int) or isinstance(group, bool) or not 0 <= group <= num_groups:
        message = f"the regex has the groups 0 to {num_groups}, not {describe_value(group)}"
        raise FormulaError(message, position)
    return group


def _json(args: list[Evaluated], position: int) -> Evaluated:
    text = _text(args[0], position, "the text")
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
        message = f"{describe_value(text)} is not JSON: {str(error)[:80]}"
        raise FormulaError(message, position) from None


def _lines(args: list[Evaluated], position: int) -> Evaluated:
    text = _text(args[0], position, "the text")
    if text.count("\n") > 2 * MAX_LIST_ITEMS:
        raise _too_many(position)
    return _checked([line for part in text.splitlines() if (line := part.strip())], position)


def _split(args: list[Evaluated], position: int) -> Evaluated:
    text, separator = (_text(arg, position, "each argument") for arg in args)
    if not separator:
        raise FormulaError("the separator is empty; give the text between the items", position)
    if text.count(separator) >= MAX_LIST_ITEMS:
        raise _too_many(position)
    return [part.strip() for part in text.split(separator)]


def _words(args: list[Evaluated], position: int) -> Evaluated:
    return _checked(_text(args[0], position, "the text").split(None, MAX_LIST_ITEMS), position)


def _len(args: list[Evaluated], position: int) -> Evaluated:
    if isinstance(args[0], str | list | dict):
        return len(args[0])
    message = f"needs a text, list or object, not {describe_value(args[0])}"
    raise FormulaError(message, position)


def _number(args: list[Evaluated], position: int) -> Evaluated:
    return to_number(args[0], position)


def _lower(args: list[Evaluated], position: int) -> Evaluated:
    return _text(args[0], position, "the text").lower()


def _upper(args: list[Evaluated], position: int) -> Evaluated:
    return _text(args[0], position, "the text").upper()


def _trim(args: list[Evaluated], position: int) -> Evaluated:
    return _text(args[0], position, "the text").strip()


def _join(args: list[Evaluated], position: int) -> Evaluated:
    texts = to_list(args[0], position)
    separator = _text(args[1], position, "the separator")
    length = sum(map(len, texts)) + len(separator) * max(len(texts) - 1, 0)
    if length > MAX_RESULT_CHARS:
        message = f"the result has {length} characters; at most {MAX_RESULT_CHARS} are allowed"
        raise FormulaError(message, position)
    return separator.join(texts)


def _checked(texts: list[str], position: int) -> Evaluated:
    if len(texts) > MAX_LIST_ITEMS:
        raise _too_many(position)
    return cast(list[Evaluated], texts)


def _too_many(position: int) -> FormulaError:
    return FormulaError(f"the list has over {MAX_LIST_ITEMS} items", position)


def _function(
    usage: str,
    call: Callable[[list[Evaluated], int], Evaluated],
    *,
    regex_arg: int | None = None,
) -> FormulaFunction:
    required, _, optional = usage.partition("[")
    least = required.count(",") + 1
    most = least + optional.count(",")
    return FormulaFunction(usage=usage, call=call, least=least, most=most, regex_arg=regex_arg)


FUNCTIONS: Mapping[str, FormulaFunction] = {
    "contains": _function("contains(text or list, part)", _contains),
    "starts_with": _function("starts_with(text, part)", _starts_with),
    "ends_with": _function("ends_with(text, part)", _ends_with),
    "matches": _function("matches(text, 'regex')", _matches, regex_arg=1),
    "extract": _function("extract(text, 'regex'[, group])", _extract, regex_arg=1),
    "extract_all": _function("extract_all(text, 'regex'[, group])", _extract_all, regex_arg=1),
    "json": _function("json(text)", _json),
    "lines": _function("lines(text)", _lines),
    "split": _function("split(text, separator)", _split),
    "words": _function("words(text)", _words),
    "join": _function("join(list, separator)", _join),
    "len": _function("len(text or list)", _len),
    "number": _function("number(text)", _number),
    "lower": _function("lower(text)", _lower),
    "upper": _function("upper(text)", _upper),
    "trim": _function("trim(text)", _trim),
}


def regex_states(name: str, args: list[Evaluated], position: int) -> int:
    """The states of the regular expression that a call has: how often it may read a character."""
    regex_arg = FUNCTIONS[name].regex_arg
    if regex_arg is None:
        return 1
    return compile_regex(cast(str, args[regex_arg]), position).programsize
