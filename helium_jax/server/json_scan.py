"""Looks at a JSON text before and after it is decoded, in many short steps.

A body of 20 MB is looked at in a thread. One call of a regular expression, or of Python's reader
in C, over all of it would keep every other thread, the event loop's too, from running meanwhile.
"""

import re
from collections.abc import Iterator

_BRACKET = re.compile(r"[\[\]{}]")
_DIGITS = re.compile(r"[0-9]+")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)


def outside_strings(text: str) -> Iterator[tuple[int, int]]:
    """The ranges of a text that are in no string; of one that is no JSON, as far as it goes."""
    start = 0
    while True:
        quote = text.find('"', start)
        if quote < 0:
            yield start, len(text)
            return
        yield start, quote
        start = _end_of_string(text, quote)


def _end_of_string(text: str, begin: int) -> int:
    """Where the string that begins at `begin` is over."""
    start = begin + 1
    while True:
        quote = text.find('"', start)
        if quote < 0:
            return len(text)
        last = quote - 1
        while last > begin and text[last] == "\\":
            last -= 1
        if (quote - last) % 2:  # an even number of backslashes: none escapes the quote
            return quote + 1
        start = quote + 1


def find_outside(text: str, token: str) -> int:
    """Where `token` first stands outside of strings; 0 if it does not."""
    for start, end in outside_strings(text):
        place = text.find(token, start, end)
        if place >= 0:
            return place
    return 0


def find_too_deep(text: str, max_depth: int) -> int | None:
    """Where a bracket opens more than `max_depth` levels."""
    depth = 0
    for start, end in outside_strings(text):
        for match in _BRACKET.finditer(text, start, end):
            depth += 1 if match[0] in "[{" else -1
            if depth > max_depth:
                return match.start()
    return None


def find_long_integer(text: str, num_digits: int) -> int:
    """Where the first number of more than `num_digits` digits begins, its sign included; or 0."""
    for start, end in outside_strings(text):
        for match in _DIGITS.finditer(text, start, end):
            if match.end() - match.start() > num_digits:
                place = match.start()
                return place - (place > 0 and text[place - 1] == "-")
    return 0


def find_lone_surrogate(text: str) -> int | None:
    """Where an escape stands for half a character whose other half does not follow."""
    open_at = after = None  # a first half that waits for its second, and where that must stand
    for match in _ESCAPE.finditer(text):
        code = int(match[1], 16) if match[1] else 0
        is_second = 0xDC00 <= code < 0xE000
        if open_at is not None and not (is_second and match.start() == after):
            return open_at
        if is_second and open_at is None:
            return match.start()
        is_first = 0xD800 <= code < 0xDC00
        open_at, after = (match.start(), match.end()) if is_first else (None, None)
    return open_at
