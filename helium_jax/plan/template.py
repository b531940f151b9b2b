r"""Texts with slots: `{{name}}` stands for a value, and nothing else is special.

A slot's value is inserted literally and never looked at again, so no value can add a slot. The
whole syntax:

    {{name}}   the value called name; spaces inside the braces are allowed
    \{{  \{%   the two characters themselves; of backslashes directly before `{{` or `{%`, two
               stand for one, so `\\{{name}}` is a backslash and a slot
    {{{name}}} a brace, the value, a brace: the shape of JSON around a value
    {%         refused: it is what a template language would write, and there is none here

Everywhere else braces and backslashes stand for themselves.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

NAME_PATTERN = r"[A-Za-z_][A-Za-z0-9_-]{0,63}"
PATH_PATTERN = rf"{NAME_PATTERN}(?:/{NAME_PATTERN}){{0,7}}"  # sub/judge: a node of a sub-plan
_NAME = re.compile(NAME_PATTERN)
_PATH = re.compile(PATH_PATTERN)
_OPENER = re.compile(r"(?P<slashes>\\*)(?P<opener>\{\{+|\{%)")
_SLOT = re.compile(r"\{\{[ \t]*(" + PATH_PATTERN + r")[ \t]*\}\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A place for the value called `name`."""

    name: str


Text = tuple[str | Slot, ...]


class TemplateSyntaxError(ValueError):
    """A text that is not a template; the message quotes the place."""


def is_name(value: str) -> bool:
    """Whether `value` may name an input, a parameter, an operator or an output."""
    return _NAME.fullmatch(value) is not None


def is_path(value: str) -> bool:
    """Whether `value` may name an operator: a name, or that of a sub-plan's node, `sub/name`."""
    return _PATH.fullmatch(value) is not None


def parse_template(source: str) -> Text:
    """Literals and slots of `source`, in order; adjacent literals are one.

    Raises:
        TemplateSyntaxError: an opening `{{` is no slot, or a `{%` stands there unescaped.
    """
    parts: list[str | Slot] = []
    position = 0
    while (found := _OPENER.search(source, position)) is not None:
        slashes, opener = found["slashes"], found["opener"]
        parts += [source[position : found.start()], "\\" * (len(slashes) // 2)]
        start = found.start("opener")
        if len(slashes) % 2:  # escaped: exactly two characters are literal
            parts.append(opener[:2])
            position = start + 2
            continue
        if opener == "{%":
            raise TemplateSyntaxError(
                f"{_quote(source, start)} is not allowed: only slots like {{{{name}}}} exist; "
                r"write \{% for the characters themselves"
            )
        if len(opener) == 3:
            parts.append("{")
            start += 1
        slot = _SLOT.match(source, start) if len(opener) <= 3 else None
        if slot is None:
            raise TemplateSyntaxError(
                f"{_quote(source, start)} is not a slot: write {{{{name}}}} with a plain name, "
                r"or \{{ for the characters themselves"
            )
        parts.append(Slot(name=slot[1]))
        position = slot.end()
    parts.append(source[position:])
    return normalize(parts)


def format_template(text: Text) -> str:
    """The source that `parse_template` reads back as `text`."""
    pieces: list[str] = []
    for index, part in enumerate(text):
        if isinstance(part, Slot):
            pieces.append("{{" + part.name + "}}")
            continue
        before_slot = index + 1 < len(text)
        pieces.append(_escape(part, before_slot=before_slot))
    return "".join(pieces)


def normalize(parts: Iterable[str | Slot]) -> Text:
    """The same text without empty literals and with adjacent literals joined."""
    joined: list[str | Slot] = []
    pending: list[str] = []
    for part in parts:
        if isinstance(part, str):
            pending.append(part)
            continue
        if literal := "".join(pending):
            joined.append(literal)
        pending.clear()
        joined.append(part)
    if literal := "".join(pending):
        joined.append(literal)
    return tuple(joined)


def slot_names(text: Text) -> tuple[str, ...]:
    """The names of the slots, each once, in order of their first place."""
    return tuple(dict.fromkeys(part.name for part in text if isinstance(part, Slot)))


_LITERAL_OPENER = re.compile(r"(\\*)(\{\{|\{%)")
_TAIL = re.compile(r"(\\*)(\{?)\Z")


def _escape(literal: str, *, before_slot: bool) -> str:
    tail = ""
    if before_slot:
        # What stands directly before a slot's braces joins their run: split it off, so that
        # an odd brace becomes the `{{{name}}` form and backslashes are doubled.
        tail_match = _TAIL.search(literal)
        braces = len(literal) - len(literal.rstrip("{"))
        if braces % 2 == 0:
            slashes = len(literal) - len(literal.rstrip("\\")) if not braces else 0
            tail = "\\" * (2 * slashes)
            literal = literal[: len(literal) - slashes]
        elif tail_match is not None:
            # With more braces before it, the last one follows an escape and no backslash.
            tail = tail_match[1] * 2 + "{"
            literal = literal[: tail_match.start()]
    return _LITERAL_OPENER.sub(lambda m: m[1] * 2 + "\\" + m[2], literal) + tail


def _quote(source: str, start: int) -> str:
    line = source.count("\n", 0, start) + 1
    return f"{source[start : start + 24]!r} (line {line})"
