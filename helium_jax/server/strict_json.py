"""JSON as the standard has it, and nothing more: what Python's reader lets through is refused."""

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

from helium_jax.server.errors import InvalidJsonError

# Read twice, these could mean one thing to a proxy that checks and another to us.
SECURITY_KEYS = frozenset({"model", "cache_salt", "priority", "role", "tools", "chat_template"})

_STRING = r'"(?:[^"\\]|\\.)*"'
_CONSTANT = re.compile(_STRING + r"|(?P<hit>-?Infinity|NaN)", re.DOTALL)
_NUMBER = re.compile(_STRING + r"|(?P<hit>-?\d[\d.eE+-]*)", re.DOTALL)
_BRACKET = re.compile(_STRING + r"|(?P<hit>[\[\]{}])", re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_LONG_INTEGER = re.compile(r"-?[0-9]{4301,}")  # Python's own limit is 4300


def parse_json(data: bytes, *, max_depth: int, unique_keys: bool = False) -> Any:
    """Decodes a body.

    Refused: invalid UTF-8, lone surrogates, NaN and infinities (also `1e999`), integers of more
    digits than Python reads (4300), nesting deeper than `max_depth`, duplicates among
    SECURITY_KEYS (of other duplicates the last wins), or with `unique_keys` any duplicates.
    Control characters in strings arrive escaped and are kept.

    Raises:
        InvalidJsonError: with the byte position.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        _refuse(f"not UTF-8: {error.reason}", error.start)
    _check_depth(text, max_depth)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_all_unique if unique_keys else _unique,
            parse_constant=_constant,
            parse_float=_float,
        )
    except json.JSONDecodeError as error:
        _refuse(error.msg, _byte(text, error.pos))
    except _Refused as error:
        _refuse(str(error), _find(text, error.pattern, error.token))
    except ValueError:  # Python's own limit on the digits of an integer
        match = _LONG_INTEGER.search(text)
        _refuse("an integer has too many digits", _byte(text, match.start() if match else 0))
    if _SURROGATE.search(text):
        _check_surrogates(text, value)
    return value


class _Refused(Exception):
    """Carries the offending token out of the decoder's hooks, which know no positions."""

    def __init__(self, message: str, pattern: re.Pattern[str], token: str) -> None:
        super().__init__(message)
        self.pattern = pattern
        self.token = token


def _refuse(why: str, position: int) -> NoReturn:
    raise InvalidJsonError(
        f"the body is not valid JSON: {why} at byte {position}; send one JSON object in UTF-8"
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return _check_unique(pairs, lambda key: key in SECURITY_KEYS)


def _all_unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return _check_unique(pairs, lambda key: True)


def _check_unique(pairs: list[tuple[str, Any]], matters: Callable[[str], bool]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen and matters(key):
                pattern = re.compile(rf'(?P<hit>"{re.escape(key)}")')
                message = f"the key {key[:64]!r} appears twice in one object"
                raise _Refused(message, pattern, f'"{key}"')
            seen.add(key)
    return value


def _constant(token: str) -> float:
    raise _Refused(f"{token} is not a JSON value", _CONSTANT, token)


def _float(token: str) -> float:
    value = float(token)
    if value in (float("inf"), float("-inf")):
        raise _Refused("a number is too large", _NUMBER, token)
    return value


def _check_depth(text: str, max_depth: int) -> None:
    """Before decoding: Python's reader recurses, and its own limit is an unhandled error."""
    if text.count("[") + text.count("{") <= max_depth:
        return
    depth = 0
    for match in _BRACKET.finditer(text):
        bracket = match["hit"]
        if bracket is None:
            continue
        depth += 1 if bracket in "[{" else -1
        if depth > max_depth:
            _refuse(f"nested deeper than {max_depth}", _byte(text, match.start()))


def _check_surrogates(text: str, value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        match = _SURROGATE.search(text)
        assert match is not None, "the caller has seen one"
        _refuse("a lone surrogate is no character", _byte(text, match.start()))


def _byte(text: str, position: int) -> int:
    """Byte offset of a character offset."""
    return len(text[:position].encode())


def _find(text: str, pattern: re.Pattern[str], token: str) -> int:
    """Byte offset of the first `token` that `pattern` sees outside of strings."""
    for match in pattern.finditer(text):
        if match["hit"] == token:
            return _byte(text, match.start())
    return 0
