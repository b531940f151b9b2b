"""JSON as the standard has it, and nothing more: what Python's reader lets through is refused."""

import json
import json.scanner
import re
from collections.abc import Callable
from typing import Any, NoReturn

from helium_jax.server.errors import InvalidJsonError
from helium_jax.server.json_scan import (
    find_lone_surrogate,
    find_long_integer,
    find_outside,
    find_too_deep,
)

# Read twice, these could mean one thing to a proxy that checks and another to us.
SECURITY_KEYS = frozenset({"model", "cache_salt", "priority", "role", "tools", "chat_template"})

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_MAX_DIGITS = 4300  # Python's own limit
MAX_KEYS = 100_000  # of one object; a dict is made in one go
MANY_MARKS = 50_000  # from here on decoding is slower and lets other threads run meanwhile


def parse_json(
    data: bytes, *, max_depth: int, max_marks: int | None = None, unique_keys: bool = False
) -> Any:
    """Decodes a body.

    Refused: invalid UTF-8, lone surrogates, NaN and infinities (also `1e999`), integers of more
    digits than Python reads (4300), nesting deeper than `max_depth`, more than `max_marks` commas
    and opening brackets (those in texts count too), duplicates among SECURITY_KEYS (of other
    duplicates the last wins), or with `unique_keys` any duplicates. Control characters in strings
    arrive escaped and are kept.

    Raises:
        InvalidJsonError: with the byte position.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        _refuse(f"not UTF-8: {error.reason}", error.start)
    num_brackets = text.count("[") + text.count("{")
    num_marks = num_brackets + text.count(",")
    if max_marks is not None and num_marks > max_marks:
        _refuse(f"more than {max_marks} commas and brackets", 0)
    if num_brackets > max_depth and (place := find_too_deep(text, max_depth)) is not None:
        # Before decoding: Python's reader recurses, and its own limit is an unhandled error.
        _refuse(f"nested deeper than {max_depth}", _byte(text, place))
    decoder = json.JSONDecoder(
        object_pairs_hook=_all_unique if unique_keys else _unique,
        parse_constant=_constant,
        parse_float=_float,
    )
    if num_marks > MANY_MARKS:  # the scanner in C would not let other threads run
        decoder.scan_once = json.scanner.py_make_scanner(decoder)  # type: ignore[attr-defined]
    try:
        value = decoder.decode(text)
    except json.JSONDecodeError as error:
        _refuse(error.msg, _byte(text, error.pos))
    except _Refused as error:
        where = max(text.find(error.token), 0) if error.is_key else find_outside(text, error.token)
        _refuse(str(error), _byte(text, where))
    except ValueError:  # Python's own limit on the digits of an integer
        where = find_long_integer(text, _MAX_DIGITS)
        _refuse("an integer has too many digits", _byte(text, where))
    if _SURROGATE.search(text) and (place := find_lone_surrogate(text)) is not None:
        _refuse("a lone surrogate is no character", _byte(text, place))
    return value


class _Refused(Exception):
    """Carries the offending token out of the decoder's hooks, which know no positions."""

    def __init__(self, message: str, token: str, *, is_key: bool = False) -> None:
        super().__init__(message)
        self.token = token
        self.is_key = is_key


def _refuse(why: str, position: int) -> NoReturn:
    raise InvalidJsonError(
        f"the body is not valid JSON: {why} at byte {position}; send one JSON object in UTF-8"
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return _check_unique(pairs, lambda key: key in SECURITY_KEYS)


def _all_unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return _check_unique(pairs, lambda key: True)


def _check_unique(pairs: list[tuple[str, Any]], matters: Callable[[str], bool]) -> dict[str, Any]:
    if len(pairs) > MAX_KEYS:
        raise _Refused(f"an object has more than {MAX_KEYS} keys", "{")
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen and matters(key):
                message = f"the key {key[:64]!r} appears twice in one object"
                raise _Refused(message, f'"{key}"', is_key=True)
            seen.add(key)
    return value


def _constant(token: str) -> float:
    raise _Refused(f"{token} is not a JSON value", token)


def _float(token: str) -> float:
    value = float(token)
    if value in (float("inf"), float("-inf")):
        raise _Refused("a number is too large", token)
    return value


def _byte(text: str, position: int) -> int:
    """Byte offset of a character offset."""
    return len(text[:position].encode())
